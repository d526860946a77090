//! Thin devices: what of the pool is whose, as the ledger has it and as the API shows it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::words::words;

/// What a thin device is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ThinKind {
    /// An image, filled once; VMs' root disks are its snapshots.
    Image,
    /// A layer of images, and all below it: images and layers above are its snapshots.
    Layer,
    /// The root disk of a VM.
    VmRoot,
    /// A data volume of a VM's own.
    VmData,
    /// A data volume that outlives the VMs that have it.
    Volume,
    /// A disk of a VM's snapshot, or the snapshot of a volume.
    Snapshot,
    /// Anything else, or what nobody knows.
    Data,
}

words!(ThinKind or UnknownWord {
    Image => "image",
    Layer => "layer",
    VmRoot => "vm-root",
    VmData => "vm-data",
    Volume => "volume",
    Snapshot => "snapshot",
    Data => "data",
});

/// How far a thin device has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ThinState {
    /// Its id is written down, and the kernel is told, or is about to be.
    Creating,
    /// The pool has it, and it is being written for the first time. Cut off, that begins anew.
    Filling,
    /// It is whole.
    Ready,
    /// The kernel is told to forget it, or is about to be. Its id is not free before it has.
    Deleting,
    /// Its creation failed half-way, or nobody knows what it is. It and its id stay until somebody
    /// clears it away.
    Orphaned,
}

words!(ThinState or UnknownWord {
    Creating => "creating",
    Filling => "filling",
    Ready => "ready",
    Deleting => "deleting",
    Orphaned => "orphaned",
});

impl ThinState {
    /// Whether its name is its own: those that are on their way out have none any more.
    #[must_use]
    pub const fn is_named(self) -> bool {
        !matches!(self, Self::Deleting | Self::Orphaned)
    }
}

/// A word that is none of these.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no kind or state of a thin device")]
pub struct UnknownWord(String);

/// An entry of the ledger: a thin device, one that is to be, or one that was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThinDevice {
    /// Its number in the pool: 24 bits.
    pub id: u32,
    /// The volume's name.
    pub name: String,
    /// What it is for.
    pub kind: ThinKind,
    /// The one whose blocks it shared when it was made. That may be gone since.
    pub origin: Option<u32>,
    /// How large it is.
    pub bytes: u64,
    /// How far it has come.
    pub state: ThinState,
    /// Why it is an orphan.
    pub cause: Option<String>,
    /// The pool's count once the last change of this device is in.
    pub transaction_id: u64,
    /// When its id was written down.
    pub created_at: Timestamp,
}

/// A thin device that is to be made. Its id is the ledger's to choose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewThin {
    /// The volume's name.
    pub name: String,
    /// What it is for.
    pub kind: ThinKind,
    /// Whose blocks it shares.
    pub origin: Option<u32>,
    /// How large it is.
    pub bytes: u64,
    /// The pool's count once it is there.
    pub transaction_id: u64,
    /// Now.
    pub created_at: Timestamp,
}

impl NewThin {
    /// The entry of this id: written down, and nothing done.
    #[must_use]
    pub fn with_id(self, id: u32) -> ThinDevice {
        ThinDevice {
            id,
            name: self.name,
            kind: self.kind,
            origin: self.origin,
            bytes: self.bytes,
            state: ThinState::Creating,
            cause: None,
            transaction_id: self.transaction_id,
            created_at: self.created_at,
        }
    }
}

/// A volume in the pool as the API shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PoolVolume {
    /// Its number in the pool.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// What it is for.
    pub kind: ThinKind,
    /// Whose it is, in words: `volume pgdata`, `snapshot before of web: data` … Absent where no
    /// record of the database says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whose: Option<String>,
    /// How far it has come.
    pub state: ThinState,
    /// Bytes that it can hold.
    pub bytes: u64,
    /// Bytes of the pool that it uses, those that it shares with others among them. Absent when
    /// that could not be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mapped: Option<u64>,
    /// The id of the one whose blocks it shared when it was made. That may be gone since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<u32>,
    /// Its device node, while the kernel has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Why it is an orphan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// When it was begun.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// What the ledger, the kernel and the pool's metadata do not agree in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PoolDifference {
    /// Which thin device, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u32>,
    /// What it is: `unrecorded`, `lost` …
    pub kind: String,
    /// The same in words.
    pub what: String,
    /// It was put right. What was not is told, and nothing is done about it.
    pub repaired: bool,
}

/// The volumes in the pool.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PoolVolumes {
    /// By their ids.
    pub volumes: Vec<PoolVolume>,
    /// What ledger, kernel and metadata did not agree in when they were last compared.
    pub differences: Vec<PoolDifference>,
    /// Why not all could be asked for what is told here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_they_are_written() {
        for kind in ThinKind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        for state in ThinState::ALL {
            assert_eq!(state.to_string().parse(), Ok(state));
        }
        assert!("ready ".parse::<ThinState>().is_err());
    }
}
