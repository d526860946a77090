//! The simulated volumes: real sparse files without content, because the daemon's survey of
//! folders looks at the real file system.

use std::fs;
use std::io::ErrorKind;

use async_trait::async_trait;
use camino::Utf8Path;

use hearth_disk::{DiskError, Made, Room, Volumes};
use hearth_types::Bytes;
use hearth_types::volume::StorageKind;

use super::Rooms;

/// Bytes of a volume that go into its clones.
const BEGINNING: usize = 64;

impl Rooms {
    fn make_volume(&self, path: &Utf8Path, size: Bytes, made: Made) -> Result<Made, DiskError> {
        let failed = |operation, source| DiskError::Io {
            operation,
            path: path.to_owned(),
            source,
        };
        self.change(|host| host.fault("ensure_disks"))
            .map_err(|error| failed("make", std::io::Error::other(error)))?;
        match fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(path)
        {
            Ok(file) => {
                file.set_len(size.0)
                    .map_err(|error| failed("grow", error))?;
                Ok(made)
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(Made::Present),
            Err(error) => Err(failed("make", error)),
        }
    }
}

/// Copies the first bytes of a file that is there.
fn copy_beginning(source: &Utf8Path, path: &Utf8Path) -> std::io::Result<()> {
    use std::os::unix::fs::FileExt as _;
    let mut bytes = [0; BEGINNING];
    let read = match fs::File::open(source) {
        Ok(file) => file.read_at(&mut bytes, 0)?,
        Err(error) if error.kind() == ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    let file = fs::OpenOptions::new().write(true).open(path)?;
    file.write_all_at(&bytes[..read], 0)
}

#[async_trait]
impl Volumes for Rooms {
    async fn clone_from(
        &self,
        source: &Utf8Path,
        path: &Utf8Path,
        size: Bytes,
        _owner: u32,
    ) -> Result<Made, DiskError> {
        let made = self.make_volume(path, size, Made::Copy)?;
        if made == Made::Copy && self.see(|host| host.content) {
            copy_beginning(source, path).map_err(|error| DiskError::Io {
                operation: "copy",
                path: path.to_owned(),
                source: error,
            })?;
        }
        Ok(made)
    }

    async fn create_ext4(
        &self,
        path: &Utf8Path,
        size: Bytes,
        _label: &str,
        _owner: u32,
    ) -> Result<Made, DiskError> {
        self.make_volume(path, size, Made::Empty)
    }

    async fn kind(&self, path: &Utf8Path) -> Result<StorageKind, DiskError> {
        let thin = self.see(|host| host.in_pool.contains(path.as_std_path()));
        Ok(if thin {
            StorageKind::Thin
        } else {
            StorageKind::Files
        })
    }

    async fn cannot(&self, _kind: StorageKind, _folder: &Utf8Path) -> Option<String> {
        None
    }

    async fn convert(
        &self,
        source: &Utf8Path,
        path: &Utf8Path,
        kind: StorageKind,
        _owner: u32,
    ) -> Result<(), DiskError> {
        let failed = |source| DiskError::Io {
            operation: "copy",
            path: path.to_owned(),
            source,
        };
        let size = fs::metadata(source).map_err(failed)?.len();
        self.make_volume(path, Bytes(size), Made::Copy)?;
        copy_beginning(source, path).map_err(failed)?;
        self.change(|host| match kind {
            StorageKind::Thin => host.in_pool.insert(path.as_std_path().to_owned()),
            StorageKind::Files => host.in_pool.remove(path.as_std_path()),
        });
        Ok(())
    }

    async fn clones_at_once(
        &self,
        _source: &Utf8Path,
        _path: &Utf8Path,
    ) -> Result<bool, DiskError> {
        Ok(true)
    }

    async fn replace(&self, path: &Utf8Path, new: &Utf8Path) -> Result<(), DiskError> {
        self.change(|host| {
            if !new.exists() {
                return;
            }
            if host.in_pool.remove(new.as_std_path()) {
                host.in_pool.insert(path.as_std_path().to_owned());
            } else {
                host.in_pool.remove(path.as_std_path());
            }
        });
        match fs::rename(new, path) {
            Err(source) if source.kind() != ErrorKind::NotFound => Err(DiskError::Io {
                operation: "put in place",
                path: path.to_owned(),
                source,
            }),
            _ => Ok(()),
        }
    }

    async fn grow(&self, path: &Utf8Path, size: Bytes) -> Result<(), DiskError> {
        let file = fs::OpenOptions::new().write(true).open(path);
        let grown = file.and_then(|file| file.set_len(size.0));
        grown.map_err(|source| DiskError::Io {
            operation: "grow",
            path: path.to_owned(),
            source,
        })
    }

    async fn remove(&self, path: &Utf8Path) -> Result<(), DiskError> {
        match fs::remove_file(path) {
            Err(source) if source.kind() != ErrorKind::NotFound => Err(DiskError::Io {
                operation: "remove",
                path: path.to_owned(),
                source,
            }),
            _ => Ok(()),
        }
    }

    async fn room(&self, folder: &Utf8Path) -> Result<Room, DiskError> {
        match self.lock().free {
            Some(free) => Ok(Room {
                free,
                size: 1 << 40,
            }),
            None => Room::of(folder),
        }
    }
}
