//! Block devices in memory.

use camino::{Utf8Path, Utf8PathBuf};

use super::{FakeGround, Host};
use crate::base::{self, Base, Candidate, Unfit};
use crate::error::PoolError;
use crate::files;
use crate::ground::{LEAST_DATA, Layout, Place};
use crate::record::{Record, Stage};
use crate::space::Room;

/// A block device.
#[derive(Debug, Clone, Default)]
pub struct FakeDisk {
    /// How large it is.
    pub bytes: u64,
    /// What is on it that is not the pool's.
    pub holds: Option<String>,
    /// Who uses it besides the pool.
    pub user: Option<String>,
    /// What is written at its begin.
    pub header: Vec<u8>,
    /// What was stored in the pool on it.
    pub data: u64,
}

impl FakeGround {
    /// Attaches an empty device of so many bytes.
    pub fn attach(&self, name: &str, bytes: u64) {
        let disk = FakeDisk {
            bytes,
            ..FakeDisk::default()
        };
        self.0.lock().disks.insert(name.into(), disk);
    }

    /// Takes it off the host, with what is on it.
    pub fn detach(&self, name: &str) -> Option<FakeDisk> {
        self.0.lock().disks.remove(Utf8Path::new(name))
    }

    /// Puts one on the host, under this name.
    pub fn attach_again(&self, name: &str, disk: FakeDisk) {
        self.0.lock().disks.insert(name.into(), disk);
    }

    /// Does something to it; `None` if there is none of this name.
    pub fn with_disk<T>(&self, name: &str, what: impl FnOnce(&mut FakeDisk) -> T) -> Option<T> {
        self.0.lock().disks.get_mut(Utf8Path::new(name)).map(what)
    }
}

impl Host {
    fn named(&self, place: &Place) -> Option<Utf8PathBuf> {
        let base = of_record(place).ok()??;
        locate(self, place, &base).ok()
    }

    pub(super) fn disk_of(&mut self, place: &Place) -> Option<&mut FakeDisk> {
        let there = self.devices.contains_key(&place.uuid);
        let name = self.named(place).filter(|_| there)?;
        self.disks.get_mut(&name)
    }

    pub(super) fn disk_holds_data(&self, place: &Place) -> bool {
        let name = self.named(place);
        name.and_then(|name| self.disks.get(&name))
            .is_some_and(|disk| disk.data != 0)
    }
}

fn of_record(place: &Place) -> Result<Option<Base>, PoolError> {
    Ok(Record::read(place)?.and_then(|record| record.base))
}

fn unfit(device: &Utf8Path, unfit: Unfit, what: &str) -> PoolError {
    PoolError::Device {
        device: device.to_owned(),
        what: what.to_owned(),
        unfit,
    }
}

fn missing(base: &Base) -> PoolError {
    unfit(&base.given, Unfit::Missing, "is not there")
}

fn locate(host: &Host, place: &Place, base: &Base) -> Result<Utf8PathBuf, PoolError> {
    let header = base.header(place);
    let mut all = host.disks.iter();
    if let Some((name, _)) = all.find(|(_, disk)| disk.header == header) {
        return Ok(name.clone());
    }
    if host.disks.contains_key(&base.device) {
        return Err(unfit(
            &base.device,
            Unfit::Lost,
            "has not the pool's header",
        ));
    }
    Err(missing(base))
}

/// As the real one: by its name first, whatever is on it.
pub(super) fn is_there(host: &Host, place: &Place) -> Result<(), PoolError> {
    let record = Record::read(place).ok().flatten();
    let record = record.filter(|record| record.stage == Stage::Ready);
    let Some(base) = record.and_then(|record| record.base) else {
        return Ok(());
    };
    if host.disks.contains_key(&base.device) {
        return Ok(());
    }
    locate(host, place, &base).map(drop)
}

/// What the pool's data is on is large enough.
pub(super) fn below(host: &Host, place: &Place, layout: &Layout) -> Result<(), PoolError> {
    let Some(base) = of_record(place)? else {
        return files::open(&place.data(), layout.data).map(drop);
    };
    let name = locate(host, place, &base)?;
    let bytes = host.disks.get(&name).map_or(0, |disk| disk.bytes);
    if base::room(bytes) < layout.data {
        return Err(unfit(&name, Unfit::Small, "has become smaller"));
    }
    Ok(())
}

pub(super) fn room(host: &Host, place: &Place) -> Option<Result<Room, PoolError>> {
    let base = match of_record(place) {
        Ok(base) => base?,
        Err(error) => return Some(Err(error)),
    };
    let name = match locate(host, place, &base) {
        Ok(name) => name,
        Err(error) => return Some(Err(error)),
    };
    let size = base::room(host.disks.get(&name).map_or(0, |disk| disk.bytes));
    Some(files::most_metadata(place).map(|metadata| Room::Device { size, metadata }))
}

fn fit<'a>(
    host: &'a Host,
    place: &Place,
    device: &Utf8Path,
    ours: Option<&Base>,
    force: bool,
) -> Result<&'a FakeDisk, PoolError> {
    let disk = host.disks.get(device);
    let disk = disk.ok_or_else(|| unfit(device, Unfit::NoDevice, "is not there"))?;
    if let Some(user) = &disk.user {
        return Err(unfit(device, Unfit::InUse, &format!("is in use: {user}")));
    }
    if base::room(disk.bytes) < LEAST_DATA {
        return Err(unfit(device, Unfit::Small, "is too small"));
    }
    let mut held = disk.holds.clone();
    let is_ours = ours.is_some_and(|base| disk.header == base.header(place));
    if !disk.header.is_empty() && !is_ours {
        held = Some("a pool of Hearth".to_owned());
    }
    match held {
        Some(what) if !force => Err(unfit(device, Unfit::Holds, &format!("holds {what}"))),
        _ => Ok(disk),
    }
}

pub(super) fn inspect(
    host: &Host,
    place: &Place,
    device: &Utf8Path,
    force: bool,
) -> Result<Candidate, PoolError> {
    let disk = fit(host, place, device, None, force)?;
    Ok(Candidate {
        device: device.to_owned(),
        volume: device
            .as_str()
            .strip_prefix("/dev/vg/")
            .map(|name| format!("vg/{name}")),
        room: base::room(disk.bytes),
    })
}

pub(super) fn claim(
    host: &mut Host,
    place: &Place,
    base: &Base,
    force: bool,
) -> Result<(), PoolError> {
    fit(host, place, &base.device, Some(base), force)?;
    let header = base.header(place);
    if let Some(disk) = host.disks.get_mut(&base.device) {
        disk.holds = None;
        disk.header = header;
        disk.data = 0;
    }
    Ok(())
}

pub(super) fn release(host: &mut Host, place: &Place, base: &Base) -> Result<(), PoolError> {
    let name = match locate(host, place, base) {
        Ok(name) => name,
        Err(error) if error.is_missing_device() => return Err(error),
        Err(_) => return Ok(()),
    };
    if host.devices.contains_key(&place.uuid) {
        return Err(unfit(
            &name,
            Unfit::InUse,
            "is in use: the pool stands on it",
        ));
    }
    if let Some(disk) = host.disks.get_mut(&name) {
        disk.header.clear();
    }
    Ok(())
}
