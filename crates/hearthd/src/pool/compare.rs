//! Ledger, kernel and metadata, compared at the start and with every survey.
//!
//! ```text
//!  start ─► all three ─┐   each survey: ledger and kernel ──► differs in a new way, or an hour is over: all three
//!                      ▼                                                          │
//!                 told once: events, metrics, hearth orphans, hearth pool volumes ◄┘
//! ```
//! It has a task of its own: a device that hangs holds up neither the loop nor the pool's keeper.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_pool::{Depth, Thins};
use hearth_types::event::{NewEvent, Severity};
use hearth_types::mode::Mode;
use hearth_types::orphan::{Fate, FateKind, Orphan, OrphanKind, OrphanState};
use hearth_types::survey::chain;
use hearth_types::thin::{PoolDifference, ThinDevice};
use tokio::sync::watch;

use crate::engine::Engine;
use crate::orphans::unproven;

/// The metadata is read as a whole: so often without an occasion …
const METADATA: Duration = Duration::from_secs(3600);
/// … and not more often with one.
const METADATA_REST: Duration = Duration::from_secs(300);
/// More differences than this are told as one event: something else is wrong then.
const MOST_TOLD: usize = 20;

/// Who compares.
pub struct Comparer {
    engine: Arc<Engine>,
    thins: Thins,
    /// What was told and is so still.
    told: BTreeSet<(String, String)>,
    /// Why nothing could be compared, as told last.
    failed: Option<String>,
    /// When the metadata was compared last.
    read: Option<Instant>,
}

impl std::fmt::Debug for Comparer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Comparer").finish_non_exhaustive()
    }
}

impl Comparer {
    /// Nothing happens yet.
    #[must_use]
    pub const fn new(engine: Arc<Engine>, thins: Thins) -> Self {
        Self {
            engine,
            thins,
            told: BTreeSet::new(),
            failed: None,
            read: None,
        }
    }

    /// Compares so often, until the daemon ends.
    pub async fn run(mut self, every: Duration, mut stopping: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                _ = stopping.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep(every) => {}
            }
            tokio::select! {
                _ = stopping.wait_for(|stop| *stop) => return,
                () = self.survey() => {}
            }
        }
    }

    /// The first comparison: what an earlier daemon has left is decided.
    pub async fn begin(&mut self) {
        if self.may_look().await {
            let found = self.thins.compare().await;
            self.read = Some(Instant::now());
            self.tell(found).await;
            self.set_kinds().await;
        }
    }

    /// What older daemons have written down of what devices are for was not always right.
    async fn set_kinds(&self) {
        let whose = self.engine.whose().await;
        let known = |device: &ThinDevice| whose.of(&device.name).map(|(kind, _)| kind);
        if let Err(error) = self.thins.set_kinds(known).await {
            tracing::warn!(error = %chain(&error), "what devices of the pool are for is not put right");
        }
    }

    /// One of the later ones.
    pub async fn survey(&mut self) {
        self.engine.put_nodes_back().await;
        if !self.may_look().await {
            return;
        }
        let found = self.thins.survey(Depth::Kernel).await;
        let age = self.read.map(|at| at.elapsed());
        let new = found.as_ref().is_ok_and(|all| self.differs(all));
        let due = age.is_none_or(|age| age >= METADATA || (new && age >= METADATA_REST));
        let found = match found {
            Ok(_) if due => {
                self.read = Some(Instant::now());
                self.thins.survey(Depth::Metadata).await
            }
            found => found,
        };
        self.tell(found).await;
    }

    /// A pool that is not there is told of by those who put it together; and what differs may have to be repaired.
    async fn may_look(&self) -> bool {
        self.engine.modes.mode() != Mode::Readonly
            && matches!(self.thins.pool().running().await, Ok(Some(_)))
    }

    fn differs(&self, found: &[PoolDifference]) -> bool {
        found.iter().any(|it| !self.told.contains(&key(it)))
    }

    /// Tells what was not told before, and what is no more.
    async fn tell(&mut self, found: Result<Vec<PoolDifference>, hearth_pool::ThinError>) {
        let found = match found {
            Ok(found) => found,
            Err(error) => return self.not_compared(chain(&error)).await,
        };
        self.failed = None;
        self.engine.metrics.pool_compared(&found, self.engine.now());
        let new: Vec<_> = found
            .iter()
            .filter(|it| !self.told.contains(&key(it)))
            .collect();
        for difference in new.iter().take(MOST_TOLD) {
            let (code, severity) = if difference.repaired {
                ("pool.difference_repaired", Severity::Info)
            } else {
                ("pool.difference", Severity::Warning)
            };
            let event = NewEvent::info(code, difference.what.clone());
            let details = serde_json::json!(difference);
            let event = event.severity(severity).details(details);
            self.engine.tell(event).await;
        }
        if let Some(more) = new.len().checked_sub(MOST_TOLD).filter(|more| *more > 0) {
            let message = format!("{more} more differences: hearth pool volumes");
            let event = NewEvent::info("pool.difference", message);
            self.engine.tell(event.severity(Severity::Warning)).await;
        }
        let now: BTreeSet<_> = found.iter().map(key).collect();
        let gone = self.told.difference(&now).count();
        if gone > 0 && now.is_empty() {
            let message = "ledger, kernel and metadata of the pool agree again";
            let event = NewEvent::info("pool.differences_gone", message);
            self.engine.tell(event).await;
        }
        self.told = now;
    }

    async fn not_compared(&mut self, why: String) {
        if self.failed.as_ref() == Some(&why) {
            return;
        }
        let message = format!("the pool's ledger cannot be compared with the kernel: {why}");
        let event = NewEvent::info("pool.not_compared", message);
        self.engine.tell(event.severity(Severity::Warning)).await;
        self.failed = Some(why);
    }
}

/// What makes a difference the same as before.
fn key(difference: &PoolDifference) -> (String, String) {
    let id = difference.id.map(|id| id.to_string()).unwrap_or_default();
    (format!("{}-{id}", difference.kind), difference.what.clone())
}

/// Differences that stand, as the list of orphans has them.
pub(crate) fn as_orphans(differences: &[PoolDifference]) -> Vec<Orphan> {
    let stand = differences.iter().filter(|it| !it.repaired);
    let orphans = stand.map(|difference| {
        let (state, why) = match difference.kind.as_str() {
            "stray" => (
                OrphanState::Unwanted,
                "a device that failed or was forgotten is left as it is: see hearth pool volumes",
            ),
            "gone" => (OrphanState::Unwanted, "hearth gc --force forgets it"),
            "unsettled" => (
                OrphanState::Unwanted,
                "it is tried again within the hour, and by the next change",
            ),
            "lost" => (
                OrphanState::Missing,
                "what was on it is lost: put a copy back, or remove its VM or image",
            ),
            "suspended" => (
                OrphanState::Missing,
                "if it still waits at the next survey it goes on",
            ),
            "table" => (
                OrphanState::Missing,
                "it is put right when it is switched on next",
            ),
            _ => (
                OrphanState::Missing,
                "see docs/storage.md, and hearth pool backups",
            ),
        };
        let object = difference
            .id
            .map_or_else(|| "the pool".to_owned(), |id| format!("thin device {id}"));
        let id = difference.id.map(|id| format!("-{id}")).unwrap_or_default();
        Orphan {
            state,
            fate: Fate {
                what: FateKind::Reported,
                at: None,
                why: why.to_owned(),
            },
            ..unproven(
                format!("thin-{}{id}", difference.kind),
                OrphanKind::ThinDevice,
                object,
                difference.what.clone(),
                "",
            )
        }
    });
    orphans.collect()
}
