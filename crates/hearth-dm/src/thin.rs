//! The words of the `thin-pool` and `thin` targets: what they are told and what they say.
//!
//! From the kernel's `Documentation/admin-guide/device-mapper/thin-provisioning.rst`.

mod size;
mod status;

pub use size::{BlockSize, MOST_METADATA, block_size, metadata_bytes};
pub use status::{Mode, PoolStatus, StatusError, ThinStatus, Usage};

use crate::device::{Device, Table};

/// A sector, in bytes: what device-mapper counts in.
pub const SECTOR: u64 = 512;
/// A block of a pool's metadata, in bytes.
pub const METADATA_BLOCK: u64 = 4096;
/// The highest id of a thin device within its pool: 24 bits.
pub const LARGEST_ID: u32 = (1 << 24) - 1;

/// What a pool does with writes when it has no room for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// They wait, by the kernel's default for 60 s, and fail then.
    Queue,
    /// They fail at once.
    Error,
}

/// A pool as its table tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    /// Where the metadata is.
    pub metadata: Device,
    /// Where the data is.
    pub data: Device,
    /// How large the data device is, in sectors.
    pub length: u64,
    /// What is allotted at once.
    pub block: BlockSize,
    /// An event comes when fewer data blocks than this are free.
    pub low_water: u64,
    /// What happens to writes without room.
    pub when_full: WhenFull,
}

impl Pool {
    /// Its table. Fresh blocks are zeroed, so that no guest reads what another one wrote, and
    /// discards go down to the data device.
    #[must_use]
    pub fn table(&self) -> Table {
        let mut features = String::new();
        if self.when_full == WhenFull::Error {
            features.push_str(" 1 error_if_no_space");
        }
        Table {
            start: 0,
            length: self.length,
            kind: "thin-pool".to_owned(),
            params: format!(
                "{} {} {} {}{features}",
                self.metadata,
                self.data,
                self.block.sectors(),
                self.low_water
            ),
        }
    }
}

/// The devices of the metadata and of the data, from the parameters of a pool's table.
#[must_use]
pub fn devices_of(params: &str) -> Option<[Device; 2]> {
    let mut words = params.split_ascii_whitespace();
    let mut device = || {
        let (major, minor) = words.next()?.split_once(':')?;
        Some(Device {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
        })
    };
    Some([device()?, device()?])
}

/// The table of a thin device of this size, in sectors.
#[must_use]
pub fn thin_table(pool: Device, id: u32, length: u64) -> Table {
    Table {
        start: 0,
        length,
        kind: "thin".to_owned(),
        params: format!("{pool} {id}"),
    }
}

/// What a pool can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// Make an empty thin device.
    CreateThin {
        /// The new one.
        id: u32,
    },
    /// Make a snapshot. The origin must be suspended if it is active.
    CreateSnapshot {
        /// The new one.
        id: u32,
        /// Whose blocks it shares.
        origin: u32,
    },
    /// Forget a thin device and free the blocks that are its alone.
    Delete {
        /// Which.
        id: u32,
    },
    /// Count the changes that a user space keeps beside: refused unless the count is `from`.
    SetTransactionId {
        /// The present count.
        from: u64,
        /// The next one.
        to: u64,
    },
    /// Keep a copy of the metadata's root that `thin_dump -m` can read while the pool is in use.
    ReserveMetadataSnapshot,
    /// Give it back.
    ReleaseMetadataSnapshot,
}

impl std::fmt::Display for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::CreateThin { id } => write!(f, "create_thin {id}"),
            Self::CreateSnapshot { id, origin } => write!(f, "create_snap {id} {origin}"),
            Self::Delete { id } => write!(f, "delete {id}"),
            Self::SetTransactionId { from, to } => write!(f, "set_transaction_id {from} {to}"),
            Self::ReserveMetadataSnapshot => f.write_str("reserve_metadata_snap"),
            Self::ReleaseMetadataSnapshot => f.write_str("release_metadata_snap"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const METADATA: Device = Device { major: 7, minor: 0 };
    const DATA: Device = Device { major: 7, minor: 1 };

    #[test]
    fn tables_are_the_kernels_words() {
        let pool = Pool {
            metadata: METADATA,
            data: DATA,
            length: 4_194_304,
            block: BlockSize::from_sectors(128).unwrap(),
            low_water: 1024,
            when_full: WhenFull::Queue,
        };
        assert_eq!(pool.table().params, "7:0 7:1 128 1024");
        let error = Pool {
            when_full: WhenFull::Error,
            ..pool
        };
        assert_eq!(error.table().params, "7:0 7:1 128 1024 1 error_if_no_space");
        assert_eq!(devices_of(&pool.table().params), Some([METADATA, DATA]));
        for other in ["", "7:0", "7:0 /dev/loop1 128 0", "7 1 128"] {
            assert_eq!(devices_of(other), None, "{other:?}");
        }
        let thin = thin_table(
            Device {
                major: 253,
                minor: 2,
            },
            17,
            2048,
        );
        assert_eq!(
            (thin.kind.as_str(), thin.params.as_str()),
            ("thin", "253:2 17")
        );
    }

    #[test]
    fn messages_are_the_kernels_words() {
        for (message, words) in [
            (Message::CreateThin { id: 0 }, "create_thin 0"),
            (
                Message::CreateSnapshot { id: 2, origin: 1 },
                "create_snap 2 1",
            ),
            (Message::Delete { id: 9 }, "delete 9"),
            (
                Message::SetTransactionId { from: 4, to: 5 },
                "set_transaction_id 4 5",
            ),
            (Message::ReserveMetadataSnapshot, "reserve_metadata_snap"),
            (Message::ReleaseMetadataSnapshot, "release_metadata_snap"),
        ] {
            assert_eq!(message.to_string(), words);
        }
    }
}
