//! Changes: put together, check, take down, destroy. How it is made is [`super::setup`]'s.

use std::time::{Duration, Instant};

use hearth_dm::thin::PoolStatus;
use hearth_types::pool::{PoolCheck, PoolVerdict};
use hearth_types::survey::chain;
use hearth_types::units::Bytes;
use jiff::Timestamp;

use super::Pool;
use super::setup::Wanted;
use crate::error::PoolError;
use crate::files;
use crate::ground::{Checked, Found, Layout, Running};
use crate::record::{Record, Stage};

/// How long `thin_check` may take: for the smallest metadata …
const CHECK_LEAST: Duration = Duration::from_secs(60);
/// … and for each so many bytes of it a second more. A disk that reads less than that in a second has
/// other troubles.
const CHECK_RATE: u64 = 1 << 20;
/// The longest words of `thin_check` that are kept, in characters.
const SAID: usize = 500;

/// How long a check of so much metadata may take.
pub(super) fn check_deadline(metadata: u64) -> Duration {
    CHECK_LEAST + Duration::from_secs(metadata / CHECK_RATE)
}

impl Pool {
    /// Puts the pool together, if there is one and the kernel does not have it: after a reboot.
    /// True if this did it.
    ///
    /// # Errors
    /// See [`PoolError`]; the pool is as it was.
    pub async fn bring_up(&self) -> Result<bool, PoolError> {
        let _turn = self.begin("bring_up").await?;
        let Some(record) = self.recorded().await? else {
            return Ok(false);
        };
        if record.stage != Stage::Ready {
            return Ok(false);
        }
        if matches!(self.look().await?, Found::Running(_)) {
            self.settle(record).await?;
            return Ok(false);
        }
        self.put_together(record).await?;
        Ok(true)
    }

    /// Checks the metadata, which takes the pool down for that time, and puts it together.
    ///
    /// # Errors
    /// [`PoolError::InUse`], [`PoolError::Damaged`], or another one.
    pub async fn check(&self) -> Result<(), PoolError> {
        let _turn = self.begin("check").await?;
        let record = self.recorded().await?.ok_or(PoolError::Absent)?;
        match record.stage {
            Stage::Ready => {}
            Stage::Preparing => return Err(PoolError::Absent),
            Stage::Destroying => return Err(PoolError::Destroying),
        }
        if let Found::Running(running) = self.look().await? {
            unused(&running)?;
            self.relief("the taking down of the pool", |ground, place| {
                ground.take_down(place)
            })
            .await?;
        }
        self.put_together(record).await
    }

    /// Checks the metadata of a pool that is ready, and puts it together if it is good.
    pub(super) async fn put_together(&self, record: Record) -> Result<(), PoolError> {
        if matches!(self.look().await?, Found::Running(_)) {
            return Ok(());
        }
        let mut record = self.settle(record).await?;
        let layout = self.layout(&record)?;
        let with_data = record.base.is_none();
        self.relief("a look at the pool's files", move |_, place| {
            files::open(&place.metadata(), layout.metadata)?;
            match with_data {
                true => files::open(&place.data(), layout.data).map(drop),
                // Its device is looked at when the pool is put together.
                false => Ok(()),
            }
        })
        .await?;
        let check = self.check_metadata(&layout).await?;
        let (verdict, said) = (check.verdict, check.said.clone());
        record.last_check = Some(check);
        self.write(&record).await?;
        if verdict != PoolVerdict::Good {
            let said = said.unwrap_or_else(|| "thin_check did not end in time".to_owned());
            return Err(PoolError::Damaged { said });
        }
        self.absolve(&layout).await?;
        self.assemble(layout).await?;
        // Metadata that was full is full again with its first write.
        if let Err(error) = self.make_room(record).await {
            tracing::warn!(error = %chain(&error), "the pool is put together, and cannot be given more room");
        }
        Ok(())
    }

    pub(super) async fn assemble(&self, layout: Layout) -> Result<(), PoolError> {
        self.relief("the putting together of the pool", move |ground, place| {
            ground.assemble(place, &layout).map(drop)
        })
        .await
    }

    pub(super) async fn check_metadata(&self, layout: &Layout) -> Result<PoolCheck, PoolError> {
        let (at, begun) = (Timestamp::now(), Instant::now());
        let deadline = check_deadline(layout.metadata);
        let checked = self.ground.check(&self.place.metadata(), deadline).await?;
        let (verdict, said) = match checked {
            Checked::Good => (PoolVerdict::Good, None),
            Checked::Bad(said) => (PoolVerdict::Bad, Some(said.chars().take(SAID).collect())),
            Checked::Unfinished => {
                let said = format!("it did not end within {} s", deadline.as_secs());
                (PoolVerdict::Unfinished, Some(said))
            }
        };
        Ok(PoolCheck {
            at,
            took_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            verdict,
            said,
        })
    }

    /// Takes the pool from the kernel; its files and what is in them stay. True if it was there.
    ///
    /// # Errors
    /// [`PoolError::InUse`], or another one.
    pub async fn take_down(&self) -> Result<bool, PoolError> {
        let _turn = self.begin("take_down").await?;
        match self.look().await {
            Ok(Found::Nothing) => return Ok(false),
            // Where no pool was set up nothing is asked of the host.
            Err(PoolError::Unavailable(_)) if self.recorded().await?.is_none() => return Ok(false),
            found => {
                found?;
            }
        }
        self.relief("the taking down of the pool", |ground, place| {
            ground.take_down(place)
        })
        .await?;
        Ok(true)
    }

    /// Destroys the pool with all that is in it, and sets up an empty one of the same size, on the same device. In
    /// between what was known of its content is forgotten.
    ///
    /// # Errors
    /// As [`Pool::destroy`] and [`Pool::setup`]; what was destroyed by then is.
    pub async fn reset(
        &self,
        force: bool,
        forget: impl Future<Output = ()>,
    ) -> Result<(), PoolError> {
        let record = self.recorded().await?.ok_or(PoolError::Absent)?;
        let again = match &record.base {
            Some(base) => Wanted::device(base.given.clone()),
            None => Wanted::Files(Some(Bytes(self.layout(&record)?.data))),
        };
        self.destroy(force).await?;
        forget.await;
        self.make_or_find(again).await.map(drop)
    }

    /// Destroys the pool with all that is in it: devices, files, record, the header on its device. One that holds
    /// data, or may hold some, only with `force`, also if its device is not there; one that is in use never.
    ///
    /// # Errors
    /// See [`PoolError`]. Cut off on the way, it is gone on with by another order.
    pub async fn destroy(&self, force: bool) -> Result<(), PoolError> {
        let _turn = self.begin("destroy").await?;
        let found = match self.look().await {
            Err(error) if force && error.is_missing_device() => Found::Nothing,
            found => found?,
        };
        if let Found::Running(running) = &found {
            unused(running)?;
        }
        let record = self.recorded().await?;
        match &record {
            None if found == Found::Nothing => return Err(PoolError::Absent),
            None if !force => {
                return Err(PoolError::Unrecorded {
                    name: self.place.name.clone(),
                    record: self.place.record(),
                });
            }
            Some(record) if record.stage == Stage::Ready && !force => {
                let layout = self.layout(record)?;
                may_go(&found, &layout)?;
            }
            None | Some(_) => {}
        }
        let base = record.as_ref().and_then(|record| record.base.clone());
        if let Some(mut record) = record {
            record.stage = Stage::Destroying;
            self.write(&record).await?;
        }
        self.relief("the destruction of the pool", move |ground, place| {
            ground.take_down(place)?;
            if let Some(base) = &base {
                match ground.release(place, base) {
                    Err(error) if force && error.is_missing_device() => {
                        tracing::warn!(device = %base.given, "the pool's device is not there, and keeps the pool's header");
                    }
                    released => released?,
                }
            }
            files::remove(place)?;
            files::remove_record(place)
        })
        .await
    }
}

/// A pool that others use is left alone.
pub(super) fn unused(running: &Running) -> Result<(), PoolError> {
    match running.users {
        0 => Ok(()),
        users => Err(PoolError::InUse { users }),
    }
}

/// Only what certainly holds nothing goes without force.
fn may_go(found: &Found, layout: &Layout) -> Result<(), PoolError> {
    let Found::Running(running) = found else {
        return Err(PoolError::MayHoldData { state: "down" });
    };
    match &running.status {
        PoolStatus::Works { data, .. } if data.used == 0 => Ok(()),
        PoolStatus::Works { data, .. } => Err(PoolError::HoldsData {
            used: Bytes(data.used.saturating_mul(layout.block.bytes())),
        }),
        PoolStatus::Failed => Err(PoolError::MayHoldData { state: "failed" }),
    }
}
