//! The two copy processes: a tar stream out of a path, and into a folder.
//!
//! Unpacking resolves each name beneath the destination folder (`openat2` with
//! `RESOLVE_BENEATH`): neither `..` nor a link in the stream or in the folder leads out of it.

mod out;

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, chownat, linkat,
    makedev, mkdirat, mknodat, openat2, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;
use tar::{Archive, Entry, EntryType};

use crate::error::{Context, Failure};

pub(crate) use out::pack;

/// Deeper paths are no files anybody has.
const MAX_DEPTH: usize = 256;

const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS);

/// Unpacks a tar stream into the folder `path`, which must exist.
pub(crate) fn unpack(path: &str, tar: impl Read) -> Result<(), Failure> {
    let root = rustix::fs::open(path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .context("open the folder", path)?;
    rustix::process::umask(Mode::empty());
    let mut archive = Archive::new(tar);
    let mut folders = Vec::new();
    for entry in archive.entries().context("read", "the tar stream")? {
        let mut entry = entry.context("read", "the tar stream")?;
        let name = entry
            .path()
            .context("read a name of", "the tar stream")?
            .into_owned();
        let shown = name.display().to_string();
        let name = relative(&name)?;
        unpack_entry(&root, &name, &mut entry).context("unpack", &shown)?;
        if entry.header().entry_type() == EntryType::Directory {
            folders.push((name, entry.header().mtime().unwrap_or(0)));
        }
    }
    // Whatever was put into a folder has changed its time.
    for (name, mtime) in folders.into_iter().rev() {
        if let Ok(folder) = open_folder(&root, &name) {
            let _set = utimensat(&folder, "", &times(mtime), AtFlags::EMPTY_PATH);
        }
    }
    // What follows the end mark is padding; a sender that still sends it must not get a broken pipe.
    let mut rest = archive.into_inner();
    std::io::copy(&mut rest, &mut std::io::sink()).context("read", "the tar stream")?;
    Ok(())
}

/// The name without its root, refusing what leads upwards.
fn relative(name: &Path) -> Result<PathBuf, Failure> {
    let mut clean = PathBuf::new();
    for component in name.components() {
        match component {
            Component::Normal(part) => clean.push(part),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(Failure::new(
                    "unpack",
                    name.display(),
                    "its name leads out of the folder",
                ));
            }
        }
    }
    if clean.components().count() > MAX_DEPTH {
        return Err(Failure::new("unpack", name.display(), "it lies too deep"));
    }
    Ok(clean)
}

fn open_folder(root: impl AsFd, name: &Path) -> rustix::io::Result<OwnedFd> {
    let name = if name.as_os_str().is_empty() {
        Path::new(".")
    } else {
        name
    };
    openat2(
        root,
        name,
        OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        BENEATH,
    )
}

/// Opens the folder that is to hold `name`, made as far as it is missing.
fn parent_of(root: &OwnedFd, name: &Path) -> rustix::io::Result<OwnedFd> {
    let parent = name.parent().unwrap_or(Path::new(""));
    match open_folder(root, parent) {
        Err(Errno::NOENT) => {}
        opened => return opened,
    }
    let mut folder = open_folder(root, Path::new(""))?;
    let mut so_far = PathBuf::new();
    for part in parent.components() {
        so_far.push(part);
        folder = match open_folder(root, &so_far) {
            Err(Errno::NOENT) => {
                mkdirat(&folder, part.as_os_str(), Mode::from_raw_mode(0o755))?;
                open_folder(root, &so_far)?
            }
            opened => opened?,
        };
    }
    Ok(folder)
}

fn unpack_entry<R: Read>(
    root: &OwnedFd,
    name: &Path,
    entry: &mut Entry<'_, R>,
) -> std::io::Result<()> {
    let kind = entry.header().entry_type();
    let Some(leaf) = name.file_name().map(PathBuf::from) else {
        // The folder itself: it exists, and stays as it is.
        return Ok(());
    };
    let parent = parent_of(root, name)?;
    if kind == EntryType::Directory {
        match mkdirat(&parent, &leaf, Mode::from_raw_mode(0o700)) {
            // A link to a folder counts as the folder, as for `docker cp`.
            Err(Errno::EXIST) => drop(open_folder(root, name)?),
            made => made?,
        }
        return attributes(&parent, &leaf, entry, kind);
    }
    match unlinkat(&parent, &leaf, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    match kind {
        EntryType::Symlink => symlinkat(&*link_name(entry)?, &parent, &leaf)?,
        EntryType::Link => return hard_link(root, &parent, &leaf, &link_name(entry)?),
        EntryType::Char | EntryType::Block | EntryType::Fifo => {
            special(&parent, &leaf, entry, kind)?
        }
        _ => write_file(&parent, &leaf, entry)?,
    }
    attributes(&parent, &leaf, entry, kind)
}

fn link_name<R: Read>(entry: &Entry<'_, R>) -> std::io::Result<PathBuf> {
    let name = entry.link_name()?;
    name.map(std::borrow::Cow::into_owned)
        .ok_or_else(|| std::io::Error::other("a link without a target"))
}

fn hard_link(root: &OwnedFd, parent: &OwnedFd, leaf: &Path, target: &Path) -> std::io::Result<()> {
    let target = relative(target).map_err(std::io::Error::other)?;
    let folder = open_folder(root, target.parent().unwrap_or(Path::new("")))?;
    let name = target
        .file_name()
        .ok_or_else(|| std::io::Error::other("a hard link to a folder"))?;
    Ok(linkat(folder, name, parent, leaf, AtFlags::empty())?)
}

fn special<R: Read>(
    parent: &OwnedFd,
    leaf: &Path,
    entry: &Entry<'_, R>,
    kind: EntryType,
) -> std::io::Result<()> {
    let header = entry.header();
    let major = header.device_major()?.unwrap_or(0);
    let minor = header.device_minor()?.unwrap_or(0);
    let (kind, device) = match kind {
        EntryType::Char => (FileType::CharacterDevice, makedev(major, minor)),
        EntryType::Block => (FileType::BlockDevice, makedev(major, minor)),
        _ => (FileType::Fifo, 0),
    };
    Ok(mknodat(
        parent,
        leaf,
        kind,
        Mode::from_raw_mode(0o600),
        device,
    )?)
}

fn write_file<R: Read>(
    parent: &OwnedFd,
    leaf: &Path,
    entry: &mut Entry<'_, R>,
) -> std::io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat2(parent, leaf, flags, Mode::from_raw_mode(0o600), BENEATH)?;
    let expected = entry.size();
    let written = std::io::copy(entry, &mut std::fs::File::from(file))?;
    if written != expected {
        return Err(std::io::Error::other(format!(
            "the stream ended after {written} of {expected} bytes"
        )));
    }
    Ok(())
}

fn attributes<R: Read>(
    parent: &OwnedFd,
    leaf: &Path,
    entry: &Entry<'_, R>,
    kind: EntryType,
) -> std::io::Result<()> {
    let header = entry.header();
    let id = |number: u64| u32::try_from(number).map_err(std::io::Error::other);
    let (uid, gid) = (id(header.uid()?)?, id(header.gid()?)?);
    if rustix::process::geteuid().is_root() {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        chownat(
            parent,
            leaf,
            Some(uid),
            Some(gid),
            AtFlags::SYMLINK_NOFOLLOW,
        )?;
    }
    if kind != EntryType::Symlink {
        let mode = Mode::from_raw_mode(header.mode()? & 0o7777);
        rustix::fs::chmodat(parent, leaf, mode, AtFlags::empty())?;
    }
    Ok(utimensat(
        parent,
        leaf,
        &times(header.mtime()?),
        AtFlags::SYMLINK_NOFOLLOW,
    )?)
}

fn times(mtime: u64) -> Timestamps {
    let time = Timespec {
        tv_sec: i64::try_from(mtime).unwrap_or(0),
        tv_nsec: 0,
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}
