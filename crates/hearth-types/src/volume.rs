//! Data volumes of their own: what is recorded, shown and asked for. They outlive the VMs that use
//! them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ids::{VmId, VolumeId};
use crate::names::VmName;
use crate::snapshot::Consistency;
use crate::spec::{FieldError, MAX_DISK, MIN_DISK, VolumeSpec, mount_place};
use crate::units::Bytes;
use crate::words::words;

/// The most disks that a VM has beside its root disk, its own volumes among them: the letters vdb
/// and so on, with some to spare.
pub const MAX_DISKS: usize = 16;

/// The longest path that a volume is mounted at, in bytes.
const MAX_MOUNT: usize = 1024;

/// How far a volume has come.
///
/// ```text
/// Creating ──whole──► Ready ──rm──► Deleting ──► (gone)
///     └── failed, or its daemon died ───▲
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum VolumeState {
    /// It is being made. One that its daemon has left so is removed by the next.
    Creating,
    /// It is whole.
    Ready,
    /// It is being removed.
    Deleting,
}

words!(VolumeState {
    Creating => "creating",
    Ready => "ready",
    Deleting => "deleting",
});

/// What a disk is kept in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum StorageKind {
    /// A file in the data folder.
    #[default]
    Files,
    /// A device of the thin pool.
    Thin,
}

words!(StorageKind or UnknownStorage {
    Files => "files",
    Thin => "thin",
});

/// A word that is no kind of storage.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no kind of storage: files or thin")]
pub struct UnknownStorage(String);

/// A data volume of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Volume {
    /// Its id.
    pub id: VolumeId,
    /// Its name, unique among volumes.
    pub name: VmName,
    /// Its size, as guests see it.
    pub size: Bytes,
    /// What it is kept in.
    pub storage: StorageKind,
    /// The volume that this one is a snapshot of. A snapshot is attached read-only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_of: Option<VmName>,
    /// What was done so that a snapshot is of one moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistency: Option<Consistency>,
    /// When it was asked for.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// How far it has come.
    pub state: VolumeState,
    /// Which of the disks in its folder it is: another one after each move.
    #[serde(default)]
    pub disk: u32,
    /// A disk in its folder that is being made, or is to go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draft: Option<u32>,
}

/// That a VM has a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Attachment {
    /// Which volume.
    pub volume: VolumeId,
    /// What it is called.
    pub name: VmName,
    /// Which VM.
    pub vm: VmId,
    /// What it is called.
    pub vm_name: VmName,
    /// Where the guest mounts it: an absolute path.
    pub mount: String,
    /// The guest cannot write to it. Many VMs may have a volume so, and one alone may write.
    pub read_only: bool,
}

/// A volume, and who has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VolumeView {
    /// The volume.
    #[serde(flatten)]
    pub volume: Volume,
    /// The VMs that have it.
    pub attached: Vec<Attachment>,
}

/// All volumes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VolumeList {
    /// The volumes, oldest first.
    pub items: Vec<VolumeView>,
}

/// A request for a new volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateVolume {
    /// Its name, unique among volumes.
    pub name: VmName,
    /// Its size; that of `from` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Bytes>,
    /// A volume or a snapshot of one that it is a copy of: name, id, or the beginning of an id.
    /// An empty ext4 file system when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

/// A request to make a volume larger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GrowVolume {
    /// Its new size.
    pub size: Bytes,
}

/// How far a growth has come in a VM that has the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Growth {
    /// The guest has the new size, and its file system fills it.
    Grown,
    /// The guest has the new size; its file system is as large as it was until it is mounted again.
    DeviceGrown,
    /// The VM has the new size when it is started next.
    NextStart,
}

/// What became of a growth in one VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GrownIn {
    /// The VM.
    pub vm: VmName,
    /// How far it has come.
    pub growth: Growth,
    /// Why it has not come further.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// A volume that has grown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GrownVolume {
    /// The volume.
    pub volume: VolumeView,
    /// The VMs that have it and run.
    pub guests: Vec<GrownIn>,
}

/// A request to give a VM a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AttachVolume {
    /// The VM: name, id, or the beginning of an id.
    pub vm: String,
    /// Where the guest mounts it: an absolute path; `/mnt/NAME` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// The guest may not write to it.
    #[serde(default)]
    pub read_only: bool,
}

/// A request to take a volume from a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DetachVolume {
    /// The VM: name, id, or the beginning of an id.
    pub vm: String,
}

/// A request for a snapshot of a volume.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SnapshotVolume {
    /// Its name; made of the volume's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<VmName>,
    /// Pause the VM that writes to the volume instead of asking its guest to hold its writes.
    #[serde(default)]
    pub pause: bool,
}

/// A request to move disks between files and the thin pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MigrateStorage {
    /// Where to.
    pub to: StorageKind,
}

/// Checks a volume's size: what is wrong with it, if anything is.
#[must_use]
pub fn check_size(size: Bytes) -> Option<FieldError> {
    let good = (MIN_DISK..=MAX_DISK).contains(&size);
    (!good).then(|| {
        FieldError::new(
            "size",
            format!("is {size}, must be {MIN_DISK} to {MAX_DISK}"),
        )
    })
}

/// Checks where a guest is to mount a volume.
#[must_use]
pub fn check_mount(path: &str) -> Option<FieldError> {
    let mut errors = Vec::new();
    crate::spec::check_guest_path("at", path, &mut errors);
    let below = !path.trim_matches('/').is_empty();
    if errors.is_empty() && (!below || path.len() > MAX_MOUNT || path.contains(char::is_control)) {
        let words =
            format!("must be a path below the root, of at most {MAX_MOUNT} bytes in one line");
        errors.push(FieldError::new("at", words));
    }
    errors.pop()
}

/// Why a VM cannot have these volumes of its own together with those that are attached to it, if so.
#[must_use]
pub fn volumes_clash(own: &[VolumeSpec], attached: &[Attachment]) -> Option<String> {
    let count = own.len() + attached.len();
    if count > MAX_DISKS {
        return Some(format!(
            "{} of its own and {} that are attached to it are {count}, and a VM has {MAX_DISKS} at most",
            own.len(),
            attached.len()
        ));
    }
    own.iter().find_map(|volume| {
        let place = mount_place(&volume.mount);
        let mut attached = attached.iter();
        let other = attached.find(|other| mount_place(&other.mount) == place)?;
        Some(format!(
            "its own volume {} and volume {}, which is attached to it, would both be mounted at {}",
            volume.name, other.name, volume.mount
        ))
    })
}

impl Attachment {
    /// Whether a path is the one that it is mounted at, however it is written.
    #[must_use]
    pub fn is_at(&self, mount: &str) -> bool {
        mount_place(&self.mount) == mount_place(mount)
    }
}

impl Volume {
    /// The serial by which a guest finds the volume: 14 characters, and no volume of a VM's own is
    /// called so, because its id is in it.
    #[must_use]
    pub fn serial(id: VolumeId) -> String {
        format!("v-{}", id.short())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_absolute_and_below_the_root() {
        for good in ["/data", "/srv/a b"] {
            assert_eq!(check_mount(good), None, "{good}");
        }
        for bad in ["", "data", "/", "//", "/a/../b", "/a\nb"] {
            assert!(check_mount(bad).is_some(), "{bad:?}");
        }
    }

    #[test]
    fn two_volumes_are_not_mounted_at_one_place() {
        let own: Vec<VolumeSpec> = vec!["own:/srv/data:1GiB".parse().unwrap()];
        let attached = |mount: &str| Attachment {
            volume: VolumeId::new(),
            name: "pgdata".parse().unwrap(),
            vm: VmId::new(),
            vm_name: "web".parse().unwrap(),
            mount: mount.to_owned(),
            read_only: false,
        };
        assert_eq!(volumes_clash(&own, &[attached("/srv/data2")]), None);
        for mount in ["/srv/data", "/srv/data/", "//srv/./data"] {
            let why = volumes_clash(&own, &[attached(mount)]).unwrap();
            assert!(why.contains("own") && why.contains("pgdata"), "{why}");
            assert!(attached(mount).is_at("/srv/data"));
        }
        let many = vec![attached("/many"); MAX_DISKS];
        assert_eq!(volumes_clash(&[], &many), None);
        assert!(volumes_clash(&own, &many).is_some());
    }

    #[test]
    fn sizes_have_limits() {
        assert_eq!(check_size(MIN_DISK), None);
        assert!(check_size(Bytes(MIN_DISK.0 - 1)).is_some());
        assert!(check_size(Bytes(u64::MAX)).is_some());
    }

    #[test]
    fn a_serial_fits_and_differs() {
        let (first, second) = (VolumeId::new(), VolumeId::new());
        assert!(Volume::serial(first).len() <= 20);
        assert_ne!(Volume::serial(first), Volume::serial(second));
    }
}
