//! What the pool's data is for the kernel where it is on a device of its own: a part of that device, by a mark of ours.
//!
//! ```text
//!  locate: its header ─► nobody uses it ─► make ─► load ─► resume ─► the pool stands on it
//! ```
//! It is made before the pool and goes after it. One that a daemon that died has left is gone on with.

use hearth_dm::thin::SECTOR;
use hearth_dm::{Control, Device, DmError, Key, Table};
use hearth_types::units::Bytes;

use super::{disk, dm, grow, remove};
use crate::base::{Base, MARGIN, Unfit, room};
use crate::error::PoolError;
use crate::ground::{Layout, Place};

/// So much of a device, from behind its header.
fn table(device: Device, data: u64) -> Table {
    Table {
        start: 0,
        length: data / SECTOR,
        kind: "linear".to_owned(),
        params: format!("{device} {}", MARGIN / SECTOR),
    }
}

/// The device below, of a table of ours.
fn below(table: &Table) -> Option<Device> {
    let (major, minor) = table.params.split(' ').next()?.split_once(':')?;
    Some(Device {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
    })
}

/// Switches it on. What fails leaves nothing behind.
pub(super) fn on(
    control: &Control,
    place: &Place,
    base: &Base,
    layout: &Layout,
) -> Result<Device, PoolError> {
    let found = disk::locate(place, base)?;
    fits(base, found.bytes, layout)?;
    let table = table(found.number, layout.data);
    let uuid = place.linear_uuid();
    let key = Key::Uuid(&uuid);
    match control.table(key) {
        Ok((info, lines)) if info.active && !info.suspended && lines == [table.clone()] => {
            return Ok(info.device);
        }
        // Left by one who died.
        Ok(_) => remove(control, &uuid)?,
        Err(DmError::Absent { .. }) => {}
        Err(error) => return Err(dm("look below")(error)),
    }
    disk::is_unused(&found)?;
    let name = place.linear_name();
    match control.create(&name, &uuid) {
        Err(DmError::Exists { .. }) => {
            let what = format!("a device of others has the name {name}");
            return Err(PoolError::Foreign { what });
        }
        made => made.map_err(dm("make the device below"))?,
    };
    let made = control
        .load(key, &[table], false)
        .and_then(|()| control.resume(key));
    match made {
        Ok(info) => Ok(info.device),
        Err(error) => {
            remove(control, &uuid)?;
            Err(dm("switch on the device below")(error))
        }
    }
}

/// Switches it off. One that is not there is a success.
pub(super) fn off(control: &Control, place: &Place) -> Result<(), PoolError> {
    match exists(control, place)? {
        true => remove(control, &place.linear_uuid()),
        false => Ok(()),
    }
}

/// Whether this is it.
pub(super) fn is(control: &Control, place: &Place, device: Device) -> Result<bool, PoolError> {
    Ok(number(control, place)? == Some(device))
}

/// Whether the kernel has it.
pub(super) fn exists(control: &Control, place: &Place) -> Result<bool, PoolError> {
    Ok(number(control, place)?.is_some())
}

fn number(control: &Control, place: &Place) -> Result<Option<Device>, PoolError> {
    match control.info(Key::Uuid(&place.linear_uuid())) {
        Err(DmError::Absent { .. }) => Ok(None),
        Err(error) => Err(dm("look below")(error)),
        Ok(info) => Ok(Some(info.device)),
    }
}

/// Makes it as long as the data is to be, while it is used. There is none where the data is a file.
pub(super) fn lengthen(control: &Control, place: &Place, layout: &Layout) -> Result<(), PoolError> {
    let Some(base) = disk::of_record(place)? else {
        return Ok(());
    };
    let uuid = place.linear_uuid();
    let key = Key::Uuid(&uuid);
    let (info, lines) = control.table(key).map_err(dm("look below"))?;
    let device = lines.first().and_then(below);
    let (Some(old), Some(device)) = (lines.first(), device) else {
        return Err(PoolError::NotWorking { state: "garbled" });
    };
    let new = table(device, layout.data);
    if old.length >= new.length {
        if info.suspended {
            control.resume(key).map_err(dm("let go on"))?;
        }
        return Ok(());
    }
    fits(&base, disk::bytes_of(device), layout)?;
    disk::clear_behind(device, layout.data)?;
    grow::replace(control, key, old, &new)
}

fn fits(base: &Base, bytes: u64, layout: &Layout) -> Result<(), PoolError> {
    if room(bytes) >= layout.data {
        return Ok(());
    }
    let (has, needs) = (Bytes(room(bytes)).human(), Bytes(layout.data).human());
    Err(PoolError::Device {
        device: base.device.clone(),
        what: format!("has room for {has} of data, and the pool needs {needs}"),
        unfit: Unfit::Small,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_tells_what_is_below() {
        let device = Device {
            major: 8,
            minor: 16,
        };
        let table = table(device, 64 << 20);
        assert_eq!((table.start, table.length), (0, 131_072));
        assert_eq!(table.params, "8:16 2048");
        assert_eq!(below(&table), Some(device));
    }
}
