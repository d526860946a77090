//! Three answers side by side: the ledger's, the kernel's and the metadata's.
//!
//! | the ledger has | the metadata has | the kernel has | it is | |
//! | --- | --- | --- | --- | --- |
//! | creating, deleting | | | `unsettled` | decided by looking |
//! | nothing | it | | `unrecorded` | written down as an orphan: its id is nobody's |
//! | filling, ready | not | | `lost` | told: what was on it is gone |
//! | orphaned | not | | `gone` | told: there is nothing to clear away |
//! | nothing | not | it | `stray` | told: a device of ours of which nobody knows |
//! | another size, or none | | it | `table` | told: put right when it is switched on next |
//! | | | suspended | `suspended` | resumed: a daemon or a helper died in a snapshot |
//! | a later count | an earlier one | | `behind` | told: the metadata is older than the ledger |
//!
//! ```text
//!  at the start     all three; what waits goes on at once
//!  each survey      ledger and kernel: a list of the devices, nothing is read from a disk
//!  once in a while  all three: the metadata is held still at one moment, and read when nobody waits for it
//! ```
//! What could not be asked has no differences: nothing is concluded from it, and what was found before stands.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hearth_dm::Device;
use hearth_types::survey::chain;
use hearth_types::thin::{
    NewThin, PoolDifference, PoolVolume, PoolVolumes, ThinDevice, ThinKind, ThinState,
};
use jiff::Timestamp;

use super::Thins;
use super::copy;
use super::error::ThinError;
use super::ground::{Active, Mapped, Target};

/// How long the list of the metadata may take: it is read as a whole.
const LIST: Duration = Duration::from_secs(120);

/// How long the copy of the ledger may take.
const COPY: Duration = Duration::from_secs(5);

/// How much is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Ledger and kernel.
    Kernel,
    /// The metadata, too.
    Metadata,
}

/// What the last comparisons have found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Of ledger and kernel.
    kernel: Vec<PoolDifference>,
    /// Of the metadata.
    metadata: Vec<PoolDifference>,
    /// Devices that waited.
    suspended: BTreeSet<u32>,
    /// Changes that could not be gone on with.
    stubborn: BTreeSet<u32>,
    /// The ledger as it was copied last.
    copied: Option<Vec<ThinDevice>>,
}

impl Found {
    fn all(&self) -> Vec<PoolDifference> {
        let mut all = [self.kernel.as_slice(), self.metadata.as_slice()].concat();
        all.sort_by_key(|difference| difference.id);
        all
    }
}

/// What ledger and kernel say, as of one turn.
struct Answers {
    ledger: Vec<ThinDevice>,
    active: Vec<Active>,
    count: u64,
}

fn difference(id: Option<u32>, kind: &str, what: String, repaired: bool) -> PoolDifference {
    PoolDifference {
        id,
        kind: kind.to_owned(),
        what,
        repaired,
    }
}

impl Thins {
    /// Compares ledger, kernel and metadata when a daemon begins. What the rule repairs is repaired, and all of it
    /// told.
    ///
    /// # Errors
    /// When the pool cannot be asked at all.
    pub async fn compare(&self) -> Result<Vec<PoolDifference>, ThinError> {
        self.compared(Depth::Metadata, true).await
    }

    /// The same in between. Who waits is let go on only if it was seen to wait before, and what could not be
    /// decided is tried again only together with the metadata: it may take its time. All that differs by now.
    ///
    /// # Errors
    /// When the pool cannot be asked at all.
    pub async fn survey(&self, depth: Depth) -> Result<Vec<PoolDifference>, ThinError> {
        self.compared(depth, false).await
    }

    /// What the last comparisons have found.
    #[must_use]
    pub fn differences(&self) -> Vec<PoolDifference> {
        self.found.lock().all()
    }

    async fn compared(&self, depth: Depth, begins: bool) -> Result<Vec<PoolDifference>, ThinError> {
        // What holds the metadata for a backup would be let go of by another one.
        let reader = match depth {
            Depth::Metadata => Some(self.pool.reads_metadata().await),
            Depth::Kernel => None,
        };
        let turn = self.begin("compare").await?;
        let patient = !begins && depth == Depth::Kernel;
        let (answers, mut found) = self.ask(patient).await?;
        found.extend(self.suspended(&answers.active, begins).await?);
        found.extend(self.strays(&answers));
        found.extend(behind(&answers));
        self.tell_sizes(&answers.ledger);
        let held = match depth {
            Depth::Metadata => Some(self.hold().await),
            Depth::Kernel => None,
        };
        // What is held does not change: nobody waits until it is read.
        drop(turn);
        let metadata = match held {
            Some(Ok(on)) => Some(self.read_held(on).await),
            Some(Err(error)) => Some(Err(error)),
            None => None,
        };
        drop(reader);
        let mut of_metadata = None;
        match metadata {
            Some(Ok(metadata)) => {
                let _turn = self.begin("compare").await?;
                let mut differ = self.unrecorded(&answers, &metadata).await?;
                differ.extend(lost(&answers, &metadata));
                of_metadata = Some(differ);
            }
            Some(Err(error)) => {
                tracing::warn!(error = %chain(&error), "the pool's metadata could not be compared");
            }
            None => {}
        }
        self.copy_ledger().await;
        Ok(self.keep(found, of_metadata))
    }

    /// Copies the ledger if it has changed. It is for a day that may never come: a failure is only told.
    async fn copy_ledger(&self) {
        let Ok(ledger) = self.devices().await else {
            return;
        };
        if self.found.lock().copied.as_ref() == Some(&ledger) {
            return;
        }
        let (place, devices) = (self.place().clone(), ledger.clone());
        let write = move || copy::write(&place, devices);
        let looks = self.pool.looks();
        match looks.take("the copy of the ledger", COPY, write).await {
            Ok(Ok(())) => self.found.lock().copied = Some(ledger),
            Ok(Err(error)) | Err(error) => {
                tracing::warn!(error = %chain(&error), "the pool's ledger cannot be copied beside the pool");
            }
        }
    }

    /// Keeps what was found, and tells what was not there before.
    fn keep(
        &self,
        kernel: Vec<PoolDifference>,
        metadata: Option<Vec<PoolDifference>>,
    ) -> Vec<PoolDifference> {
        let mut found = self.found.lock();
        let before = found.all();
        found.kernel = kernel;
        if let Some(metadata) = metadata {
            found.metadata = metadata;
        }
        let all = found.all();
        drop(found);
        for difference in all.iter().filter(|it| !before.contains(it)) {
            tracing::warn!(
                id = difference.id,
                kind = difference.kind,
                repaired = difference.repaired,
                "the pool's ledger, kernel and metadata differ: {}",
                difference.what
            );
        }
        all
    }

    /// The volumes as they are shown, with what the last comparison has found.
    ///
    /// # Errors
    /// When the ledger cannot be read. A pool that cannot be asked is told of in the answer.
    pub async fn volumes(&self) -> Result<PoolVolumes, ThinError> {
        let ledger = self.devices().await?;
        let asked = match self.pool.running().await {
            Ok(Some(_)) => self.look().await,
            Ok(None) => Err(crate::PoolError::NotWorking { state: "down" }.into()),
            Err(error) => Err(error.into()),
        };
        let (active, metadata, unknown) = match asked {
            Ok((active, Ok(metadata))) => (active, metadata, None),
            Ok((active, Err(error))) => (active, Vec::new(), Some(chain(&error))),
            Err(error) => (Vec::new(), Vec::new(), Some(chain(&error))),
        };
        let mapped: BTreeMap<u32, u64> = metadata.iter().map(|it| (it.id, it.bytes)).collect();
        let on: BTreeMap<u32, &Active> = active.iter().map(|it| (it.id, it)).collect();
        let volumes = ledger.into_iter().map(|device| PoolVolume {
            id: device.id,
            mapped: mapped.get(&device.id).copied(),
            device: on
                .get(&device.id)
                .map(|active| self.ground.node(active.device).into_string()),
            name: device.name,
            kind: device.kind,
            whose: None,
            state: device.state,
            bytes: device.bytes,
            origin: device.origin,
            cause: device.cause,
            created_at: device.created_at,
        });
        Ok(PoolVolumes {
            volumes: volumes.collect(),
            differences: self.differences(),
            unknown,
        })
    }

    async fn look(&self) -> Result<(Vec<Active>, Result<Vec<Mapped>, ThinError>), ThinError> {
        let reader = self.pool.may_read_metadata();
        let turn = self.begin("list").await?;
        let active = self.active().await?;
        let _one = match reader {
            Ok(one) => one,
            Err(busy) => return Ok((active, Err(busy.into()))),
        };
        let held = self.hold().await;
        drop(turn);
        let listed = match held {
            Ok(on) => self.read_held(on).await,
            Err(error) => Err(error),
        };
        Ok((active, listed))
    }

    /// Settles what was cut off, and asks ledger and kernel. `patient`: what could not be settled the last time is
    /// left for another time.
    async fn ask(&self, patient: bool) -> Result<(Answers, Vec<PoolDifference>), ThinError> {
        let before = self.devices().await?;
        let unsettled: Vec<_> = before
            .into_iter()
            .filter(|it| matches!(it.state, ThinState::Creating | ThinState::Deleting))
            .collect();
        let stubborn = self.found.lock().stubborn.clone();
        let waits = |device: &ThinDevice| patient && stubborn.contains(&device.id);
        let told = if unsettled.iter().all(waits) {
            let found = self.found.lock();
            let unsettled = found.kernel.iter().filter(|it| it.kind == "unsettled");
            unsettled.filter(|it| !it.repaired).cloned().collect()
        } else {
            self.settled(&unsettled).await?
        };
        let answers = Answers {
            ledger: self.devices().await?,
            active: self.active().await?,
            count: self.count().await?,
        };
        Ok((answers, told))
    }

    async fn settled(&self, unsettled: &[ThinDevice]) -> Result<Vec<PoolDifference>, ThinError> {
        let failed: BTreeMap<u32, ThinError> = self.settle_all().await?.into_iter().collect();
        self.found.lock().stubborn = failed.keys().copied().collect();
        let told = unsettled.iter().map(|device| {
            let error = failed.get(&device.id);
            let what = match error {
                None => format!(
                    "{} was {} when the daemon or the host ended; it is decided now",
                    device.name, device.state
                ),
                Some(error) => format!("{} is {}: {}", device.name, device.state, chain(error)),
            };
            difference(Some(device.id), "unsettled", what, error.is_none())
        });
        Ok(told.collect())
    }

    /// Holds the metadata still. What a daemon that died has held is let go by that.
    pub(super) async fn hold(&self) -> Result<Device, ThinError> {
        self.change("the holding of the metadata", |ground, place| {
            ground.reserve_metadata(place)
        })
        .await
    }

    /// Lists the metadata that is held, and lets it go, whatever happens.
    pub(super) async fn read_held(&self, on: Device) -> Result<Vec<Mapped>, ThinError> {
        let listed = self.ground.listed(self.place(), on, LIST).await;
        let released = self
            .change("the letting go of the metadata", |ground, place| {
                ground.release_metadata(place)
            })
            .await;
        let listed = listed?;
        released.map(|()| listed)
    }

    /// Lets those go on that wait: at once, or if they did the last time, too. A snapshot takes a moment, and is
    /// none of this turn's.
    async fn suspended(
        &self,
        active: &[Active],
        at_once: bool,
    ) -> Result<Vec<PoolDifference>, ThinError> {
        let wait: BTreeSet<u32> = active
            .iter()
            .filter(|device| device.suspended)
            .map(|device| device.id)
            .collect();
        let before = std::mem::replace(&mut self.found.lock().suspended, wait.clone());
        let mut found = Vec::new();
        for id in wait {
            if !at_once && !before.contains(&id) {
                let what = format!("thin device {id} is suspended: its requests wait");
                found.push(difference(Some(id), "suspended", what, false));
                continue;
            }
            self.change("the resumption of a volume", move |ground, place| {
                ground.resume(place, id)
            })
            .await?;
            let what = format!("thin device {id} was suspended; its requests go on now");
            found.push(difference(Some(id), "suspended", what, true));
        }
        Ok(found)
    }

    async fn unrecorded(
        &self,
        answers: &Answers,
        metadata: &[Mapped],
    ) -> Result<Vec<PoolDifference>, ThinError> {
        // It goes on while the metadata is read: who was there at the one time or the other is known.
        let now = self.devices().await?;
        let all = answers.ledger.iter().chain(&now);
        let known: BTreeSet<u32> = all.map(|device| device.id).collect();
        let mut found = Vec::new();
        for mapped in metadata.iter().filter(|mapped| !known.contains(&mapped.id)) {
            let cause = "the pool has it and nobody had written it down";
            let unknown = NewThin {
                name: format!("unknown-{}", mapped.id),
                kind: ThinKind::Data,
                origin: None,
                bytes: mapped.bytes,
                transaction_id: answers.count,
                created_at: Timestamp::now(),
            };
            self.orphan(unknown.with_id(mapped.id), cause).await?;
            let what = format!("thin device {}: {cause}; it is kept", mapped.id);
            found.push(difference(Some(mapped.id), "unrecorded", what, true));
        }
        Ok(found)
    }

    fn strays(&self, answers: &Answers) -> Vec<PoolDifference> {
        let known: BTreeMap<u32, &ThinDevice> =
            answers.ledger.iter().map(|it| (it.id, it)).collect();
        let wrong = answers.active.iter().filter_map(|active| {
            let node = self.ground.node(active.device);
            let Some(device) = known.get(&active.id) else {
                let what = format!(
                    "{node} is our thin device {}, of which nobody knows",
                    active.id
                );
                return Some(difference(Some(active.id), "stray", what, false));
            };
            let wanted = Target::of(self.place(), device).sectors;
            (active.sectors != Some(wanted)).then(|| {
                let what = format!("{node} is not as {} is written down", device.name);
                difference(Some(active.id), "table", what, false)
            })
        });
        wrong.collect()
    }
}

fn lost(answers: &Answers, metadata: &[Mapped]) -> Vec<PoolDifference> {
    let there: BTreeSet<u32> = metadata.iter().map(|mapped| mapped.id).collect();
    let missing = answers.ledger.iter().filter(|it| !there.contains(&it.id));
    let told = missing.filter_map(|device| {
        let (id, name, kind) = (device.id, &device.name, device.kind);
        match device.state {
            ThinState::Filling | ThinState::Ready => {
                let what = format!(
                    "the pool has no thin device {id}: what was on {name} ({kind}) is lost"
                );
                Some(difference(Some(id), "lost", what, false))
            }
            ThinState::Orphaned => {
                let what = format!("the orphan {id} ({name}, {kind}) is not in the pool any more");
                Some(difference(Some(id), "gone", what, false))
            }
            ThinState::Creating | ThinState::Deleting => None,
        }
    });
    told.collect()
}

fn behind(answers: &Answers) -> Option<PoolDifference> {
    let settled = answers
        .ledger
        .iter()
        .filter(|it| matches!(it.state, ThinState::Filling | ThinState::Ready));
    let last = settled.map(|device| device.transaction_id).max()?;
    (last > answers.count).then(|| {
        let what = format!(
            "the ledger has seen the change {last} and the pool's count is {}: its metadata is older",
            answers.count
        );
        difference(None, "behind", what, false)
    })
}
