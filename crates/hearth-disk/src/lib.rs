//! Volumes: block storage for VMs behind one trait.
//!
//! Today a volume is a file ([`FileVolumes`]); thin volumes slot in behind the same trait.
//! [`contract`] is what every implementation must keep, as a function that a test calls.

#![forbid(unsafe_code)]

#[doc(hidden)]
pub mod contract;
mod copy;
mod files;
mod unfinished;

pub use files::FileVolumes;

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use hearth_types::units::Bytes;

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
}

/// How a volume came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// It was there already, whole.
    Present,
    /// It shares its blocks with the source.
    Reflink,
    /// It is a sparse copy.
    Copy,
    /// It was made empty.
    Empty,
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

    /// How much room there is for what is kept in a folder.
    async fn room(&self, folder: &Utf8Path) -> Result<Room, DiskError> {
        Room::of(folder)
    }
}
