//! Looks for garbage by itself: each `GC_INTERVAL`, and while there is little room.
//!
//! ```text
//!  each minute: due? (pure) ──► kinds of GC_KINDS, mode normal: cleaned ──► event, metrics
//!                           └─► else: a dry run ──► event, once for the same pieces
//! ```
//! Nothing is removed whose kind the configuration does not name.

use std::collections::BTreeSet;
use std::time::Duration;

use hearth_plan::gc::schedule::{Past, Schedule, Space, Trigger};
use hearth_types::event::{NewEvent, Severity};
use hearth_types::gc::{GcKind, GcOutcome, GcReport, RunGc};
use hearth_types::mode::Mode;
use hearth_types::survey::chain;
use hearth_types::units::Bytes;
use jiff::Timestamp;
use tokio::sync::watch;

use super::{Ground, Refused};

/// Between two looks at the clock and at the room.
const LOOK: Duration = Duration::from_secs(60);
/// Where the database keeps when the interval was over last.
const SETTING: &str = "gc_last";

/// What the configuration says.
#[derive(Debug, Clone, Default)]
pub struct GcPolicy {
    /// When.
    pub schedule: Schedule,
    /// What is cleaned by itself.
    pub kinds: Vec<GcKind>,
}

/// Looks for garbage by itself.
#[derive(Debug)]
pub struct Keeper {
    ground: Ground,
    policy: GcPolicy,
    past: Past,
    /// The pieces that were told last.
    told: BTreeSet<String>,
}

impl Keeper {
    /// Remembers when an earlier daemon has looked.
    pub async fn new(ground: Ground, policy: GcPolicy) -> Self {
        let stored = ground.engine.parts.store.setting(SETTING).await;
        let by_interval = stored.unwrap_or_else(|error| {
            tracing::warn!(error = %chain(&error), "when garbage was looked for last cannot be read");
            None
        });
        let past = Past {
            by_interval: by_interval.and_then(|value| serde_json::from_value(value).ok()),
            ..Past::default()
        };
        Self {
            ground,
            policy,
            past,
            told: BTreeSet::new(),
        }
    }

    /// Until the daemon ends.
    pub async fn run(mut self, mut stopping: watch::Receiver<bool>) {
        loop {
            self.look().await;
            tokio::select! {
                _ = stopping.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// One look at the clock and at the room, and what follows from it.
    pub async fn look(&mut self) {
        let engine = &self.ground.engine;
        match self.ground.thins.devices().await {
            Ok(devices) => engine.metrics.pool_devices(&devices),
            Err(error) => {
                tracing::debug!(error = %chain(&error), "the pool's devices cannot be counted");
            }
        }
        let room = engine.parts.disks.room(engine.paths.data()).await;
        let space = room.ok().map(|room| Space {
            free: room.free,
            size: room.size,
        });
        let now = engine.now();
        let Some(trigger) = self.policy.schedule.due(&self.past, space, now) else {
            return;
        };
        let mode = engine.modes.mode();
        if mode == Mode::Readonly {
            return;
        }
        let clean = !self.policy.kinds.is_empty() && mode == Mode::Normal;
        let asked = RunGc {
            force: clean,
            kinds: self.policy.kinds.clone(),
        };
        match super::run(&self.ground, &asked, trigger).await {
            Ok(report) => self.done(trigger, &report, now).await,
            Err(refused) => {
                self.past.refused = Some(now);
                tell_refused(&refused, trigger);
            }
        }
    }

    async fn done(&mut self, trigger: Trigger, report: &GcReport, now: Timestamp) {
        self.past.refused = None;
        match trigger {
            Trigger::Pressure => self.past.by_pressure = Some(now),
            Trigger::Interval | Trigger::Asked => {
                self.past.by_interval = Some(now);
                let last = serde_json::to_value(now).ok();
                let store = &self.ground.engine.parts.store;
                if let Err(error) = store.set_setting(SETTING, last).await {
                    tracing::warn!(error = %chain(&error), "when garbage was looked for cannot be written down");
                }
            }
        }
        let pieces = |outcome| {
            let items = report.items.iter();
            items.filter(move |item| item.outcome == outcome)
        };
        let found: BTreeSet<String> = pieces(GcOutcome::Found)
            .map(|item| item.id.clone())
            .collect();
        let failed = pieces(GcOutcome::Failed).count();
        let news = if report.dry_run {
            !found.is_empty() && found != self.told
        } else {
            report.summary.cleaned > 0 || failed > 0
        };
        if news {
            let event = event(trigger, report, found.len());
            self.ground.engine.tell(event).await;
        }
        self.told = found;
    }
}

fn tell_refused(refused: &Refused, trigger: Trigger) {
    let why = chain(refused);
    let trigger = trigger.as_str();
    tracing::info!(trigger, %why, "garbage is not looked for now; it is tried again");
}

fn event(trigger: Trigger, report: &GcReport, found: usize) -> NewEvent {
    let bytes = Bytes(report.bytes).human();
    let why = match trigger {
        Trigger::Pressure => "there is little room below the data folder: ",
        Trigger::Interval | Trigger::Asked => "",
    };
    let summary = report.summary;
    let (code, message, severity) = if report.dry_run {
        let message = format!(
            "{why}{found} piece(s) of garbage, {bytes}: hearth gc shows them, hearth gc --force cleans them"
        );
        let severity = match trigger {
            Trigger::Pressure => Severity::Warning,
            Trigger::Interval | Trigger::Asked => Severity::Info,
        };
        ("gc.found", message, severity)
    } else if summary.failed > 0 {
        let message = format!(
            "{why}{} piece(s) of garbage could not be cleaned: hearth gc --verbose ({summary})",
            summary.failed
        );
        ("gc.failed", message, Severity::Warning)
    } else {
        let message = format!(
            "{why}{} piece(s) of garbage are cleaned, {bytes}",
            summary.cleaned
        );
        ("gc.cleaned", message, Severity::Info)
    };
    let details = serde_json::json!({
        "trigger": trigger.as_str(),
        "bytes": report.bytes,
        "cleaned": summary.cleaned,
        "failed": summary.failed,
        "found": found,
        "skipped": summary.skipped,
    });
    NewEvent::info(code, message)
        .severity(severity)
        .details(details)
}
