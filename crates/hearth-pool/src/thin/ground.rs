//! What thin devices stand on, as a trait: the host's device-mapper, or one in memory for tests.

use std::time::Duration;

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use hearth_disk::Borrower;
use hearth_dm::Device;
use hearth_dm::thin::SECTOR;
use hearth_types::thin::ThinDevice;
use serde::{Deserialize, Serialize};

use super::error::ThinError;
use crate::ground::{Ground, Place};

/// The longest name that the kernel takes for a device, in bytes.
const LONGEST_NAME: usize = 127;

/// A thin device as the kernel is to have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Its number in the pool.
    pub id: u32,
    /// Its name among the kernel's devices, for people.
    pub name: String,
    /// Its uuid there: the owner's mark, and its number.
    pub uuid: String,
    /// How large it is.
    pub sectors: u64,
}

impl Target {
    /// Of this entry of the ledger. The number is in both names, so an orphan that was left active is
    /// in nobody's way.
    #[must_use]
    pub fn of(place: &Place, device: &ThinDevice) -> Self {
        Self {
            id: device.id,
            name: name_of(place, device.id, &device.name),
            uuid: uuid_of(place, device.id),
            sectors: device.bytes.div_ceil(SECTOR),
        }
    }
}

/// The name among the kernel's devices of the volume of this name.
pub(super) fn name_of(place: &Place, id: u32, volume: &str) -> String {
    let (prefix, suffix) = (ours(&place.name), format!(".{id}"));
    let plain = |letter: char| match letter {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '_' | '.' => letter,
        _ => '_',
    };
    let room = LONGEST_NAME.saturating_sub(prefix.len() + suffix.len());
    let name: String = volume.chars().map(plain).take(room).collect();
    format!("{prefix}{name}{suffix}")
}

/// What the names of an installation's devices begin with.
fn ours(pool: &str) -> &str {
    pool.strip_suffix("pool").unwrap_or(pool)
}

/// The uuid of a thin device.
#[must_use]
pub fn uuid_of(place: &Place, id: u32) -> String {
    format!("{}thin-{id}", ours(&place.uuid))
}

/// The number of the thin device with this uuid; `None` if it is none of ours.
#[must_use]
pub fn id_of(place: &Place, uuid: &str) -> Option<u32> {
    let rest = uuid.strip_prefix(ours(&place.uuid))?;
    rest.strip_prefix("thin-")?.parse().ok()
}

/// A thin device of ours that the kernel has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Active {
    /// Its number in the pool, by its uuid.
    pub id: u32,
    /// Its name among the kernel's devices: the volume's own is in it.
    #[serde(default)]
    pub name: String,
    /// Its number among the host's devices.
    pub device: Device,
    /// How often it is open.
    pub users: u32,
    /// Its requests wait.
    pub suspended: bool,
    /// It stands on our pool under its own number, with this many sectors. `None` when it has no
    /// table, or another one.
    pub sectors: Option<u64>,
}

/// A thin device in the pool's metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapped {
    /// Its number.
    pub id: u32,
    /// Bytes that it uses, shared ones among them.
    pub bytes: u64,
}

/// What stands under a volume's path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Under {
    /// Nothing.
    Nothing,
    /// The node of a block device.
    Node(Device),
    /// Anything else: a file.
    File,
}

/// The host, as far as thin devices need it. All but [`ThinGround::listed`] may block for long; they
/// are called where that holds up nobody. Each of them is as the kernel has it: done when it
/// returns, durable, and not done at all when it is refused.
#[async_trait]
pub trait ThinGround: Ground {
    /// Makes an empty thin device.
    ///
    /// # Errors
    /// [`ThinError::Dm`]; see [`ThinError::is_taken`].
    fn create_thin(&self, place: &Place, id: u32) -> Result<(), ThinError>;

    /// Makes a snapshot. The origin is suspended for that moment if the kernel has it, and resumed
    /// also when the snapshot fails.
    ///
    /// # Errors
    /// [`ThinError::Dm`], [`ThinError::NotResumed`].
    fn create_snapshot(&self, place: &Place, id: u32, origin: u32) -> Result<(), ThinError>;

    /// Deletes a thin device; one that is not there is a success: it is confirmed to be gone.
    ///
    /// # Errors
    /// [`ThinError::Dm`], as for one that is active.
    fn delete_thin(&self, place: &Place, id: u32) -> Result<(), ThinError>;

    /// Moves the pool's count on.
    ///
    /// # Errors
    /// [`ThinError::Dm`] when the count is not `from`.
    fn set_count(&self, place: &Place, from: u64, to: u64) -> Result<(), ThinError>;

    /// Whether the pool has a thin device.
    ///
    /// # Errors
    /// When that cannot be told.
    fn holds(&self, place: &Place, id: u32) -> Result<bool, ThinError>;

    /// Switches a device on, or makes it larger if it is on; one that is as it should be is a success.
    ///
    /// # Errors
    /// [`ThinError::Foreign`], [`ThinError::Dm`]; see [`ThinError::is_no_data`].
    fn activate(&self, place: &Place, target: &Target) -> Result<Device, ThinError>;

    /// Switches a device off; one that is off is a success.
    ///
    /// # Errors
    /// [`ThinError::Dm`], as for one that is open.
    fn deactivate(&self, place: &Place, id: u32) -> Result<(), ThinError>;

    /// Lets a device's requests go on that wait.
    ///
    /// # Errors
    /// [`ThinError::Dm`].
    fn resume(&self, place: &Place, id: u32) -> Result<(), ThinError>;

    /// Our thin devices that the kernel has.
    ///
    /// # Errors
    /// When that cannot be told.
    fn active(&self, place: &Place) -> Result<Vec<Active>, ThinError>;

    /// Holds the metadata still for [`ThinGround::listed`]; what was held before is let go. The device
    /// that it is on.
    ///
    /// # Errors
    /// [`ThinError::Dm`], [`ThinError::Garbled`].
    fn reserve_metadata(&self, place: &Place) -> Result<Device, ThinError>;

    /// Lets the metadata go; what is not held is a success.
    ///
    /// # Errors
    /// [`ThinError::Dm`].
    fn release_metadata(&self, place: &Place) -> Result<(), ThinError>;

    /// The thin devices in the metadata that is held still, on this device.
    ///
    /// # Errors
    /// [`ThinError::List`], [`ThinError::Garbled`], [`ThinError::Pool`].
    async fn listed(
        &self,
        place: &Place,
        metadata: Device,
        deadline: Duration,
    ) -> Result<Vec<Mapped>, ThinError>;

    /// The host's own node of a device.
    fn node(&self, device: Device) -> Utf8PathBuf;

    /// What stands under a path.
    ///
    /// # Errors
    /// When it cannot be looked at.
    fn under(&self, path: &Utf8Path) -> Result<Under, ThinError>;

    /// Makes a device's node under a path, of this user alone, or for reading, in the place of an
    /// older node. Never in the place of a file.
    ///
    /// # Errors
    /// [`ThinError::Io`].
    fn place_node(&self, path: &Utf8Path, device: Device, to: Borrower) -> Result<(), ThinError>;

    /// Why this host cannot have thin volumes in a folder; `None` if it can, as far as can be told
    /// without trying.
    fn lacks(&self, folder: &Utf8Path) -> Option<String>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use hearth_types::InstallationId;
    use hearth_types::thin::{NewThin, ThinKind};

    #[test]
    fn names_are_the_kernels_and_numbers_are_read_back() {
        let place = Place::new(Utf8Path::new("/p"), InstallationId::new());
        let device = NewThin {
            name: format!("a/b c-{}", "x".repeat(200)),
            kind: ThinKind::Data,
            origin: None,
            bytes: 1025,
            transaction_id: 1,
            created_at: jiff::Timestamp::UNIX_EPOCH,
        }
        .with_id(16_777_215);
        let target = Target::of(&place, &device);
        assert_eq!(target.name.len(), LONGEST_NAME);
        assert!(target.name.starts_with("hearth-") && target.name.ends_with("x.16777215"));
        assert!(target.name.contains("-a_b_c-"));
        assert_eq!(target.sectors, 3);
        assert_eq!(id_of(&place, &target.uuid), Some(16_777_215));
        assert_eq!(id_of(&place, &place.uuid), None);
        let other = Place::new(Utf8Path::new("/p"), InstallationId::new());
        assert_eq!(id_of(&other, &target.uuid), None);
    }
}
