//! Lending a volume to a VM: a second name for it in the VM's folder, for as long as the VM has it.
//! Taking the name away takes nothing from the volume.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;

use camino::Utf8Path;
use rustix::fs::{Gid, Mode, Uid};

use crate::DiskError;
use crate::unfinished::{failed, open_volume, remove_file, sync_folder};

/// Who may open a volume that is lent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Borrower {
    /// The uid and gid of the VM that has it.
    pub owner: u32,
    /// It may not write: others may have it, too, and none of them owns it then.
    pub read_only: bool,
}

impl Borrower {
    /// Whose it is meanwhile, and its permissions. The folder that the name is in lets nobody
    /// else pass.
    #[must_use]
    pub const fn owner_and_mode(self) -> (u32, u32) {
        if self.read_only {
            (0, 0o444)
        } else {
            (self.owner, 0o600)
        }
    }
}

/// Gives the file `path` a second name `at`, in the place of what was there.
pub(crate) fn link(path: &Utf8Path, at: &Utf8Path, to: Borrower) -> Result<(), DiskError> {
    let file = open_volume(path, true).map_err(failed("open the volume", path))?;
    let (owner, mode) = to.owner_and_mode();
    give(&file, owner, mode).map_err(failed("change the owner of", path))?;
    let meta = file.metadata().map_err(failed("inspect", path))?;
    match at.symlink_metadata() {
        Ok(present) if (present.dev(), present.ino()) == (meta.dev(), meta.ino()) => return Ok(()),
        Ok(_) => remove_file(at)?,
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(failed("look at", at)(error)),
    }
    std::fs::hard_link(path, at).map_err(failed("give a second name to", path))?;
    sync_folder(at)
}

fn give(file: &File, owner: u32, mode: u32) -> std::io::Result<()> {
    // Nobody has both, the old permissions and the new owner.
    rustix::fs::fchmod(file, Mode::empty())?;
    rustix::fs::fchown(file, Some(Uid::from_raw(owner)), Some(Gid::from_raw(owner)))?;
    rustix::fs::fchmod(file, Mode::from_raw_mode(mode))?;
    Ok(())
}
