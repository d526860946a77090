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
//! | | | suspended | `suspended` | resumed: a daemon died in a snapshot |
//! | a later count | an earlier one | | `behind` | told: the metadata is older than the ledger |
//!
//! What could not be asked has no differences: nothing is concluded from it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hearth_types::survey::chain;
use hearth_types::thin::{
    NewThin, PoolDifference, PoolVolume, PoolVolumes, ThinDevice, ThinKind, ThinState,
};
use jiff::Timestamp;

use super::Thins;
use super::error::ThinError;
use super::ground::{Active, Mapped, Target};

/// How long the list of the metadata may take: it is read as a whole.
const LIST: Duration = Duration::from_secs(120);

/// The three answers, as of one turn.
struct Answers {
    ledger: Vec<ThinDevice>,
    active: Vec<Active>,
    metadata: Result<Vec<Mapped>, ThinError>,
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
    /// Compares ledger, kernel and metadata. What the rule repairs is repaired, and all of it told.
    ///
    /// # Errors
    /// When the pool cannot be asked at all.
    pub async fn compare(&self) -> Result<Vec<PoolDifference>, ThinError> {
        let _turn = self.begin("compare").await?;
        let (answers, mut found) = self.ask().await?;
        found.extend(self.suspended(&answers.active).await?);
        if let Ok(metadata) = &answers.metadata {
            found.extend(self.unrecorded(&answers, metadata).await?);
            found.extend(lost(&answers, metadata));
        }
        found.extend(self.strays(&answers));
        found.extend(behind(&answers));
        for difference in &found {
            tracing::warn!(
                id = difference.id,
                kind = difference.kind,
                repaired = difference.repaired,
                "the pool's ledger, kernel and metadata differ: {}",
                difference.what
            );
        }
        self.tell_sizes(&answers.ledger);
        found.sort_by_key(|difference| difference.id);
        self.differences.lock().clone_from(&found);
        Ok(found)
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
            state: device.state,
            bytes: device.bytes,
            origin: device.origin,
            cause: device.cause,
            created_at: device.created_at,
        });
        Ok(PoolVolumes {
            volumes: volumes.collect(),
            differences: self.differences.lock().clone(),
            unknown,
        })
    }

    async fn look(&self) -> Result<(Vec<Active>, Result<Vec<Mapped>, ThinError>), ThinError> {
        let _turn = self.begin("list").await?;
        let active = self.active().await?;
        Ok((active, self.listed().await))
    }

    /// Settles what was cut off, and asks all three.
    async fn ask(&self) -> Result<(Answers, Vec<PoolDifference>), ThinError> {
        let before = self.devices().await?;
        let unsettled: Vec<_> = before
            .into_iter()
            .filter(|it| matches!(it.state, ThinState::Creating | ThinState::Deleting))
            .collect();
        let failed: BTreeMap<u32, ThinError> = self.settle_all().await?.into_iter().collect();
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
        let told = told.collect();
        let answers = Answers {
            ledger: self.devices().await?,
            active: self.active().await?,
            metadata: self.listed().await,
            count: self.count().await?,
        };
        Ok((answers, told))
    }

    /// Lists the metadata. It is held still for that, and let go whatever happens; what a daemon
    /// that died has held is let go by the next list.
    async fn listed(&self) -> Result<Vec<Mapped>, ThinError> {
        let metadata = self
            .change("the holding of the metadata", |ground, place| {
                ground.reserve_metadata(place)
            })
            .await?;
        let listed = self.ground.listed(self.place(), metadata, LIST).await;
        let released = self
            .change("the letting go of the metadata", |ground, place| {
                ground.release_metadata(place)
            })
            .await;
        let listed = listed?;
        released.map(|()| listed)
    }

    async fn suspended(&self, active: &[Active]) -> Result<Vec<PoolDifference>, ThinError> {
        let mut found = Vec::new();
        for device in active.iter().filter(|device| device.suspended) {
            let id = device.id;
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
        let known: BTreeSet<u32> = answers.ledger.iter().map(|device| device.id).collect();
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
        let (id, name) = (device.id, &device.name);
        match device.state {
            ThinState::Filling | ThinState::Ready => {
                let what = format!("the pool has no thin device {id}: what was on {name} is lost");
                Some(difference(Some(id), "lost", what, false))
            }
            ThinState::Orphaned => {
                let what = format!("the orphan {id} ({name}) is not in the pool any more");
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
