//! The pool's owner: one change at a time, each written down before it is made.

mod change;
mod grow;
mod mend;
mod setup;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use camino::Utf8PathBuf;
use hearth_dm::thin::{METADATA_BLOCK, PoolStatus};
use hearth_safeguards::{Operation, OperationGuard, PoolSign, Purpose};
use hearth_types::pool::{PoolDevice, PoolSpace, PoolState, PoolUsage, PoolView, PoolWork};
use jiff::Timestamp;
use parking_lot::Mutex;

use crate::error::PoolError;
use crate::ground::{Found, Ground, Layout, Place, Running};
use crate::hands::Hands;
use crate::record::Record;
use crate::space::{Limits, Readings};
use crate::state::{Judgement, judge};

/// How long a look may take: it waits for no device.
const LOOK: Duration = Duration::from_secs(5);
/// How long one change in the kernel may take: the removal of a pool commits its metadata.
const CHANGE: Duration = Duration::from_secs(60);
/// How long one who wants a change waits for another one's end.
const PATIENCE: Duration = Duration::from_secs(30);

/// The pool.
#[derive(Clone)]
pub struct Pool {
    place: Place,
    ground: Arc<dyn Ground>,
    /// One change at a time.
    turn: Arc<tokio::sync::Mutex<()>>,
    work: Arc<Mutex<Option<Work>>>,
    /// One at a time reads the metadata: a backup or a list.
    backing: Arc<tokio::sync::Mutex<()>>,
    /// What the operator allows.
    limits: Limits,
    /// The sizes of all volumes and snapshots together, in bytes.
    provisioned: Arc<AtomicU64>,
    /// Calls that change something go through it, one by one.
    guard: OperationGuard,
    /// What its data is to be on when it is made and nobody says; a file when absent.
    device: Option<Utf8PathBuf>,
    /// Calls that only look: a change that hangs holds them up only where the kernel does.
    looks: Hands,
}

/// What is being done.
#[derive(Debug, Clone, Copy)]
struct Work {
    what: &'static str,
    since: Timestamp,
    begun: Instant,
}

/// A change that is under way.
pub(crate) struct Turn<'a> {
    pool: &'a Pool,
    _turn: tokio::sync::MutexGuard<'a, ()>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.pool.work.lock() = None;
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool")
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

impl Pool {
    /// The pool of this place. Nothing happens yet. Its changes are made one by one, and the host is
    /// not looked at first: see [`Pool::with_guard`].
    #[must_use]
    pub fn new(place: Place, ground: Arc<dyn Ground>) -> Self {
        Self {
            place,
            ground,
            turn: Arc::default(),
            work: Arc::default(),
            backing: Arc::default(),
            limits: Limits::default(),
            provisioned: Arc::default(),
            guard: OperationGuard::default(),
            device: None,
            looks: Hands::default(),
        }
    }

    /// The same with what the operator allows.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// What the operator allows.
    #[must_use]
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Where it is.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// With a guard that looks at the host before each change.
    #[must_use]
    pub fn with_guard(self, guard: OperationGuard) -> Self {
        Self { guard, ..self }
    }

    /// What takes its changes, and those of the volumes in it, one by one.
    #[must_use]
    pub fn guard(&self) -> &OperationGuard {
        &self.guard
    }

    /// How it is at this moment. Waits for no change that is under way.
    pub async fn view(&self) -> PoolView {
        let (record, found, room, backups) =
            tokio::join!(self.recorded(), self.look(), self.room(), self.backups());
        let Judgement {
            state,
            reason,
            hint,
        } = judge(&record, &found);
        let mut view = PoolView {
            state,
            reason,
            hint: hint.map(str::to_owned),
            name: self.place.name.clone(),
            uuid: self.place.uuid.clone(),
            device: None,
            data: None,
            metadata: None,
            block: None,
            transaction_id: None,
            users: None,
            folder: self.place.dir.to_string(),
            data_device: None,
            made_at: None,
            last_check: None,
            needs_check: false,
            backup: None,
            space: None,
            work: self.work.lock().map(|work| PoolWork {
                what: work.what.to_owned(),
                since: work.since,
            }),
            operations: self.guard.queue(),
        };
        let layout = match &record {
            Ok(Some(record)) => self.layout(record).ok(),
            _ => None,
        };
        if let (Some(layout), Ok(Found::Running(running)), Ok(room)) = (layout, &found, room) {
            let readings = Readings::of(&layout, &running.status, room, self.provisioned());
            view.space = readings.map(|readings| self.tell_space(&readings));
        }
        view.backup = backups.ok().and_then(|all| all.into_iter().next());
        if let Ok(Some(record)) = record {
            view.data_device = record.base.as_ref().map(|base| PoolDevice {
                path: base.device.to_string(),
                given: base.given.to_string(),
                volume: base.volume.clone(),
                missing: found.as_ref().is_err_and(PoolError::is_missing_device),
            });
            self.tell_recorded(&mut view, record);
        }
        if let Ok(Found::Running(running)) = found {
            view.device = running.device.node().to_str().map(str::to_owned);
            view.users = Some(running.users);
            tell_status(&mut view, &running.status);
        }
        view
    }

    fn tell_space(&self, readings: &Readings) -> PoolSpace {
        let (most, bound) = readings.most_data(&self.limits);
        PoolSpace {
            provisioned: readings.provisioned,
            most,
            bound: bound.to_string(),
            overcommit_percent: readings.overcommit(&self.limits),
            overcommit_limit: self.limits.overcommit,
            writable: readings.writable(),
            low: readings.data_is_low(),
            metadata_low: readings.metadata_is_low(),
        }
    }

    /// The sizes of all volumes and snapshots together, as they were told last.
    fn provisioned(&self) -> u64 {
        self.provisioned.load(Ordering::Relaxed)
    }

    fn tell_recorded(&self, view: &mut PoolView, record: Record) {
        if let Ok(layout) = record.layout(&self.place) {
            let size = |size| Some(PoolUsage { used: None, size });
            view.data = size(layout.data);
            view.metadata = size(layout.metadata);
            view.block = Some(layout.block.bytes());
        }
        view.made_at = Some(record.made_at);
        view.last_check = record.last_check;
    }

    /// What the kernel has of it, if it has it whole.
    ///
    /// # Errors
    /// When that cannot be told.
    pub async fn running(&self) -> Result<Option<Running>, PoolError> {
        Ok(match self.look().await? {
            Found::Running(running) => Some(running),
            Found::Nothing | Found::Unfinished => None,
        })
    }

    /// What the safeguards are told of it; `None` where there is none of which anything could be told.
    pub async fn sign(&self) -> Option<PoolSign> {
        let (record, found) = tokio::join!(self.recorded(), self.look());
        let none = matches!(record, Ok(None));
        let Judgement { state, reason, .. } = judge(&record, &found);
        let why = reason.unwrap_or_else(|| "no reason was told".to_owned());
        match state {
            PoolState::Absent => None,
            PoolState::Unavailable if none => None,
            PoolState::Up => Some(PoolSign::Good),
            PoolState::Unknown => Some(PoolSign::Unknown(why)),
            state => Some(PoolSign::Bad {
                state: state.to_string(),
                why,
            }),
        }
    }

    /// Bytes that it can still take, what it may grow by among them.
    pub(crate) async fn spare(&self) -> Result<u64, PoolError> {
        let readings = self.readings().await?;
        let most = readings.most_data(&self.limits).0;
        Ok(most.saturating_sub(readings.data.used))
    }

    /// Whether one was set up, or is being.
    pub(crate) async fn is_recorded(&self) -> Result<bool, PoolError> {
        Ok(self.recorded().await?.is_some())
    }

    /// Those who make calls that only look.
    pub(crate) fn looks(&self) -> &Hands {
        &self.looks
    }

    /// One at a time reads what is held of the metadata: who holds it lets go of what another one holds.
    pub(crate) async fn reads_metadata(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.backing.lock().await
    }

    /// The same for those who do not wait.
    ///
    /// # Errors
    /// [`PoolError::Working`].
    pub(crate) fn may_read_metadata(&self) -> Result<tokio::sync::MutexGuard<'_, ()>, PoolError> {
        self.backing.try_lock().map_err(|_| PoolError::Working {
            what: "a backup or a comparison of the metadata".to_owned(),
            since: Duration::ZERO,
        })
    }

    /// Begins a change.
    pub(crate) async fn begin(&self, what: &'static str) -> Result<Turn<'_>, PoolError> {
        let Ok(turn) = tokio::time::timeout(PATIENCE, self.turn.lock()).await else {
            let other = *self.work.lock();
            return Err(PoolError::Working {
                what: other.map_or("something else", |work| work.what).to_owned(),
                since: other.map_or(PATIENCE, |work| work.begun.elapsed()),
            });
        };
        *self.work.lock() = Some(Work {
            what,
            since: Timestamp::now(),
            begun: Instant::now(),
        });
        Ok(Turn {
            pool: self,
            _turn: turn,
        })
    }

    async fn look(&self) -> Result<Found, PoolError> {
        let (ground, place) = (Arc::clone(&self.ground), self.place.clone());
        self.looks
            .take("a look at the pool", LOOK, move || ground.find(&place))
            .await?
    }

    async fn recorded(&self) -> Result<Option<Record>, PoolError> {
        let place = self.place.clone();
        // A disk may hang as a device may.
        self.looks
            .take("a look at the pool's record", LOOK, move || {
                Record::read(&place)
            })
            .await?
    }

    /// Something is made: the guard looks at all of the host first.
    async fn change<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce(&dyn Ground, &Place) -> Result<T, PoolError> + Send + 'static,
    ) -> Result<T, PoolError> {
        self.guarded(what, Purpose::Change, work).await
    }

    /// Something is mended, put together, extended or taken away: only what hangs in the kernel
    /// speaks against that.
    async fn relief<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce(&dyn Ground, &Place) -> Result<T, PoolError> + Send + 'static,
    ) -> Result<T, PoolError> {
        self.guarded(what, Purpose::Relief, work).await
    }

    async fn guarded<T: Send + 'static>(
        &self,
        name: &'static str,
        purpose: Purpose,
        work: impl FnOnce(&dyn Ground, &Place) -> Result<T, PoolError> + Send + 'static,
    ) -> Result<T, PoolError> {
        let (ground, place) = (Arc::clone(&self.ground), self.place.clone());
        self.guard
            .run(operation(name, purpose), move || work(&*ground, &place))
            .await?
    }

    async fn write(&self, record: &Record) -> Result<(), PoolError> {
        let record = record.clone();
        self.relief("the writing of the pool's record", move |_, place| {
            record.write(place)
        })
        .await
    }

    fn layout(&self, record: &Record) -> Result<Layout, PoolError> {
        record.layout(&self.place)
    }
}

/// An operation of the pool or of a volume in it. What is made in the pool says how that is; of all else the
/// pool's state is the occasion, or no matter.
pub(crate) const fn operation(name: &'static str, purpose: Purpose) -> Operation {
    Operation {
        name,
        purpose,
        deadline: CHANGE,
        pool: None,
    }
}

fn tell_status(view: &mut PoolView, status: &PoolStatus) {
    let PoolStatus::Works {
        transaction_id,
        metadata,
        data,
        needs_check,
        ..
    } = status
    else {
        return;
    };
    view.needs_check = *needs_check;
    view.transaction_id = Some(*transaction_id);
    let usage = |blocks: &hearth_dm::thin::Usage, block: u64| {
        Some(PoolUsage {
            used: Some(blocks.used.saturating_mul(block)),
            size: blocks.total.saturating_mul(block),
        })
    };
    view.metadata = usage(metadata, METADATA_BLOCK);
    if let Some(block) = view.block {
        view.data = usage(data, block);
    }
}
