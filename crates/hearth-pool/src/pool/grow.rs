//! Room: what there is, whether something new may be made, and more of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hearth_dm::thin::PoolStatus;
use hearth_types::pool::ExtendPool;
use hearth_types::survey::chain;
use hearth_types::units::Bytes;

use super::{LOOK, Pool};
use crate::error::PoolError;
use crate::files;
use crate::ground::{Events, Found, Layout, Running};
use crate::record::{Record, Stage};
use crate::space::{Bound, Growth, Readings, Room};

impl Pool {
    /// Tells the sizes of all volumes and snapshots together, in bytes, whenever they have changed. The kernel
    /// does not keep them.
    pub fn set_provisioned(&self, bytes: u64) {
        self.provisioned.store(bytes, Ordering::Relaxed);
    }

    /// How much room there is, if the kernel has the pool and can tell.
    ///
    /// # Errors
    /// [`PoolError::Absent`], [`PoolError::NotWorking`], or when it cannot be told.
    pub async fn readings(&self) -> Result<Readings, PoolError> {
        let (record, running) = self.ready().await?;
        self.read(&record, &running).await
    }

    /// Whether a volume or a snapshot of this size may be made. Whoever makes one asks before
    /// anything is made, with the sizes of all others told by [`Pool::set_provisioned`].
    ///
    /// # Errors
    /// [`PoolError::Tight`], [`PoolError::RunsOut`] or [`PoolError::Overcommitted`], with the
    /// readings; or as [`Pool::readings`].
    pub async fn admit(&self, wanted: Bytes) -> Result<(), PoolError> {
        self.readings().await?.admit(&self.limits, wanted.0)
    }

    /// Events of the kernel's devices, if it can tell.
    #[must_use]
    pub fn events(&self) -> Option<Box<dyn Events>> {
        self.ground.events()
    }

    /// Makes the pool larger while it is used, as an operator asks for; by the rule of its own
    /// growth, if no size is said. What it has now.
    ///
    /// # Errors
    /// [`PoolError::Shrink`], [`PoolError::TooLarge`], [`PoolError::NoSpace`], or another one; cut
    /// off on the way it is gone on with.
    pub async fn extend(&self, asked: &ExtendPool) -> Result<Growth, PoolError> {
        let _turn = self.begin("extend").await?;
        let (record, _) = self.ready().await?;
        let record = self.settle(record).await?;
        let (_, running) = self.ready().await?;
        may_grow(&running)?;
        let readings = self.read(&record, &running).await?;
        let to = self.wanted(&readings, asked)?;
        self.grow(record, to).await?;
        Ok(to)
    }

    /// Grows if it has to and can. What it has now, if it has grown, and what was read before. What
    /// was cut off is gone on with.
    ///
    /// # Errors
    /// As [`Pool::extend`].
    pub async fn keep_room(&self) -> Result<Option<Growth>, PoolError> {
        let _turn = self.begin("growth").await?;
        let (record, _) = self.ready().await?;
        self.make_room(record).await
    }

    /// The same for whoever has the turn.
    pub(super) async fn make_room(&self, record: Record) -> Result<Option<Growth>, PoolError> {
        let record = self.settle(record).await?;
        let (_, running) = self.ready().await?;
        let readings = self.read(&record, &running).await?;
        may_grow(&running)?;
        let Some(to) = readings.growth(&self.limits) else {
            return Ok(None);
        };
        self.grow(record, to).await?;
        Ok(Some(to))
    }

    /// A growth was cut off, or a change of the pool's table.
    ///
    /// # Errors
    /// When it cannot be told.
    pub async fn is_unsettled(&self) -> Result<bool, PoolError> {
        let (record, running) = self.ready().await?;
        Ok(running.suspended || record.growing(&self.place)?.is_some())
    }

    /// Goes on with a growth that was cut off. One whose files find no room any more is given up:
    /// nothing has grown then.
    pub(super) async fn settle(&self, record: Record) -> Result<Record, PoolError> {
        let suspended = matches!(
            self.look().await?,
            Found::Running(Running {
                suspended: true,
                ..
            })
        );
        match record.growing(&self.place)? {
            Some(to) => match self.finish(record, to).await {
                Ok(record) => Ok(record),
                Err(error) => match self.recorded().await? {
                    Some(record) if record.growing(&self.place)?.is_none() => {
                        tracing::warn!(error = %chain(&error), "a growth of the pool that was cut off is given up");
                        Ok(record)
                    }
                    _ => Err(error),
                },
            },
            None if suspended => {
                let layout = self.layout(&record)?;
                self.extend_device(layout).await?;
                Ok(record)
            }
            None => Ok(record),
        }
    }

    async fn grow(&self, mut record: Record, to: Growth) -> Result<(), PoolError> {
        let to = self.layout(&record)?.grown(to);
        record.begin_growth(&to);
        self.write(&record).await?;
        self.finish(record, to).await.map(drop)
    }

    async fn finish(&self, mut record: Record, to: Layout) -> Result<Record, PoolError> {
        let from = self.layout(&record)?;
        let with_data = record.base.is_none();
        let grown = self
            .relief("the growth of the pool's files", move |_, place| {
                files::grow(place, &from, &to, with_data)
            })
            .await;
        if let Err(error) = grown {
            let untouched = self
                .relief("a look at the pool's files", move |_, place| {
                    Ok(files::have(place, &from, with_data))
                })
                .await?;
            if untouched {
                record.give_up_growth();
                self.write(&record).await?;
            }
            return Err(error);
        }
        if matches!(self.look().await?, Found::Running(_)) {
            self.extend_device(to).await?;
        }
        record.end_growth();
        self.write(&record).await?;
        Ok(record)
    }

    async fn extend_device(&self, to: Layout) -> Result<(), PoolError> {
        self.relief("the growth of the pool", move |ground, place| {
            ground.extend(place, &to).map(drop)
        })
        .await
    }

    /// Its record and what the kernel says, of a pool that is there.
    pub(super) async fn ready(&self) -> Result<(Record, Running), PoolError> {
        let (record, found) = tokio::join!(self.recorded(), self.look());
        let record = record?.ok_or(PoolError::Absent)?;
        match (record.stage, found?) {
            (Stage::Destroying, _) => Err(PoolError::Destroying),
            (Stage::Ready, Found::Running(running)) => Ok((record, running)),
            (Stage::Ready, Found::Nothing | Found::Unfinished) => {
                Err(PoolError::NotWorking { state: "down" })
            }
            (Stage::Preparing, _) => Err(PoolError::Absent),
        }
    }

    pub(super) async fn read(
        &self,
        record: &Record,
        running: &Running,
    ) -> Result<Readings, PoolError> {
        let room = self.room().await?;
        let layout = self.layout(record)?;
        Readings::of(&layout, &running.status, room, self.provisioned())
            .ok_or(PoolError::NotWorking { state: "failed" })
    }

    pub(super) async fn room(&self) -> Result<Room, PoolError> {
        let (ground, place) = (Arc::clone(&self.ground), self.place.clone());
        self.looks
            .take("a look at the pool's files", LOOK, move || {
                ground.room(&place)
            })
            .await?
    }

    /// What an operator's order comes to.
    fn wanted(&self, readings: &Readings, asked: &ExtendPool) -> Result<Growth, PoolError> {
        let ExtendPool { data, by, metadata } = *asked;
        let present = Growth {
            data: readings.data.size,
            metadata: readings.metadata.size,
        };
        let (most, why) = readings.most_by_room();
        let data_to = match (data, by, metadata) {
            (Some(data), _, _) => data.0,
            (None, Some(by), _) => present.data.saturating_add(by.0),
            (None, None, Some(_)) => present.data,
            (None, None, None) => readings.larger_data(&self.limits),
        }
        .next_multiple_of(readings.block);
        let to = Growth {
            data: data_to,
            metadata: readings.metadata_of(data_to, metadata.map(|size| size.0)),
        };
        check("data", present.data, to.data, most, why)?;
        let (most, why) = readings.most_metadata_by_room();
        check("metadata", present.metadata, to.metadata, most, why)?;
        Ok(to)
    }
}

/// The kernel changes no metadata that has to be checked.
const fn may_grow(running: &Running) -> Result<(), PoolError> {
    match running.status {
        PoolStatus::Works {
            needs_check: true, ..
        } => Err(PoolError::NeedsCheck),
        PoolStatus::Works { .. } => Ok(()),
        PoolStatus::Failed => Err(PoolError::NotWorking { state: "failed" }),
    }
}

fn check(
    what: &'static str,
    present: u64,
    wanted: u64,
    most: u64,
    why: Bound,
) -> Result<(), PoolError> {
    if wanted < present {
        return Err(PoolError::Shrink {
            what,
            present: Bytes(present),
            wanted: Bytes(wanted),
        });
    }
    if wanted > present && wanted > most {
        return Err(PoolError::TooLarge {
            what,
            wanted: Bytes(wanted),
            most: Bytes(most.max(present)),
            why,
        });
    }
    Ok(())
}
