//! The thin pool that volumes can come from.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::units::Bytes;
use crate::words::words;

/// How the pool is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PoolState {
    /// None was set up.
    Absent,
    /// One is being made, or its making was cut off. There is nothing in it.
    Preparing,
    /// Its files are there, the kernel does not have it.
    Down,
    /// It works.
    Up,
    /// It works, and has no free block: writes to new places wait, and fail in the end.
    Full,
    /// It can be read only: its metadata is full, or a write of it has failed.
    ReadOnly,
    /// The kernel gave it up: every request fails.
    Failed,
    /// Its metadata is damaged, or its files are not what they were; it is not put together.
    Damaged,
    /// It is being destroyed, or that was cut off.
    Destroying,
    /// Somebody else's device has its place, or ours stands on files of others. Nothing is touched.
    Foreign,
    /// This host has no device-mapper that can be used.
    Unavailable,
    /// It cannot be told.
    Unknown,
}

words!(PoolState {
    Absent => "absent",
    Preparing => "preparing",
    Down => "down",
    Up => "up",
    Full => "full",
    ReadOnly => "read_only",
    Failed => "failed",
    Damaged => "damaged",
    Destroying => "destroying",
    Foreign => "foreign",
    Unavailable => "unavailable",
    Unknown => "unknown",
});

/// How much of something is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PoolUsage {
    /// Bytes that are; absent while the kernel does not have the pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<u64>,
    /// Bytes in all.
    pub size: u64,
}

/// What a check of the metadata found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PoolVerdict {
    /// No damage.
    Good,
    /// Damage.
    Bad,
    /// It did not end in time.
    Unfinished,
}

words!(PoolVerdict {
    Good => "good",
    Bad => "bad",
    Unfinished => "unfinished",
});

/// A check of the metadata by `thin_check`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PoolCheck {
    /// When it began.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// What it found.
    pub verdict: PoolVerdict,
    /// What it said of the damage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub said: Option<String>,
}

/// A copy of the metadata, as compressed text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PoolBackup {
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// The transaction that the metadata was at; 0 if the kernel did not have the pool.
    pub transaction_id: u64,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its name in the folder `backups` of the pool's.
    pub file: String,
}

/// What became of metadata that was repaired or restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PoolRepair {
    /// The name that the metadata from before is kept under; absent if there was nothing to repair.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<String>,
}

/// Which backup is put in the metadata's place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RestorePool {
    /// Its name, as it is listed.
    pub file: String,
}

/// What is being done to the pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PoolWork {
    /// What: `setup`, `check` …
    pub what: String,
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
}

/// How an operation on the kernel's devices is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PoolOperationState {
    /// It waits for its turn, or for the host to be well.
    Waiting,
    /// It is under way.
    Running,
    /// It has not come back in time. Nothing else is begun until it has.
    Stuck,
}

words!(PoolOperationState {
    Waiting => "waiting",
    Running => "running",
    Stuck => "stuck",
});

/// An operation on the kernel's devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PoolOperation {
    /// What it is.
    pub operation: String,
    /// How it is.
    pub state: PoolOperationState,
    /// Since when it waits, or is under way.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// The process that makes its calls to the kernel, at this moment.
    #[serde(default)]
    pub helper: Option<i32>,
}

/// The pool as the API shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PoolView {
    /// How it is.
    pub state: PoolState,
    /// Why, when not all is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What to do next, if there is advice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Its name among the kernel's devices.
    pub name: String,
    /// Its uuid there: the owner's mark.
    pub uuid: String,
    /// Its device node, while the kernel has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// The data: what was set up, and what is used while the kernel has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<PoolUsage>,
    /// The metadata.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<PoolUsage>,
    /// What is allotted at once, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<u64>,
    /// The count of changes that is kept in the metadata.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transaction_id: Option<u64>,
    /// How many devices stand on it, and others that have it open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub users: Option<u32>,
    /// Where its files are.
    pub folder: String,
    /// The block device that its data is on; absent when that is a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_device: Option<PoolDevice>,
    /// When it was set up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub made_at: Option<Timestamp>,
    /// The last check of its metadata.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_check: Option<PoolCheck>,
    /// A write of its metadata has failed: nobody can write until it is checked.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub needs_check: bool,
    /// The newest backup of its metadata.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<PoolBackup>,
    /// How much room it has, while the kernel has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub space: Option<PoolSpace>,
    /// What is being done to it at this moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub work: Option<PoolWork>,
    /// Operations on the kernel's devices that wait, are under way, or do not come back, the oldest
    /// first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub operations: Vec<PoolOperation>,
}

/// A block device that the pool's data is on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PoolDevice {
    /// A name of it that is the same after a reboot, if it has one.
    pub path: String,
    /// Its name as it was given.
    pub given: String,
    /// LVM's name of it, `group/volume`, if it is a logical volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<String>,
    /// It is not there: the pool is put together when it is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub missing: bool,
}

impl PoolDevice {
    /// How its operator makes it larger.
    #[must_use]
    pub fn how_to_extend(&self) -> String {
        match &self.volume {
            Some(volume) => format!(
                "make the logical volume larger, and the pool takes it by itself: lvextend --size +10G {volume}"
            ),
            None => format!(
                "make {} larger, and the pool takes it by itself",
                self.given
            ),
        }
    }
}

/// How much room the pool has, and can get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PoolSpace {
    /// The sizes of all volumes and snapshots in it together, in bytes.
    pub provisioned: u64,
    /// The most data that it may have by itself, in bytes.
    pub most: u64,
    /// What bounds that.
    pub bound: String,
    /// `provisioned` in percent of `most`.
    pub overcommit_percent: u64,
    /// How many times `most` may be provisioned; 0: any number.
    pub overcommit_limit: u32,
    /// What can still be written before it grows, in bytes: never more than its file can get.
    pub writable: u64,
    /// Its data is below the low water mark.
    pub low: bool,
    /// Its metadata is nearly used up.
    pub metadata_low: bool,
}

/// How much larger the pool is to be. With nothing said: as its own growth would make it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExtendPool {
    /// The data that it is to have. Its metadata follows by rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Bytes>,
    /// Or so much more than it has; `data` comes first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Bytes>,
    /// The metadata that it is to have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Bytes>,
}

/// How to set the pool up.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetUpPool {
    /// How much data it can hold: 64 MiB to 64 TiB, 2 GiB when absent. The file is sparse. Not with `device`.
    #[serde(default)]
    pub data: Option<Bytes>,
    /// The block device below `/dev` that its data is to be on, whole: a disk, a partition or a logical volume that
    /// nobody uses and nothing is on. Absent: what `POOL_DEVICE` says, else a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// What is on that device may be lost. One that is in use is refused all the same.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}
