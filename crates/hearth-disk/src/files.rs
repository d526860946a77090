//! Volumes as files.
//!
//! A volume is made beside its name and renamed when it is whole and durable, so a volume that
//! has its name is whole. See `unfinished` for the states.

use std::fs::File;
use std::io::{Seek as _, SeekFrom};
use std::time::Duration;

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use hearth_host::command::CommandError;
use hearth_types::units::Bytes;
use hearth_types::volume::StorageKind;

use crate::unfinished::{
    Unfinished, failed, folder_of, hand_over, open_volume, remove_file, remove_stale, sync_folder,
};
use crate::{DiskError, Made, Volumes, copy, copy_verified};

/// mke2fs with lazy initialisation takes well under a second for any size.
const MKE2FS_DEADLINE: Duration = Duration::from_secs(120);
/// What stays free for logs and databases unless the operator says otherwise.
const RESERVE: Bytes = Bytes::mib(64);

/// Volumes as files in folders that the caller names.
#[derive(Debug, Clone, Copy)]
pub struct FileVolumes {
    reserve: Bytes,
}

impl Default for FileVolumes {
    fn default() -> Self {
        Self::new(RESERVE)
    }
}

impl FileVolumes {
    /// Volumes that are only made when `reserve` stays free on their file system.
    #[must_use]
    pub const fn new(reserve: Bytes) -> Self {
        Self { reserve }
    }

    /// Refuses what would not leave the reserve free.
    fn check_space(self, path: &Utf8Path, wanted: u64) -> Result<(), DiskError> {
        let available = available(path)?;
        let needed = wanted.saturating_add(self.reserve.0);
        if needed <= available.0 {
            return Ok(());
        }
        Err(DiskError::NoSpace {
            path: path.to_owned(),
            needed: Bytes(needed),
            available,
        })
    }

    fn clone_blocking(
        self,
        source: &Utf8Path,
        path: &Utf8Path,
        size: Bytes,
        owner: u32,
    ) -> Result<Made, DiskError> {
        // First, so that a repetition succeeds even when the source has gone since.
        if let Some(file) = existing(path)? {
            return keep(&file, path, size, owner);
        }
        let from = open_volume(source, false).map_err(failed("open the volume", source))?;
        let present = length(&from, source)?;
        if size < present {
            return Err(DiskError::TooSmall {
                path: path.to_owned(),
                wanted: size,
                present,
            });
        }
        remove_stale(path)?;
        let new = Unfinished::create(path)?;
        let made = if copy::reflink(&from, &new.file)
            .map_err(|error| full(error, "share blocks with", path, self.reserve.0))?
        {
            Made::Reflink
        } else {
            let wanted = copy::allocated(&from).map_err(failed("inspect", source))?;
            self.check_space(path, wanted)?;
            copy::sparse(&from, &new.file).map_err(|error| full(error, "copy to", path, wanted))?;
            Made::Copy
        };
        new.file
            .set_len(size.0)
            .map_err(failed("set the size of", path))?;
        finish(new, path, owner, made)
    }

    /// A sparse copy of a file or device, compared with it.
    fn convert_blocking(
        self,
        source: &Utf8Path,
        path: &Utf8Path,
        owner: u32,
    ) -> Result<(), DiskError> {
        // One that has this name was whole when it got it.
        if existing(path)?.is_some() {
            return Ok(());
        }
        let mut from = File::open(source).map_err(failed("open the volume", source))?;
        // A device has no length but its end.
        let length = from.seek(SeekFrom::End(0));
        let length = length.map_err(failed("measure", source))?;
        remove_stale(path)?;
        self.check_space(path, 0)?;
        let new = Unfinished::create(path)?;
        new.file
            .set_len(length)
            .map_err(failed("set the size of", path))?;
        copy_verified(&from, &new.file, length)
            .map_err(|error| full(error, "copy to", path, length))?;
        finish(new, path, owner, Made::Copy).map(drop)
    }

    /// An empty file of this size beside `path`; `None` when the volume is there already.
    fn prepare(
        self,
        path: &Utf8Path,
        size: Bytes,
        owner: u32,
    ) -> Result<Option<Unfinished>, DiskError> {
        if let Some(file) = existing(path)? {
            keep(&file, path, size, owner)?;
            return Ok(None);
        }
        remove_stale(path)?;
        self.check_space(path, 0)?;
        let new = Unfinished::create(path)?;
        new.file
            .set_len(size.0)
            .map_err(failed("set the size of", path))?;
        Ok(Some(new))
    }
}

fn finish(new: Unfinished, path: &Utf8Path, owner: u32, made: Made) -> Result<Made, DiskError> {
    // Delayed allocation: a full disk may show only when the data is written back.
    let size = copy::allocated(&new.file).unwrap_or(0);
    match new.publish(owner) {
        Ok(true) => Ok(made),
        Ok(false) => Ok(Made::Present),
        Err(DiskError::Io {
            operation, source, ..
        }) => Err(full(source, operation, path, size)),
        Err(error) => Err(error),
    }
}

/// A full file system gets its own error.
fn full(error: std::io::Error, operation: &'static str, path: &Utf8Path, needed: u64) -> DiskError {
    if error.kind() != std::io::ErrorKind::StorageFull {
        return failed(operation, path)(error);
    }
    match available(path) {
        Ok(available) => DiskError::NoSpace {
            path: path.to_owned(),
            needed: Bytes(needed),
            available,
        },
        Err(_) => failed(operation, path)(error),
    }
}

/// What a user of the file system that holds `path` may still take.
fn available(path: &Utf8Path) -> Result<Bytes, DiskError> {
    let folder = folder_of(path);
    let stat = rustix::fs::statvfs(folder.as_std_path())
        .map_err(|error| failed("find the free space of", folder)(error.into()))?;
    Ok(Bytes(stat.f_bavail.saturating_mul(stat.f_frsize)))
}

fn length(file: &File, path: &Utf8Path) -> Result<Bytes, DiskError> {
    file.metadata()
        .map(|meta| Bytes(meta.len()))
        .map_err(failed("inspect", path))
}

fn existing(path: &Utf8Path) -> Result<Option<File>, DiskError> {
    match open_volume(path, true) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("open the volume", path)(error)),
    }
}

/// A volume that is there keeps its content; it gets the asked size and owner.
fn keep(file: &File, path: &Utf8Path, size: Bytes, owner: u32) -> Result<Made, DiskError> {
    if length(file, path)? < size {
        extend(file, path, size)?;
    }
    hand_over(file, owner).map_err(failed("change the owner of", path))?;
    Ok(Made::Present)
}

fn extend(file: &File, path: &Utf8Path, size: Bytes) -> Result<(), DiskError> {
    file.set_len(size.0)
        .and_then(|()| file.sync_all())
        .map_err(failed("grow", path))
}

fn grow_blocking(path: &Utf8Path, size: Bytes) -> Result<(), DiskError> {
    let file = open_volume(path, true).map_err(failed("open the volume", path))?;
    let present = length(&file, path)?;
    if size < present {
        return Err(DiskError::TooSmall {
            path: path.to_owned(),
            wanted: size,
            present,
        });
    }
    if size > present {
        extend(&file, path, size)?;
    }
    Ok(())
}

fn remove_blocking(path: &Utf8Path) -> Result<(), DiskError> {
    remove_stale(path)?;
    remove_file(path)?;
    if folder_of(path).is_dir() {
        sync_folder(path)?;
    }
    Ok(())
}

/// Whether files beside `path` can share the blocks of `source`: tried on a file that goes at once.
fn shares_blocks(source: &Utf8Path, path: &Utf8Path) -> Result<bool, DiskError> {
    let from = open_volume(source, false).map_err(failed("open the volume", source))?;
    remove_stale(path)?;
    let probe = Unfinished::create(path)?;
    copy::reflink(&from, &probe.file).map_err(failed("share blocks with", path))
}

fn replace_blocking(path: &Utf8Path, new: &Utf8Path) -> Result<(), DiskError> {
    match std::fs::rename(new, path) {
        Ok(()) => {}
        // It was put there before.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && path.exists() => {}
        Err(error) => return Err(failed("put in place", path)(error)),
    }
    sync_folder(path)
}

/// Runs file operations where they may block.
async fn blocking<T: Send + 'static>(
    path: &Utf8Path,
    work: impl FnOnce(&Utf8Path) -> Result<T, DiskError> + Send + 'static,
) -> Result<T, DiskError> {
    let owned: Utf8PathBuf = path.to_owned();
    match tokio::task::spawn_blocking(move || work(&owned)).await {
        Ok(result) => result,
        Err(error) => Err(failed("work on", path)(std::io::Error::other(error))),
    }
}

/// Makes an ext4 file system with this label in all of a file or device.
///
/// # Errors
/// What mke2fs says.
pub async fn make_ext4(path: &Utf8Path, label: &str) -> Result<(), CommandError> {
    let args = [
        "-q",
        "-F",
        "-t",
        "ext4",
        "-L",
        label,
        // The guest fills in the inode tables and the journal in the background. Its root
        // owns the root folder, whoever runs mke2fs.
        "-E",
        "lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0",
        path.as_str(),
    ];
    hearth_host::command::run("mke2fs", &args, b"", MKE2FS_DEADLINE)
        .await
        .map(drop)
}

#[async_trait]
impl Volumes for FileVolumes {
    async fn clone_from(
        &self,
        source: &Utf8Path,
        path: &Utf8Path,
        size: Bytes,
        owner: u32,
    ) -> Result<Made, DiskError> {
        let (this, source) = (*self, source.to_owned());
        blocking(path, move |path| {
            this.clone_blocking(&source, path, size, owner)
        })
        .await
    }

    async fn create_ext4(
        &self,
        path: &Utf8Path,
        size: Bytes,
        label: &str,
        owner: u32,
    ) -> Result<Made, DiskError> {
        let this = *self;
        let Some(new) = blocking(path, move |path| this.prepare(path, size, owner)).await? else {
            return Ok(Made::Present);
        };
        make_ext4(&new.path, label)
            .await
            .map_err(|source| DiskError::Tool {
                operation: "make a file system in",
                path: path.to_owned(),
                source,
            })?;
        blocking(path, move |path| finish(new, path, owner, Made::Empty)).await
    }

    async fn grow(&self, path: &Utf8Path, size: Bytes) -> Result<(), DiskError> {
        blocking(path, move |path| grow_blocking(path, size)).await
    }

    async fn convert(
        &self,
        source: &Utf8Path,
        path: &Utf8Path,
        kind: StorageKind,
        owner: u32,
    ) -> Result<(), DiskError> {
        if kind != StorageKind::Files {
            let unsupported = std::io::Error::from(std::io::ErrorKind::Unsupported);
            return Err(failed("put into a pool", path)(unsupported));
        }
        let (this, source) = (*self, source.to_owned());
        blocking(path, move |path| {
            this.convert_blocking(&source, path, owner)
        })
        .await
    }

    async fn clones_at_once(&self, source: &Utf8Path, path: &Utf8Path) -> Result<bool, DiskError> {
        let source = source.to_owned();
        blocking(path, move |path| shares_blocks(&source, path)).await
    }

    async fn replace(&self, path: &Utf8Path, new: &Utf8Path) -> Result<(), DiskError> {
        let new = new.to_owned();
        blocking(path, move |path| replace_blocking(path, &new)).await
    }

    async fn remove(&self, path: &Utf8Path) -> Result<(), DiskError> {
        blocking(path, remove_blocking).await
    }
}
