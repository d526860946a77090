//! Volumes: block storage for VMs behind one trait.
//!
//! A volume is a file ([`FileVolumes`]) or a device of the pool (`hearth-pool`'s `ThinVolumes`).
//! [`contract`] is what every implementation must keep, as a function that a test calls.

#![forbid(unsafe_code)]

#[doc(hidden)]
pub mod contract;
mod copy;
mod files;
mod lend;
mod unfinished;
mod verified;

pub use copy::sparse_onto;
pub use files::{FileVolumes, make_ext4};
pub use lend::Borrower;
pub use verified::{copy_verified, write_data};

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use hearth_types::units::Bytes;
use hearth_types::volume::StorageKind;

/// How a volume operation failed.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// Not enough free space; nothing was written.
    #[error("{path} needs {needed} and only {available} are free")]
    NoSpace {
        /// The volume.
        path: Utf8PathBuf,
        /// What it needs.
        needed: Bytes,
        /// What is there.
        available: Bytes,
    },
    /// The wanted size is smaller than the source or the present size.
    #[error("{path} cannot be {wanted}: it holds {present}")]
    TooSmall {
        /// The volume.
        path: Utf8PathBuf,
        /// The wanted size.
        wanted: Bytes,
        /// The present size.
        present: Bytes,
    },
    /// A file operation failed.
    #[error("cannot {operation} {path}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which path.
        path: Utf8PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// A tool failed.
    #[error("cannot {operation} {path}")]
    Tool {
        /// What was tried.
        operation: &'static str,
        /// On which path.
        path: Utf8PathBuf,
        /// Why it failed.
        #[source]
        source: hearth_host::command::CommandError,
    },
    /// What the volume stands on failed.
    #[error("cannot {operation} {path}")]
    Ground {
        /// What was tried.
        operation: &'static str,
        /// On which volume.
        path: Utf8PathBuf,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// How a volume came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// It was there already, whole.
    Present,
    /// It shares its blocks with the source.
    Reflink,
    /// It is a snapshot: it shares all blocks of its source in a pool.
    Snapshot,
    /// It is a sparse copy.
    Copy,
    /// It was made empty.
    Empty,
}

/// What a volume stands on at this moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// The host's own node of its device (`/dev/dm-7`), if its path is one of a block device.
    pub device: Option<Utf8PathBuf>,
}

/// How much room a file system has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes that may still be written.
    pub free: u64,
    /// Bytes in all.
    pub size: u64,
}

impl Room {
    /// Of the file system that a folder is in.
    ///
    /// # Errors
    /// [`DiskError::Io`].
    pub fn of(folder: &Utf8Path) -> Result<Self, DiskError> {
        let stat = rustix::fs::statvfs(folder.as_std_path()).map_err(|error| DiskError::Io {
            operation: "measure the file system of",
            path: folder.to_owned(),
            source: error.into(),
        })?;
        Ok(Self {
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
            size: stat.f_blocks.saturating_mul(stat.f_frsize),
        })
    }
}

/// A store of volumes. Operations are idempotent; a volume appears under its name only when
/// it is whole.
#[async_trait]
pub trait Volumes: Send + Sync {
    /// Makes `path` a copy of the volume `source`, grown to `size`, owned by `owner` (uid
    /// and gid) with mode 0600.
    async fn clone_from(
        &self,
        source: &Utf8Path,
        path: &Utf8Path,
        size: Bytes,
        owner: u32,
    ) -> Result<Made, DiskError>;

    /// Makes `path` an empty ext4 volume of `size` with this label.
    async fn create_ext4(
        &self,
        path: &Utf8Path,
        size: Bytes,
        label: &str,
        owner: u32,
    ) -> Result<Made, DiskError>;

    /// Grows a volume that no VM uses. The guest grows the file system when it mounts it.
    async fn grow(&self, path: &Utf8Path, size: Bytes) -> Result<(), DiskError>;

    /// Removes a volume; one that is gone is a success.
    async fn remove(&self, path: &Utf8Path) -> Result<(), DiskError>;

    /// Makes `path` what the volume `source` is at this moment, grown to `size`: a volume of the same
    /// kind, and nothing of `source` is kept for the next time. Otherwise as [`Volumes::clone_from`],
    /// whose source is an image and does not change.
    async fn duplicate(
        &self,
        source: &Utf8Path,
        path: &Utf8Path,
        size: Bytes,
        owner: u32,
    ) -> Result<Made, DiskError> {
        Volumes::clone_from(self, source, path, size, owner).await
    }

    /// Makes `path` the volume of an image, with what the volume `source` has, which does not change:
    /// one of the same kind, that nobody but [`Volumes::clone_from`] uses. It is independent of
    /// `source` from then on.
    async fn image_of(
        &self,
        source: &Utf8Path,
        path: &Utf8Path,
        size: Bytes,
    ) -> Result<Made, DiskError> {
        self.duplicate(source, path, size, 0).await
    }

    /// How large a volume is, as its guest sees it.
    async fn size(&self, path: &Utf8Path) -> Result<Bytes, DiskError> {
        let looked_at = path.to_owned();
        let length = hearth_host::aside::aside(move || {
            use std::io::Seek as _;
            // A device has no length but its end.
            std::fs::File::open(looked_at)?.seek(std::io::SeekFrom::End(0))
        });
        let length = length.await;
        length
            .unwrap_or_else(|error| Err(std::io::Error::other(error)))
            .map(Bytes)
            .map_err(unfinished::failed("measure", path))
    }

    /// Whether a duplicate of `source` under `path` shares its blocks, so that it takes a moment,
    /// however large the volume is.
    async fn clones_at_once(
        &self,
        _source: &Utf8Path,
        _path: &Utf8Path,
    ) -> Result<bool, DiskError> {
        Ok(false)
    }

    /// Puts the volume `new` in the place of `path`, which nobody uses; what was there is given
    /// up. After a crash one of the two is under `path`, whole; once `new` is gone this has
    /// happened, and asked for again it is a success.
    async fn replace(&self, path: &Utf8Path, _new: &Utf8Path) -> Result<(), DiskError> {
        let unsupported = std::io::Error::from(std::io::ErrorKind::Unsupported);
        Err(unfinished::failed(
            "put another volume in the place of",
            path,
        )(unsupported))
    }

    /// Makes a volume usable under its path, for a VM that is about to start as this user. A
    /// device is switched on, and its node is renewed: its number is another one after a reboot,
    /// and the old one may be somebody else's. Files are always usable.
    async fn ready(&self, _path: &Utf8Path, _owner: u32) -> Result<Standing, DiskError> {
        Ok(Standing::default())
    }

    /// Lends the volume `path`, which is not used by anybody it may not be shared with, to a VM that
    /// is about to start: usable under the second name `at`, in the place of what was there.
    async fn lend(
        &self,
        path: &Utf8Path,
        at: &Utf8Path,
        to: Borrower,
    ) -> Result<Standing, DiskError> {
        let (source, target) = (path.to_owned(), at.to_owned());
        let linked = hearth_host::aside::aside(move || lend::link(&source, &target, to)).await;
        let interrupted = |error| unfinished::failed("lend", path)(std::io::Error::other(error));
        linked.map_err(interrupted)??;
        Ok(Standing::default())
    }

    /// Takes back the second name that [`Volumes::lend`] has given; one that is gone is a success.
    async fn take_back(&self, at: &Utf8Path) -> Result<(), DiskError> {
        let name = at.to_owned();
        let removed = hearth_host::aside::aside(move || unfinished::remove_file(&name)).await;
        removed
            .map_err(|error| unfinished::failed("take back", at)(std::io::Error::other(error)))?
    }

    /// What a volume is kept in.
    async fn kind(&self, _path: &Utf8Path) -> Result<StorageKind, DiskError> {
        Ok(StorageKind::Files)
    }

    /// What a new volume of a folder would be kept in.
    async fn kind_of_new(&self, _folder: &Utf8Path) -> StorageKind {
        StorageKind::Files
    }

    /// Why no volume of this kind can be made in a folder, as far as can be told without trying.
    async fn cannot(&self, kind: StorageKind, _folder: &Utf8Path) -> Option<String> {
        (kind == StorageKind::Thin).then(|| "volumes are files here, and nothing else".to_owned())
    }

    /// Makes `path` a copy of `source`, kept in `kind`, and compares the two. `source` is a volume that
    /// nobody uses, or a file that holds one. Cut off, it is begun anew; holes stay holes.
    async fn convert(
        &self,
        source: &Utf8Path,
        path: &Utf8Path,
        kind: StorageKind,
        owner: u32,
    ) -> Result<(), DiskError>;

    /// Gives up what stands behind the volumes of a folder that is about to be removed with all
    /// that is in it. Files go with the folder.
    async fn clear(&self, _folder: &Utf8Path) -> Result<(), DiskError> {
        Ok(())
    }

    /// Gives up what is kept of a source beside its file, because the source is about to go.
    /// Volumes that were cloned from it keep what they have.
    async fn forget_source(&self, _source: &Utf8Path) -> Result<(), DiskError> {
        Ok(())
    }

    /// Whether a volume that was made is there no more. One that cannot be reached at this moment
    /// is no lost one.
    async fn is_lost(&self, path: &Utf8Path) -> Result<bool, DiskError> {
        let looked_at = path.to_owned();
        let there = hearth_host::aside::aside(move || looked_at.try_exists()).await;
        there
            .unwrap_or_else(|error| Err(std::io::Error::other(error)))
            .map(|there| !there)
            .map_err(unfinished::failed("look at", path))
    }

    /// How much room there is for what is kept in a folder.
    async fn room(&self, folder: &Utf8Path) -> Result<Room, DiskError> {
        Room::of(folder)
    }
}
