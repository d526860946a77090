//! A tar stream of a guest, unpacked on this machine.
//!
//! The guest is not trusted: `tar` only parses. Every path is resolved by the kernel below
//! the target folder (`openat2` with `RESOLVE_BENEATH` and no links), names with `..` are
//! refused, links are made but never followed, devices are left out, set-id bits dropped.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, ResolveFlags, Timespec, Timestamps, fchmod, futimens, linkat,
    mkdirat, openat, openat2, symlinkat, unlinkat,
};
use tar::{Archive, Entry, EntryType};

use super::Target;
use super::pipe::ChunkReader;
use crate::exit_codes;
use crate::failure::Failure;

/// Folders below folders at most: `openat2` is given whole paths of at most `PATH_MAX`.
const MAX_DEPTH: usize = 256;
/// What a mode may bring along.
const PERMISSIONS: u32 = 0o777;

/// What the first entry is.
pub(super) fn first_kind(reader: ChunkReader) -> io::Result<EntryType> {
    let mut archive = Archive::new(reader);
    match archive.entries()?.next() {
        Some(entry) => Ok(entry?.header().entry_type()),
        None => Err(io::Error::other("the archive is empty")),
    }
}

/// Unpacks, and gives back what was left out.
pub(super) fn unpack(
    reader: ChunkReader,
    target: &Target,
    must_be_folder: bool,
) -> Result<Vec<String>, Failure> {
    let failed = |path: &Path, error: &io::Error| {
        let whole = target.folder.join(path);
        Failure::because(
            exit_codes::FAILURE,
            format!("Cannot unpack {}", whole.display()),
            error,
        )
    };
    let mut unpacker = Unpacker::open(target).map_err(|e| failed(Path::new(""), &e))?;
    let mut archive = Archive::new(reader);
    let entries = archive.entries().map_err(|e| failed(Path::new(""), &e))?;
    for entry in entries {
        let mut entry = entry.map_err(|e| failed(Path::new(""), &e))?;
        let path = entry.path().map(|p| p.into_owned()).unwrap_or_default();
        if must_be_folder && unpacker.root.is_none() && !entry.header().entry_type().is_dir() {
            return Err(Failure::new(
                exit_codes::NOT_FOUND,
                format!(
                    "There is no folder {}",
                    target
                        .folder
                        .join(target.name.as_deref().unwrap_or(""))
                        .display()
                ),
            ));
        }
        unpacker.entry(&mut entry).map_err(|e| failed(&path, &e))?;
    }
    if unpacker.root.is_none() {
        return Err(Failure::new(
            exit_codes::FAILURE,
            "The guest sent an empty archive",
        ));
    }
    unpacker.finish().map_err(|e| failed(Path::new(""), &e))
}

/// The root of the archive's own names: what the first entry is called.
#[derive(Debug)]
enum Root {
    /// `.`: names are below it as they are.
    Dot,
    /// Names begin with this part, which is replaced.
    Named(OsString),
}

struct Unpacker<'a> {
    base: OwnedFd,
    name: Option<&'a str>,
    root: Option<Root>,
    /// Folders' modes are set last: a folder that may not be written must be filled first.
    folders: Vec<(PathBuf, u32, u64)>,
    left_out: Vec<String>,
}

impl<'a> Unpacker<'a> {
    fn open(target: &'a Target) -> io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
        Ok(Self {
            base: openat(CWD, &target.folder, flags, Mode::empty())?,
            name: target.name.as_deref(),
            root: None,
            folders: Vec::new(),
            left_out: Vec::new(),
        })
    }

    fn entry(&mut self, entry: &mut Entry<'_, ChunkReader>) -> io::Result<()> {
        let kind = entry.header().entry_type();
        if kind.is_pax_global_extensions() {
            return Ok(());
        }
        let path = self.place(&entry.path()?)?;
        let mode = entry.header().mode()? & PERMISSIONS;
        let mtime = entry.header().mtime()?;
        match kind {
            EntryType::Directory => self.folder(&path, mode, mtime),
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.file(&path, entry, mode, mtime)
            }
            EntryType::Symlink => {
                let to = entry
                    .link_name()?
                    .ok_or_else(|| invalid("a link to nothing"))?;
                let (parent, name) = self.make_room(&path)?;
                Ok(symlinkat(&*to, &parent, &*name)?)
            }
            EntryType::Link => {
                let to = entry
                    .link_name()?
                    .ok_or_else(|| invalid("a link to nothing"))?;
                let to = self.place(&to)?;
                let (old, old_name) = self.parent(&to)?;
                let (parent, name) = self.make_room(&path)?;
                Ok(linkat(&old, &*old_name, &parent, &*name, AtFlags::empty())?)
            }
            _ => {
                self.left_out.push(path.display().to_string());
                Ok(())
            }
        }
    }

    /// Where an entry goes, relative to the base.
    fn place(&mut self, path: &Path) -> io::Result<PathBuf> {
        let mut parts = Vec::new();
        for part in path.components() {
            match part {
                Component::Normal(part) => parts.push(part.to_owned()),
                Component::CurDir | Component::RootDir => {}
                Component::ParentDir | Component::Prefix(_) => {
                    return Err(invalid("its path has .. in it"));
                }
            }
        }
        if parts.len() > MAX_DEPTH {
            return Err(invalid("its path is too deep"));
        }
        let root = self.root.get_or_insert_with(|| match parts.first() {
            Some(first) => Root::Named(first.clone()),
            None => Root::Dot,
        });
        let below = match root {
            Root::Dot => &parts[..],
            Root::Named(name) if parts.first() == Some(name) => &parts[1..],
            Root::Named(_) => return Err(invalid("it is outside of what was asked for")),
        };
        let mut place: PathBuf = self.name.into_iter().collect();
        place.extend(below);
        Ok(place)
    }

    fn open_dir(&self, path: &Path) -> io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        Ok(openat2(&self.base, path, flags, Mode::empty(), resolve)?)
    }

    /// The open folder of a path and the name in it.
    fn parent(&self, path: &Path) -> io::Result<(OwnedFd, OsString)> {
        let name = path.file_name().ok_or_else(|| invalid("it has no name"))?;
        let parent = self.open_dir(path.parent().unwrap_or(Path::new("")))?;
        Ok((parent, name.to_owned()))
    }

    /// The same, with whatever is no folder taken out of the way.
    fn make_room(&self, path: &Path) -> io::Result<(OwnedFd, OsString)> {
        let (parent, name) = self.parent(path)?;
        match unlinkat(&parent, &*name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok((parent, name)),
            Err(rustix::io::Errno::ISDIR) => Err(invalid("a folder is there already")),
            Err(error) => Err(error.into()),
        }
    }

    fn folder(&mut self, path: &Path, mode: u32, mtime: u64) -> io::Result<()> {
        if !path.as_os_str().is_empty() {
            let (parent, name) = self.parent(path)?;
            match mkdirat(&parent, &*name, Mode::from_raw_mode(0o700)) {
                Ok(()) => self.folders.push((path.to_owned(), mode, mtime)),
                Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // One that was there keeps its mode; that it is a folder and no link is checked here.
        self.open_dir(path).map(drop)
    }

    fn file(&self, path: &Path, data: &mut impl Read, mode: u32, mtime: u64) -> io::Result<()> {
        let (parent, name) = self.make_room(path)?;
        let flags =
            OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(&parent, &*name, flags, Mode::from_raw_mode(0o600))?;
        let mut file = std::fs::File::from(fd);
        io::copy(data, &mut file)?;
        finish(file.as_fd(), mode, mtime)
    }

    fn finish(self) -> io::Result<Vec<String>> {
        for (path, mode, mtime) in self.folders.iter().rev() {
            finish(self.open_dir(path)?.as_fd(), *mode, *mtime)?;
        }
        Ok(self.left_out)
    }
}

fn finish(fd: BorrowedFd<'_>, mode: u32, mtime: u64) -> io::Result<()> {
    fchmod(fd, Mode::from_raw_mode(mode))?;
    let time = Timespec {
        tv_sec: i64::try_from(mtime).unwrap_or(0),
        tv_nsec: 0,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    Ok(futimens(fd, &times)?)
}

fn invalid(detail: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, detail)
}
