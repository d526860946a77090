//! VMs for tests, of stand-ins and of real QEMU.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "part of tests: a failed unwrap is a failed test, and a skip is said"
)]

mod ground;

use async_trait::async_trait;
use camino::Utf8PathBuf;
use hearth_types::OwnerMark;
use hearth_types::ids::{InstallationId, VmId};
use hearth_types::spec::Machine;
use hearth_types::units::Bytes;
use hearth_vmm::contract::Fixture;
use hearth_vmm::qemu::{KvmMode, QemuConfig, QemuDriver};
use hearth_vmm::{Disk, KernelFiles, LaunchSpec, Launcher, LogLimits, Vmm};

use ground::{Ground, set_mode};

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

pub(crate) struct Vms {
    pub(crate) driver: QemuDriver,
    pub(crate) installation: InstallationId,
    pub(crate) machine: Machine,
    ground: Ground,
    kernel: Utf8PathBuf,
    standin: bool,
    drop_privileges: bool,
}

impl Vms {
    /// Stand-in processes instead of QEMU.
    pub(crate) fn standin() -> Self {
        let ground = Ground::new();
        let kernel = ground.path("vmlinuz");
        let mut image = vec![0; 4096];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        std::fs::write(&kernel, image).unwrap();
        Self::new(ground, Some(STANDIN), kernel)
    }

    /// Real QEMU with a real kernel; `None` with a note when either is missing.
    pub(crate) fn qemu() -> Option<Self> {
        if hearth_host::command::find("qemu-system-x86_64").is_none() {
            println!("SKIP: qemu-system-x86_64 is not installed");
            return None;
        }
        let kernel = test_kernel()?;
        let ground = Ground::new();
        // Readable by all, below a folder that is not: as in a data directory.
        let copy = ground.path("vmlinuz");
        std::fs::copy(kernel, &copy).unwrap();
        set_mode(&copy, 0o644);
        Some(Self::new(ground, None, copy))
    }

    fn new(ground: Ground, binary: Option<&str>, kernel: Utf8PathBuf) -> Self {
        let driver = driver(binary, Launcher::Direct);
        // The stand-in lies below a build folder that another uid may not be able to enter.
        let drop_privileges = binary.is_none() && rustix::process::geteuid().is_root();
        Self {
            driver,
            installation: ground.installation,
            machine: Machine::Microvm,
            ground,
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
        let dir = self.ground.folder(vm, &["root.img"]);
        LaunchSpec {
            vm,
            name: "test".to_owned(),
            mark: OwnerMark::of_vm(self.installation, vm),
            vcpus: 1,
            memory: Bytes::mib(128),
            machine: self.machine,
            kernel: KernelFiles {
                bzimage: Some(self.kernel.clone()),
                elf: None,
            },
            initramfs: dir.join("initrd"),
            dir,
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
