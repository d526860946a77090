//! The ledger made anew, when the database that had it is lost.
//!
//! | asked | tells |
//! | --- | --- |
//! | the metadata | which devices there are, and what they use |
//! | the kernel | of those that are on: whose they are by their names, and how large |
//! | the nodes of disks | which disks should be in the pool. Their numbers are of the boot that made them, and tell nothing |
//! | the copy of the ledger beside the pool | all of it, as of the last comparison |
//!
//! A device that none of them names is an orphan: it stays, with its id, and nothing is removed by itself.

use std::collections::{BTreeMap, BTreeSet};

use camino::Utf8PathBuf;
use hearth_dm::thin::SECTOR;
use hearth_host::aside::aside;
use hearth_types::survey::chain;
use hearth_types::thin::{ThinDevice, ThinKind, ThinState};
use jiff::Timestamp;

use super::Thins;
use super::copy;
use super::error::ThinError;
use super::ground::{Active, Mapped, Under, name_of};
use crate::ground::Place;
use crate::volumes::volume_name;

/// A disk that should be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// Where its node is.
    pub path: Utf8PathBuf,
    /// What it is for.
    pub kind: ThinKind,
}

/// What was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rebuilt {
    /// Devices that are known again.
    pub known: Vec<ThinDevice>,
    /// Devices of which nobody knows what they are, or whether they are whole.
    pub orphans: Vec<ThinDevice>,
    /// Volumes that the copy names and the pool does not have.
    pub lost: Vec<String>,
    /// Disks of the pool of which no device could be told to be theirs.
    pub unknown: Vec<Utf8PathBuf>,
    /// Why the copy could not be read.
    pub no_copy: Option<String>,
}

/// All that was asked.
struct Told<'a> {
    metadata: &'a [Mapped],
    active: &'a [Active],
    /// Disks that are of the pool.
    disks: &'a [Expected],
    place: &'a Place,
    copy: &'a [ThinDevice],
    count: u64,
    now: Timestamp,
}

impl Thins {
    /// Writes down again what is in the pool; `None` where there is no pool. The ledger is empty.
    ///
    /// # Errors
    /// When the pool cannot be put together or asked, or the ledger not be written.
    pub async fn rebuild(&self, expected: Vec<Expected>) -> Result<Option<Rebuilt>, ThinError> {
        if !self.pool.is_recorded().await? {
            return Ok(None);
        }
        self.up().await?;
        let _reader = self.pool.reads_metadata().await;
        let _turn = self.begin("rebuild").await?;
        let count = self.count().await?;
        let active = self.active().await?;
        let on = self.hold().await?;
        let metadata = self.read_held(on).await?;
        let disks = self.of_pool(expected)?;
        let place = self.place().clone();
        let read = aside(move || copy::read(&place)).await;
        let read = read.unwrap_or_else(|_| Ok(Vec::new()));
        let no_copy = read.as_ref().err().map(|error| chain(error));
        let copy = read.unwrap_or_default();
        let mut rebuilt = records(&Told {
            metadata: &metadata,
            active: &active,
            disks: &disks,
            place: self.place(),
            copy: &copy,
            count,
            now: Timestamp::now(),
        });
        rebuilt.no_copy = no_copy;
        for device in rebuilt.known.iter().chain(&rebuilt.orphans) {
            self.ledger.put(device.clone()).await?;
        }
        Ok(Some(rebuilt))
    }

    /// Those of these disks that have a node: what is a file, or not there, is none of the pool's.
    fn of_pool(&self, expected: Vec<Expected>) -> Result<Vec<Expected>, ThinError> {
        let mut disks = Vec::new();
        for disk in expected {
            if matches!(self.ground.under(&disk.path)?, Under::Node(_)) {
                disks.push(disk);
            }
        }
        Ok(disks)
    }
}

/// The records of what was told.
fn records(told: &Told<'_>) -> Rebuilt {
    let mut rebuilt = Rebuilt::default();
    let active: BTreeMap<u32, &Active> = told.active.iter().map(|it| (it.id, it)).collect();
    let copy: BTreeMap<u32, &ThinDevice> = told.copy.iter().map(|it| (it.id, it)).collect();
    let mut names = BTreeSet::new();
    let mut all: Vec<ThinDevice> = told
        .metadata
        .iter()
        .map(|mapped| {
            let on = active.get(&mapped.id).copied();
            told.record(mapped, on, copy.get(&mapped.id).copied())
        })
        .collect();
    // Those that are in use have their names before those that the copy names so.
    all.sort_by_key(|device| !active.contains_key(&device.id));
    for mut device in all {
        if device.state.is_named() && !names.insert(device.name.clone()) {
            device = orphan(
                device,
                "the database was lost, and another device has its name",
            );
        }
        match device.state {
            ThinState::Orphaned => rebuilt.orphans.push(device),
            _ => rebuilt.known.push(device),
        }
    }
    let there: BTreeSet<u32> = told.metadata.iter().map(|mapped| mapped.id).collect();
    let lost = told.copy.iter().filter(|device| {
        device.state == ThinState::Ready
            && !there.contains(&device.id)
            && !names.contains(&device.name)
    });
    rebuilt.lost = lost.map(|device| device.name.clone()).collect();
    let mut unknown = told.disks.to_vec();
    unknown.retain(|disk| !names.contains(&volume_name(&disk.path)));
    rebuilt.unknown = unknown.into_iter().map(|disk| disk.path).collect();
    rebuilt
}

fn orphan(device: ThinDevice, cause: &str) -> ThinDevice {
    ThinDevice {
        state: ThinState::Orphaned,
        cause: Some(cause.to_owned()),
        ..device
    }
}

impl Told<'_> {
    fn record(
        &self,
        mapped: &Mapped,
        on: Option<&Active>,
        copied: Option<&ThinDevice>,
    ) -> ThinDevice {
        let mut disks = self.disks.iter();
        let disk = disks.find(|disk| {
            let name = || name_of(self.place, mapped.id, &volume_name(&disk.path));
            on.is_some_and(|on| on.name == name())
        });
        let size = on.and_then(|on| on.sectors).map(|sectors| sectors * SECTOR);
        let blank = ThinDevice {
            id: mapped.id,
            name: format!("unknown-{}", mapped.id),
            kind: ThinKind::Data,
            origin: None,
            bytes: size.unwrap_or(mapped.bytes),
            state: ThinState::Ready,
            cause: None,
            transaction_id: self.count,
            created_at: self.now,
        };
        let copied = copied.map(|copied| ThinDevice {
            bytes: size.unwrap_or(copied.bytes),
            // No change of it is later than the pool's own count.
            transaction_id: copied.transaction_id.min(self.count),
            ..copied.clone()
        });
        match (disk, copied) {
            // A VM may have it open: it is whole, whatever the copy has seen of it.
            (Some(disk), copied) => ThinDevice {
                name: volume_name(&disk.path),
                kind: disk.kind,
                state: ThinState::Ready,
                cause: None,
                ..copied.unwrap_or(blank)
            },
            (None, Some(copied)) => match copied.state {
                ThinState::Ready | ThinState::Orphaned => copied,
                state => {
                    let cause = format!(
                        "it was {state} when it was last written down, and the database was lost"
                    );
                    orphan(copied, &cause)
                }
            },
            (None, None) => orphan(blank, "the database was lost, and nothing says what it is"),
        }
    }
}
