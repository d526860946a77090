//! What a pool stands on, as a trait: the host, or one in memory for tests.

use std::time::Duration;

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use hearth_dm::Device;
use hearth_dm::thin::{BlockSize, PoolStatus, block_size, metadata_bytes};
use hearth_types::InstallationId;
use hearth_types::units::{Bytes, GIB, MIB, TIB};
use serde::{Deserialize, Serialize};

use crate::base::{Base, Candidate};
use crate::error::PoolError;
use crate::space::{Growth, Room};

/// Data of a pool whose size nobody named.
const DEFAULT_DATA: Bytes = Bytes::gib(2);
/// Less is of no use: an image alone is larger.
pub(crate) const LEAST_DATA: u64 = 64 * MIB;
/// More would need larger blocks than snapshots of small VMs bear.
pub(crate) const MOST_DATA: u64 = 64 * TIB;
/// The kernel tells when less than this part of the data is free …
const LOW_WATER_PART: u64 = 10;
/// … or less than this.
const LOW_WATER_MOST: u64 = 10 * GIB;

/// Where a pool is, and what it is called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Its folder, alone its own.
    pub dir: Utf8PathBuf,
    /// Its name among the kernel's devices.
    pub name: String,
    /// Its uuid there: the owner's mark.
    pub uuid: String,
}

impl Place {
    /// The pool of an installation, in this folder.
    #[must_use]
    pub fn new(dir: &Utf8Path, installation: InstallationId) -> Self {
        Self {
            dir: dir.to_owned(),
            name: format!("hearth-{installation}-pool"),
            uuid: format!("HEARTH-{installation}-pool"),
        }
    }

    /// The file of its data. udev's rule knows it by this name.
    #[must_use]
    pub fn data(&self) -> Utf8PathBuf {
        self.dir.join("hearth-pool-data.img")
    }

    /// The file of its metadata.
    #[must_use]
    pub fn metadata(&self) -> Utf8PathBuf {
        self.dir.join("hearth-pool-metadata.img")
    }

    /// The name among the kernel's devices of the part of a device that its data is on.
    #[must_use]
    pub(crate) fn linear_name(&self) -> String {
        format!("{}-data", self.name)
    }

    /// Its uuid there. udev's rule knows it by how it begins.
    #[must_use]
    pub(crate) fn linear_uuid(&self) -> String {
        format!("{}-data", self.uuid)
    }

    /// The folder of its metadata's backups.
    #[must_use]
    pub fn backups(&self) -> Utf8PathBuf {
        self.dir.join("backups")
    }

    /// Metadata that is to take the place of the present one.
    #[must_use]
    pub(crate) fn spare(&self) -> Utf8PathBuf {
        self.dir.join("hearth-pool-metadata.spare")
    }

    /// The copy of the ledger of what is in it.
    #[must_use]
    pub(crate) fn ledger(&self) -> Utf8PathBuf {
        self.dir.join("ledger.json")
    }

    /// What is known of it.
    #[must_use]
    pub fn record(&self) -> Utf8PathBuf {
        self.dir.join("pool.json")
    }
}

/// How large a pool and its parts are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Bytes of data: whole blocks.
    pub data: u64,
    /// Bytes of metadata.
    pub metadata: u64,
    /// What is allotted at once.
    pub block: BlockSize,
}

impl Layout {
    /// By rule, for a pool of this much data; see [`block_size`] and [`metadata_bytes`].
    ///
    /// # Errors
    /// [`PoolError::Size`].
    pub fn of(wanted: Option<Bytes>) -> Result<Self, PoolError> {
        let wanted = wanted.unwrap_or(DEFAULT_DATA);
        let why = match wanted.0 {
            ..LEAST_DATA => "64MiB are the least",
            LEAST_DATA..=MOST_DATA => "",
            _ => "64TiB are the most",
        };
        if !why.is_empty() {
            return Err(PoolError::Size { wanted, why });
        }
        let block = block_size(wanted.0);
        Ok(Self {
            data: wanted.0.next_multiple_of(block.bytes()),
            metadata: metadata_bytes(wanted.0, block),
            block,
        })
    }

    /// For a pool that has this much room on a device: all of it. `None` if that is too little.
    #[must_use]
    pub fn on_device(room: u64) -> Option<Self> {
        let room = room.min(MOST_DATA);
        let block = block_size(room);
        let data = room - room % block.bytes();
        (data >= LEAST_DATA).then(|| Self {
            data,
            metadata: metadata_bytes(data, block),
            block,
        })
    }

    /// The kernel raises an event when fewer data blocks than this are free: a tenth, 10 GiB at
    /// the most.
    #[must_use]
    pub fn low_water(&self) -> u64 {
        Self::low_water_of(self.data) / self.block.bytes()
    }

    /// The same in bytes, for this much data.
    #[must_use]
    pub(crate) fn low_water_of(data: u64) -> u64 {
        (data / LOW_WATER_PART).min(LOW_WATER_MOST)
    }

    /// With these sizes; the block stays.
    #[must_use]
    pub fn grown(&self, to: Growth) -> Self {
        Self {
            data: to.data,
            metadata: to.metadata,
            block: self.block,
        }
    }
}

/// A pool that the kernel has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Its number.
    pub device: Device,
    /// How often it is open.
    pub users: u32,
    /// Counts its events.
    pub event: u32,
    /// Its requests wait: a change of its table was cut off.
    pub suspended: bool,
    /// How much data its table gives it, in bytes.
    pub length: u64,
    /// What it says.
    pub status: PoolStatus,
}

/// What the kernel has under our mark.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// A device without a table, or only the one below it: its making was cut off.
    Unfinished,
    /// The pool, over our files, or a device of ours.
    Running(Running),
}

/// What `thin_check` found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checked {
    /// No damage.
    Good,
    /// Damage, and what it said.
    Bad(String),
    /// It did not end in time, and was killed.
    Unfinished,
}

/// What the tools do with metadata.
#[derive(Debug, Clone, Copy)]
pub enum Mending<'a> {
    /// Writes it as text.
    Dump {
        /// The metadata.
        from: &'a Utf8Path,
        /// The text.
        to: &'a Utf8Path,
        /// What is held of a pool that the kernel has, instead of all.
        held: bool,
    },
    /// Makes of text what a pool can be put together with.
    Restore {
        /// The text.
        from: &'a Utf8Path,
        /// The metadata: a file that is large enough.
        to: &'a Utf8Path,
        /// How many blocks of data the pool has. Text that was written of a pool that the kernel had says
        /// none.
        blocks: u64,
    },
    /// Makes sound metadata of what can be read of damaged metadata.
    Repair {
        /// The damaged metadata.
        from: &'a Utf8Path,
        /// The sound one: a file that is large enough.
        to: &'a Utf8Path,
        /// What its first block should say, where that cannot be read.
        first: Option<First>,
    },
    /// Checks it, and if it is sound takes the word from it that it must be checked.
    Absolve {
        /// The metadata.
        metadata: &'a Utf8Path,
    },
}

/// What the first block of metadata says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct First {
    /// The transaction.
    pub transaction: u64,
    /// How large the pool and its blocks are.
    pub layout: Layout,
}

/// Tells when it is worth to look at the pool again.
#[async_trait]
pub trait Events: Send {
    /// Comes back when some device of the kernel's has had an event since the last call.
    ///
    /// # Errors
    /// When there will be none any more.
    async fn next(&mut self) -> Result<(), PoolError>;
}

/// The host, as far as a pool needs it. All but [`Ground::check`] may block for long; they are
/// called where that holds up nobody.
#[async_trait]
pub trait Ground: Send + Sync + 'static {
    /// Whether there is a device-mapper at all. Waits for nothing.
    ///
    /// # Errors
    /// [`PoolError::Unavailable`].
    fn available(&self) -> Result<(), PoolError> {
        Ok(())
    }

    /// Looks for the pool. Nothing is changed.
    ///
    /// # Errors
    /// [`PoolError::Unavailable`], [`PoolError::Foreign`], or when it cannot be told.
    fn find(&self, place: &Place) -> Result<Found, PoolError>;

    /// Puts the pool together over its files. The kernel formats metadata that is all zero. What
    /// fails leaves nothing behind.
    ///
    /// # Errors
    /// As [`Ground::find`], or when a step fails.
    fn assemble(&self, place: &Place, layout: &Layout) -> Result<Running, PoolError>;

    /// Takes the pool from the kernel; its files stay. One that is not there is a success.
    ///
    /// # Errors
    /// [`PoolError::InUse`], or as [`Ground::find`].
    fn take_down(&self, place: &Place) -> Result<(), PoolError>;

    /// How much room there is below the pool.
    ///
    /// # Errors
    /// When it cannot be measured.
    fn room(&self, place: &Place) -> Result<Room, PoolError>;

    /// Makes the pool that the kernel has as large as its files have become. Requests wait for that
    /// moment and are not lost. One that is as large already is only let go on, should it wait.
    ///
    /// # Errors
    /// As [`Ground::find`], or when a step fails; the pool goes on as it was then.
    fn extend(&self, place: &Place, layout: &Layout) -> Result<Running, PoolError>;

    /// Looks whether the pool's data may be on this device: it is one that keeps what is written to it, large enough,
    /// nobody uses it, and nothing is on it. `force`: or whatever is on it. Nothing is written.
    ///
    /// # Errors
    /// [`PoolError::Device`], or when it cannot be told.
    fn inspect(
        &self,
        place: &Place,
        device: &Utf8Path,
        force: bool,
    ) -> Result<Candidate, PoolError>;

    /// Looks at it again, and writes the pool's header on it while nobody else can have it.
    ///
    /// # Errors
    /// As [`Ground::inspect`].
    fn claim(&self, place: &Place, base: &Base, force: bool) -> Result<(), PoolError>;

    /// Takes the pool's header from its device, and nothing else. One that has none of it is a success.
    ///
    /// # Errors
    /// [`PoolError::Device`] if it is not there or in use, or when a step fails.
    fn release(&self, place: &Place, base: &Base) -> Result<(), PoolError>;

    /// Events of the kernel's devices. `None`: the pool has to be looked at from time to time.
    fn events(&self) -> Option<Box<dyn Events>>;

    /// Keeps the present state of the metadata of a pool that the kernel has, beside what changes from now
    /// on, or lets go of it. Letting go of none is a success.
    ///
    /// # Errors
    /// As [`Ground::find`], or when the kernel refuses.
    fn hold_metadata(&self, place: &Place, hold: bool) -> Result<(), PoolError>;

    /// Whether the metadata of a pool that is down says of itself that it must be checked: a write of it
    /// has failed.
    ///
    /// # Errors
    /// When it cannot be read.
    fn needs_check(&self, place: &Place) -> Result<bool, PoolError>;

    /// Runs one of the tools over metadata.
    ///
    /// # Errors
    /// When it could not be begun: that says nothing of the metadata.
    async fn mend(&self, work: &Mending<'_>, deadline: Duration) -> Result<Checked, PoolError>;

    /// Reads the metadata of a pool that is down.
    ///
    /// # Errors
    /// When it could not be begun: that says nothing of the metadata.
    async fn check(&self, metadata: &Utf8Path, deadline: Duration) -> Result<Checked, PoolError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_that_nobody_described() {
        let layout = Layout::of(None).unwrap();
        assert_eq!(layout.data, 2 * GIB);
        assert_eq!(layout.metadata, 16 * MIB);
        assert_eq!(layout.block.bytes(), 64 << 10);
        // A tenth of 32768 blocks.
        assert_eq!(layout.low_water(), 3276);
    }

    #[test]
    fn a_device_is_taken_whole() {
        let layout = Layout::on_device(100 * GIB + 4096).unwrap();
        assert_eq!(layout.data, 100 * GIB);
        assert_eq!(
            layout.metadata,
            Layout::of(Some(Bytes::gib(100))).unwrap().metadata
        );
        assert_eq!(Layout::on_device(LEAST_DATA - 1), None);
        assert_eq!(Layout::on_device(u64::MAX).unwrap().data, MOST_DATA);
    }

    #[test]
    fn sizes_that_make_no_sense() {
        for wanted in [0, LEAST_DATA - 1, MOST_DATA + 1, u64::MAX] {
            let refused = Layout::of(Some(Bytes(wanted)));
            assert!(matches!(refused, Err(PoolError::Size { .. })), "{wanted}");
        }
        // Whole blocks, and no room for more than was asked for and one block.
        let odd = Layout::of(Some(Bytes(LEAST_DATA + 1))).unwrap();
        assert_eq!(odd.data, LEAST_DATA + odd.block.bytes());
        assert!(Layout::of(Some(Bytes(MOST_DATA))).is_ok());
    }
}
