//! A pool of a test's own on the kernel's device-mapper.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use camino::Utf8PathBuf;
use hearth_dm::thin::{Message, thin_table};
use hearth_dm::{Control, DmError, Key, Remove};
use hearth_pool::{HostGround, Place, Pool};
use hearth_types::InstallationId;

/// How long anything may take that others hold up.
const PATIENCE: Duration = Duration::from_secs(45);

/// It is destroyed with the test.
pub(crate) struct World {
    pub(crate) control: Control,
    pub(crate) pool: Pool,
    _folder: tempfile::TempDir,
}

impl World {
    /// One that is not set up. `None`, and a word, where there cannot be one.
    pub(crate) fn new() -> Option<Self> {
        let control = super::kernel::control()?;
        // Not in memory: a test of files is one of a disk.
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let dir = Utf8PathBuf::from_path_buf(folder.path().join("pool")).unwrap();
        let place = Place::new(&dir, InstallationId::new());
        Some(Self {
            control,
            pool: Pool::new(place, Arc::new(HostGround)),
            _folder: folder,
        })
    }

    pub(crate) fn ours(&self) -> Key<'_> {
        Key::Uuid(&self.pool.place().uuid)
    }

    pub(crate) fn say(&self, message: Message) -> Result<(), DmError> {
        let said = self.control.message(self.ours(), &message.to_string());
        said.map(drop)
    }

    pub(crate) fn uuid(&self, id: u32) -> String {
        format!("{}-{id}", self.pool.place().uuid)
    }

    /// Switches a thin device of the pool on.
    pub(crate) fn switch_on(&self, id: u32, sectors: u64) -> PathBuf {
        let (name, uuid) = (format!("{}-{id}", self.pool.place().name), self.uuid(id));
        let pool = self.control.info(self.ours()).unwrap().device;
        let made = self.control.create(&name, &uuid).unwrap();
        let (key, table) = (Key::Uuid(&uuid), thin_table(pool, id, sectors));
        self.control.load(key, &[table], false).unwrap();
        self.control.resume(key).unwrap();
        made.device.node()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let place = self.pool.place();
        for listed in self.control.list().unwrap_or_default() {
            if listed.name.starts_with(&place.name) && listed.name != place.name {
                drop(self.control.remove(Key::Name(&listed.name), Remove::Now));
            }
        }
        drop(self.control.remove(self.ours(), Remove::Now));
        let below = format!("{}-data", place.uuid);
        drop(self.control.remove(Key::Uuid(&below), Remove::Now));
    }
}

/// Does what is refused for as long as somebody else (udev, the kernel's own worker) has a device
/// open.
pub(crate) fn patiently(mut attempt: impl FnMut() -> Result<(), DmError>) {
    let end = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Ok(()) => return,
            Err(error @ DmError::Busy { .. }) => assert!(Instant::now() < end, "{error:?}"),
            Err(error) => unreachable!("{error:?}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
