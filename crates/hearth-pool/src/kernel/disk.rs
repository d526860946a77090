//! A block device of the host's that the pool's data is to be on, or is.
//!
//! Nothing is written to one before all that speaks against it was looked at, and the writing itself happens through a
//! descriptor that nobody else can have at the same time (`O_EXCL`): the kernel gives none to a device that is mounted,
//! swapped to, or below another one.

mod sys;

use std::fs::{File, OpenOptions};
use std::io::{Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};

use camino::{Utf8Path, Utf8PathBuf};
use hearth_dm::Device;
use hearth_types::units::Bytes;
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::base::{self, Base, Candidate, HEADER, MARGIN, Unfit};
use crate::error::PoolError;
use crate::files;
use crate::ground::{LEAST_DATA, Place};
use crate::record::{Record, Stage};
use crate::space::Room;

/// The device of a pool that is there.
#[derive(Debug)]
pub(super) struct Disk {
    /// Its node.
    pub(super) node: Utf8PathBuf,
    /// Its number.
    pub(super) number: Device,
    /// How large it is.
    pub(super) bytes: u64,
}

/// A device that nobody else has, and what is at its ends.
struct Alone {
    file: File,
    node: Utf8PathBuf,
    number: Device,
    bytes: u64,
    first: Vec<u8>,
    last: Vec<u8>,
}

/// Looks whether it may be the pool's. `force`: whatever is on it.
pub(super) fn inspect(device: &Utf8Path, force: bool) -> Result<Candidate, PoolError> {
    let alone = alone(device)?;
    if !force && let Some(what) = base::holds(&alone.first, &alone.last) {
        return Err(unfit(device, Unfit::Holds, format!("holds {what}")));
    }
    Ok(Candidate {
        device: sys::lasting_name(&alone.node).unwrap_or_else(|| device.to_owned()),
        volume: sys::logical_volume(alone.number),
        room: base::room(alone.bytes),
    })
}

/// Makes it the pool's: its ends become zero, and the header comes last. One that is the pool's already
/// stays as it is.
pub(super) fn claim(place: &Place, base: &Base, force: bool) -> Result<(), PoolError> {
    let device = &base.device;
    let alone = alone(device)?;
    if base.is_alone_on(place, &alone.first, &alone.last) {
        return Ok(());
    }
    let held = base::holds(&alone.first, &alone.last);
    if !force && let Some(what) = held {
        return Err(unfit(device, Unfit::Holds, format!("holds {what}")));
    }
    let zeros = vec![0; alone.first.len().max(alone.last.len())];
    let write = || -> std::io::Result<()> {
        let from_end = alone.bytes.saturating_sub(alone.last.len() as u64);
        alone.file.write_all_at(&zeros[..alone.first.len()], 0)?;
        alone
            .file
            .write_all_at(&zeros[..alone.last.len()], from_end)?;
        alone.file.sync_all()?;
        alone.file.write_all_at(&base.header(place), 0)?;
        alone.file.sync_all()
    };
    write().map_err(PoolError::io("write the pool's header on", device))
}

/// Takes our header from it. A device that has none of ours any more is a success.
pub(super) fn release(place: &Place, base: &Base) -> Result<(), PoolError> {
    let disk = match locate(place, base) {
        Ok(disk) => disk,
        Err(PoolError::Device {
            unfit: Unfit::Lost, ..
        }) => return Ok(()),
        Err(error) => return Err(error),
    };
    let alone = alone(&disk.node)?;
    if !alone.first.starts_with(&base.header(place)) {
        return Ok(());
    }
    let wipe = || {
        alone.file.write_all_at(&[0; HEADER], 0)?;
        alone.file.sync_all()
    };
    wipe().map_err(PoolError::io("take the pool's header from", &disk.node))
}

/// Where the pool's device is by now: what has its header, under its lasting name, the one it was given by, or any other.
pub(super) fn locate(place: &Place, base: &Base) -> Result<Disk, PoolError> {
    let header = base.header(place);
    let mut other = false;
    for name in names(base) {
        let Ok((node, number)) = block_device(name) else {
            continue;
        };
        let (begin, bytes) = begin_of(&node).map_err(|error| cannot_open(name, error))?;
        if begin == header {
            return Ok(Disk {
                node,
                number,
                bytes,
            });
        }
        other = true;
    }
    let mut found = sys::others().filter_map(|(node, number)| {
        // One that cannot be read is not taken for the pool's.
        let (begin, bytes) = begin_of(&node).ok()?;
        (begin == header).then_some(Disk {
            node,
            number,
            bytes,
        })
    });
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one),
        (Some(one), Some(two)) => Err(unfit(
            &base.device,
            Unfit::Lost,
            format!(
                "cannot be told: {} and {} have its header",
                one.node, two.node
            ),
        )),
        (None, _) if other => Err(unfit(
            &base.device,
            Unfit::Lost,
            "has not the pool's header: it is another one, or was written over".to_owned(),
        )),
        (None, _) => Err(missing(base)),
    }
}

/// Whether the device of a pool that was ready is there: something by its name, without looking at what; else
/// itself, wherever.
pub(super) fn is_there(place: &Place) -> Result<(), PoolError> {
    // A record that cannot be read is told of by those who need it.
    let ready = Record::read(place).ok().flatten();
    let ready = ready.filter(|record| record.stage == Stage::Ready);
    let Some(base) = ready.and_then(|record| record.base) else {
        return Ok(());
    };
    if names(&base).any(|name| block_device(name).is_ok()) {
        return Ok(());
    }
    locate(place, &base).map(drop)
}

/// The pool's device, as its record tells; `None` where its data is a file.
pub(super) fn of_record(place: &Place) -> Result<Option<Base>, PoolError> {
    Ok(Record::read(place)?.and_then(|record| record.base))
}

/// How large the device below the pool is, and how much metadata there can be.
pub(super) fn room(place: &Place, base: &Base) -> Result<Room, PoolError> {
    let bytes = sys::below(&place.linear_uuid()).ok_or_else(|| missing(base))?;
    Ok(Room::Device {
        size: base::room(bytes),
        metadata: files::most_metadata(place)?,
    })
}

/// Nobody else uses it at this moment.
pub(super) fn is_unused(disk: &Disk) -> Result<(), PoolError> {
    open_alone(&disk.node, disk.number).map(drop)
}

/// Makes the new last MiB of a device zero, behind so much data.
pub(super) fn clear_behind(number: Device, data: u64) -> Result<(), PoolError> {
    let node = sys::node(number).ok_or(PoolError::NotWorking {
        state: "without its device",
    })?;
    let zeros = vec![0; usize::try_from(MARGIN).unwrap_or_default()];
    let clear = || {
        let file = OpenOptions::new().write(true).open(&node)?;
        file.write_all_at(&zeros, MARGIN + data)?;
        file.sync_all()
    };
    clear().map_err(PoolError::io("clear the end of", &node))
}

/// How large a device is, as the kernel has it.
pub(super) fn bytes_of(number: Device) -> u64 {
    sys::bytes(number)
}

fn names(base: &Base) -> impl Iterator<Item = &Utf8Path> {
    [base.device.as_path(), base.given.as_path()].into_iter()
}

fn missing(base: &Base) -> PoolError {
    unfit(
        &base.given,
        Unfit::Missing,
        "is not there, and the pool's data is on it".to_owned(),
    )
}

fn unfit(device: &Utf8Path, unfit: Unfit, what: String) -> PoolError {
    PoolError::Device {
        device: device.to_owned(),
        what,
        unfit,
    }
}

/// The node and the number of a block device below /dev.
fn block_device(name: &Utf8Path) -> Result<(Utf8PathBuf, Device), PoolError> {
    let none = |what: &str| unfit(name, Unfit::NoDevice, what.to_owned());
    if !name.starts_with("/dev/") {
        return Err(none("is not below /dev"));
    }
    let node = match name.canonicalize_utf8() {
        Ok(node) => node,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(none("is not there"));
        }
        Err(error) => return Err(none(&format!("cannot be found: {error}"))),
    };
    let meta = node.symlink_metadata();
    let meta = meta.map_err(|error| none(&format!("cannot be looked at: {error}")))?;
    if !meta.file_type().is_block_device() || !node.starts_with("/dev/") {
        return Err(none("is no block device"));
    }
    Ok((node, number(meta.rdev())))
}

fn number(rdev: u64) -> Device {
    Device {
        major: rustix::fs::major(rdev),
        minor: rustix::fs::minor(rdev),
    }
}

/// All that speaks against a device but its content. It is nobody else's as long as its file is open.
fn alone(device: &Utf8Path) -> Result<Alone, PoolError> {
    let (node, number) = block_device(device)?;
    if let Some((why, what)) = sys::speaks_against(number) {
        return Err(unfit(device, why, what));
    }
    let file = open_alone(&node, number).map_err(|error| match error {
        PoolError::Device { unfit, what, .. } => PoolError::Device {
            device: device.to_owned(),
            what,
            unfit,
        },
        error => error,
    })?;
    let (bytes, first, last) = ends(&file).map_err(PoolError::io("read", device))?;
    if base::room(bytes) < LEAST_DATA {
        let what = format!("is too small: it has {}", Bytes(bytes).human());
        return Err(unfit(device, Unfit::Small, what));
    }
    Ok(Alone {
        file,
        node,
        number,
        bytes,
        first,
        last,
    })
}

fn open_alone(node: &Utf8Path, wanted: Device) -> Result<File, PoolError> {
    let flags = OFlags::EXCL | OFlags::NONBLOCK | OFlags::NOFOLLOW;
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flags.bits().cast_signed())
        .open(node);
    let file = opened.map_err(|error| cannot_open(node, error))?;
    let meta = file.metadata().map_err(PoolError::io("look at", node))?;
    if number(meta.rdev()) == wanted && meta.file_type().is_block_device() {
        return Ok(file);
    }
    Err(unfit(
        node,
        Unfit::NoDevice,
        "has become another one meanwhile".to_owned(),
    ))
}

fn cannot_open(device: &Utf8Path, error: std::io::Error) -> PoolError {
    let said = |why, what: &str| unfit(device, why, what.to_owned());
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::BUSY) => said(
            Unfit::InUse,
            "is in use: something is mounted from it, stands on it, or has it to itself",
        ),
        Some(Errno::ROFS | Errno::ACCESS) => said(Unfit::ReadOnly, "cannot be written to"),
        Some(Errno::PERM) => said(Unfit::Forbidden, "may not be opened by hearthd"),
        Some(Errno::NXIO | Errno::NODEV | Errno::NOMEDIUM) => {
            said(Unfit::NoDevice, "has no medium, or nothing behind it")
        }
        _ => PoolError::io("open", device)(error),
    }
}

/// Its size, its first MiB and its last.
fn ends(mut file: &File) -> std::io::Result<(u64, Vec<u8>, Vec<u8>)> {
    let bytes = file.seek(SeekFrom::End(0))?;
    let part = bytes.min(MARGIN);
    let mut first = vec![0; usize::try_from(part).unwrap_or_default()];
    let mut last = first.clone();
    file.read_exact_at(&mut first, 0)?;
    file.read_exact_at(&mut last, bytes - part)?;
    Ok((bytes, first, last))
}

/// Its first bytes, where the header is, and its size.
fn begin_of(node: &Utf8Path) -> std::io::Result<(Vec<u8>, u64)> {
    let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW;
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(node)?;
    let bytes = file.seek(SeekFrom::End(0))?;
    let mut begin = vec![0; HEADER];
    match file.read_exact_at(&mut begin, 0) {
        // Too small to be the pool's.
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok((Vec::new(), bytes)),
        read => read.map(|()| (begin, bytes)),
    }
}
