//! The host's own device-mapper under the pool.

mod disk;
mod grow;
mod linear;
mod mend;
pub(crate) mod roots;
mod watch;

use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use camino::Utf8Path;
use hearth_dm::thin::{self, WhenFull};
use hearth_dm::{Control, Device, DmError, Key, Remove, Table};
use hearth_host::command;
use hearth_host::loopdev::{self, LoopDevice};

use crate::base::{Base, Candidate};
use crate::error::PoolError;
use crate::files;
use crate::ground::{Checked, Events, Found, Ground, Layout, Mending, Place, Running};
use crate::space::Room;

/// How long a device that somebody has open for a moment (udev, an operator's `blkid`) is waited for.
const CLOSE: Duration = Duration::from_secs(10);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(20);

/// The host that this runs on.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostGround;

#[async_trait]
impl Ground for HostGround {
    fn available(&self) -> Result<(), PoolError> {
        open().map(drop)
    }

    fn find(&self, place: &Place) -> Result<Found, PoolError> {
        let control = open()?;
        match find(&control, place)? {
            Found::Nothing if linear::exists(&control, place)? => Ok(Found::Unfinished),
            // What cannot be put together for want of its device is not just down.
            Found::Nothing => disk::is_there(place).map(|()| Found::Nothing),
            found => Ok(found),
        }
    }

    fn assemble(&self, place: &Place, layout: &Layout) -> Result<Running, PoolError> {
        let control = open()?;
        match find(&control, place)? {
            Found::Running(running) => return Ok(running),
            // Cut off between its making and its table.
            Found::Unfinished => remove(&control, &place.uuid)?,
            Found::Nothing => {}
        }
        let metadata = files::open(&place.metadata(), layout.metadata)?;
        // From here on the loop device holds the file, and the pool will hold the loop device.
        let metadata = LoopDevice::attach_uncached(metadata.as_fd())?;
        let Some(base) = disk::of_record(place)? else {
            let data = files::open(&place.data(), layout.data)?;
            let data = LoopDevice::attach_uncached(data.as_fd())?;
            return put(
                &control,
                place,
                layout,
                [number(&metadata)?, number(&data)?],
            );
        };
        let below = [
            number(&metadata)?,
            linear::on(&control, place, &base, layout)?,
        ];
        put(&control, place, layout, below).or_else(|error| {
            linear::off(&control, place)?;
            Err(error)
        })
    }

    fn take_down(&self, place: &Place) -> Result<(), PoolError> {
        let control = open()?;
        if find(&control, place)? != Found::Nothing {
            remove(&control, &place.uuid)?;
        }
        linear::off(&control, place)
    }

    fn room(&self, place: &Place) -> Result<Room, PoolError> {
        match disk::of_record(place)? {
            Some(base) => disk::room(place, &base),
            None => files::room(place),
        }
    }

    fn inspect(
        &self,
        _place: &Place,
        device: &Utf8Path,
        force: bool,
    ) -> Result<Candidate, PoolError> {
        disk::inspect(device, force)
    }

    fn claim(&self, place: &Place, base: &Base, force: bool) -> Result<(), PoolError> {
        disk::claim(place, base, force)
    }

    fn release(&self, place: &Place, base: &Base) -> Result<(), PoolError> {
        disk::release(place, base)
    }

    fn extend(&self, place: &Place, layout: &Layout) -> Result<Running, PoolError> {
        grow::extend(&open()?, place, layout)
    }

    fn events(&self) -> Option<Box<dyn Events>> {
        watch::events()
    }

    fn hold_metadata(&self, place: &Place, hold: bool) -> Result<(), PoolError> {
        mend::hold(&open()?, place, hold)
    }

    fn needs_check(&self, place: &Place) -> Result<bool, PoolError> {
        mend::needs_check(place)
    }

    async fn mend(&self, work: &Mending<'_>, deadline: Duration) -> Result<Checked, PoolError> {
        mend::mend(work, deadline).await
    }

    async fn check(&self, metadata: &Utf8Path, deadline: Duration) -> Result<Checked, PoolError> {
        let ended = command::run("thin_check", &["-q", metadata.as_str()], b"", deadline).await;
        mend::judge("thin_check", ended)
    }
}

/// Makes the pool over these devices, metadata first. What fails leaves no pool behind.
fn put(
    control: &Control,
    place: &Place,
    layout: &Layout,
    below: [Device; 2],
) -> Result<Running, PoolError> {
    control
        .create(&place.name, &place.uuid)
        .map_err(dm("make the device of"))?;
    let table = table(layout, below);
    let made = load(control, place, &table).and_then(|()| find(control, place));
    match made {
        Ok(Found::Running(running)) => Ok(running),
        made => {
            // It was made above, by the same uuid.
            remove(control, &place.uuid)?;
            Err(made
                .err()
                .unwrap_or(PoolError::NotWorking { state: "gone" }))
        }
    }
}

/// The table of a pool over these devices, metadata first.
fn table(layout: &Layout, [metadata, data]: [Device; 2]) -> Table {
    thin::Pool {
        metadata,
        data,
        length: layout.data / thin::SECTOR,
        block: layout.block,
        low_water: layout.low_water(),
        when_full: WhenFull::Queue,
    }
    .table()
}

fn open() -> Result<Control, PoolError> {
    Control::open().map_err(PoolError::Unavailable)
}

fn dm(operation: &'static str) -> impl FnOnce(DmError) -> PoolError {
    move |source| PoolError::Dm { operation, source }
}

fn number(device: &LoopDevice) -> Result<Device, PoolError> {
    let (major, minor) = device.number()?;
    Ok(Device { major, minor })
}

/// Looks for our device by its uuid, and for another one that has its name.
fn find(control: &Control, place: &Place) -> Result<Found, PoolError> {
    let ours = Key::Uuid(&place.uuid);
    let (info, tables) = match control.table(ours) {
        Ok(answer) => answer,
        Err(DmError::Absent { .. }) => return name_is_free(control, place),
        Err(error) => return Err(dm("look at")(error)),
    };
    let Some(table) = tables.first().filter(|_| info.active) else {
        return Ok(Found::Unfinished);
    };
    stands_on_its_own(control, place, table)?;
    // No flush: that would wait for devices that may not answer.
    let (info, lines) = match control.status(ours, true) {
        Ok(answer) => answer,
        Err(error) => return Err(dm("ask the state of")(error)),
    };
    let said = lines.first().map_or("", |line| line.params.as_str());
    Ok(Found::Running(Running {
        device: info.device,
        users: info.open,
        event: info.event,
        suspended: info.suspended,
        length: table.length.saturating_mul(thin::SECTOR),
        status: said.parse().map_err(PoolError::Garbled)?,
    }))
}

fn name_is_free(control: &Control, place: &Place) -> Result<Found, PoolError> {
    match control.info(Key::Name(&place.name)) {
        Err(DmError::Absent { .. }) => Ok(Found::Nothing),
        Err(error) => Err(dm("look for")(error)),
        Ok(other) => Err(PoolError::Foreign {
            what: format!(
                "a device of others has the pool's name {}, with the uuid {:?}",
                place.name, other.uuid
            ),
        }),
    }
}

/// Our uuid over files of others is a copy of this data folder, or the work of a person.
fn stands_on_its_own(control: &Control, place: &Place, table: &Table) -> Result<(), PoolError> {
    let foreign = |what: String| PoolError::Foreign {
        what: format!("the device {} {what}", place.name),
    };
    if table.kind != "thin-pool" {
        return Err(foreign(format!("is no thin pool but {}", table.kind)));
    }
    let below = thin::devices_of(&table.params)
        .ok_or_else(|| foreign(format!("stands on {:?}", table.params)))?;
    for (device, path) in below.into_iter().zip([place.metadata(), place.data()]) {
        let file = loopdev::backing_inode(device.major, device.minor)?;
        let wanted = match path.symlink_metadata() {
            Ok(meta) => Some((meta.dev(), meta.ino())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(PoolError::io("look at", path)(error)),
        };
        let is_file = file.is_some() && file == wanted;
        let may_be_device = file.is_none() && path == place.data();
        let is_ours = is_file || (may_be_device && linear::is(control, place, device)?);
        if !is_ours {
            return Err(foreign(format!("does not stand on {path}")));
        }
    }
    Ok(())
}

fn load(control: &Control, place: &Place, table: &Table) -> Result<(), PoolError> {
    let ours = Key::Uuid(&place.uuid);
    control
        .load(ours, std::slice::from_ref(table), false)
        .map_err(dm("load the table of"))?;
    control.resume(ours).map_err(dm("switch on"))?;
    Ok(())
}

/// Removes our device, by its uuid: what has its name by now is not touched.
fn remove(control: &Control, uuid: &str) -> Result<(), PoolError> {
    let ours = Key::Uuid(uuid);
    let end = Instant::now() + CLOSE;
    loop {
        match control.remove(ours, Remove::Now) {
            Ok(()) | Err(DmError::Absent { .. }) => return Ok(()),
            Err(DmError::Busy { .. }) if Instant::now() < end => std::thread::sleep(PAUSE),
            Err(DmError::Busy { .. }) => {
                let info = control.info(ours).map_err(dm("look at"))?;
                return Err(PoolError::InUse { users: info.open });
            }
            Err(error) => return Err(dm("remove the device of")(error)),
        }
    }
}
