//! Layers of an image, written into a root folder without ever leaving it.
//!
//! Owns: the descriptor of the root and a cache of descriptors of folders below it. Called
//! by one thread that is the only writer below the root.
//!
//! Per layer: for each entry its path is normalised, its parent folder is opened with
//! `openat2(RESOLVE_IN_ROOT)`, and the entry is made by name in that descriptor, never through
//! a link. Folders' times are set when the layer is done, because writing into a folder
//! changes them. An entry that cannot be taken as it is fails the whole image; the caller
//! throws the volume away.

mod entry;
mod meta;
mod parents;
mod path;
mod problem;
mod remove;
mod room;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::io::{self, BufRead, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Mode, OFlags};

use crate::decompress::{HashOf, Inflated};
use crate::progress::Reporter;
use crate::tarstream::{Entry, Kind, TarStream, shown};
use crate::{ImageError, Limits, digest};
use parents::{Parent, Parents};
use path::Place;
use problem::{Problem, named, unreadable};
pub use room::{EnoughRoom, Room};

/// Bytes after the end-of-archive mark that are still taken for padding.
const TRAILER: u64 = 64 << 20;
/// Bytes of room that each entry may need besides its data: a block of its folder and one
/// for attributes.
const ENTRY_ROOM: u64 = 8 << 10;

/// One layer to unpack.
pub struct Layer<'a> {
    /// What to call it in messages and progress, such as a digest.
    pub name: &'a str,
    /// Its bytes: a tar, plain or packed with gzip, xz or zstd.
    pub source: Box<dyn Read + Send>,
    /// Size of the packed layer, for progress.
    pub total: Option<u64>,
    /// The digest that the packed bytes must have, unless they are known to have it.
    pub packed_digest: Option<&'a str>,
    /// The digest that the tar must have.
    pub unpacked_digest: Option<&'a str>,
    /// Take the packed bytes' digest even if none is expected.
    pub hash: bool,
}

impl std::fmt::Debug for Layer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Layer")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// The root, borrowed apart from the rest of the unpacker.
macro_rules! root {
    ($unpacker:expr) => {
        $unpacker
            .root
            .as_ref()
            .expect("only gone when the room could not be enlarged, which ended the work")
    };
}
use root;

/// Names made by the layer that is being unpacked: inode of the folder, and the name in it.
type Made = HashSet<(u64, Box<[u8]>)>;

/// Writes layers into a root folder.
pub struct Unpacker<'a> {
    /// None only while the room is being enlarged.
    root: Option<OwnedFd>,
    limits: Limits,
    room: &'a mut dyn Room,
    cancelled: &'a AtomicBool,
    reporter: Reporter,
    parents: Parents,
    /// None for the first layer, over which no whiteout can have an effect.
    made: Option<Made>,
    folder_times: Vec<(Vec<u8>, (i64, u32))>,
    layers: usize,
    entries: u64,
    bytes: u64,
}

impl std::fmt::Debug for Unpacker<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unpacker")
            .field("layers", &self.layers)
            .field("entries", &self.entries)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

impl<'a> Unpacker<'a> {
    /// An unpacker below `root`, which nobody else may write to meanwhile. It stops soon
    /// after `cancelled` becomes true.
    ///
    /// # Errors
    /// When the root cannot be opened.
    pub fn new(
        root: BorrowedFd<'_>,
        limits: &Limits,
        room: &'a mut dyn Room,
        cancelled: &'a AtomicBool,
    ) -> Result<Self, ImageError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(root, ".", flags, Mode::empty())
            .map_err(|e| ImageError::Volume(Box::new(io::Error::from(e))))?;
        Ok(Self {
            root: Some(root),
            limits: limits.clone(),
            room,
            cancelled,
            reporter: Reporter::silent(),
            parents: Parents::default(),
            made: None,
            folder_times: Vec::new(),
            layers: 0,
            entries: 0,
            bytes: 0,
        })
    }

    pub(crate) fn report_to(mut self, reporter: Reporter) -> Self {
        self.reporter = reporter;
        self
    }

    /// So many layers are there already, which somebody else unpacked.
    pub(crate) const fn over(mut self, layers: usize) -> Self {
        self.layers = layers;
        self
    }

    /// Unpacks one layer over what is there and returns the digest if one was taken.
    ///
    /// # Errors
    /// When the layer cannot be read, is refused, has another digest than promised, or cannot
    /// be written. What is below the root is then of no use.
    pub fn layer(&mut self, layer: Layer<'_>) -> Result<Option<String>, ImageError> {
        let hash = match (layer.packed_digest, layer.unpacked_digest, layer.hash) {
            (None, Some(_), false) => HashOf::Unpacked,
            (None, None, false) => HashOf::Nothing,
            _ => HashOf::Packed,
        };
        self.made = (self.layers > 0).then(HashSet::new);
        self.layers += 1;
        self.parents.start_layer();
        let inflated = Inflated::start(layer.source, hash)?;
        let mut tar = TarStream::new(inflated, self.limits.metadata);
        let entries = self.entries;
        while let Some(entry) = tar.next().map_err(|e| unreadable(layer.name, e))? {
            if self.cancelled.load(Ordering::Relaxed) {
                return Err(ImageError::Cancelled);
            }
            self.count(layer.name)?;
            if self.entries.is_multiple_of(256) {
                let done = tar.reader().packed_bytes();
                self.reporter.item(layer.name, "unpack", done, layer.total);
            }
            self.entry(&mut tar, &entry)
                .map_err(|problem| named(layer.name, &entry, problem))?;
        }
        let inflated = tar
            .into_rest(TRAILER)
            .map_err(|e| unreadable(layer.name, e))?;
        if entries == self.entries && inflated.packed_bytes() == 0 {
            return Err(ImageError::unsupported(layer.name, "it is empty"));
        }
        let digest = inflated.finish();
        if let (Some(expected), Some(actual)) =
            (layer.packed_digest.or(layer.unpacked_digest), &digest)
        {
            digest::check(layer.name, expected, actual.clone())?;
        }
        self.folder_times(layer.name)?;
        self.reporter
            .item(layer.name, "done", layer.total.unwrap_or(0), layer.total);
        Ok(digest)
    }

    /// Entries taken so far.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.entries
    }

    fn count(&mut self, layer: &str) -> Result<(), ImageError> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(ImageError::Limit {
                what: layer.to_owned(),
                limit: self.limits.entries,
                unit: "entries",
            });
        }
        Ok(())
    }

    fn entry(&mut self, tar: &mut TarStream<impl BufRead>, entry: &Entry) -> Result<(), Problem> {
        let place = Place::of(&entry.path, self.limits.depth)?;
        let Some(name) = place.name() else {
            return self.root_itself(entry);
        };
        if let Some(hidden) = name.strip_prefix(b".wh.") {
            if entry.size > 0 {
                return problem::refuse("it is a whiteout, which has no content");
            }
            return self.whiteout(&place, hidden);
        }
        let data = entry.sparse.as_ref().map_or(entry.size, |segments| {
            segments.iter().map(|segment| segment.length).sum()
        });
        self.bytes = self.bytes.saturating_add(entry.size);
        if self.bytes > self.limits.bytes {
            return Err(Problem::Whole(ImageError::Limit {
                what: format!("the image, at entry {:?},", shown(&entry.path)),
                limit: self.limits.bytes,
                unit: "bytes",
            }));
        }
        self.make_room(data + ENTRY_ROOM).map_err(Problem::Whole)?;
        let parent = self.parents.open(root!(self), place.parent())?;
        match entry.kind {
            Kind::File => self.file(tar, entry, &parent, name)?,
            Kind::HardLink => self.hard_link(entry, &parent, name)?,
            Kind::Directory => self.folder(entry, &place, &parent, name)?,
            Kind::Symlink => self.symlink(entry, &parent, name)?,
            Kind::Char | Kind::Block | Kind::Fifo => self.node(entry, &parent, name)?,
        }
        if let Some(made) = &mut self.made {
            made.insert((parent.inode, name.into()));
        }
        Ok(())
    }

    fn make_room(&mut self, bytes: u64) -> Result<(), ImageError> {
        if !self.room.reserve(bytes)? {
            self.parents.forget();
            self.root = None;
            self.root = Some(self.room.enlarge(bytes)?);
        }
        Ok(())
    }

    fn root(&self) -> &OwnedFd {
        root!(self)
    }

    /// Folders that only had something put in or taken out keep the time they had.
    fn folder_times(&mut self, layer: &str) -> Result<(), ImageError> {
        self.parents
            .restore_times(root!(self))
            .map_err(|source| ImageError::Write {
                archive: layer.to_owned(),
                entry: "a folder's time".to_owned(),
                source: source.into(),
            })?;
        for (path, mtime) in std::mem::take(&mut self.folder_times) {
            meta::folder_time(self.root().as_fd(), &path, mtime).map_err(|source| {
                ImageError::Write {
                    archive: layer.to_owned(),
                    entry: shown(&path),
                    source: source.into(),
                }
            })?;
        }
        Ok(())
    }
}

/// For callers that keep a parent while others are opened.
type Shared = Rc<Parent>;
