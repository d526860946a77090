//! The pool's two files.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};

use camino::{Utf8Path, Utf8PathBuf};
use hearth_dm::thin::SECTOR;
use hearth_types::units::Bytes;
use rustix::fs::{FallocateFlags, OFlags, fallocate, statvfs};
use rustix::io::Errno;

use crate::error::PoolError;
use crate::ground::{Layout, Place};
use crate::space;

/// What stays free beside the metadata, for logs and databases.
const RESERVE: u64 = 64 << 20;
/// How the names of metadata begin that a repair has put aside.
const DAMAGED: &str = "hearth-pool-metadata.damaged-";

/// Makes the pool's folder.
pub(crate) fn make_folder(place: &Place) -> Result<(), PoolError> {
    DirBuilder::new()
        .mode(0o700)
        .recursive(true)
        .create(&place.dir)
        .map_err(PoolError::io("make", &place.dir))
}

/// Makes both files anew and empty. The metadata is allotted at once, so that it can never be
/// refused its space; the data file is sparse. `with_data`: here and below, its data is a file, and no device.
pub(crate) fn make(place: &Place, layout: &Layout, with_data: bool) -> Result<(), PoolError> {
    remove(place)?;
    check_space(place, layout)?;
    let metadata = (place.metadata(), layout.metadata, true);
    let data = with_data.then(|| (place.data(), layout.data, false));
    for (path, size, whole) in [Some(metadata), data].into_iter().flatten() {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(PoolError::io("make", &path))?;
        let sized = if whole {
            fallocate(&file, FallocateFlags::empty(), 0, size).map_err(std::io::Error::from)
        } else {
            file.set_len(size)
        };
        sized
            .and_then(|()| file.sync_all())
            .map_err(PoolError::io("allot", &path))?;
    }
    sync_folder(&place.dir)
}

/// Opens one of them, never through a symbolic link, and refuses one of another size.
pub(crate) fn open(path: &Utf8Path, size: u64) -> Result<File, PoolError> {
    open_growing(path, size, size)
}

/// The same for one that has its old size or its new one.
fn open_growing(path: &Utf8Path, from: u64, to: u64) -> Result<File, PoolError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
        .open(path);
    let file = match file {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(wrong(path, "is gone"));
        }
        file => file.map_err(PoolError::io("open", path))?,
    };
    let meta = file.metadata().map_err(PoolError::io("look at", path))?;
    if !meta.is_file() {
        return Err(wrong(path, "is no regular file"));
    }
    if meta.len() != from && meta.len() != to {
        let what = format!("has {} bytes instead of {from}", meta.len());
        return Err(wrong(path, what));
    }
    Ok(file)
}

/// Makes both files larger, or neither. What was done already is not done again. The metadata is allotted
/// first, which is all that can fail for want of room; the file becomes longer only then.
pub(crate) fn grow(
    place: &Place,
    from: &Layout,
    to: &Layout,
    with_data: bool,
) -> Result<(), PoolError> {
    let metadata = open_growing(&place.metadata(), from.metadata, to.metadata)?;
    let data = with_data.then(|| open_growing(&place.data(), from.data, to.data));
    let data = data.transpose()?.map(|file| (file, place.data(), to.data));
    if to.metadata > from.metadata {
        let path = place.metadata();
        match fallocate(&metadata, FallocateFlags::KEEP_SIZE, 0, to.metadata) {
            Err(Errno::NOSPC | Errno::DQUOT) => {
                let Room { free, .. } = room_of(place)?;
                return Err(PoolError::NoSpace {
                    folder: place.dir.clone(),
                    needed: Bytes(to.metadata - from.metadata),
                    free: Bytes(free),
                });
            }
            done => done.map_err(|error| PoolError::io("allot", &path)(error.into()))?,
        }
    }
    let metadata = (metadata, place.metadata(), to.metadata);
    for (file, path, size) in data.into_iter().chain([metadata]) {
        file.set_len(size)
            .and_then(|()| file.sync_all())
            .map_err(PoolError::io("make larger", &path))?;
    }
    Ok(())
}

/// Whether both have these sizes.
pub(crate) fn have(place: &Place, sizes: &Layout, with_data: bool) -> bool {
    let has =
        |path: Utf8PathBuf, size| path.symlink_metadata().is_ok_and(|meta| meta.len() == size);
    has(place.metadata(), sizes.metadata) && (!with_data || has(place.data(), sizes.data))
}

/// The most metadata that there can be, in bytes: what it has, and what others need not.
pub(crate) fn most_metadata(place: &Place) -> Result<u64, PoolError> {
    let path = place.metadata();
    let meta = path.symlink_metadata();
    let has = meta.map_err(PoolError::io("look at", path))?.len();
    let Room { free, total } = room_of(place)?;
    let room = space::Room::Files {
        free,
        total,
        allotted: 0,
    };
    Ok(has.saturating_add(room.spare()))
}

/// How much the file system of the pool's files has, and the data file of it.
pub(crate) fn room(place: &Place) -> Result<space::Room, PoolError> {
    let allotted = match place.data().symlink_metadata() {
        Ok(meta) => meta.blocks().saturating_mul(SECTOR),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
        Err(error) => return Err(PoolError::io("look at", place.data())(error)),
    };
    let Room { free, total } = room_of(place)?;
    Ok(space::Room::Files {
        free,
        total,
        allotted,
    })
}

/// Brings what the loop device was told to write to the disk.
pub(crate) fn sync(path: &Utf8Path) -> Result<(), PoolError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(PoolError::io("sync", path))
}

/// Removes both, and what was kept of the metadata; those that are gone are a success.
pub(crate) fn remove(place: &Place) -> Result<(), PoolError> {
    for path in [
        place.data(),
        place.metadata(),
        place.spare(),
        place.ledger(),
    ] {
        forget(&path)?;
    }
    for path in kept(place)? {
        forget(&path)?;
    }
    match std::fs::remove_dir_all(place.backups()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(PoolError::io("remove", place.backups())(error));
        }
        _ => {}
    }
    sync_folder(&place.dir)
}

/// Metadata that a repair has put aside.
fn kept(place: &Place) -> Result<Vec<Utf8PathBuf>, PoolError> {
    let io = |error| PoolError::io("list", &place.dir)(error);
    let entries = match place.dir.read_dir_utf8() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(io)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(io)?;
        if entry.file_name().starts_with(DAMAGED) {
            found.push(entry.into_path());
        }
    }
    Ok(found)
}

/// Makes the file for metadata that is to take the present one's place, allotted at once.
pub(crate) fn make_spare(place: &Place, size: u64) -> Result<(), PoolError> {
    let path = place.spare();
    forget(&path)?;
    let free = Bytes(room_of(place)?.free);
    let needed = Bytes(size + RESERVE);
    if needed > free {
        return Err(PoolError::NoSpace {
            folder: place.dir.clone(),
            needed,
            free,
        });
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .map_err(PoolError::io("make", &path))?;
    fallocate(&file, FallocateFlags::empty(), 0, size)
        .map_err(|error| PoolError::io("allot", &path)(error.into()))
}

/// Keeps the metadata under another name and puts the spare one in its place: a power cut finds the
/// one or the other there, whole. The other name.
pub(crate) fn put_in_place(place: &Place, stamp: &str) -> Result<String, PoolError> {
    let (path, spare) = (place.metadata(), place.spare());
    sync(&spare)?;
    let name = format!("{DAMAGED}{stamp}");
    let beside = place.dir.join(&name);
    std::fs::hard_link(&path, &beside).map_err(PoolError::io("keep", &path))?;
    std::fs::rename(&spare, &path).map_err(PoolError::io("replace", &path))?;
    sync_folder(&place.dir)?;
    Ok(name)
}

/// Removes the record and the folder, if nothing of others is in it.
pub(crate) fn remove_record(place: &Place) -> Result<(), PoolError> {
    forget(&place.record())?;
    sync_folder(&place.dir)?;
    // What others have put there stays, and so does the folder.
    drop(std::fs::remove_dir(&place.dir));
    Ok(())
}

/// Writes a file of a folder, so that it is there whole, also after a power cut; until then the old one is.
pub(crate) fn write_whole(
    folder: &Utf8Path,
    path: &Utf8Path,
    text: &[u8],
) -> Result<(), PoolError> {
    let draft = Utf8PathBuf::from(format!("{path}.new"));
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&draft)?;
        file.write_all(text)?;
        file.sync_all()?;
        std::fs::rename(&draft, path)?;
        File::open(folder)?.sync_all()
    };
    write().map_err(PoolError::io("write", path))
}

pub(crate) fn forget(path: &Utf8Path) -> Result<(), PoolError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(PoolError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

pub(crate) fn sync_folder(folder: &Utf8Path) -> Result<(), PoolError> {
    match File::open(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        opened => opened
            .and_then(|folder| folder.sync_all())
            .map_err(PoolError::io("sync the folder", folder)),
    }
}

fn check_space(place: &Place, layout: &Layout) -> Result<(), PoolError> {
    let free = Bytes(room_of(place)?.free);
    let needed = Bytes(layout.metadata + RESERVE);
    if needed <= free {
        return Ok(());
    }
    Err(PoolError::NoSpace {
        folder: place.dir.clone(),
        needed,
        free,
    })
}

/// Bytes of a file system.
struct Room {
    free: u64,
    total: u64,
}

fn room_of(place: &Place) -> Result<Room, PoolError> {
    let stat = statvfs(place.dir.as_std_path())
        .map_err(|error| PoolError::io("measure", &place.dir)(error.into()))?;
    Ok(Room {
        free: stat.f_bavail.saturating_mul(stat.f_frsize),
        total: stat.f_blocks.saturating_mul(stat.f_frsize),
    })
}

fn wrong(path: &Utf8Path, what: impl Into<String>) -> PoolError {
    PoolError::File {
        path: path.to_owned(),
        what: what.into(),
    }
}
