//! The growth of a pool in memory.

use super::{FakeGround, running};
use crate::error::PoolError;
use crate::files;
use crate::ground::{Layout, Place, Running};
use crate::space::Room;

impl FakeGround {
    /// What the file system of its files has; the real one's, when this is never said.
    pub fn set_room(&self, room: Room) {
        self.0.lock().room = Some(room);
    }

    /// How many blocks of data and of metadata are used.
    pub fn set_full(&self, data: u64, metadata: u64) {
        let mut host = self.0.lock();
        host.full = Some((data, metadata));
        host.event += 1;
    }

    /// The calls of a daemon that died go on with those of the next.
    pub fn mend(&self) {
        self.0.lock().cut = None;
    }

    /// The kernel refuses a longer table.
    pub fn set_refuses(&self, refuses: bool) {
        self.0.lock().refuses = refuses;
    }

    /// The data that the kernel gives the pool, in bytes.
    #[must_use]
    pub fn size(&self, place: &Place) -> Option<u64> {
        let host = self.0.lock();
        host.devices.get(&place.uuid).map(|layout| layout.data)
    }
}

pub(super) fn room(ground: &FakeGround, place: &Place) -> Result<Room, PoolError> {
    ground.call(|host| match (host.room, super::disk::room(host, place)) {
        (_, Some(room)) => room,
        (Some(room), None) => Ok(room),
        (None, None) => files::room(place),
    })
}

pub(super) fn extend(
    ground: &FakeGround,
    place: &Place,
    layout: &Layout,
) -> Result<Running, PoolError> {
    ground.call(|host| {
        if !host.devices.contains_key(&place.uuid) {
            return Err(PoolError::NotWorking { state: "gone" });
        }
        if host.refuses {
            return Err(PoolError::NotWorking { state: "refused" });
        }
        files::open(&place.metadata(), layout.metadata)?;
        super::disk::below(host, place, layout)?;
        host.largest = Some(layout.data);
        host.devices.insert(place.uuid.clone(), *layout);
        Ok(running(host, place, layout))
    })
}
