//! How a pool is made: on files of the data folder, or with its data on a block device.

use camino::{Utf8Path, Utf8PathBuf};
use hearth_dm::thin::{Mode, PoolStatus};
use hearth_types::pool::{PoolVerdict, SetUpPool};
use hearth_types::survey::chain;
use hearth_types::units::Bytes;
use jiff::Timestamp;

use super::{LOOK, Pool};
use crate::base::{Base, Unfit};
use crate::error::PoolError;
use crate::files;
use crate::ground::{Found, Layout, Running};
use crate::record::{Record, Stage};

/// What a pool is to be made on.
#[derive(Debug)]
pub(super) enum Wanted {
    /// Files, for this much data.
    Files(Option<Bytes>),
    /// A device, whole.
    Device {
        path: Utf8PathBuf,
        /// Whatever is on it.
        force: bool,
        /// Somebody has asked for this one now; else it is the configuration's, which says nothing of a pool
        /// that is there.
        asked: bool,
    },
}

impl Wanted {
    pub(super) fn device(path: Utf8PathBuf) -> Self {
        Self::Device {
            path,
            force: false,
            asked: true,
        }
    }
}

impl Pool {
    /// With the device that its data is to be on when it is made and nobody names another one.
    #[must_use]
    pub fn with_device(self, device: Option<Utf8PathBuf>) -> Self {
        Self { device, ..self }
    }

    /// Sets the pool up where the configuration says, with this much data or the default: see [`Pool::set_up`].
    ///
    /// # Errors
    /// See [`PoolError`].
    pub async fn setup(&self, data: Option<Bytes>) -> Result<bool, PoolError> {
        let asked = SetUpPool {
            data,
            ..SetUpPool::default()
        };
        self.set_up(&asked).await
    }

    /// Sets the pool up. One that is there already is put together if it has to be, and is a success unless another
    /// size or device is asked for. A set-up that was cut off is begun anew; one that fails leaves nothing.
    /// True if it made one.
    ///
    /// # Errors
    /// See [`PoolError`].
    pub async fn set_up(&self, asked: &SetUpPool) -> Result<bool, PoolError> {
        let named = asked.device.as_deref().map(Utf8PathBuf::from);
        let by_name = named.is_some();
        let wanted = match named.or_else(|| self.device.clone()) {
            None => Wanted::Files(asked.data),
            Some(device) if by_name && asked.data.is_some() => {
                return Err(unfit(
                    &device,
                    Unfit::Whole,
                    "is taken whole, with the size that it has",
                ));
            }
            // The size says that a file is meant.
            Some(_) if asked.data.is_some() => Wanted::Files(asked.data),
            Some(path) => Wanted::Device {
                path,
                force: asked.force,
                asked: by_name,
            },
        };
        self.make_or_find(wanted).await
    }

    pub(super) async fn make_or_find(&self, wanted: Wanted) -> Result<bool, PoolError> {
        if let Wanted::Files(size) = wanted {
            Layout::of(size)?;
        }
        let _turn = self.begin("setup").await?;
        let found = self.look().await?;
        match self.recorded().await? {
            None if found != Found::Nothing => {
                return Err(PoolError::Unrecorded {
                    name: self.place.name.clone(),
                    record: self.place.record(),
                });
            }
            None => {}
            Some(record) => match record.stage {
                Stage::Destroying => return Err(PoolError::Destroying),
                Stage::Preparing => self.give_back(record.base).await,
                Stage::Ready => {
                    self.is_as_wanted(&record, &wanted)?;
                    return self.put_together(record).await.map(|()| false);
                }
            },
        }
        let (record, layout, force) = self.plan(wanted).await?;
        let made = self.make(record, layout, force).await;
        if made.is_err() {
            self.unmake().await;
        }
        made.map(|()| true)
    }

    /// One that is there cannot become another one.
    fn is_as_wanted(&self, record: &Record, wanted: &Wanted) -> Result<(), PoolError> {
        let present = self.layout(record)?.data;
        match (wanted, &record.base) {
            (Wanted::Files(Some(size)), _) if Layout::of(Some(*size))?.data != present => {
                Err(PoolError::Present {
                    present: Bytes(present),
                })
            }
            (
                Wanted::Device {
                    path, asked: true, ..
                },
                base,
            ) if !base.as_ref().is_some_and(|base| is_same(base, path)) => {
                let on = base.as_ref().map_or("a file", |base| base.given.as_str());
                let what = format!("is not what the pool is on: that is {on}");
                Err(unfit(path, Unfit::Elsewhere, &what))
            }
            _ => Ok(()),
        }
    }

    /// What is to be made. A device is looked at; nothing is written.
    async fn plan(&self, wanted: Wanted) -> Result<(Record, Layout, bool), PoolError> {
        let (path, force) = match wanted {
            Wanted::Files(size) => {
                let layout = Layout::of(size)?;
                return Ok((Record::new(&layout, Timestamp::now()), layout, false));
            }
            Wanted::Device { path, force, .. } => (path, force),
        };
        let (ground, place) = (std::sync::Arc::clone(&self.ground), self.place.clone());
        let given = path.clone();
        let candidate = self
            .looks
            .take("a look at a device for the pool", LOOK, move || {
                ground.inspect(&place, &given, force)
            })
            .await??;
        let Some(layout) = Layout::on_device(candidate.room) else {
            return Err(unfit(&path, Unfit::Small, "is too small"));
        };
        let mut record = Record::new(&layout, Timestamp::now());
        record.base = Some(Base::new(candidate, path));
        Ok((record, layout, force))
    }

    /// Makes it from nothing. It goes through all that a reboot asks of it before anything can be
    /// stored in it: formatted, taken down, checked, put together.
    async fn make(&self, mut record: Record, layout: Layout, force: bool) -> Result<(), PoolError> {
        let first = record.clone();
        self.change("the making of the pool's files", move |ground, place| {
            files::make_folder(place)?;
            first.write(place)?;
            // What an earlier attempt has left in the kernel stands on the files that go now.
            ground.take_down(place)?;
            if let Some(base) = &first.base {
                ground.claim(place, base, force)?;
            }
            files::make(place, &layout, first.base.is_none())
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
                let record = Record::read(place)?;
                // It was ready, and only the last step failed: then it stays.
                if record
                    .as_ref()
                    .is_some_and(|record| record.stage == Stage::Ready)
                {
                    return Ok(());
                }
                ground.take_down(place)?;
                if let Some(base) = record.and_then(|record| record.base) {
                    ground.release(place, &base)?;
                }
                files::remove(place)?;
                files::remove_record(place)
            })
            .await;
        if let Err(error) = undone {
            tracing::warn!(error = %chain(&error), "what the set-up of the pool has made is left; the next set-up begins with it");
        }
    }

    /// A device that a set-up that was cut off may have taken is nobody's again. If that cannot be, it keeps our
    /// header, and is refused as one that holds something.
    async fn give_back(&self, base: Option<Base>) {
        let Some(base) = base else { return };
        let given = base.given.clone();
        let released = self
            .relief("the giving back of a device", move |ground, place| {
                ground.take_down(place)?;
                ground.release(place, &base)
            })
            .await;
        if let Err(error) = released {
            tracing::warn!(device = %given, error = %chain(&error), "a device that a set-up of the pool had begun with is left as it is");
        }
    }
}

fn unfit(device: &Utf8Path, unfit: Unfit, what: &str) -> PoolError {
    PoolError::Device {
        device: device.to_owned(),
        what: what.to_owned(),
        unfit,
    }
}

/// Whether this is a name of the pool's device.
fn is_same(base: &Base, path: &Utf8Path) -> bool {
    let names = [&base.given, &base.device];
    let same = |name: &&Utf8PathBuf| {
        let (one, other) = (name.canonicalize_utf8(), path.canonicalize_utf8());
        matches!((one, other), (Ok(one), Ok(other)) if one == other)
    };
    names.iter().any(|name| *name == path) || names.iter().any(same)
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
