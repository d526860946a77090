//! A volume that is being made: a file under a temporary name beside its future name.
//!
//! ```text
//! create ──► (written to) ──► publish: chown, chmod, fsync, rename, fsync folder
//!    └────────── drop: removed
//! ```
//!
//! The file is locked (flock) while it is worked on. One that is not locked is what a crash
//! has left, and the next operation on the same volume removes it.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;

use camino::{Utf8Path, Utf8PathBuf};
use rustix::fs::{
    CWD, FlockOperation, Gid, Mode, OFlags, RenameFlags, Uid, flock, open, renameat_with,
};
use rustix::io::Errno;

use crate::DiskError;

/// Random names tried before giving up; one is enough but for a hostile folder.
const ATTEMPTS: usize = 16;

/// An error of a file operation, with the operation's name.
pub(crate) fn failed(
    operation: &'static str,
    path: &Utf8Path,
) -> impl FnOnce(io::Error) -> DiskError {
    let path = path.to_owned();
    move |source| DiskError::Io {
        operation,
        path,
        source,
    }
}

/// The folder that holds `path`.
pub(crate) fn folder_of(path: &Utf8Path) -> &Utf8Path {
    match path.parent() {
        Some(folder) if !folder.as_str().is_empty() => folder,
        _ => Utf8Path::new("."),
    }
}

/// Names of unfinished files of this volume start so.
fn prefix(path: &Utf8Path) -> String {
    format!(".{}.tmp-", path.file_name().unwrap_or_default())
}

/// Opens a volume's file, never through a symbolic link at its name.
pub(crate) fn open_volume(path: &Utf8Path, write: bool) -> io::Result<File> {
    let access = if write { OFlags::RDWR } else { OFlags::RDONLY };
    // NONBLOCK: a fifo in the volume's place must not block the open.
    let flags = access | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = File::from(open(path.as_std_path(), flags, Mode::empty())?);
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is not a regular file",
        ))
    }
}

/// Gives a file to `owner` (uid and gid), mode 0600.
pub(crate) fn hand_over(file: &File, owner: u32) -> io::Result<()> {
    rustix::fs::fchmod(file, Mode::RUSR | Mode::WUSR)?;
    rustix::fs::fchown(file, Some(Uid::from_raw(owner)), Some(Gid::from_raw(owner)))?;
    Ok(())
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(path: &Utf8Path) -> Result<(), DiskError> {
    let folder = folder_of(path);
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(failed("sync the folder", folder))
}

/// Removes the unfinished files of a volume that nobody works on.
pub(crate) fn remove_stale(path: &Utf8Path) -> Result<(), DiskError> {
    let folder = folder_of(path);
    let prefix = prefix(path);
    let entries = match folder.read_dir_utf8() {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("list", folder)(error)),
    };
    for entry in entries {
        // A name that is not UTF-8 is none of ours.
        let Ok(entry) = entry else { continue };
        if !entry.file_name().starts_with(&prefix) {
            continue;
        }
        let Ok(file) = open_volume(entry.path(), true) else {
            continue;
        };
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            tracing::info!(path = %entry.path(), "removing an unfinished volume");
            remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Removes a file; one that is gone is a success.
pub(crate) fn remove_file(path: &Utf8Path) -> Result<(), DiskError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

/// A volume that is being made.
#[derive(Debug)]
pub(crate) struct Unfinished {
    pub(crate) file: File,
    pub(crate) path: Utf8PathBuf,
    target: Utf8PathBuf,
}

impl Unfinished {
    /// Creates the file for the volume `target`.
    pub(crate) fn create(target: &Utf8Path) -> Result<Self, DiskError> {
        let folder = folder_of(target);
        for _ in 0..ATTEMPTS {
            let mut random = [0; 8];
            rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
                .map_err(|error| failed("find a name beside", target)(error.into()))?;
            let name = format!("{}{:016x}", prefix(target), u64::from_le_bytes(random));
            let path = folder.join(name);
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let file = match open(path.as_std_path(), flags, Mode::RUSR | Mode::WUSR) {
                Ok(file) => File::from(file),
                Err(Errno::EXIST) => continue,
                Err(error) => return Err(failed("create a file in", folder)(error.into())),
            };
            let made = Self {
                file,
                path,
                target: target.to_owned(),
            };
            // Between its creation and its lock the file looks like one that a crash has left,
            // and another task may be removing it: then another one is made.
            if !made.lock()? {
                continue;
            }
            return Ok(made);
        }
        Err(failed("create a file in", folder)(
            io::ErrorKind::AlreadyExists.into(),
        ))
    }

    /// Locks the new file; `false` when somebody else has locked or removed it before.
    fn lock(&self) -> Result<bool, DiskError> {
        match flock(&self.file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(false),
            Err(error) => return Err(failed("lock", &self.path)(error.into())),
        }
        self.file
            .metadata()
            .map(|meta| meta.nlink() > 0)
            .map_err(failed("inspect", &self.path))
    }

    /// Makes the volume durable and gives it its name. `false` when another one has got the
    /// name in the meantime; this one is removed then.
    pub(crate) fn publish(self, owner: u32) -> Result<bool, DiskError> {
        hand_over(&self.file, owner).map_err(failed("change the owner of", &self.target))?;
        self.file.sync_all().map_err(failed("sync", &self.target))?;
        match renameat_with(
            CWD,
            self.path.as_std_path(),
            CWD,
            self.target.as_std_path(),
            RenameFlags::NOREPLACE,
        ) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Ok(false),
            Err(error) => return Err(failed("put in place", &self.target)(error.into())),
        }
        sync_folder(&self.target)?;
        Ok(true)
    }
}

impl Drop for Unfinished {
    /// After [`Unfinished::publish`] the temporary name is gone and this does nothing.
    fn drop(&mut self) {
        if let Err(error) = remove_file(&self.path) {
            tracing::warn!(path = %self.path, %error, "an unfinished volume is left; the next operation on the volume removes it");
        }
    }
}
