//! Folders that a careless driver would stumble over: below one that nobody else may enter, with a
//! path longer than a socket address holds.

use std::os::unix::fs::PermissionsExt as _;

use camino::{Utf8Path, Utf8PathBuf};
use hearth_host::process::{Signal, prove, survey};
use hearth_types::ids::{InstallationId, VmId};

pub(crate) struct Ground {
    pub(crate) installation: InstallationId,
    root: tempfile::TempDir,
}

impl Ground {
    pub(crate) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        set_mode(Utf8Path::from_path(root.path()).unwrap(), 0o700);
        Self {
            installation: InstallationId::new(),
            root,
        }
    }

    pub(crate) fn path(&self, name: &str) -> Utf8PathBuf {
        Utf8Path::from_path(self.root.path()).unwrap().join(name)
    }

    /// A VM's folder: these disks, and an initramfs with nothing in it.
    pub(crate) fn folder(&self, vm: VmId, disks: &[&str]) -> Utf8PathBuf {
        let dir = self.path(&"v".repeat(100)).join(vm.to_string());
        std::fs::create_dir_all(&dir).unwrap();
        set_mode(&dir, 0o700);
        for name in disks {
            let disk = std::fs::File::create(dir.join(name)).unwrap();
            disk.set_len(1 << 20).unwrap();
            set_mode(&dir.join(name), 0o600);
        }
        std::fs::write(dir.join("initrd"), empty_cpio()).unwrap();
        set_mode(&dir.join("initrd"), 0o600);
        dir
    }
}

impl Drop for Ground {
    /// Whatever a failed test left running goes with it.
    fn drop(&mut self) {
        for process in survey(self.installation).unwrap_or_default() {
            if let Ok(proven) = prove(&process.identity) {
                drop(proven.signal(Signal::KILL));
            }
        }
    }
}

pub(crate) fn set_mode(path: &Utf8Path, mode: u32) {
    let mode = std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(path, mode).unwrap();
}

/// The newc archive with nothing in it: 13 header fields, all zero but the name's length.
fn empty_cpio() -> Vec<u8> {
    let zeros = "00000000".repeat(11);
    let mut archive = format!("070701{zeros}0000000B00000000TRAILER!!!").into_bytes();
    archive.resize(512, 0);
    archive
}
