//! Removal below a folder, sparing what the current layer has made.
//!
//! A folder can be deeper than any path that leads to it, by links on the way. The walk holds two
//! descriptors and a frame per level, so it goes down as far as a path may and no further.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;

use super::Made;
use super::problem::{Problem, refuse};

/// What was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Removed {
    Nothing,
    /// Something that no path can lead through.
    Leaf,
    /// A folder (perhaps only its contents) or a symlink.
    Passage,
}

/// Removes `name` and all below it, except what is in `keep`: a kept file stays, and a folder
/// stays while something in it is kept. At most `levels` of folders deep.
pub(super) fn tree(
    parent: BorrowedFd<'_>,
    name: &[u8],
    keep: Option<&Made>,
    levels: usize,
) -> Result<Removed, Problem> {
    let stat = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(Removed::Nothing),
        Err(error) => return Err(error.into()),
    };
    let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
    let kept = match keep {
        Some(keep) => {
            let folder = rustix::fs::fstat(parent)?.st_ino;
            keep.contains(&(folder, name.into()))
        }
        None => false,
    };
    if kind != rustix::fs::FileType::Directory {
        if kept {
            return Ok(Removed::Nothing);
        }
        rustix::fs::unlinkat(parent, name, AtFlags::empty())?;
        return Ok(if kind == rustix::fs::FileType::Symlink {
            Removed::Passage
        } else {
            Removed::Leaf
        });
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    let Some(below) = levels.checked_sub(1) else {
        return refuse("it replaces folders that are deeper than any path may be");
    };
    children(folder.as_fd(), keep, below)?;
    if !kept {
        match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
            // Something in it is kept, so it is, too.
            Ok(()) | Err(Errno::NOTEMPTY) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Removed::Passage)
}

/// Removes everything in a folder, except what is in `keep`, at most `levels` of folders deep.
pub(super) fn children(
    folder: BorrowedFd<'_>,
    keep: Option<&Made>,
    levels: usize,
) -> Result<(), Problem> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let readable = rustix::fs::openat(folder, ".", flags, Mode::empty())?;
    let names = Dir::read_from(&readable)?
        .map(|entry| entry.map(|entry| entry.file_name().to_bytes().to_vec()))
        .collect::<rustix::io::Result<Vec<_>>>()?;
    for name in names {
        if name != b"." && name != b".." {
            tree(readable.as_fd(), &name, keep, levels)?;
        }
    }
    Ok(())
}
