//! Thin devices of the fake ground: what the metadata has survives a power cut, what the kernel has
//! does not. The content of a device is a file, and its node is another name of that file.

use std::collections::BTreeMap;
use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use hearth_disk::Borrower;
use hearth_dm::{Device, DmError};
use rustix::io::Errno;

use super::{FakeGround, Host};
use crate::error::PoolError;
use crate::ground::Place;
use crate::thin::{Active, Mapped, Target, ThinError, ThinGround, Under};

/// What a device is made of.
#[derive(Debug, Default)]
pub(super) struct Thin {
    /// Ids in the metadata.
    there: std::collections::BTreeSet<u32>,
    count: u64,
    held: bool,
    /// What the kernel has.
    active: BTreeMap<u32, On>,
    minors: u32,
    nodes: BTreeMap<Utf8PathBuf, Node>,
    content: BTreeMap<Device, Utf8PathBuf>,
    unlisted: bool,
    open: Vec<u32>,
}

#[derive(Debug, Clone)]
struct On {
    name: String,
    device: Device,
    sectors: u64,
    suspended: bool,
}

#[derive(Debug)]
struct Node {
    device: Device,
    inode: u64,
    /// Where the file system keeps it.
    made: Option<SystemTime>,
}

impl Thin {
    pub(super) fn reboot(&mut self) {
        self.active.clear();
        self.content.clear();
        self.open.clear();
    }

    pub(super) fn format(&mut self) {
        *self = Self {
            minors: self.minors,
            ..Self::default()
        };
    }

    pub(super) fn users(&self) -> u32 {
        u32::try_from(self.active.len()).unwrap_or(u32::MAX)
    }

    pub(super) const fn count(&self) -> u64 {
        self.count
    }
}

impl FakeGround {
    /// Ids that the metadata has.
    #[must_use]
    pub fn thin_ids(&self) -> Vec<u32> {
        self.0.lock().thin.there.iter().copied().collect()
    }

    /// Ids that the kernel has.
    #[must_use]
    pub fn active_ids(&self) -> Vec<u32> {
        self.0.lock().thin.active.keys().copied().collect()
    }

    /// A thin device of which nobody has written anything down.
    pub fn put_thin(&self, id: u32) {
        self.0.lock().thin.there.insert(id);
    }

    /// The metadata has lost a thin device.
    pub fn lose_thin(&self, id: u32) {
        self.0.lock().thin.there.remove(&id);
    }

    /// A daemon died between the two halves of a snapshot.
    pub fn suspend_thin(&self, id: u32) {
        if let Some(on) = self.0.lock().thin.active.get_mut(&id) {
            on.suspended = true;
        }
    }

    /// Whether any device waits.
    #[must_use]
    pub fn any_suspended(&self) -> bool {
        let host = self.0.lock();
        host.thin.active.values().any(|on| on.suspended)
    }

    /// Whether the metadata is held still.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.0.lock().thin.held
    }

    /// `thin_ls` does not work.
    pub fn set_unlisted(&self, unlisted: bool) {
        self.0.lock().thin.unlisted = unlisted;
    }

    /// Somebody has a device open.
    pub fn set_open(&self, id: u32, open: bool) {
        let mut host = self.0.lock();
        host.thin.open.retain(|other| *other != id);
        if open {
            host.thin.open.push(id);
        }
    }

    /// Counts something else as a call: the power may be cut before it or after it.
    ///
    /// # Errors
    /// When the power was cut.
    pub fn step(&self, effect: impl FnOnce()) -> Result<(), PoolError> {
        self.call(|_| {
            effect();
            Ok(())
        })
    }

    /// Counts a call, of a pool that the kernel has.
    fn thin<T>(
        &self,
        place: &Place,
        effect: impl FnOnce(&mut Thin) -> Result<T, ThinError>,
    ) -> Result<T, ThinError> {
        // The error of the power cut is one of the pool; what the effect says is kept beside.
        let mut said = None;
        let called = self.call(|host: &mut Host| {
            if !host.devices.contains_key(&place.uuid) {
                return Err(PoolError::NotWorking { state: "down" });
            }
            said = Some(effect(&mut host.thin));
            Ok(())
        });
        match (called, said) {
            (Ok(()), Some(said)) => said,
            (Err(error), _) => Err(error.into()),
            (Ok(()), None) => Err(PoolError::Absent.into()),
        }
    }
}

fn refused(operation: &'static str, id: u32, errno: Errno) -> ThinError {
    ThinError::Dm {
        operation,
        id,
        source: DmError::Refused {
            operation,
            key: id.to_string(),
            source: errno.into(),
        },
    }
}

fn content(place: &Place, id: u32) -> Utf8PathBuf {
    place.dir.join(format!("fake-thin-{id}"))
}

#[async_trait]
impl ThinGround for FakeGround {
    fn create_thin(&self, place: &Place, id: u32) -> Result<(), ThinError> {
        self.thin(place, |thin| {
            if !thin.there.insert(id) {
                return Err(refused("make", id, Errno::EXIST));
            }
            let path = content(place, id);
            File::create(&path)
                .map(drop)
                .map_err(ThinError::io("make", path))
        })
    }

    fn create_snapshot(&self, place: &Place, id: u32, origin: u32) -> Result<(), ThinError> {
        self.thin(place, |thin| {
            if !thin.there.contains(&origin) {
                return Err(refused("make", id, Errno::NODATA));
            }
            if !thin.there.insert(id) {
                return Err(refused("make", id, Errno::EXIST));
            }
            let path = content(place, id);
            let copied = std::fs::copy(content(place, origin), &path).map(drop);
            copied.map_err(ThinError::io("make", path))
        })
    }

    fn delete_thin(&self, place: &Place, id: u32) -> Result<(), ThinError> {
        self.thin(place, |thin| {
            if thin.active.contains_key(&id) {
                return Err(refused("delete", id, Errno::BUSY));
            }
            if thin.there.remove(&id) {
                // Its nodes are there, and lead nowhere.
                drop(std::fs::remove_file(content(place, id)));
            }
            Ok(())
        })
    }

    fn set_count(&self, place: &Place, from: u64, to: u64) -> Result<(), ThinError> {
        self.thin(place, |thin| {
            if thin.count != from {
                return Err(refused("count the change of", 0, Errno::INVAL));
            }
            thin.count = to;
            Ok(())
        })
    }

    fn holds(&self, place: &Place, id: u32) -> Result<bool, ThinError> {
        self.thin(place, |thin| Ok(thin.there.contains(&id)))
    }

    fn activate(&self, place: &Place, target: &Target) -> Result<Device, ThinError> {
        let id = target.id;
        self.thin(place, |thin| {
            if !thin.there.contains(&id) {
                return Err(refused("load the table of", id, Errno::NODATA));
            }
            let path = content(place, id);
            let size = target.sectors * hearth_dm::thin::SECTOR;
            let grown = File::options().write(true).open(&path).and_then(|file| {
                if file.metadata()?.len() < size {
                    file.set_len(size)?;
                }
                Ok(())
            });
            grown.map_err(ThinError::io("switch on", &path))?;
            if let Some(on) = thin.active.get_mut(&id) {
                (on.sectors, on.suspended) = (target.sectors, false);
                return Ok(on.device);
            }
            thin.minors += 1;
            let device = Device {
                major: 253,
                minor: thin.minors,
            };
            let on = On {
                name: target.name.clone(),
                device,
                sectors: target.sectors,
                suspended: false,
            };
            thin.active.insert(id, on);
            thin.content.insert(device, path);
            Ok(device)
        })
    }

    fn deactivate(&self, place: &Place, id: u32) -> Result<(), ThinError> {
        self.thin(place, |thin| {
            if thin.open.contains(&id) {
                let key = id.to_string();
                return Err(ThinError::Dm {
                    operation: "switch off",
                    id,
                    source: DmError::Busy { key },
                });
            }
            thin.active.remove(&id);
            Ok(())
        })
    }

    fn resume(&self, place: &Place, id: u32) -> Result<(), ThinError> {
        self.thin(place, |thin| {
            if let Some(on) = thin.active.get_mut(&id) {
                on.suspended = false;
            }
            Ok(())
        })
    }

    fn active(&self, place: &Place) -> Result<Vec<Active>, ThinError> {
        self.thin(place, |thin| {
            let all = thin.active.iter().map(|(id, on)| Active {
                id: *id,
                name: on.name.clone(),
                device: on.device,
                users: u32::from(thin.open.contains(id)),
                suspended: on.suspended,
                sectors: Some(on.sectors),
            });
            Ok(all.collect())
        })
    }

    fn reserve_metadata(&self, place: &Place) -> Result<Device, ThinError> {
        self.thin(place, |thin| {
            thin.held = true;
            Ok(Device { major: 7, minor: 0 })
        })
    }

    fn release_metadata(&self, place: &Place) -> Result<(), ThinError> {
        self.thin(place, |thin| {
            thin.held = false;
            Ok(())
        })
    }

    async fn listed(
        &self,
        place: &Place,
        _metadata: Device,
        _deadline: Duration,
    ) -> Result<Vec<Mapped>, ThinError> {
        self.thin(place, |thin| {
            if thin.unlisted {
                return Err(ThinError::List(
                    hearth_host::command::CommandError::Missing {
                        program: "thin_ls".to_owned(),
                    },
                ));
            }
            let ids = thin.there.iter();
            Ok(ids.map(|id| Mapped { id: *id, bytes: 0 }).collect())
        })
    }

    fn node(&self, device: Device) -> Utf8PathBuf {
        let host = self.0.lock();
        host.thin.content.get(&device).cloned().unwrap_or_default()
    }

    fn under(&self, path: &Utf8Path) -> Result<Under, ThinError> {
        let meta = match path.symlink_metadata() {
            Ok(meta) => meta,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Under::Nothing),
            Err(error) => return Err(ThinError::io("look at", path)(error)),
        };
        let host = self.0.lock();
        let node = host.thin.nodes.get(path);
        // The number of a file that has gone may be another's by now.
        let node = node.filter(|node| (node.inode, node.made) == (meta.ino(), meta.created().ok()));
        Ok(node.map_or(Under::File, |node| Under::Node(node.device)))
    }

    fn place_node(&self, path: &Utf8Path, device: Device, to: Borrower) -> Result<(), ThinError> {
        let (owner, mode) = to.owner_and_mode();
        if self.under(path)? == Under::File {
            let file = io::ErrorKind::AlreadyExists.into();
            return Err(ThinError::io("make the node", path)(file));
        }
        let content = self.node(device);
        let place = || {
            drop(std::fs::remove_file(path));
            std::fs::hard_link(&content, path)?;
            std::fs::set_permissions(path, Permissions::from_mode(mode))?;
            std::os::unix::fs::chown(path, Some(owner), Some(owner))?;
            path.metadata()
        };
        let meta = place().map_err(ThinError::io("make the node", path))?;
        let (inode, made) = (meta.ino(), meta.created().ok());
        let node = Node {
            device,
            inode,
            made,
        };
        self.0.lock().thin.nodes.insert(path.to_owned(), node);
        Ok(())
    }

    fn lacks(&self, _folder: &Utf8Path) -> Option<String> {
        let host = self.0.lock();
        host.unavailable
            .then(|| "there is no device-mapper".to_owned())
    }
}
