//! The folders that entries go into, kept open.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, Timespec, Timestamps};
use rustix::io::Errno;

use super::Shared;
use super::problem::{Problem, refuse};

/// Folders kept open: well under the usual limit of 1024 descriptors, with room for several
/// images at once.
const KEPT: usize = 128;
/// Dangling links followed while missing folders are made; the kernel's own limit is 40.
const MAX_LINKS: u32 = 40;

/// Parts of a path that a dangling link stands for: as many as the path of an entry may have by
/// default. The kernel would take 2,047.
const LONGEST_TARGET: usize = 255;

/// An open folder.
#[derive(Debug)]
pub(super) struct Parent {
    pub(super) fd: OwnedFd,
    pub(super) inode: u64,
}

/// The cache. Keys are normalised paths; it must be forgotten when a folder or a link to one
/// is removed.
#[derive(Debug, Default)]
pub(super) struct Parents {
    open: HashMap<Vec<u8>, Shared>,
    times: Times,
}

/// The times that folders had before the layer changed what is in them, by inode.
type Times = HashMap<u64, (Vec<u8>, Timespec)>;

impl Parents {
    /// Opens a folder below the root; links in its path are followed as if the root were `/`.
    /// Missing folders are made with mode 0755 and root as owner.
    pub(super) fn open(&mut self, root: &OwnedFd, path: &[u8]) -> Result<Shared, Problem> {
        if let Some(parent) = self.open.get(path) {
            return Ok(Rc::clone(parent));
        }
        let fd = match resolve(root, path) {
            Err(Errno::NOENT) => {
                make(root, path, MAX_LINKS, &mut self.times)?;
                resolve(root, path)
            }
            result => result,
        };
        self.keep(path, fd)
    }

    /// The same without making anything; none when there is no such folder.
    pub(super) fn open_existing(
        &mut self,
        root: &OwnedFd,
        path: &[u8],
    ) -> Result<Option<Shared>, Problem> {
        if let Some(parent) = self.open.get(path) {
            return Ok(Some(Rc::clone(parent)));
        }
        match resolve(root, path) {
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            result => self.keep(path, result).map(Some),
        }
    }

    /// Begins to note times anew.
    pub(super) fn start_layer(&mut self) {
        self.open.clear();
        self.times.clear();
    }

    /// Gives the folders of the layer the times back that they had when it first came by.
    pub(super) fn restore_times(&mut self, root: &OwnedFd) -> rustix::io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        for (inode, (path, time)) in self.times.drain() {
            let folder = match open_folder(root, &path, flags) {
                Ok(folder) => folder,
                // Removed or replaced since.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                Err(error) => return Err(error),
            };
            if rustix::fs::fstat(&folder)?.st_ino == inode {
                rustix::fs::futimens(&folder, &both(time))?;
            }
        }
        Ok(())
    }

    pub(super) fn forget(&mut self) {
        self.open.clear();
    }

    fn keep(&mut self, path: &[u8], fd: rustix::io::Result<OwnedFd>) -> Result<Shared, Problem> {
        let fd = match fd {
            Ok(fd) => fd,
            Err(Errno::NOTDIR) => return refuse("a part of its path is not a directory"),
            Err(Errno::LOOP) => return refuse("its path goes through a loop of links"),
            Err(error) => return Err(error.into()),
        };
        let stat = rustix::fs::fstat(&fd)?;
        note(&mut self.times, path, &stat);
        let inode = stat.st_ino;
        if self.open.len() >= KEPT {
            self.open.clear();
        }
        let parent = Rc::new(Parent { fd, inode });
        self.open.insert(path.to_vec(), Rc::clone(&parent));
        Ok(parent)
    }
}

/// Opens an existing folder to work in it by name.
fn resolve(root: &OwnedFd, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    open_folder(root, path, flags)
}

/// Opens an existing folder; the kernel keeps the resolution inside the root.
fn open_folder(root: &OwnedFd, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let path = if path.is_empty() { &b"."[..] } else { path };
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    rustix::fs::openat2(root, path, flags, Mode::empty(), inside)
}

const EPOCH: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

fn both(time: Timespec) -> Timestamps {
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// Notes a folder's time, unless the layer has been there before.
fn note(times: &mut Times, path: &[u8], stat: &rustix::fs::Stat) {
    times.entry(stat.st_ino).or_insert_with(|| {
        let time = Timespec {
            tv_sec: stat.st_mtime,
            tv_nsec: stat.st_mtime_nsec.cast_signed(),
        };
        (path.to_vec(), time)
    });
}

/// Makes the missing folders of a path. A link that leads nowhere gets its target made, as
/// `lib -> usr/lib` before `usr/lib` exists.
fn make(root: &OwnedFd, path: &[u8], links: u32, times: &mut Times) -> Result<(), Problem> {
    let ends = path
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == b'/')
        .map(|(at, _)| at)
        .chain([path.len()]);
    let mut start = 0;
    for end in ends {
        let (prefix, parent, name) = (&path[..end], &path[..start], &path[start..end]);
        start = end + 1;
        let parent = parent.strip_suffix(b"/").unwrap_or(parent);
        match resolve(root, prefix) {
            Ok(_) => continue,
            Err(Errno::NOENT) => {}
            Err(error) => return Err(problem(error)),
        }
        let folder = resolve(root, parent).map_err(problem)?;
        note(times, parent, &rustix::fs::fstat(&folder)?);
        match rustix::fs::mkdirat(&folder, name, Mode::from_raw_mode(0o755)) {
            Ok(()) => {
                let mode = Mode::from_raw_mode(0o755);
                rustix::fs::chmodat(&folder, name, mode, AtFlags::empty())?;
                // A time of its own that is the same each time.
                rustix::fs::utimensat(&folder, name, &both(EPOCH), AtFlags::empty())?;
            }
            Err(Errno::EXIST) => {
                let links = links.checked_sub(1).ok_or(Errno::LOOP).map_err(problem)?;
                let target = rustix::fs::readlinkat(&folder, name, Vec::new()).map_err(problem)?;
                let target = target.into_bytes();
                let full = if target.starts_with(b"/") {
                    target
                } else {
                    [parent, b"/", &target].concat()
                };
                let full = full.trim_ascii_start_slashes();
                if full.split(|byte| *byte == b'/').count() > LONGEST_TARGET {
                    return refuse("a link in its path leads nowhere, through too many folders");
                }
                make(root, full, links, times)?;
            }
            Err(error) => return Err(problem(error)),
        }
    }
    Ok(())
}

fn problem(error: Errno) -> Problem {
    match error {
        Errno::NOTDIR | Errno::INVAL => {
            Problem::Refused("a part of its path is not a directory".to_owned())
        }
        Errno::LOOP => Problem::Refused("its path goes through a loop of links".to_owned()),
        other => other.into(),
    }
}

trait Slashes {
    fn trim_ascii_start_slashes(&self) -> &[u8];
}

impl Slashes for Vec<u8> {
    fn trim_ascii_start_slashes(&self) -> &[u8] {
        let start = self.iter().position(|b| *b != b'/').unwrap_or(self.len());
        &self[start..]
    }
}
