//! Keeps an eye on the pool: tells what changes, gives it room in time, has VMs wait when there is none.
//!
//! ```text
//!  kernel's event ─┐                 ┌─► events, metrics
//!  each 10 s ──────┼─► look ─► told ─┼─► low, or a growth cut off: grow
//!  low: each 1 s ──┘                 └─► about to run out: the planner pauses VMs
//! ```
//! The kernel holds writes that find no room for 60 s; from its event to more room it takes
//! milliseconds. Nothing is changed in mode `readonly`, it is only told.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_plan::PoolRoom;
use hearth_pool::space::WORTH_IT;
use hearth_pool::{Events, Pool, PoolError};
use hearth_types::event::{NewEvent, Severity};
use hearth_types::mode::Mode;
use hearth_types::pool::{PoolState, PoolView};
use hearth_types::survey::chain;
use tokio::sync::watch;

use super::told::Told;
use crate::engine::Engine;

/// Between two looks, whatever the kernel says.
const LOOK: Duration = Duration::from_secs(10);
/// The same while it is low: nobody may outrun the pause of VMs.
const LOW: Duration = Duration::from_secs(1);
/// Before a backup that failed is tried again.
const RETRY: Duration = Duration::from_secs(600);
/// The shortest time between two looks: events of others come in bursts.
const REST: Duration = Duration::from_millis(50);

/// Who looks after the pool.
pub struct Keeper {
    engine: Arc<Engine>,
    pool: Pool,
    told: Told,
    /// Why it could not grow, as told last.
    refused: Option<String>,
    /// So often its metadata is backed up; zero: never by itself.
    backup_every: Duration,
    /// When a backup was tried last.
    tried: Option<Instant>,
    /// The device below it was not there when it was looked at last.
    without_device: bool,
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper").finish_non_exhaustive()
    }
}

impl Keeper {
    /// Nothing happens yet.
    #[must_use]
    pub fn new(engine: Arc<Engine>, pool: Pool, backup_every: Duration) -> Self {
        Self {
            engine,
            pool,
            told: Told::default(),
            refused: None,
            backup_every,
            tried: None,
            without_device: false,
        }
    }

    /// Until the daemon ends.
    pub async fn run(mut self, mut stopping: watch::Receiver<bool>) {
        let mut events = self.pool.events();
        loop {
            let begun = Instant::now();
            let wait = self.look().await;
            tokio::select! {
                _ = stopping.wait_for(|stop| *stop) => return,
                () = wake(&mut events, wait) => {}
            }
            tokio::time::sleep(REST.saturating_sub(begun.elapsed())).await;
        }
    }

    /// One look, and what follows from it; how long until the next.
    pub async fn look(&mut self) -> Duration {
        let begun = Instant::now();
        let mut view = self.pool.view().await;
        if self.device_came(&view) {
            self.put_together().await;
            view = self.pool.view().await;
        }
        if self.may_change(&view).await && self.grow(begun, &view).await {
            view = self.pool.view().await;
        }
        self.engine.metrics.pool_seen(&view);
        for event in self.told.look(&view) {
            self.engine.tell(event).await;
        }
        self.room(&view).await;
        self.back_up(&view);
        let low = view
            .space
            .as_ref()
            .is_some_and(|space| space.low || space.metadata_low);
        if low || view.state == PoolState::Full {
            LOW
        } else {
            LOOK
        }
    }

    /// Whether the device below it is there again, which was not.
    fn device_came(&mut self, view: &PoolView) -> bool {
        let device = view.data_device.as_ref();
        let missing = device.is_some_and(|device| device.missing);
        let was = std::mem::replace(&mut self.without_device, missing);
        was && !missing
            && view.state == PoolState::Down
            && self.engine.modes.mode() != Mode::Readonly
    }

    async fn put_together(&mut self) {
        match self.pool.bring_up().await {
            Ok(false) => {}
            Ok(true) => self.engine.tell(super::up(&self.pool.view().await)).await,
            // Somebody else is at it.
            Err(PoolError::Working { .. }) => self.without_device = true,
            Err(error) => {
                self.engine
                    .tell(super::failed("put together", &error))
                    .await
            }
        }
    }

    /// Whether it wants to grow, or to go on with what was cut off, and may.
    async fn may_change(&self, view: &PoolView) -> bool {
        let there = matches!(
            view.state,
            PoolState::Up | PoolState::Full | PoolState::ReadOnly
        );
        // What somebody does to it by order is seen to its end first.
        if !there || view.work.is_some() || self.engine.modes.mode() == Mode::Readonly {
            return false;
        }
        let low = |space: &hearth_types::pool::PoolSpace| space.low || space.metadata_low;
        view.space.as_ref().is_some_and(low)
            || device_has_more(view)
            || self.pool.is_unsettled().await.unwrap_or(false)
    }

    /// Grows. True if it has grown.
    async fn grow(&mut self, begun: Instant, view: &PoolView) -> bool {
        match self.pool.keep_room().await {
            Ok(None) => false,
            Ok(Some(now)) => {
                self.refused = None;
                self.engine.metrics.pool_extended(true);
                let seen = if device_has_more(view) {
                    "its device was seen to be larger"
                } else {
                    "it was seen to be low"
                };
                let took = begun.elapsed().as_millis();
                let why = format!("by itself, {took} ms after {seen}");
                self.engine.tell(super::extended(now, &why)).await;
                true
            }
            Err(PoolError::Working { .. }) => false,
            Err(error) => {
                self.engine.metrics.pool_extended(false);
                let said = chain(&error);
                if self.refused.as_ref() != Some(&said) {
                    let hint = error.hint().map(|hint| format!("; {hint}"));
                    let message = format!(
                        "the pool is low and cannot grow: {said}{}",
                        hint.unwrap_or_default()
                    );
                    let event = NewEvent::info("pool.extension_failed", message);
                    self.engine.tell(event.severity(Severity::Error)).await;
                    self.refused = Some(said);
                }
                false
            }
        }
    }

    /// Backs the metadata up when it is time. Nobody waits for it.
    fn back_up(&mut self, view: &PoolView) {
        let rested = self.tried.is_none_or(|at| at.elapsed() >= RETRY);
        let every = self.backup_every;
        let due = view.backup.as_ref().is_none_or(|backup| {
            let age = self.engine.now().duration_since(backup.at);
            // One of the future is none: the clock was set back.
            Duration::try_from(age).map_or(true, |age| age >= every)
        });
        let readonly = self.engine.modes.mode() == Mode::Readonly;
        if every.is_zero() || view.state != PoolState::Up || readonly || !due || !rested {
            return;
        }
        self.tried = Some(Instant::now());
        let (engine, pool) = (Arc::clone(&self.engine), self.pool.clone());
        drop(tokio::spawn(async move {
            match pool.back_up().await {
                Ok(backup) => engine.tell(super::backed_up(&backup)).await,
                Err(PoolError::Working { .. }) => {}
                Err(error) => {
                    let event = super::failed("backed up", &error);
                    engine
                        .tell(NewEvent {
                            code: "pool.backup_failed".to_owned(),
                            ..event
                        })
                        .await;
                }
            }
        }));
    }

    /// Tells the planner whether VMs may write.
    async fn room(&self, view: &PoolView) {
        let room = match view.state {
            PoolState::Up | PoolState::Full => match self.pool.readings().await {
                Ok(readings) => {
                    let paused = self.engine.pool_room().is_tight();
                    readings
                        .tight(self.pool.limits(), paused)
                        .map_or(PoolRoom::Enough, |why| PoolRoom::Tight { why })
                }
                Err(_) => PoolRoom::Unknown,
            },
            // Where there is none nobody waits for it.
            PoolState::Absent | PoolState::Unavailable => PoolRoom::Enough,
            _ => PoolRoom::Unknown,
        };
        self.engine.pool_has(room).await;
    }
}

/// The device below it has become larger than the pool is, by what is worth it.
fn device_has_more(view: &PoolView) -> bool {
    let size = view.data.map_or(u64::MAX, |data| data.size);
    let most = view.space.as_ref().map_or(0, |space| space.most);
    view.data_device.is_some() && most.saturating_sub(size) >= WORTH_IT
}

/// Comes back at an event or after this time.
async fn wake(events: &mut Option<Box<dyn Events>>, after: Duration) {
    let Some(waiting) = events else {
        return tokio::time::sleep(after).await;
    };
    if let Ok(Err(error)) = tokio::time::timeout(after, waiting.next()).await {
        tracing::warn!(error = %chain(&error), "the kernel's events end; the pool is looked at from time to time");
        *events = None;
    }
}
