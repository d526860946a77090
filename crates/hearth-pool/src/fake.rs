//! A ground in memory for tests: its kernel forgets all at a reboot, its files are real.
//!
//! What a kernel would format is marked in the metadata file with a number that was never used
//! before, so that a test sees a pool that was formatted a second time. Data is bytes at the beginning of
//! the data file.

mod thin;

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use hearth_dm::thin::{Mode, PoolStatus, Usage};
use hearth_dm::{Device, DmError};
use parking_lot::Mutex;

use crate::base::{Base, Candidate};
use crate::error::PoolError;
use crate::files;
use crate::ground::{Checked, Events, Found, Ground, Layout, Mending, Place, Running};
use crate::space::Room;

/// The first bytes of metadata that was formatted.
const MAGIC: [u8; 8] = *b"FAKEPOOL";

mod disk;
mod grow;
mod mend;

pub use disk::FakeDisk;

#[derive(Debug, Default)]
struct Host {
    /// Devices by uuid, with their layout.
    devices: BTreeMap<String, Layout>,
    users: u32,
    formatted: u64,
    mode: Option<Mode>,
    foreign: bool,
    unavailable: bool,
    no_tool: bool,
    /// What its file system has, and its event count.
    room: Option<Room>,
    event: u32,
    /// How full it is, in blocks.
    full: Option<(u64, u64)>,
    /// It refuses a longer table.
    refuses: bool,
    /// What it keeps of its metadata.
    held: bool,
    /// A write of its metadata has failed, and nobody has looked at it since.
    needs_check: bool,
    /// The data that its metadata knows of, in bytes.
    largest: Option<u64>,
    /// Calls until the power is cut, before the call's effect or after it.
    cut: Option<(u32, bool)>,
    thin: thin::Thin,
    /// Block devices, by their names.
    disks: BTreeMap<Utf8PathBuf, FakeDisk>,
}

/// The host.
#[derive(Debug, Clone, Default)]
pub struct FakeGround(Arc<Mutex<Host>>);

impl FakeGround {
    /// The kernel forgets everything, and works again.
    pub fn reboot(&self) {
        let mut host = self.0.lock();
        host.devices.clear();
        host.users = 0;
        host.cut = None;
        host.mode = None;
        host.thin.reboot();
        host.held = false;
    }

    /// The power is cut at the call of this number (from 0), before its effect or after it: that
    /// one and all later ones fail until [`FakeGround::reboot`].
    pub fn cut_at(&self, call: u32, after: bool) {
        self.0.lock().cut = Some((call, after));
    }

    /// So many devices stand on the pool.
    pub fn set_users(&self, users: u32) {
        self.0.lock().users = users;
    }

    /// The mode that the pool says it is in.
    pub fn set_mode(&self, mode: Mode) {
        self.0.lock().mode = Some(mode);
    }

    /// A device of others has the pool's name.
    pub fn set_foreign(&self, foreign: bool) {
        self.0.lock().foreign = foreign;
    }

    /// There is no device-mapper.
    pub fn set_unavailable(&self, unavailable: bool) {
        self.0.lock().unavailable = unavailable;
    }

    /// `thin_check` is not installed.
    pub fn set_no_tool(&self, no_tool: bool) {
        self.0.lock().no_tool = no_tool;
    }

    /// Whether the kernel has a device.
    #[must_use]
    pub fn has_device(&self) -> bool {
        !self.0.lock().devices.is_empty()
    }

    /// How often metadata was formatted.
    #[must_use]
    pub fn formatted(&self) -> u64 {
        self.0.lock().formatted
    }

    /// Writes into the pool, as a volume would.
    ///
    /// # Errors
    /// When the kernel does not have it.
    pub fn store(&self, place: &Place, data: u64) -> std::io::Result<()> {
        if let Some(disk) = self.0.lock().disk_of(place) {
            disk.data = data;
            return Ok(());
        }
        self.data(place)?.write_all_at(&data.to_ne_bytes(), 0)
    }

    /// Reads what was written into the pool.
    ///
    /// # Errors
    /// When the kernel does not have it.
    pub fn stored(&self, place: &Place) -> std::io::Result<u64> {
        if let Some(disk) = self.0.lock().disk_of(place) {
            return Ok(disk.data);
        }
        let mut bytes = [0; 8];
        self.data(place)?.read_exact_at(&mut bytes, 0)?;
        Ok(u64::from_ne_bytes(bytes))
    }

    fn data(&self, place: &Place) -> std::io::Result<std::fs::File> {
        if !self.0.lock().devices.contains_key(&place.uuid) {
            return Err(std::io::ErrorKind::NotConnected.into());
        }
        OpenOptions::new().read(true).write(true).open(place.data())
    }

    /// Counts a call, and has its effect unless the power is cut before it.
    fn call<T>(
        &self,
        effect: impl FnOnce(&mut Host) -> Result<T, PoolError>,
    ) -> Result<T, PoolError> {
        let mut host = self.0.lock();
        if host.unavailable {
            let error = std::io::Error::from(std::io::ErrorKind::NotFound);
            return Err(PoolError::Unavailable(DmError::NotHere(error)));
        }
        if host.foreign {
            return Err(PoolError::Foreign {
                what: "a device of others has the pool's name".to_owned(),
            });
        }
        let now = match &mut host.cut {
            Some((0, after)) => Some(*after),
            Some((left, _)) => {
                *left -= 1;
                None
            }
            None => None,
        };
        let done = match now {
            None => return effect(&mut host),
            Some(true) => effect(&mut host).map(drop),
            Some(false) => Ok(()),
        };
        // No call after this one has an effect.
        host.cut = Some((0, false));
        done.and(Err(PoolError::Dm {
            operation: "reach",
            source: DmError::Garbled,
        }))
    }
}

fn running(host: &Host, place: &Place, layout: &Layout) -> Running {
    let mut first = [0; 8];
    let read = std::fs::File::open(place.data()).and_then(|file| file.read_exact_at(&mut first, 0));
    let stored = read.is_ok() && first != [0; 8];
    let used = u64::from(stored || host.disk_holds_data(place));
    Running {
        device: Device {
            major: 253,
            minor: 0,
        },
        event: host.event,
        suspended: false,
        length: layout.data,
        users: host.users + host.thin.users(),
        status: PoolStatus::Works {
            transaction_id: host.thin.count(),
            metadata: Usage {
                used: host.full.map_or(11, |(_, metadata)| metadata),
                total: layout.metadata / 4096,
            },
            data: Usage {
                used: host.full.map_or(used, |(data, _)| data),
                total: layout.data / layout.block.bytes(),
            },
            held_root: host.held.then_some(1),
            mode: host.mode.unwrap_or(Mode::ReadWrite),
            discard_passdown: true,
            queues: true,
            needs_check: host.needs_check,
        },
    }
}

#[async_trait]
impl Ground for FakeGround {
    fn find(&self, place: &Place) -> Result<Found, PoolError> {
        self.call(|host| match host.devices.get(&place.uuid) {
            Some(layout) => Ok(Found::Running(running(host, place, layout))),
            None => disk::is_there(host, place).map(|()| Found::Nothing),
        })
    }

    fn assemble(&self, place: &Place, layout: &Layout) -> Result<Running, PoolError> {
        self.call(|host| {
            // No kernel puts together less than it has once had.
            if host.largest.is_some_and(|largest| layout.data < largest) {
                return Err(PoolError::NotWorking { state: "too small" });
            }
            let metadata = files::open(&place.metadata(), layout.metadata)?;
            disk::below(host, place, layout)?;
            let mut first = [0; 16];
            let io = |error| PoolError::io("format", place.metadata())(error);
            metadata.read_exact_at(&mut first, 0).map_err(io)?;
            if first == [0; 16] {
                host.formatted += 1;
                host.thin.format();
                first[..8].copy_from_slice(&MAGIC);
                first[8..].copy_from_slice(&host.formatted.to_ne_bytes());
                host.largest = None;
                metadata.write_all_at(&first, 0).map_err(io)?;
            }
            host.devices.insert(place.uuid.clone(), *layout);
            Ok(running(host, place, layout))
        })
    }

    fn take_down(&self, place: &Place) -> Result<(), PoolError> {
        self.call(|host| match host.users + host.thin.users() {
            0 => {
                host.devices.remove(&place.uuid);
                Ok(())
            }
            users => Err(PoolError::InUse { users }),
        })
    }

    fn room(&self, place: &Place) -> Result<Room, PoolError> {
        grow::room(self, place)
    }

    fn extend(&self, place: &Place, layout: &Layout) -> Result<Running, PoolError> {
        grow::extend(self, place, layout)
    }

    fn inspect(
        &self,
        place: &Place,
        device: &Utf8Path,
        force: bool,
    ) -> Result<Candidate, PoolError> {
        self.call(|host| disk::inspect(host, place, device, force))
    }

    fn claim(&self, place: &Place, base: &Base, force: bool) -> Result<(), PoolError> {
        self.call(|host| disk::claim(host, place, base, force))
    }

    fn release(&self, place: &Place, base: &Base) -> Result<(), PoolError> {
        self.call(|host| disk::release(host, place, base))
    }

    fn events(&self) -> Option<Box<dyn Events>> {
        None
    }

    fn hold_metadata(&self, place: &Place, hold: bool) -> Result<(), PoolError> {
        mend::hold(self, place, hold)
    }

    fn needs_check(&self, _place: &Place) -> Result<bool, PoolError> {
        self.call(|host| Ok(host.needs_check))
    }

    async fn mend(&self, work: &Mending<'_>, _deadline: Duration) -> Result<Checked, PoolError> {
        mend::mend(self, work)
    }

    async fn check(&self, metadata: &Utf8Path, _deadline: Duration) -> Result<Checked, PoolError> {
        self.call(|host| {
            if host.no_tool {
                return Err(PoolError::Check(
                    hearth_host::command::CommandError::Missing {
                        program: "thin_check".to_owned(),
                    },
                ));
            }
            let mut first = [0; 8];
            let read = std::fs::File::open(metadata)
                .and_then(|file| file.read_exact_at(&mut first, 0))
                .is_ok();
            Ok(if read && first == MAGIC {
                Checked::Good
            } else {
                Checked::Bad("bad checksum in superblock".to_owned())
            })
        })
    }
}
