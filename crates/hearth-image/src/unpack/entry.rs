//! One entry of each kind, made by name in the descriptor of its parent folder.

use std::io::{self, BufRead};
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::parents::Parent;
use super::path::{self, Place};
use super::problem::{Problem, refuse};
use super::{Unpacker, meta, remove, root};
use crate::tarstream::{Entry, Kind, TarStream, shown};

impl Unpacker<'_> {
    /// An entry for the root: only its attributes count.
    pub(super) fn root_itself(&mut self, entry: &Entry) -> Result<(), Problem> {
        if entry.kind != Kind::Directory {
            return refuse("its path names the root");
        }
        meta::open_folder(self.root().as_fd(), entry)?;
        self.folder_times.push((Vec::new(), entry.mtime));
        Ok(())
    }

    pub(super) fn file(
        &mut self,
        tar: &mut TarStream<impl BufRead>,
        entry: &Entry,
        parent: &Parent,
        name: &[u8],
    ) -> Result<(), Problem> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o600);
        let file = self.fresh(parent, name, || {
            rustix::fs::openat(&parent.fd, name, flags, mode)
        })?;
        let cancelled = self.cancelled;
        tar.data(entry, &mut |mut offset, mut bytes| {
            if cancelled.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            while !bytes.is_empty() {
                let n = rustix::io::pwrite(&file, bytes, offset)?;
                bytes = &bytes[n..];
                offset += n as u64;
            }
            Ok(())
        })
        .map_err(Problem::Stream)??;
        if entry.sparse.is_some() {
            rustix::fs::ftruncate(&file, entry.size)?;
        }
        meta::file(file.as_fd(), entry, &self.limits)
    }

    pub(super) fn hard_link(
        &mut self,
        entry: &Entry,
        parent: &Parent,
        name: &[u8],
    ) -> Result<(), Problem> {
        let target = Place::of(&entry.link, self.limits.depth)?;
        let Some(target_name) = target.name() else {
            return refuse("it is a hard link to the root");
        };
        let missing = || {
            format!(
                "it is a hard link to {:?}, which is not there",
                shown(&entry.link)
            )
        };
        let Some(target_parent) = self.parents.open_existing(root!(self), target.parent())? else {
            return refuse(missing());
        };
        if target_parent.inode == parent.inode && target_name == name {
            return refuse("it is a hard link to itself");
        }
        let from = &target_parent.fd;
        match rustix::fs::statat(from, target_name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                return refuse("it is a hard link to a directory");
            }
            Ok(_) => {}
            Err(Errno::NOENT) => return refuse(missing()),
            Err(error) => return Err(error.into()),
        }
        self.fresh(parent, name, || {
            // Without AT_SYMLINK_FOLLOW, a link to a symlink is a second name of the symlink.
            rustix::fs::linkat(from, target_name, &parent.fd, name, AtFlags::empty())
        })
    }

    pub(super) fn folder(
        &mut self,
        entry: &Entry,
        place: &Place,
        parent: &Parent,
        name: &[u8],
    ) -> Result<(), Problem> {
        let mode = Mode::from_raw_mode(0o700);
        if let Err(error) = rustix::fs::mkdirat(&parent.fd, name, mode) {
            if error != Errno::EXIST {
                return Err(error.into());
            }
            let stat = rustix::fs::statat(&parent.fd, name, AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                self.clear(parent, name)?;
                rustix::fs::mkdirat(&parent.fd, name, mode)?;
            }
        }
        meta::node(parent, name, entry, &self.limits)?;
        self.folder_times.push((place.full().to_vec(), entry.mtime));
        Ok(())
    }

    pub(super) fn symlink(
        &mut self,
        entry: &Entry,
        parent: &Parent,
        name: &[u8],
    ) -> Result<(), Problem> {
        let target = entry.link.as_slice();
        if target.is_empty() || target.len() >= path::MAX_PATH || target.contains(&0) {
            return refuse("its target is empty, too long or not a path");
        }
        self.fresh(parent, name, || {
            rustix::fs::symlinkat(target, &parent.fd, name)
        })?;
        meta::node(parent, name, entry, &self.limits)
    }

    pub(super) fn node(
        &mut self,
        entry: &Entry,
        parent: &Parent,
        name: &[u8],
    ) -> Result<(), Problem> {
        let kind = match entry.kind {
            Kind::Char => FileType::CharacterDevice,
            Kind::Block => FileType::BlockDevice,
            _ => FileType::Fifo,
        };
        let device = rustix::fs::makedev(entry.device.0, entry.device.1);
        let mode = Mode::from_raw_mode(0o600);
        self.fresh(parent, name, || {
            rustix::fs::mknodat(&parent.fd, name, kind, mode, device)
        })?;
        meta::node(parent, name, entry, &self.limits)
    }

    /// Makes something under a name; what has the name goes first. The last entry wins.
    fn fresh<T>(
        &mut self,
        parent: &Parent,
        name: &[u8],
        make: impl Fn() -> rustix::io::Result<T>,
    ) -> Result<T, Problem> {
        match make() {
            Err(Errno::EXIST) => {
                self.clear(parent, name)?;
                Ok(make()?)
            }
            result => Ok(result?),
        }
    }

    fn clear(&mut self, parent: &Parent, name: &[u8]) -> Result<(), Problem> {
        if remove::tree(parent.fd.as_fd(), name, None, self.limits.depth)? != remove::Removed::Leaf
        {
            // A folder or a link to one: opened paths may lead elsewhere now.
            self.parents.forget();
        }
        Ok(())
    }

    /// `.wh.NAME` hides NAME of the layers below, `.wh..wh..opq` everything in its folder.
    /// What this layer itself has made stays, wherever the whiteout stands in it.
    pub(super) fn whiteout(&mut self, place: &Place, hidden: &[u8]) -> Result<(), Problem> {
        if hidden.is_empty() || hidden == b"." || hidden == b".." {
            return refuse("it is a whiteout of nothing");
        }
        let opaque = hidden == b".wh..opq";
        if hidden.starts_with(b".wh.") && !opaque {
            // Bookkeeping of aufs (.wh..wh.plnk and the like), which hides nothing.
            return Ok(());
        }
        let Some(made) = &self.made else {
            return Ok(());
        };
        let Some(parent) = self.parents.open_existing(root!(self), place.parent())? else {
            return Ok(());
        };
        if opaque {
            remove::children(parent.fd.as_fd(), Some(made), self.limits.depth)?;
        } else {
            remove::tree(parent.fd.as_fd(), hidden, Some(made), self.limits.depth)?;
        }
        self.parents.forget();
        Ok(())
    }
}
