//! Does KVM really work here?
//!
//! `/dev/kvm` may open, create vCPUs and still never run a kernel, for example under another
//! hypervisor. So a kernel is booted once, without a root file system, until it panics and
//! ends by itself. The answer is kept for this combination of host kernel, QEMU, CPU and
//! guest kernel.
//!
//! ```text
//!  KVM off by configuration ─┐
//!  no /dev/kvm, no access  ──┼─► tcg
//!  no kernel to boot yet   ──┘
//!  cached answer ──────────────► as cached
//!  boots until its panic ──────► kvm  (kept)
//!  silent for the deadline ────► tcg  (kept until the host boots again: it may have been
//!                                      busy, and nobody looks for a VM that is only slow)
//! ```

mod boot;

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::args::Accelerator;
use super::{KvmMode, QemuConfig};
use crate::probing::Probing;
use crate::{KernelFiles, Probe, VmmError};

pub(super) use boot::Boot;
pub(crate) use boot::empty_initramfs;

const KVM: &str = "/dev/kvm";
/// How long the probe's guest may be silent. With KVM it needs half a second in all, on a
/// loaded host a few; under nested virtualisation on a busy machine its first word takes ten
/// and more.
const BOOT_DEADLINE: Duration = Duration::from_secs(20);
/// How long it may take though it talks. The shim ends it then.
const BOOT_MAX: Duration = Duration::from_secs(90);
/// How long QEMU may take to say its version.
const VERSION_DEADLINE: Duration = Duration::from_secs(10);
/// `nobody`: the probe's guest runs without privileges, as VMs do.
const NOBODY: u32 = 65_534;
/// What the answer depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Key {
    host_kernel: String,
    qemu: String,
    cpu: String,
    /// Size and change time of the guest kernel that was booted.
    guest_kernel: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    key: Key,
    accelerator: String,
    detail: String,
    /// The boot in which it was found out; empty when written by an older version.
    #[serde(default)]
    boot: String,
}

impl Kept {
    /// Whether it answers for `key` now. That KVM does not work is believed for one boot.
    fn answers(&self, key: &Key, boot: &str) -> bool {
        self.key == *key && (self.accelerator == "kvm" || self.boot == boot)
    }
}

/// The answers so far, and the probe that runs.
#[derive(Debug, Default)]
pub(super) struct Probes {
    memory: Mutex<Memory>,
    running: Probing<Key, Kept>,
}

#[derive(Debug, Default)]
struct Memory {
    /// Version of the program with this path, size and change time.
    version: Option<(Utf8PathBuf, String, String)>,
    kept: Option<Kept>,
}

impl Probes {
    pub(super) async fn answer(
        &self,
        config: &QemuConfig,
        binary: &Utf8Path,
        kernel: Option<&KernelFiles>,
    ) -> Result<Probe, VmmError> {
        let version = self.memory.lock().await.version(binary).await?;
        let tcg = |detail: &str| Probe {
            version: version.clone(),
            accelerator: "tcg".to_owned(),
            detail: detail.to_owned(),
        };
        if config.kvm == KvmMode::Off {
            return Ok(tcg("KVM is switched off by the configuration"));
        }
        let groups = match kvm_groups(Path::new(KVM)) {
            Ok(groups) => groups,
            Err(why) => return Ok(tcg(&why)),
        };
        let Some(bzimage) = kernel.and_then(|kernel| kernel.bzimage.as_ref()) else {
            return Ok(tcg("not probed: no kernel imported yet"));
        };
        let key = Key {
            host_kernel: rustix::system::uname()
                .release()
                .to_string_lossy()
                .into_owned(),
            qemu: version.clone(),
            cpu: cpu_field("model name").unwrap_or_default(),
            guest_kernel: stamp(bzimage)?,
        };
        let recalled = self.memory.lock().await.recall(config, &key);
        let kept = match recalled {
            Some(kept) => kept,
            None => {
                let (config_of_task, binary) = (config.clone(), binary.to_owned());
                let (bzimage, of_task) = (bzimage.clone(), key.clone());
                let probe = async move {
                    try_kvm(&config_of_task, &binary, &bzimage, groups, of_task).await
                };
                let Some(kept) = self.running.run(&key, probe).await else {
                    return Ok(tcg("the probe of KVM was interrupted"));
                };
                self.memory.lock().await.keep(config, kept.clone());
                kept
            }
        };
        Ok(Probe {
            version,
            accelerator: kept.accelerator,
            detail: kept.detail,
        })
    }
}

impl Memory {
    async fn version(&mut self, binary: &Utf8Path) -> Result<String, VmmError> {
        let stamp = stamp(binary)?;
        if let Some((path, seen, version)) = &self.version
            && path == binary
            && *seen == stamp
        {
            return Ok(version.clone());
        }
        let version = ask_version(binary).await?;
        self.version = Some((binary.to_owned(), stamp, version.clone()));
        Ok(version)
    }

    fn recall(&mut self, config: &QemuConfig, key: &Key) -> Option<Kept> {
        if self.kept.is_none() {
            // A cache that cannot be read is no cache.
            let text = std::fs::read(config.probe_cache.as_ref()?).ok()?;
            self.kept = serde_json::from_slice(&text).ok();
        }
        let boot = crate::boot_id();
        self.kept.clone().filter(|kept| kept.answers(key, &boot))
    }

    fn keep(&mut self, config: &QemuConfig, kept: Kept) {
        if self.kept.as_ref() == Some(&kept) {
            return;
        }
        if let Some(path) = &config.probe_cache
            && let Ok(text) = serde_json::to_vec_pretty(&kept)
        {
            let draft = path.with_extension("new");
            let written = std::fs::write(&draft, text).and_then(|()| std::fs::rename(&draft, path));
            if let Err(error) = written {
                tracing::warn!(%path, %error, "the answer of the KVM probe cannot be kept");
            }
        }
        self.kept = Some(kept);
    }
}

async fn try_kvm(
    config: &QemuConfig,
    binary: &Utf8Path,
    bzimage: &Utf8Path,
    groups: Vec<u32>,
    key: Key,
) -> Kept {
    let begun = tokio::time::Instant::now();
    let user = rustix::process::geteuid().is_root().then_some(NOBODY);
    let boot = Boot {
        accelerator: Accelerator::Kvm { groups },
        user,
        deadline: BOOT_DEADLINE,
    };
    let (accelerator, detail) = match boot.run(config, binary, bzimage).await {
        Ok(()) => (
            "kvm",
            format!("a guest booted within {} ms", begun.elapsed().as_millis()),
        ),
        Err(why) => (
            "tcg",
            format!("{KVM} is there, but a guest does not boot with it: {why}"),
        ),
    };
    tracing::info!(accelerator, detail, "probed KVM");
    Kept {
        key,
        accelerator: accelerator.to_owned(),
        detail,
        boot: crate::boot_id(),
    }
}

/// The supplementary groups with which an unprivileged process may open `/dev/kvm`.
pub(super) fn kvm_groups(device: &Path) -> Result<Vec<u32>, String> {
    const READ_WRITE: u32 = 0o6;
    let meta = std::fs::metadata(device)
        .map_err(|error| format!("{} cannot be used: {error}", device.display()))?;
    let (mode, group) = (meta.mode(), meta.gid());
    if mode & READ_WRITE == READ_WRITE || !rustix::process::geteuid().is_root() {
        return Ok(Vec::new());
    }
    // Root's own group would open more than this one device.
    if (mode >> 3) & READ_WRITE == READ_WRITE && group != 0 {
        return Ok(vec![group]);
    }
    Err(format!(
        "{} (mode {:o}, group {group}) is closed to VMs, which run without privileges; give it \
         to a group of its own with mode 660",
        device.display(),
        mode & 0o777
    ))
}

async fn ask_version(binary: &Utf8Path) -> Result<String, VmmError> {
    let missing = |detail: String| VmmError::Missing {
        what: "QEMU's version".to_owned(),
        detail,
    };
    let output = tokio::process::Command::new(binary)
        .arg("--version")
        .env_clear()
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(VERSION_DEADLINE, output)
        .await
        .map_err(|_| missing(format!("{binary} --version does not end")))?
        .map_err(|error| missing(format!("{binary} cannot be run: {error}")))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let first = text.lines().next().unwrap_or_default();
    let version = first
        .strip_prefix("QEMU emulator version ")
        .unwrap_or(first);
    if version.is_empty() {
        return Err(missing(format!("{binary} --version says nothing")));
    }
    Ok(version.to_owned())
}

/// Tells one content of a file from another without reading it.
fn stamp(path: &Utf8Path) -> Result<String, VmmError> {
    let meta = std::fs::metadata(path).map_err(|error| VmmError::Missing {
        what: path.to_string(),
        detail: error.to_string(),
    })?;
    Ok(format!(
        "{}-{}.{:09}",
        meta.len(),
        meta.mtime(),
        meta.mtime_nsec()
    ))
}

fn cpu_field(name: &str) -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    text.lines().find_map(|line| {
        let (field, value) = line.split_once(':')?;
        (field.trim() == name).then(|| value.trim().to_owned())
    })
}

/// The frequency of the host's clock in kHz, from `/proc/cpuinfo`.
pub(super) fn host_khz() -> Option<u64> {
    khz(&cpu_field("cpu MHz")?)
}

fn khz(mhz: &str) -> Option<u64> {
    let (whole, part) = mhz.split_once('.').unwrap_or((mhz, "0"));
    let part: u64 = format!("{part:0<3}").get(..3)?.parse().ok()?;
    let khz = whole.parse::<u64>().ok()?.checked_mul(1000)? + part;
    // A virtual CPU may say 0. Outside of this the guest's clock would run wild.
    (100_000..=10_000_000).contains(&khz).then_some(khz)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_yes_is_kept_for_good_and_a_no_for_one_boot() {
        let key = Key {
            host_kernel: "6.1".to_owned(),
            qemu: "7.2".to_owned(),
            cpu: "a".to_owned(),
            guest_kernel: "1-1".to_owned(),
        };
        let kept = |accelerator: &str| Kept {
            key: key.clone(),
            accelerator: accelerator.to_owned(),
            detail: String::new(),
            boot: "first".to_owned(),
        };
        assert!(kept("kvm").answers(&key, "second"));
        assert!(kept("tcg").answers(&key, "first"));
        assert!(!kept("tcg").answers(&key, "second"));
        let other = Key {
            qemu: "8.0".to_owned(),
            ..key.clone()
        };
        assert!(!kept("kvm").answers(&other, "first"));
    }

    #[test]
    fn clock_frequencies() {
        assert_eq!(khz("2596.100"), Some(2_596_100));
        assert_eq!(khz("2596.1"), Some(2_596_100));
        assert_eq!(khz("2596"), Some(2_596_000));
        assert_eq!(khz("0.000"), None);
        assert_eq!(khz("fast"), None);
    }

    #[test]
    fn the_empty_initramfs_is_an_archive() {
        let archive = empty_initramfs();
        // 13 fields of 8 digits after a magic of 6, then the name; all in words of 4 bytes.
        assert_eq!(&archive[110..121], b"TRAILER!!!\0");
        assert_eq!(archive.len() % 4, 0);
    }

    #[test]
    fn devices_that_only_root_may_open_are_refused() {
        use std::os::unix::fs::PermissionsExt;
        if !rustix::process::geteuid().is_root() {
            println!("SKIP: not root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let device = dir.path().join("kvm");
        assert!(kvm_groups(&device).unwrap_err().contains("No such file"));
        std::fs::write(&device, "").unwrap();
        let with = |mode, gid| {
            std::fs::set_permissions(&device, PermissionsExt::from_mode(mode)).unwrap();
            std::os::unix::fs::chown(&device, None, Some(gid)).unwrap();
            kvm_groups(&device)
        };
        assert_eq!(with(0o666, 0), Ok(vec![]));
        assert_eq!(with(0o660, 104), Ok(vec![104]));
        assert!(with(0o660, 0).unwrap_err().contains("mode 660"));
        assert!(with(0o600, 104).is_err());
    }
}
