//! The operation guard: device-mapper operations one by one, each looked at first, each with a deadline.
//!
//! ```text
//!  run ──► health ──► waiting ──► running ──► ended (done, failed)
//!            │           │           └─ deadline ─► stuck: its caller is told, its turn stays taken ─► ended
//!            ▼ refused   ▼ not in turn, or the one before it is stuck
//! ```
//! Each operation is done on a thread of its own, never on one of the runtime's: a runtime that ends waits for
//! those. The turn goes with the thread, so as long as one is in the kernel no other is begun. Where another
//! process makes the calls ([`Elsewhere`]) the thread only waits for it, and nothing keeps the daemon from ending.

mod queue;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_host::waits::{self, KernelWait};
use hearth_types::pool::PoolOperation;
use hearth_types::survey::Survey;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{sleep, timeout};

use crate::check::{Finding, PoolSign, Purpose, Report, Weight};
use crate::elsewhere::{Elsewhere, wait_of};
use crate::health::Health;
use crate::metrics::Metrics;
use queue::{Place, Queue};

/// Between two looks at what may settle by itself.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Who has waited longer for the turn is looked at again.
const FRESH: Duration = Duration::from_secs(1);

/// How operations are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// So many at once.
    pub max_concurrent: usize,
    /// How long what may end by itself is looked at again, beside the time after which a thread
    /// hangs.
    pub settle: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_concurrent: 1,
            settle: Duration::from_secs(3),
        }
    }
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// What it is called: `the removal of a volume`.
    pub name: &'static str,
    /// What it is for.
    pub purpose: Purpose,
    /// How long it may take, and how long it waits for its turn.
    pub deadline: Duration,
    /// What is known of the pool, if it matters for it.
    pub pool: Option<PoolSign>,
}

/// Why an operation was not done, as far as anybody can tell.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// A check speaks against it. Nothing was begun.
    #[error("{what} is refused: {}", list(findings))]
    Refused {
        /// What was to be done.
        what: &'static str,
        /// What speaks against it.
        findings: Vec<Finding>,
    },
    /// Others were before it for all of its time. Nothing was begun.
    #[error("{what} has waited {} s for its turn: {before}", waited.as_secs())]
    NotInTurn {
        /// What was to be done.
        what: &'static str,
        /// For how long it waited.
        waited: Duration,
        /// What is under way.
        before: String,
    },
    /// An operation before it does not come back. Nothing was begun.
    #[error("{what} is not begun: {before}")]
    Behind {
        /// What was to be done.
        what: &'static str,
        /// What does not come back.
        before: String,
    },
    /// It has not come back in time. It goes on, and holds up those behind it.
    #[error("the kernel has not ended {what} within {} s ({wait})", waited.as_secs())]
    Stuck {
        /// What was done.
        what: &'static str,
        /// How long it was waited for.
        waited: Duration,
        /// What its thread waits for.
        wait: String,
    },
    /// Its thread could not be made, or has panicked.
    #[error("{what} was not done: {why}")]
    Broken {
        /// What was to be done.
        what: &'static str,
        /// Why not.
        why: String,
    },
}

fn list(findings: &[Finding]) -> String {
    let words: Vec<_> = findings.iter().map(ToString::to_string).collect();
    words.join("; ")
}

impl GuardError {
    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Refused { findings, .. } => findings.first().map(|finding| finding.hint),
            Self::NotInTurn { .. } => Some("wait for it: hearth pool status"),
            Self::Behind { .. } | Self::Stuck { .. } => Some(
                "a device below does not answer: see dmesg; this goes on when it does, else reboot \
                 (docs/runbooks/HearthDState.md)",
            ),
            Self::Broken { .. } => None,
        }
    }
}

struct Inner {
    settings: Settings,
    health: Option<Health>,
    turns: Arc<Semaphore>,
    queue: Arc<Queue>,
    metrics: Metrics,
    elsewhere: Option<Arc<dyn Elsewhere>>,
}

/// The guard. Its clones are one.
#[derive(Clone)]
pub struct OperationGuard(Arc<Inner>);

impl fmt::Debug for OperationGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OperationGuard")
            .field("settings", &self.0.settings)
            .finish_non_exhaustive()
    }
}

impl Default for OperationGuard {
    /// One at a time, and nothing is checked: for tests.
    fn default() -> Self {
        Self::new(Settings::default(), None)
    }
}

impl OperationGuard {
    /// A guard that has the host looked at before each operation, if there is a check.
    #[must_use]
    pub fn new(settings: Settings, health: Option<Health>) -> Self {
        Self::with_elsewhere(settings, health, None)
    }

    /// The same where another process makes the calls.
    #[must_use]
    pub fn with_elsewhere(
        settings: Settings,
        health: Option<Health>,
        elsewhere: Option<Arc<dyn Elsewhere>>,
    ) -> Self {
        Self(Arc::new(Inner {
            settings,
            health,
            turns: Arc::new(Semaphore::new(settings.max_concurrent.max(1))),
            queue: Arc::default(),
            metrics: Metrics::default(),
            elsewhere,
        }))
    }

    /// Those who make the calls, where that is another process.
    #[must_use]
    pub fn elsewhere(&self) -> Option<&Arc<dyn Elsewhere>> {
        self.0.elsewhere.as_ref()
    }

    /// The check, if there is one.
    #[must_use]
    pub fn health(&self) -> Option<&Health> {
        self.0.health.as_ref()
    }

    /// What waits, what is under way and what does not come back, the oldest first.
    #[must_use]
    pub fn queue(&self) -> Vec<PoolOperation> {
        let elsewhere = self.0.elsewhere.as_deref();
        self.0
            .queue
            .view(|tid| elsewhere.and_then(|others| others.of_thread(tid)))
    }

    /// Adds what is counted, and the queue as it is now.
    pub fn register(&self, registry: &mut Registry) {
        self.0.metrics.register(registry);
        self.0.queue.register(registry);
        let hangs = self.0.health.as_ref().is_some_and(Health::hangs);
        let help = "1 while a thread hangs on device-mapper";
        registry.register("dm_hangs", help, ConstGauge::new(i64::from(hangs)));
        let limit = i64::try_from(self.0.settings.max_concurrent).unwrap_or(i64::MAX);
        let help = "How many device-mapper operations may be under way at once";
        registry.register("dm_operations_limit", help, ConstGauge::new(limit));
    }

    /// Looks at the host as it is done before an operation, again while what speaks against it may
    /// settle by itself. Without a check nothing speaks against anything.
    pub async fn examine(&self, purpose: Purpose, pool: Option<&PoolSign>) -> Report {
        let Some(health) = &self.0.health else {
            return Report::default();
        };
        let end = Instant::now() + health.thresholds().held_for + self.0.settings.settle;
        loop {
            let mut report = health.look(purpose, pool).await;
            self.0.metrics.looked(report.took);
            match report.weight() {
                Some(Weight::Moment | Weight::Settles) if Instant::now() < end => {
                    sleep(LOOK_AGAIN).await;
                    continue;
                }
                _ => {}
            }
            for finding in &mut report.findings {
                match finding.weight {
                    // It was there each time, and another one each time, or it would have refused.
                    Weight::Moment => finding.weight = Weight::Warns,
                    Weight::Settles => finding.weight = Weight::Refuses,
                    Weight::Warns | Weight::Refuses => {}
                }
            }
            return report;
        }
    }

    /// Has an operation done: looks at the host, waits for its turn, and for its end.
    ///
    /// # Errors
    /// [`GuardError`]. Only with [`GuardError::Stuck`] may the work have an effect.
    pub async fn run<T, E>(
        &self,
        operation: Operation,
        work: impl FnOnce() -> Result<T, E> + Send + 'static,
    ) -> Result<Result<T, E>, GuardError>
    where
        T: Send + 'static,
        E: Send + 'static,
    {
        let done = self.take(&operation, work).await;
        let outcome = match &done {
            Ok(Ok(_)) => "done",
            Ok(Err(_)) | Err(GuardError::Broken { .. }) => "failed",
            Err(GuardError::Refused { .. }) => "refused",
            Err(GuardError::NotInTurn { .. } | GuardError::Behind { .. }) => "not_in_turn",
            Err(GuardError::Stuck { .. }) => "timed_out",
        };
        self.0.metrics.ended(outcome);
        if let Err(error) = &done {
            let timed_out = matches!(error, GuardError::Stuck { .. });
            tracing::warn!(
                operation = operation.name,
                outcome,
                timed_out,
                "[guard] {error}"
            );
        }
        done
    }

    async fn take<T, E>(
        &self,
        operation: &Operation,
        work: impl FnOnce() -> Result<T, E> + Send + 'static,
    ) -> Result<Result<T, E>, GuardError>
    where
        T: Send + 'static,
        E: Send + 'static,
    {
        let what = operation.name;
        let begun = Instant::now();
        let place = Queue::enter(&self.0.queue, what);
        self.healthy(operation).await?;
        let turn = self.turn(operation, begun).await?;
        if begun.elapsed() > FRESH {
            self.healthy(operation).await?;
        }
        let (tell, told) = oneshot::channel();
        let place = Arc::new(place);
        let at_work = Arc::clone(&place);
        let inner = Arc::clone(&self.0);
        std::thread::Builder::new()
            .name("dm-operation".to_owned())
            .spawn(move || at_work.work(turn, &inner.metrics, tell, work))
            .map_err(|error| GuardError::Broken {
                what,
                why: format!("no thread to do it: {error}"),
            })?;
        match timeout(operation.deadline, told).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(_)) => Err(GuardError::Broken {
                what,
                why: "its thread has panicked".to_owned(),
            }),
            Err(_) => {
                place.give_up();
                let wait = place.wait(self.0.elsewhere.as_deref());
                Err(GuardError::Stuck {
                    what,
                    waited: operation.deadline,
                    wait,
                })
            }
        }
    }

    async fn healthy(&self, operation: &Operation) -> Result<(), GuardError> {
        let report = self
            .examine(operation.purpose, operation.pool.as_ref())
            .await;
        for finding in report.at_least(Weight::Warns) {
            tracing::debug!(operation = operation.name, "[guard] {finding}");
        }
        let findings: Vec<_> = report.at_least(Weight::Refuses).cloned().collect();
        if findings.is_empty() {
            return Ok(());
        }
        for finding in &findings {
            self.0.metrics.refused(finding.check);
        }
        let what = operation.name;
        Err(GuardError::Refused { what, findings })
    }

    /// Waits for the turn, but not behind what does not come back.
    async fn turn(
        &self,
        operation: &Operation,
        begun: Instant,
    ) -> Result<OwnedSemaphorePermit, GuardError> {
        let what = operation.name;
        let queue = &self.0.queue;
        let acquire = Arc::clone(&self.0.turns).acquire_owned();
        let hopeless = queue.until_stuck(self.0.settings.max_concurrent.max(1));
        let left = operation.deadline.saturating_sub(begun.elapsed());
        let before = || queue.words();
        tokio::select! {
            biased;
            turn = acquire => turn.map_err(|error| GuardError::Broken { what, why: error.to_string() }),
            () = hopeless => Err(GuardError::Behind { what, before: before() }),
            () = sleep(left) => Err(GuardError::NotInTurn { what, waited: begun.elapsed(), before: before() }),
        }
    }
}

impl Place {
    /// Does the work, on this thread.
    fn work<T, E>(
        self: Arc<Self>,
        turn: OwnedSemaphorePermit,
        metrics: &Metrics,
        tell: oneshot::Sender<Result<T, E>>,
        work: impl FnOnce() -> Result<T, E>,
    ) {
        let operation = self.name();
        let begun = Instant::now();
        self.begin();
        tracing::info!(operation, "[guard] begins");
        let done = work();
        let took = begun.elapsed();
        let (outcome, took_ms) = match &done {
            Ok(_) => ("done", took.as_millis()),
            Err(_) => ("failed", took.as_millis()),
        };
        let late = self.is_given_up();
        tracing::info!(
            operation,
            took_ms,
            outcome,
            timed_out = late,
            "[guard] ended"
        );
        metrics.took(took);
        // Who waits is told, and finds the next turn free and this place empty.
        drop(self);
        drop(turn);
        drop(tell.send(done));
    }

    /// What its thread waits for, for people. Another process that works for it is given up, too.
    fn wait(&self, elsewhere: Option<&dyn Elsewhere>) -> String {
        let Some(tid) = self.thread() else {
            return "its thread has not begun".to_owned();
        };
        if let Some(others) = elsewhere
            && let Some(pid) = others.of_thread(tid)
        {
            let wait = wait_of(pid);
            others.give_up(tid);
            return wait;
        }
        let own = i32::try_from(std::process::id()).unwrap_or_default();
        let waits: Survey<Vec<KernelWait>> =
            waits::of_process(own).map_or_else(|e| Survey::Unknown(e.to_string()), Survey::Known);
        match waits {
            Survey::Unknown(why) => format!("what it waits for is unknown: {why}"),
            Survey::Known(waits) => waits.iter().find(|wait| wait.tid == tid).map_or_else(
                || "its thread hears signals".to_owned(),
                ToString::to_string,
            ),
        }
    }
}

#[cfg(test)]
mod tests;
