//! A pool that is in use becomes larger.
//!
//! ```text
//!  files are larger ─► loop devices are ─► longer table is loaded ─► it takes the old one's place
//! ```
//! Cut off before its last step nothing has changed for the pool; the last step is one call, after
//! which the pool goes on. The kernel writes the new sizes into the pool's metadata.

use hearth_dm::thin::{self, METADATA_BLOCK, PoolStatus};
use hearth_dm::{Control, Device, Key, Table};
use hearth_host::loopdev;

use super::{dm, find, linear, table};
use crate::error::PoolError;
use crate::ground::{Found, Layout, Place, Running};

pub(super) fn extend(
    control: &Control,
    place: &Place,
    layout: &Layout,
) -> Result<Running, PoolError> {
    let ours = Key::Uuid(&place.uuid);
    let running = running(find(control, place)?)?;
    let (_, tables) = control.table(ours).map_err(dm("ask the table of"))?;
    let old = tables
        .into_iter()
        .next()
        .ok_or(PoolError::NotWorking { state: "gone" })?;
    let below = thin::devices_of(&old.params).ok_or(PoolError::NotWorking { state: "garbled" })?;
    for device in below {
        refresh(device)?;
    }
    linear::lengthen(control, place, layout)?;
    let new = table(layout, below);
    if is_as_large(&running, layout) {
        if running.suspended {
            control.resume(ours).map_err(dm("let go on"))?;
        }
        return self::running(find(control, place)?);
    }
    replace(control, ours, &old, &new)?;
    self::running(find(control, place)?)
}

/// Gives a device another table while it is used.
pub(super) fn replace(
    control: &Control,
    ours: Key<'_>,
    old: &Table,
    new: &Table,
) -> Result<(), PoolError> {
    let swapped = swap(control, ours, new);
    // Refused halfway it waits with a table that cannot be: the old one is still right.
    if swapped.is_err()
        && control.info(ours).is_ok_and(|info| info.suspended)
        && let Err(second) = swap(control, ours, old)
    {
        tracing::error!(device = ?ours, error = %second, "a device of the pool does not go on with its old table either");
    }
    swapped
}

fn running(found: Found) -> Result<Running, PoolError> {
    match found {
        Found::Running(running) => Ok(running),
        Found::Nothing | Found::Unfinished => Err(PoolError::NotWorking { state: "gone" }),
    }
}

fn swap(control: &Control, ours: Key<'_>, table: &Table) -> Result<(), PoolError> {
    control
        .load(ours, std::slice::from_ref(table), false)
        .map_err(dm("load the longer table of"))?;
    control.swap(ours).map_err(dm("extend"))?;
    Ok(())
}

/// A loop device learns that its file has grown; other devices know how large they are.
fn refresh(device: Device) -> Result<(), PoolError> {
    if loopdev::backing_inode(device.major, device.minor)?.is_some() {
        loopdev::refresh_capacity(device.major, device.minor)?;
    }
    Ok(())
}

fn is_as_large(running: &Running, layout: &Layout) -> bool {
    let metadata = match &running.status {
        PoolStatus::Works { metadata, .. } => metadata.total.saturating_mul(METADATA_BLOCK),
        PoolStatus::Failed => u64::MAX,
    };
    running.length >= layout.data && metadata >= layout.metadata
}
