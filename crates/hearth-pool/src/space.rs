//! How much room the pool has, how much it can still get, and what follows from that. Decisions
//! only; nothing here touches the host.
//!
//! ```text
//!  data free      20 %          10 %, 10 GiB at most     5 %, 2 GiB at most        0
//!  ───────────────┼─────────────────┼────────────────────────┼──────────────────────┤
//!   plenty        │ target of a     │ low water: the kernel  │ reserve: it cannot   │ writes wait 60 s,
//!                 │ growth          │ says so, it grows      │ grow: VMs pause      │ then fail
//!  metadata used                   75 %                80 %  │ 95 %                 │
//!                                  it grows     no new volumes, if it cannot
//! ```

#[cfg(test)]
mod tests;

use std::fmt;

use hearth_dm::thin::{METADATA_BLOCK, MOST_METADATA, PoolStatus, metadata_bytes};
use hearth_types::units::{Bytes, GIB, MIB};

use crate::error::PoolError;
use crate::ground::{Layout, MOST_DATA};

/// What is kept back of the host's file system: a tenth …
const KEPT_PART: u64 = 10;
/// … or this, whichever is less.
const KEPT_MOST: u64 = 10 * GIB;
/// The least that a growth adds, so that it is worth its while.
const LEAST_STEP: u64 = GIB;
/// Nothing is done for less, as what others leave of a file system comes and goes.
pub const WORTH_IT: u64 = 16 * MIB;
/// Metadata is low when more than this percent of it is used: the kernel has no mark for it.
const METADATA_LOW: u64 = 75;
/// With more of it used, and no more to be had, VMs pause.
const METADATA_DANGER: u64 = 95;
/// VMs pause when less than this part of the data is free …
const RESERVE_PART: u64 = 20;
/// … or less than this.
const RESERVE_MOST: u64 = 2 * GIB;
/// They go on when so many times the reserve are free.
const RELIEF: u64 = 2;
/// The least that metadata grows by.
const LEAST_METADATA_STEP: u64 = 16 * MIB;

/// What the operator allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// It grows by itself.
    pub grow: bool,
    /// The most data that it grows to by itself; the file system's room when absent.
    pub most: Option<u64>,
    /// The sizes of all volumes together may be so many times the data; 0: any size.
    pub overcommit: u32,
    /// With more than this percent of the data used, and no growth possible, nothing new is put into it.
    pub data_danger: u32,
    /// The same for the metadata.
    pub metadata_danger: u32,
    /// How many backups of the metadata are kept.
    pub backups: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            grow: true,
            most: None,
            overcommit: 10,
            data_danger: 95,
            metadata_danger: 80,
            backups: 7,
        }
    }
}

/// How much of something is used, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fill {
    /// So much is.
    pub used: u64,
    /// Of so much.
    pub size: u64,
}

impl Fill {
    /// So much is not.
    #[must_use]
    pub const fn free(self) -> u64 {
        self.size.saturating_sub(self.used)
    }

    /// How many hundredths are used, rounded down.
    #[must_use]
    pub fn percent(self) -> u64 {
        let percent = u128::from(self.used) * 100 / u128::from(self.size.max(1));
        u64::try_from(percent).unwrap_or(u64::MAX)
    }

    fn above(self, percent: u64) -> bool {
        u128::from(self.used) * 100 > u128::from(self.size) * u128::from(percent)
    }
}

/// What the pool's data stands on, and how much more there is of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// Files, in a file system that others use, too.
    Files {
        /// Bytes that are free there.
        free: u64,
        /// Bytes that it has.
        total: u64,
        /// Bytes of it that the data file has by now.
        allotted: u64,
    },
    /// A device that is the pool's alone, of so many bytes.
    Device {
        /// How large it is now.
        size: u64,
        /// How large the metadata can be: its file is in a file system that others use, too.
        metadata: u64,
    },
}

impl Room {
    /// What is kept back for others, in bytes.
    #[must_use]
    pub fn kept(self) -> u64 {
        match self {
            Self::Files { total, .. } => (total / KEPT_PART).min(KEPT_MOST),
            Self::Device { .. } => 0,
        }
    }

    /// What files may still take, in bytes.
    #[must_use]
    pub fn spare(self) -> u64 {
        match self {
            Self::Files { free, .. } => free.saturating_sub(self.kept()),
            Self::Device { .. } => 0,
        }
    }
}

/// What bounds the pool's growth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// It is not to grow by itself.
    Off,
    /// `POOL_MAX`.
    Config,
    /// The file system's room.
    Host,
    /// The size of its device.
    Device,
    /// What a pool can be.
    Kernel,
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "POOL_EXTEND is off",
            Self::Config => "POOL_MAX is reached",
            Self::Host => "the host's file system has no more room for it",
            Self::Device => "its device is no larger",
            Self::Kernel => "a pool can be no larger",
        })
    }
}

/// How much room there is at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readings {
    /// The data.
    pub data: Fill,
    /// The metadata.
    pub metadata: Fill,
    /// What is allotted at once, in bytes.
    pub block: u64,
    /// What is below.
    pub room: Room,
    /// The sizes of all volumes and snapshots together, in bytes.
    pub provisioned: u64,
}

/// Sizes that the pool is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Growth {
    /// Bytes of data.
    pub data: u64,
    /// Bytes of metadata.
    pub metadata: u64,
}

impl Readings {
    /// Of a pool with this layout; `None` unless the kernel can tell.
    #[must_use]
    pub fn of(layout: &Layout, status: &PoolStatus, room: Room, provisioned: u64) -> Option<Self> {
        let PoolStatus::Works { metadata, data, .. } = status else {
            return None;
        };
        let fill = |usage: &hearth_dm::thin::Usage, block: u64| Fill {
            used: usage.used.saturating_mul(block),
            size: usage.total.saturating_mul(block),
        };
        Some(Self {
            data: fill(data, layout.block.bytes()),
            metadata: fill(metadata, METADATA_BLOCK),
            block: layout.block.bytes(),
            room,
            provisioned,
        })
    }

    /// The most data that it may have by itself, and what bounds it. Never less than it has.
    #[must_use]
    pub fn most_data(&self, limits: &Limits) -> (u64, Bound) {
        let (mut most, mut bound) = self.most_by_room();
        if let Some(config) = limits.most.filter(|config| *config < most) {
            (most, bound) = (config, Bound::Config);
        }
        if !limits.grow {
            (most, bound) = (self.data.size, Bound::Off);
        }
        let whole = most - most % self.block.max(1);
        (whole.max(self.data.size), bound)
    }

    /// The same if an operator asks for it, who may go beyond `POOL_MAX`.
    #[must_use]
    pub fn most_by_room(&self) -> (u64, Bound) {
        let (most, bound) = match self.room {
            Room::Files { allotted, .. } => {
                (allotted.saturating_add(self.room.spare()), Bound::Host)
            }
            Room::Device { size, .. } => (size, Bound::Device),
        };
        if most > MOST_DATA {
            return (MOST_DATA, Bound::Kernel);
        }
        (most, bound)
    }

    /// The most metadata that it may have by itself, and what bounds it.
    #[must_use]
    pub fn most_metadata(&self, limits: &Limits) -> (u64, Bound) {
        if limits.grow {
            self.most_metadata_by_room()
        } else {
            (self.metadata.size, Bound::Off)
        }
    }

    /// The same if an operator asks for it.
    #[must_use]
    pub fn most_metadata_by_room(&self) -> (u64, Bound) {
        let size = self.metadata.size;
        let (most, bound) = match self.room {
            // A file's blocks are allotted as soon as it grows.
            Room::Files { .. } => (size.saturating_add(self.room.spare()), Bound::Host),
            Room::Device { metadata, .. } => (metadata, Bound::Host),
        };
        if most > MOST_METADATA {
            return (MOST_METADATA.max(size), Bound::Kernel);
        }
        ((most - most % METADATA_BLOCK).max(size), bound)
    }

    /// How much metadata goes with this much data: what was asked for, else what the rule says; what
    /// is there already, when the data does not grow.
    #[must_use]
    pub fn metadata_of(&self, data: u64, asked: Option<u64>) -> u64 {
        asked.map_or_else(
            || self.metadata.size.max(self.metadata_for(data)),
            |asked| asked.next_multiple_of(METADATA_BLOCK),
        )
    }

    /// What can still be written, in bytes: what is free in the pool, and never more than its file
    /// can get.
    #[must_use]
    pub fn writable(&self) -> u64 {
        match self.room {
            Room::Files { free, allotted, .. } => {
                // Blocks that were freed and discarded are no longer the file's.
                let file = free.saturating_add(allotted.saturating_sub(self.data.used));
                self.data.free().min(file)
            }
            Room::Device { .. } => self.data.free(),
        }
    }

    /// Low water is reached: the kernel's, or no more than that can be had of the host's file system.
    #[must_use]
    pub fn data_is_low(&self) -> bool {
        self.writable() < Layout::low_water_of(self.data.size)
    }

    /// The metadata is low.
    #[must_use]
    pub fn metadata_is_low(&self) -> bool {
        self.metadata.above(METADATA_LOW)
    }

    /// What it is to grow to by itself now; `None` if it has enough, or can get no more.
    #[must_use]
    pub fn growth(&self, limits: &Limits) -> Option<Growth> {
        let present = Growth {
            data: self.data.size,
            metadata: self.metadata.size,
        };
        let mut next = present;
        // A device is the pool's alone: what it has become larger by is taken at once.
        if self.data_is_low() || matches!(self.room, Room::Device { .. }) {
            next.data = self.larger_data(limits);
        }
        if self.metadata_is_low() {
            let step = self.metadata.size.max(LEAST_METADATA_STEP);
            next.metadata = self.metadata.size.saturating_add(step);
        }
        if next.data.saturating_sub(self.data.size) < WORTH_IT {
            next.data = self.data.size;
        }
        next.metadata = next
            .metadata
            .max(self.metadata_for(next.data))
            .min(self.most_metadata(limits).0);
        (next != present).then_some(next)
    }

    /// The next size of the data: a fifth of it free at least, and half as much again; all of a device.
    #[must_use]
    pub fn larger_data(&self, limits: &Limits) -> u64 {
        if matches!(self.room, Room::Device { .. }) {
            return self.most_data(limits).0;
        }
        let Fill { used, size } = self.data;
        let step = (size / 2).max(LEAST_STEP);
        let target = size
            .saturating_add(step)
            .max(used.saturating_add(used / 4))
            .next_multiple_of(self.block.max(1));
        target.min(self.most_data(limits).0)
    }

    /// How much metadata this much data has by rule, in bytes; only more than there is counts when
    /// the data grows.
    fn metadata_for(&self, data: u64) -> u64 {
        let sectors = u32::try_from(self.block / hearth_dm::thin::SECTOR).unwrap_or(u32::MAX);
        match hearth_dm::thin::BlockSize::from_sectors(sectors) {
            Some(block) if data > self.data.size => metadata_bytes(data, block),
            _ => 0,
        }
    }

    /// So much must stay writable, or VMs pause.
    #[must_use]
    pub fn reserve(&self) -> u64 {
        (self.data.size / RESERVE_PART).min(RESERVE_MOST)
    }

    /// Why VMs must not write any more: it is about to run out, and can get no more. `None` while
    /// there is room. `paused`: VMs wait already, and go on only with more room than they stopped at.
    #[must_use]
    pub fn tight(&self, limits: &Limits, paused: bool) -> Option<String> {
        let factor = if paused { RELIEF } else { 1 };
        let (data, bound) = self.most_data(limits);
        let left = self.writable();
        let more = data.saturating_sub(self.data.size);
        if left.saturating_add(more) < self.reserve().saturating_mul(factor) {
            return Some(format!(
                "{} are left of the pool's {}, and {bound}",
                Bytes(left).human(),
                Bytes(self.data.size).human(),
            ));
        }
        let (metadata, bound) = self.most_metadata(limits);
        let danger = METADATA_DANGER - if paused { 5 } else { 0 };
        if self.metadata.above(danger) && metadata <= self.metadata.size {
            return Some(format!(
                "{} % of the pool's metadata are used, and {bound}",
                self.metadata.percent()
            ));
        }
        None
    }

    /// How many times the data that it may have the sizes of all volumes are, in hundredths.
    #[must_use]
    pub fn overcommit(&self, limits: &Limits) -> u64 {
        let most = self.most_data(limits).0.max(1);
        let hundredths = u128::from(self.provisioned) * 100 / u128::from(most);
        u64::try_from(hundredths).unwrap_or(u64::MAX)
    }

    /// Whether a volume or snapshot of this size may be made: neither data nor metadata is about to
    /// run out, and no more is promised than the operator allows.
    ///
    /// # Errors
    /// [`PoolError::Tight`] or [`PoolError::Overcommitted`], with the readings.
    pub fn admit(&self, limits: &Limits, wanted: u64) -> Result<(), PoolError> {
        let (data, data_bound) = self.most_data(limits);
        let (metadata, metadata_bound) = self.most_metadata(limits);
        for (what, fill, most, bound, danger) in [
            ("data", self.data, data, data_bound, limits.data_danger),
            (
                "metadata",
                self.metadata,
                metadata,
                metadata_bound,
                limits.metadata_danger,
            ),
        ] {
            // What it may still grow by counts as free.
            let whole = Fill {
                used: fill.used,
                size: most,
            };
            if whole.above(danger.into()) {
                return Err(PoolError::Tight {
                    what,
                    used: Bytes(fill.used),
                    most: Bytes(most),
                    percent: whole.percent(),
                    limit: danger,
                    why: bound,
                });
            }
        }
        if let Some(why) = self.tight(limits, false) {
            return Err(PoolError::RunsOut { why });
        }
        let promised = self.provisioned.saturating_add(wanted);
        let bound = u128::from(data) * u128::from(limits.overcommit);
        if limits.overcommit > 0 && u128::from(promised) > bound {
            return Err(PoolError::Overcommitted {
                wanted: Bytes(wanted),
                provisioned: Bytes(self.provisioned),
                most: Bytes(data),
                times: limits.overcommit,
            });
        }
        Ok(())
    }
}
