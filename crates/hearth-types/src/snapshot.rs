//! Snapshots of VMs' disks: what is recorded, shown and asked for.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ids::{ImageId, SnapshotId, VmId, VolumeId};
use crate::names::VmName;
use crate::spec::{PortSpec, VmSpec, is_false};
use crate::units::Bytes;
use crate::volume::Attachment;
use crate::words::words;

/// The name of the root disk among a snapshot's disks. Volumes have their own names, and one of
/// them may be called so, too: see [`SnapshotDisk::volume`].
pub const ROOT: &str = "root";

/// How far a snapshot has come.
///
/// ```text
/// Creating ──all disks whole──► Ready ──rm──► Deleting ──► (gone)
///     └── failed, or its daemon died ─────────────▲
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotState {
    /// Its disks are being made. One that its daemon has left so is removed by the next.
    Creating,
    /// It is whole.
    Ready,
    /// It is being removed.
    Deleting,
}

words!(SnapshotState or UnknownState {
    Creating => "creating",
    Ready => "ready",
    Deleting => "deleting",
});

/// A word that is no state of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no state of a snapshot")]
pub struct UnknownState(String);

/// What was done so that the disks of a snapshot belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    /// The VM did not run.
    Stopped,
    /// The guest's agent held all writes: what the guest had written is in it.
    Frozen,
    /// The VM's vCPUs stood still: all disks as of one moment, as after a power cut at it.
    Paused,
    /// Nothing, as the user said: each disk as after a power cut, and not all at the same moment.
    Crash,
}

words!(Consistency {
    Stopped => "stopped",
    Frozen => "frozen",
    Paused => "paused",
    Crash => "crash",
});

/// One disk of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SnapshotDisk {
    /// The data volume's name; absent for the root disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<VmName>,
    /// The volume that was attached to the VM; absent for disks of the VM's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attached: Option<VolumeId>,
    /// How large the guest sees it.
    pub bytes: u64,
}

impl SnapshotDisk {
    /// What people call it.
    #[must_use]
    pub fn name(&self) -> &str {
        self.volume.as_ref().map_or(ROOT, VmName::as_str)
    }
}

/// A snapshot of all disks of one VM. It outlives the VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Snapshot {
    /// Its id.
    pub id: SnapshotId,
    /// Its name, unique in the installation.
    pub name: VmName,
    /// Whose disks they were.
    pub vm: VmId,
    /// What that VM was called then.
    pub vm_name: VmName,
    /// The image of that VM. It is not removed before the snapshot.
    pub image: ImageId,
    /// The kernel of that VM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// That VM's specification then.
    pub spec: VmSpec,
    /// Its disks: the root disk first, then the VM's own volumes, then those that were attached to it.
    pub disks: Vec<SnapshotDisk>,
    /// The volumes that were attached to the VM. Those that it could write to are among the disks, unless
    /// they were left out by order; what it only read is not in the snapshot.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attached: Vec<Attachment>,
    /// What was done so that they belong together; absent until it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistency: Option<Consistency>,
    /// For how long the guest could not write, in milliseconds; absent where it did not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen_ms: Option<u64>,
    /// When it was asked for.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// How far it has come.
    pub state: SnapshotState,
}

impl Snapshot {
    /// The size of all of its disks, as the guest sees them.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        Bytes(self.disks.iter().map(|disk| disk.bytes).sum())
    }

    /// Whether a volume that was attached to the VM is in it.
    #[must_use]
    pub fn holds(&self, volume: VolumeId) -> bool {
        self.disks.iter().any(|disk| disk.attached == Some(volume))
    }
}

/// All snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SnapshotList {
    /// The snapshots, oldest first.
    pub items: Vec<Snapshot>,
}

/// A request for a snapshot of a VM.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateSnapshot {
    /// Its name; made of the VM's when absent.
    #[serde(default)]
    pub name: Option<VmName>,
    /// Pause the VM instead of asking its guest to hold its writes. This is the only way to one of a
    /// running VM where its disks have to be copied; the VM stands still for so long.
    #[serde(default)]
    pub pause: bool,
    /// Neither: each disk as after a power cut, and not all at the same moment.
    #[serde(default)]
    pub crash_consistent: bool,
    /// Leave out the volumes that are attached to the VM.
    #[serde(default, skip_serializing_if = "is_false")]
    pub without_volumes: bool,
}

/// A request to give a VM the disks of one of its snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RestoreSnapshot {
    /// Name, id, or the beginning of an id.
    pub snapshot: String,
    /// Stop the VM first if it runs.
    #[serde(default)]
    pub stop: bool,
    /// Leave the volumes that are attached to the VM as they are: its own disks alone.
    #[serde(default, skip_serializing_if = "is_false")]
    pub keep_volumes: bool,
}

/// A request for a new VM with the disks of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CloneSnapshot {
    /// The new VM's name.
    pub name: VmName,
    /// Ports of the host that lead to it. Those of the VM that was snapshotted are its own.
    #[serde(default)]
    pub ports: Vec<PortSpec>,
    /// Start it at once.
    #[serde(default)]
    pub start: bool,
}
