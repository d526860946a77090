//! Owner, mode, extended attributes and times of what was unpacked.
//!
//! The order matters: changing the owner clears setuid bits and file capabilities, so the
//! owner comes first, then the mode, the attributes, and last the time.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::parents::Parent;
use super::problem::{Problem, refuse};
use crate::Limits;
use crate::tarstream::{Entry, Kind};

/// Labels of the machine that built the image. They mean nothing in the guest, whose own
/// policy writes its own.
const IGNORED: [&[u8]; 4] = [
    b"security.selinux",
    b"security.ima",
    b"security.evm",
    b"security.apparmor",
];

/// What an attribute's name leads to.
fn wanted(name: &[u8]) -> Result<bool, Problem> {
    if IGNORED.contains(&name) {
        return Ok(false);
    }
    let known = name == b"security.capability"
        || name == b"system.posix_acl_access"
        || name == b"system.posix_acl_default"
        || name.starts_with(b"user.")
        // An overlay's own marks would hide files where an image has no business to.
        || (name.starts_with(b"trusted.") && !name.starts_with(b"trusted.overlay."));
    if !known {
        let name = String::from_utf8_lossy(name);
        return refuse(format!("extended attribute {name:?} is not supported"));
    }
    Ok(true)
}

fn xattrs(
    entry: &Entry,
    limits: &Limits,
    set: impl Fn(&[u8], &[u8]) -> rustix::io::Result<()>,
) -> Result<(), Problem> {
    for (name, value) in &entry.xattrs {
        if !wanted(name)? {
            continue;
        }
        let shown = String::from_utf8_lossy(name);
        if value.len() > limits.xattr {
            let limit = limits.xattr;
            return refuse(format!("attribute {shown:?} has more than {limit} bytes"));
        }
        match set(name, value) {
            Ok(()) => {}
            Err(
                error @ (Errno::NOSPC
                | Errno::RANGE
                | Errno::TOOBIG
                | Errno::PERM
                | Errno::INVAL
                | Errno::OPNOTSUPP),
            ) => return refuse(format!("attribute {shown:?} cannot be kept: {error}")),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Attributes of an open, new file.
pub(super) fn file(file: BorrowedFd<'_>, entry: &Entry, limits: &Limits) -> Result<(), Problem> {
    let (uid, gid) = owner(entry);
    if entry.uid != 0 || entry.gid != 0 {
        rustix::fs::fchown(file, Some(uid), Some(gid))?;
    }
    rustix::fs::fchmod(file, Mode::from_raw_mode(entry.mode))?;
    xattrs(entry, limits, |name, value| {
        rustix::fs::fsetxattr(file, name, value, XattrFlags::empty())
    })?;
    rustix::fs::futimens(file, &times(entry.mtime))?;
    Ok(())
}

/// Attributes of anything else, by its name in its folder, never through a link. A folder's
/// time is set later.
pub(super) fn node(
    parent: &Parent,
    name: &[u8],
    entry: &Entry,
    limits: &Limits,
) -> Result<(), Problem> {
    let (uid, gid) = owner(entry);
    let nofollow = AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::chownat(&parent.fd, name, Some(uid), Some(gid), nofollow)?;
    if entry.kind != Kind::Symlink {
        let mode = Mode::from_raw_mode(entry.mode);
        rustix::fs::chmodat(&parent.fd, name, mode, AtFlags::empty())?;
    }
    if !entry.xattrs.is_empty() {
        // Attributes have no *at calls; the descriptor's link in /proc leads to the same folder.
        let mut path = format!("/proc/self/fd/{}/", parent.fd.as_raw_fd()).into_bytes();
        path.extend_from_slice(name);
        xattrs(entry, limits, |name, value| {
            rustix::fs::lsetxattr(&path, name, value, XattrFlags::empty())
        })?;
    }
    if entry.kind != Kind::Directory {
        rustix::fs::utimensat(&parent.fd, name, &times(entry.mtime), nofollow)?;
    }
    Ok(())
}

/// Attributes of the root.
pub(super) fn open_folder(folder: BorrowedFd<'_>, entry: &Entry) -> Result<(), Problem> {
    let (uid, gid) = owner(entry);
    rustix::fs::fchown(folder, Some(uid), Some(gid))?;
    rustix::fs::fchmod(folder, Mode::from_raw_mode(entry.mode))?;
    xattrs(entry, &Limits::default(), |name, value| {
        rustix::fs::fsetxattr(folder, name, value, XattrFlags::empty())
    })
}

/// The time of a folder, if there still is a folder of that name.
pub(super) fn folder_time(
    root: BorrowedFd<'_>,
    path: &[u8],
    mtime: (i64, u32),
) -> rustix::io::Result<()> {
    let path = if path.is_empty() { &b"."[..] } else { path };
    let (parent, name) = match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&b"."[..], path),
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let parent = match rustix::fs::openat2(root, parent, flags, Mode::empty(), inside) {
        Ok(parent) => parent,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        Err(error) => return Err(error),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(&parent, name, flags, Mode::empty()) {
        Ok(folder) => rustix::fs::futimens(&folder, &times(mtime)),
        // A later entry of the layer has replaced it.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
        Err(error) => Err(error),
    }
}

fn owner(entry: &Entry) -> (Uid, Gid) {
    (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid))
}

/// Both times are the entry's, so that one archive always gives one volume.
fn times((seconds, nanos): (i64, u32)) -> Timestamps {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: i64::from(nanos),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}
