//! Changes: set up, put together, check, take down, destroy.

use std::time::{Duration, Instant};

use hearth_dm::thin::{Mode, PoolStatus};
use hearth_types::pool::{PoolCheck, PoolVerdict};
use hearth_types::survey::chain;
use hearth_types::units::Bytes;
use jiff::Timestamp;

use super::Pool;
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
    /// Sets the pool up, with this much data or the default. One that is there already is put
    /// together if it has to be, and is a success unless another size is asked for. A set-up that
    /// was cut off is begun anew; one that fails leaves nothing. True if it made one.
    ///
    /// # Errors
    /// See [`PoolError`].
    pub async fn setup(&self, data: Option<Bytes>) -> Result<bool, PoolError> {
        let layout = Layout::of(data)?;
        let _turn = self.begin("setup").await?;
        let found = self.look().await?;
        let record = match self.recorded().await? {
            None if found != Found::Nothing => {
                return Err(PoolError::Unrecorded {
                    name: self.place.name.clone(),
                    record: self.place.record(),
                });
            }
            None => Record::new(&layout, Timestamp::now()),
            Some(record) => match record.stage {
                Stage::Destroying => return Err(PoolError::Destroying),
                Stage::Preparing => Record::new(&layout, Timestamp::now()),
                Stage::Ready => {
                    let present = self.layout(&record)?.data;
                    if data.is_some() && present != layout.data {
                        return Err(PoolError::Present {
                            present: Bytes(present),
                        });
                    }
                    return self.put_together(record).await.map(|()| false);
                }
            },
        };
        let made = self.make(record, layout).await;
        if made.is_err() {
            self.unmake().await;
        }
        made.map(|()| true)
    }

    /// Makes it from nothing. It goes through all that a reboot asks of it before anything can be
    /// stored in it: formatted, taken down, checked, put together.
    async fn make(&self, mut record: Record, layout: Layout) -> Result<(), PoolError> {
        let first = record.clone();
        self.change("the making of the pool's files", move |ground, place| {
            files::make_folder(place)?;
            first.write(place)?;
            // What an earlier attempt has left in the kernel stands on the files that go now.
            ground.take_down(place)?;
            files::make(place, &layout)
        })
        .await?;
        self.change("the formatting of the pool", move |ground, place| {
            let made = ground.assemble(place, &layout)?;
            works(&made)?;
            ground.take_down(place)?;
            files::sync(&place.metadata())
        })
        .await?;
        let check = self.check_metadata(&layout).await?;
        let said = check.said.clone();
        let good = check.verdict == PoolVerdict::Good;
        record.last_check = Some(check);
        if !good {
            let said = said.unwrap_or_else(|| "what the kernel has just made".to_owned());
            return Err(PoolError::Damaged { said });
        }
        record.stage = Stage::Ready;
        self.write(&record).await?;
        self.assemble(layout).await
    }

    /// Takes away what a set-up that failed has left. What cannot be taken away is in the log, and
    /// the next set-up begins with it.
    async fn unmake(&self) {
        let undone = self
            .relief("the undoing of the pool's set-up", |ground, place| {
                // It was ready, and only the last step failed: then it stays.
                if Record::read(place)?.is_some_and(|record| record.stage == Stage::Ready) {
                    return Ok(());
                }
                ground.take_down(place)?;
                files::remove(place)?;
                files::remove_record(place)
            })
            .await;
        if let Err(error) = undone {
            tracing::warn!(error = %chain(&error), "what the set-up of the pool has made is left; the next set-up begins with it");
        }
    }

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
        self.relief("a look at the pool's files", move |_, place| {
            files::open(&place.metadata(), layout.metadata)?;
            files::open(&place.data(), layout.data).map(drop)
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

    async fn assemble(&self, layout: Layout) -> Result<(), PoolError> {
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

    /// Destroys the pool with all that is in it, and sets up an empty one of the same size. In between what
    /// was known of its content is forgotten.
    ///
    /// # Errors
    /// As [`Pool::destroy`] and [`Pool::setup`]; what was destroyed by then is.
    pub async fn reset(
        &self,
        force: bool,
        forget: impl Future<Output = ()>,
    ) -> Result<(), PoolError> {
        let record = self.recorded().await?.ok_or(PoolError::Absent)?;
        let size = Bytes(self.layout(&record)?.data);
        self.destroy(force).await?;
        forget.await;
        self.setup(Some(size)).await.map(drop)
    }

    /// Destroys the pool with all that is in it: devices, files, record. One that holds data, or may
    /// hold some, only with `force`; one that is in use never.
    ///
    /// # Errors
    /// See [`PoolError`]. Cut off on the way, it is gone on with by another order.
    pub async fn destroy(&self, force: bool) -> Result<(), PoolError> {
        let _turn = self.begin("destroy").await?;
        let found = self.look().await?;
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
        if let Some(mut record) = record {
            record.stage = Stage::Destroying;
            self.write(&record).await?;
        }
        self.relief("the destruction of the pool", |ground, place| {
            ground.take_down(place)?;
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

/// Whether a pool that was just made can be written to.
fn works(running: &Running) -> Result<(), PoolError> {
    let state = match &running.status {
        PoolStatus::Works {
            mode: Mode::ReadWrite,
            ..
        } => return Ok(()),
        PoolStatus::Works { .. } => "not writable",
        PoolStatus::Failed => "failed",
    };
    Err(PoolError::NotWorking { state })
}
