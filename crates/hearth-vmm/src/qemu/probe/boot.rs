//! The boot that tells whether KVM runs guests here.

use std::os::unix::fs::DirBuilderExt;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use hearth_types::OwnerMark;
use hearth_types::ids::{InstallationId, VmId};
use hearth_types::process::ProcessIdentity;
use hearth_types::resources::Resources;
use hearth_types::spec::Machine;
use hearth_types::units::Bytes;

use super::BOOT_MAX;
use crate::probing;
use crate::qemu::args::{Accelerator, request};
use crate::qemu::{QemuConfig, needs};
use crate::{KernelFiles, LaunchSpec, LogLimits, find_companion, launch, record};

/// One boot of a kernel that finds no root file system.
pub(in crate::qemu) struct Boot {
    pub(in crate::qemu) accelerator: Accelerator,
    pub(in crate::qemu) user: Option<u32>,
    /// How long it may be silent.
    pub(in crate::qemu) deadline: Duration,
}

impl Boot {
    pub(in crate::qemu) async fn run(
        &self,
        config: &QemuConfig,
        binary: &Utf8Path,
        bzimage: &Utf8Path,
    ) -> Result<(), String> {
        let vm = VmId::new();
        let root = match config.probe_cache.as_ref().and_then(|path| path.parent()) {
            Some(parent) => parent.to_owned(),
            None => Utf8PathBuf::from_path_buf(std::env::temp_dir())
                .map_err(|path| format!("{} is not UTF-8", path.display()))?,
        };
        let dir = root.join(format!("{}{vm}", probing::FOLDER));
        let made = std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&dir)
            .and_then(|()| std::fs::write(dir.join("initrd"), empty_initramfs()));
        let result = match made {
            Ok(()) => self.in_folder(config, vm, &dir, binary, bzimage).await,
            Err(error) => Err(format!("cannot prepare {dir}: {error}")),
        };
        drop(std::fs::remove_dir_all(&dir));
        result
    }

    async fn in_folder(
        &self,
        config: &QemuConfig,
        vm: VmId,
        dir: &Utf8Path,
        binary: &Utf8Path,
        bzimage: &Utf8Path,
    ) -> Result<(), String> {
        let shim = config.shim.as_deref().map(Utf8Path::as_std_path);
        let shim = find_companion("hearth-shim", shim).map_err(|error| error.to_string())?;
        let spec = self.spec(vm, dir, bzimage);
        let mut request =
            request(&spec, binary, &self.accelerator).map_err(|error| error.to_string())?;
        // The shim ends the guest, so a daemon that dies now leaves nothing.
        request.max_millis = u64::try_from(BOOT_MAX.max(self.deadline).as_millis()).ok();
        let needs = needs(&spec, &self.accelerator);
        let identity = launch::through_shim(config.launcher, &shim, &spec, &request, &needs)
            .await
            .map_err(|error| hearth_types::survey::chain(&error))?;
        end_of_boot(identity, dir, self.deadline).await?;
        let ended = record::exit_record(dir)
            .await
            .map_err(|error| hearth_types::survey::chain(&error))?;
        let console = std::fs::read(dir.join(crate::CONSOLE_LOG)).unwrap_or_default();
        let console = String::from_utf8_lossy(&console);
        // The guest's clock has passed through interrupts, timers and scheduling by then.
        if console.contains("Kernel panic") {
            return Ok(());
        }
        let last = console.lines().rfind(|line| !line.trim().is_empty());
        Err(match (last, ended) {
            (Some(line), _) => format!("the last it said was {line:?}"),
            (None, Some(_)) => format!(
                "silent for {} s; QEMU: {}",
                self.deadline.as_secs(),
                record::vmm_log_tail(dir)
            ),
            (None, None) => "the probe was disturbed".to_owned(),
        })
    }

    fn spec(&self, vm: VmId, dir: &Utf8Path, bzimage: &Utf8Path) -> LaunchSpec {
        LaunchSpec {
            vm,
            name: "kvm-probe".to_owned(),
            mark: OwnerMark::of_vm(InstallationId::new(), vm),
            dir: dir.to_owned(),
            vcpus: 1,
            memory: Bytes::mib(128),
            machine: Machine::Microvm,
            kernel: KernelFiles {
                bzimage: Some(bzimage.to_owned()),
                elf: None,
            },
            initramfs: dir.join("initrd"),
            cmdline: vec!["ignore_loglevel earlyprintk=serial,ttyS0,115200".to_owned()],
            disks: Vec::new(),
            nic: None,
            cid: 0,
            driver: hearth_types::spec::DriverChoice::Auto,
            resources: Resources::default(),
            stop_timeout: Duration::from_secs(10),
            user: self.user,
            qemu_agent: false,
            crash_dump: hearth_types::spec::CrashDump::default(),
            console: LogLimits {
                max_bytes: 1 << 20,
                keep: 0,
            },
        }
    }
}

/// Returns when the probe's guest has ended. One that has said nothing new for `silence` is
/// ended: a host on which KVM hangs would keep it for ever. One that hangs in the kernel does not
/// even die; nobody waits for it.
async fn end_of_boot(
    identity: ProcessIdentity,
    dir: &Utf8Path,
    silence: Duration,
) -> Result<(), String> {
    let ended = hearth_host::process::watch(identity.clone());
    tokio::pin!(ended);
    let mut said = 0;
    while tokio::time::timeout(silence, &mut ended).await.is_err() {
        let now = std::fs::metadata(dir.join(crate::CONSOLE_LOG)).map_or(0, |meta| meta.len());
        if now > said {
            said = now;
            continue;
        }
        return probing::kill(&identity).await;
    }
    Ok(())
}

/// The newc archive without files: all fields of its end mark are zero but the length of
/// the name.
pub(crate) fn empty_initramfs() -> Vec<u8> {
    let zeros = "00000000".repeat(11);
    let mut archive = format!("070701{zeros}0000000B00000000TRAILER!!!").into_bytes();
    archive.resize(124, 0);
    archive
}
