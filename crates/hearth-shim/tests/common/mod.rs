//! VMs for tests, in folders that a careless driver would stumble over: below a folder
//! that nobody else may enter, with a path longer than a socket address holds.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "part of tests: a failed unwrap is a failed test, and a skip is said"
)]

use std::os::unix::fs::PermissionsExt;

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use hearth_types::OwnerMark;
use hearth_types::ids::{InstallationId, VmId};
use hearth_types::spec::Machine;
use hearth_types::units::Bytes;
use hearth_vmm::contract::Fixture;
use hearth_vmm::qemu::{KvmMode, QemuConfig, QemuDriver};
use hearth_vmm::{Disk, KernelFiles, LaunchSpec, Launcher, LogLimits, Vmm};

/// An unprivileged uid that owns nothing.
const UID: u32 = 54_321;

/// Stands in for QEMU.
const STANDIN: &str = env!("CARGO_BIN_EXE_hearth-vmm-standin");

fn driver(binary: Option<&str>, launcher: Launcher) -> QemuDriver {
    QemuDriver::new(QemuConfig {
        binary: binary.map(Utf8PathBuf::from),
        shim: Some(env!("CARGO_BIN_EXE_hearth-shim").into()),
        probe_cache: None,
        kvm: KvmMode::Off,
        launcher,
    })
}

/// The newc archive with nothing in it: 13 header fields, all zero but the name's length.
fn empty_cpio() -> Vec<u8> {
    let zeros = "00000000".repeat(11);
    let mut archive = format!("070701{zeros}0000000B00000000TRAILER!!!").into_bytes();
    archive.resize(512, 0);
    archive
}

pub(crate) struct Vms {
    pub(crate) driver: QemuDriver,
    pub(crate) root: tempfile::TempDir,
    pub(crate) installation: InstallationId,
    pub(crate) machine: Machine,
    kernel: Utf8PathBuf,
    standin: bool,
    drop_privileges: bool,
}

impl Vms {
    /// Stand-in processes instead of QEMU.
    pub(crate) fn standin() -> Self {
        let root = tempfile::tempdir().unwrap();
        let kernel = Utf8Path::from_path(root.path()).unwrap().join("vmlinuz");
        let mut image = vec![0; 4096];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        std::fs::write(&kernel, image).unwrap();
        Self::new(root, Some(STANDIN), kernel)
    }

    /// Real QEMU with a real kernel; `None` with a note when either is missing.
    pub(crate) fn qemu() -> Option<Self> {
        if hearth_host::command::find("qemu-system-x86_64").is_none() {
            println!("SKIP: qemu-system-x86_64 is not installed");
            return None;
        }
        let kernel = test_kernel()?;
        let root = tempfile::tempdir().unwrap();
        // Readable by all, below a folder that is not: as in a data directory.
        let copy = Utf8Path::from_path(root.path()).unwrap().join("vmlinuz");
        std::fs::copy(kernel, &copy).unwrap();
        std::fs::set_permissions(&copy, PermissionsExt::from_mode(0o644)).unwrap();
        Some(Self::new(root, None, copy))
    }

    fn new(root: tempfile::TempDir, binary: Option<&str>, kernel: Utf8PathBuf) -> Self {
        std::fs::set_permissions(root.path(), PermissionsExt::from_mode(0o700)).unwrap();
        let driver = driver(binary, Launcher::Direct);
        // The stand-in lies below a build folder that another uid may not be able to enter.
        let drop_privileges = binary.is_none() && rustix::process::geteuid().is_root();
        Self {
            driver,
            root,
            installation: InstallationId::new(),
            machine: Machine::Microvm,
            kernel,
            standin: binary.is_some(),
            drop_privileges,
        }
    }

    /// The same in units of systemd; `None` with a note where it is not the init.
    pub(crate) fn in_units(mut self) -> Option<Self> {
        if !Launcher::Detect.makes_units() {
            println!("SKIP: systemd is not the init here, or we are not root");
            return None;
        }
        self.driver = driver(self.standin.then_some(STANDIN), Launcher::Unit);
        Some(self)
    }

    pub(crate) fn make(&self) -> LaunchSpec {
        let vm = VmId::new();
        let root = Utf8Path::from_path(self.root.path()).unwrap();
        let dir = root.join("v".repeat(100)).join(vm.to_string());
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::set_permissions(&dir, PermissionsExt::from_mode(0o700)).unwrap();
        let disk = std::fs::File::create(dir.join("root.img")).unwrap();
        disk.set_len(1 << 20).unwrap();
        disk.set_permissions(PermissionsExt::from_mode(0o600))
            .unwrap();
        let initramfs = dir.join("initrd");
        std::fs::write(&initramfs, empty_cpio()).unwrap();
        std::fs::set_permissions(&initramfs, PermissionsExt::from_mode(0o600)).unwrap();
        LaunchSpec {
            vm,
            name: "test".to_owned(),
            mark: OwnerMark::of_vm(self.installation, vm),
            dir,
            vcpus: 1,
            memory: Bytes::mib(128),
            machine: self.machine,
            kernel: KernelFiles {
                bzimage: Some(self.kernel.clone()),
                elf: None,
            },
            initramfs,
            // The kernel finds no root and panics; it stays there for ever.
            cmdline: vec!["panic=0".to_owned()],
            disks: vec![Disk {
                file: "root.img".to_owned(),
                serial: "root".to_owned(),
                read_only: false,
                device: None,
                lent: false,
            }],
            nic: None,
            cid: 3,
            driver: hearth_types::spec::DriverChoice::Auto,
            resources: hearth_types::resources::Resources::default(),
            stop_timeout: std::time::Duration::from_secs(10),
            user: self.drop_privileges.then_some(UID),
            qemu_agent: false,
            crash_dump: hearth_types::spec::CrashDump::default(),
            console: LogLimits {
                max_bytes: 10_000,
                keep: 2,
            },
        }
    }
}

impl Drop for Vms {
    /// Whatever a failed test left running goes with it.
    fn drop(&mut self) {
        for process in hearth_host::process::survey(self.installation).unwrap_or_default() {
            if let Ok(proven) = hearth_host::process::prove(&process.identity) {
                drop(proven.signal(hearth_host::process::Signal::KILL));
            }
        }
    }
}

#[async_trait]
impl Fixture for Vms {
    fn vmm(&self) -> &dyn Vmm {
        &self.driver
    }

    async fn spec(&self) -> LaunchSpec {
        self.make()
    }

    fn guest_reports(&self) -> bool {
        self.standin
    }

    fn console_echoes(&self) -> bool {
        self.standin
    }

    fn has_processes(&self) -> bool {
        true
    }
}

/// A kernel for guests: `HEARTH_TEST_KERNEL`, else what a test run keeps, else the host's.
pub(crate) fn test_kernel() -> Option<Utf8PathBuf> {
    let named = std::env::var("HEARTH_TEST_KERNEL")
        .ok()
        .map(Utf8PathBuf::from);
    let kept = Utf8PathBuf::from("/var/cache/hearth-test/vmlinuz");
    let found = named.into_iter().chain([kept]).find(|path| path.is_file());
    if found.is_none() {
        println!("SKIP: no kernel; set HEARTH_TEST_KERNEL to a bzImage");
    }
    found
}
