//! Does KVM run guests here? Firecracker has nothing else to run them with.
//!
//! ```text
//!  switched off, no /dev/kvm, closed to VMs ─► refused
//!  kept answer ──────────────────────────────► as kept
//!  no kernel to boot yet ────────────────────► not known: nothing is refused
//!  boots until its panic ────────────────────► works  (kept)
//!  silent until the deadline ────────────────► refused (kept)
//! ```

use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use hearth_types::OwnerMark;
use hearth_types::ids::{InstallationId, VmId};
use hearth_types::resources::Resources;
use hearth_types::spec::{DriverChoice, Machine};
use hearth_types::survey::chain;
use hearth_types::units::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::version::{Version, stamp};
use super::{FirecrackerDriver, Kvm};
use crate::probing::{self, Probing};
use crate::{KernelFiles, LaunchSpec, LogLimits, VmmError, record};

const DEVICE: &str = "/dev/kvm";
/// How long the probe's guest may take: half a second with KVM, six to twenty where the host
/// is itself emulated.
const BOOT_DEADLINE: Duration = Duration::from_secs(45);
/// `nobody`: the probe's guest runs without privileges, as VMs do.
const NOBODY: u32 = 65_534;
const READ_WRITE: u32 = 0o6;
/// What one can do about it.
const NEXT_STEP: &str =
    "use a host with KVM, or choose the driver qemu, which can emulate (--driver qemu)";

/// What the answer depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Key {
    host_kernel: String,
    firecracker: String,
    /// Size and change time of the guest kernel that was booted.
    guest_kernel: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    key: Key,
    works: bool,
    detail: String,
    /// The boot in which it was found out; empty when written by an older version.
    #[serde(default)]
    boot: String,
}

impl Kept {
    /// Whether it answers for `key` now. That KVM does not work may have been the host's bad
    /// moment: it is believed for one boot.
    fn answers(&self, key: &Key, boot: &str) -> bool {
        self.key == *key && (self.works || self.boot == boot)
    }
}

/// The answer so far, and the probe that runs.
#[derive(Debug, Default)]
pub(super) struct Probes {
    memory: Mutex<Option<Kept>>,
    running: Probing<Key, Kept>,
}

fn refused(why: impl std::fmt::Display) -> VmmError {
    VmmError::Missing {
        what: "KVM, without which Firecracker runs no VM,".to_owned(),
        detail: format!("{why}; {NEXT_STEP}"),
    }
}

/// What can be told without booting a guest.
pub(super) fn possible(mode: Kvm) -> Result<(), VmmError> {
    match mode {
        Kvm::Assumed => return Ok(()),
        Kvm::Off => return Err(refused("it is switched off by the configuration")),
        Kvm::Probe => {}
    }
    std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(DEVICE)
        .map(drop)
        .map_err(|error| refused(format!("{DEVICE} cannot be used: {error}")))
}

/// The group that may open the device, for a VMM that gets the host's node.
pub(super) fn groups() -> Vec<u32> {
    let Ok(meta) = std::fs::metadata(DEVICE) else {
        return Vec::new();
    };
    let open = (meta.mode() >> 3) & READ_WRITE == READ_WRITE;
    // Root's own group would open more than this one device.
    Some(meta.gid())
        .filter(|gid| open && *gid != 0)
        .into_iter()
        .collect()
}

impl Probes {
    /// Says how it is known that guests run, or refuses.
    pub(super) async fn check(
        &self,
        driver: &FirecrackerDriver,
        version: Version,
        kernel: Option<&KernelFiles>,
    ) -> Result<String, VmmError> {
        possible(driver.config.kvm)?;
        if driver.config.kvm == Kvm::Assumed {
            return Ok("not probed".to_owned());
        }
        let Some(elf) = kernel.and_then(|kernel| kernel.elf.as_ref()) else {
            return Ok("not probed: no kernel imported yet".to_owned());
        };
        let key = Key {
            host_kernel: rustix::system::uname()
                .release()
                .to_string_lossy()
                .into_owned(),
            firecracker: version.to_string(),
            guest_kernel: stamp(elf)?,
        };
        let cache = driver.config.probe_cache.as_deref();
        let remembered = self.memory.lock().await.clone();
        let remembered = remembered
            .or_else(|| cache.and_then(recall))
            .filter(|kept| kept.answers(&key, &crate::boot_id()));
        let kept = match remembered {
            Some(kept) => kept,
            None => self.find_out(driver, elf, key).await?,
        };
        if kept.works {
            Ok(kept.detail)
        } else {
            Err(refused(kept.detail))
        }
    }

    async fn find_out(
        &self,
        driver: &FirecrackerDriver,
        elf: &Utf8Path,
        key: Key,
    ) -> Result<Kept, VmmError> {
        let (config, elf, of_task) = (driver.config.clone(), elf.to_owned(), key.clone());
        let probe = async move { boot(&FirecrackerDriver::new(config), &elf, of_task).await };
        let Some(kept) = self.running.run(&key, probe).await else {
            return Err(refused("the probe of it was interrupted"));
        };
        let mut memory = self.memory.lock().await;
        if memory.as_ref() != Some(&kept) {
            if let Some(cache) = driver.config.probe_cache.as_deref() {
                keep(cache, &kept);
            }
            *memory = Some(kept.clone());
        }
        Ok(kept)
    }
}

/// A cache that cannot be read is no cache.
fn recall(cache: &Utf8Path) -> Option<Kept> {
    serde_json::from_slice(&std::fs::read(cache).ok()?).ok()
}

fn keep(cache: &Utf8Path, kept: &Kept) {
    let draft = cache.with_extension("new");
    let written = serde_json::to_vec_pretty(kept)
        .map_err(std::io::Error::from)
        .and_then(|text| std::fs::write(&draft, text))
        .and_then(|()| std::fs::rename(&draft, cache));
    if let Err(error) = written {
        tracing::warn!(path = %cache, %error, "the answer of Firecracker's KVM probe cannot be kept");
    }
}

/// Boots a kernel that finds no root file system, and waits for its panic.
async fn boot(driver: &FirecrackerDriver, elf: &Utf8Path, key: Key) -> Kept {
    let begun = tokio::time::Instant::now();
    let (works, detail) = match boot_in_folder(driver, elf).await {
        Ok(()) => (
            true,
            format!("a guest booted within {} ms", begun.elapsed().as_millis()),
        ),
        Err(why) => (
            false,
            format!("{DEVICE} is there, but a guest does not boot with it: {why}"),
        ),
    };
    tracing::info!(works, detail, "probed KVM with Firecracker");
    Kept {
        key,
        works,
        detail,
        boot: crate::boot_id(),
    }
}

async fn boot_in_folder(driver: &FirecrackerDriver, elf: &Utf8Path) -> Result<(), String> {
    let vm = VmId::new();
    let cache = driver.config.probe_cache.as_ref();
    let root = match cache.and_then(|path| path.parent()) {
        Some(parent) => parent.to_owned(),
        None => Utf8PathBuf::from_path_buf(std::env::temp_dir())
            .map_err(|path| format!("{} is not UTF-8", path.display()))?,
    };
    let dir = root.join(format!("{}{vm}", probing::FOLDER));
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(&dir)
        .and_then(|()| std::fs::write(dir.join("initrd"), crate::empty_initramfs()))
        .map_err(|error| format!("cannot prepare {dir}: {error}"))?;
    let outcome = boot_once(driver, &spec(vm, &dir, elf)).await;
    drop(std::fs::remove_dir_all(&dir));
    outcome
}

async fn boot_once(driver: &FirecrackerDriver, spec: &LaunchSpec) -> Result<(), String> {
    // The shim ends the guest, so a daemon that dies now leaves nothing.
    let identity = driver
        .launch_unasked(spec, Some(BOOT_DEADLINE))
        .await
        .map_err(|error| chain(&error))?;
    let ended = hearth_host::process::watch(identity.clone());
    if tokio::time::timeout(BOOT_DEADLINE, ended).await.is_err() {
        // The shim could not end it either.
        probing::kill(&identity).await?;
    }
    record::exit_record(&spec.dir)
        .await
        .map_err(|error| chain(&error))?;
    let console = std::fs::read(spec.dir.join(crate::CONSOLE_LOG)).unwrap_or_default();
    let console = String::from_utf8_lossy(&console);
    // The guest's clock has passed through interrupts, timers and scheduling by then.
    if console.contains("Kernel panic") {
        return Ok(());
    }
    let last = console.lines().rfind(|line| !line.trim().is_empty());
    Err(match last {
        Some(line) => format!("the last it said was {line:?}"),
        None => format!(
            "silent for {} s; Firecracker: {}",
            BOOT_DEADLINE.as_secs(),
            record::vmm_log_tail(&spec.dir)
        ),
    })
}

fn spec(vm: VmId, dir: &Utf8Path, elf: &Utf8Path) -> LaunchSpec {
    LaunchSpec {
        vm,
        name: "kvm-probe".to_owned(),
        mark: OwnerMark::of_vm(InstallationId::new(), vm),
        dir: dir.to_owned(),
        driver: DriverChoice::Firecracker,
        vcpus: 1,
        memory: Bytes::mib(128),
        machine: Machine::Microvm,
        kernel: KernelFiles {
            bzimage: None,
            elf: Some(elf.to_owned()),
        },
        initramfs: dir.join("initrd"),
        // Quiet, for each character is two exits to a host that may be emulated itself; the
        // panic is said all the same.
        cmdline: Vec::new(),
        disks: Vec::new(),
        nic: None,
        cid: 3,
        resources: Resources::default(),
        stop_timeout: Duration::from_secs(10),
        user: rustix::process::geteuid().is_root().then_some(NOBODY),
        qemu_agent: false,
        crash_dump: hearth_types::spec::CrashDump::default(),
        console: LogLimits {
            max_bytes: 1 << 20,
            keep: 0,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_it_does_not_work_is_believed_for_one_boot() {
        let key = |kernel: &str| Key {
            host_kernel: kernel.to_owned(),
            firecracker: "1.16.1".to_owned(),
            guest_kernel: "1 2".to_owned(),
        };
        let mut kept = Kept {
            key: key("6.1"),
            works: false,
            detail: "silent".to_owned(),
            boot: "a".to_owned(),
        };
        assert!(kept.answers(&key("6.1"), "a"));
        assert!(!kept.answers(&key("6.1"), "b"));
        kept.works = true;
        assert!(kept.answers(&key("6.1"), "b"));
        assert!(!kept.answers(&key("6.2"), "b"));
    }
}
