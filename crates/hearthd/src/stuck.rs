//! What is under way, and what of it has been for too long.
//!
//! ```text
//!  pass begins, stage by stage ──┐                       every 5 s, by a task of its own
//!  step begins ──────────────────┼──► UnderWay ──► over its deadline? ──► log with kernel stacks,
//!  step, pass ends ──────────────┘        │                               event, counter; once each
//!                                         └──► hearth doctor, plan, /health, gauges: as they are now
//! ```
//! Nothing is ended or undone here: a step that hangs in the kernel cannot be, and one that is only
//! slow must not be. A pass that hangs starves systemd's watchdog ([`crate::manager`]), which
//! ends the daemon; a VM's step that hangs holds up that VM alone.
//!
//! The task needs the runtime. A thread beside it ([`guard_runtime`]) says so when all of the runtime's
//! threads are held up.

mod tell;

use std::collections::BTreeMap;
use std::time::Duration;

use hearth_plan::Step;
use hearth_types::ids::VmId;
use jiff::Timestamp;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tokio::time::Instant;

pub(crate) use tell::said;
pub use tell::{guard_runtime, look};

/// How long a pass may take: as long as the alert on a loop that stands still waits, by default a
/// third of it. Its own steps have deadlines of 20 s at the most.
pub const PASS_DEADLINE: Duration = Duration::from_secs(60);

/// How long a step may take. Longer than what it waits for within: tools have 20 s, a VMM's start 30 s, and a
/// disk is written or removed as fast as the host can.
#[must_use]
pub fn deadline(kind: &str) -> Duration {
    Duration::from_secs(match kind {
        "ensure_disks" | "remove_dir" | "remove_orphan_dir" => 600,
        "start_vmm" => 120,
        _ => 60,
    })
}

/// Something that is under way.
#[derive(Debug, Clone)]
pub struct Work {
    /// The kind of step; `pass` for a pass.
    pub what: &'static str,
    /// The object that it acts on; for a pass, what it does at this moment.
    pub object: String,
    /// The VM that it acts for.
    pub vm: Option<VmId>,
    /// That VM's name.
    pub name: Option<String>,
    /// Since when.
    pub since: Timestamp,
    begun: Instant,
    deadline: Duration,
    /// It was told that it is stuck.
    told: bool,
}

impl Work {
    /// How long it has been under way.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Whether that is too long.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        self.age() > self.deadline
    }

    /// What is stuck and since when, for people.
    #[must_use]
    pub fn words(&self) -> String {
        let Self {
            what,
            object,
            since,
            ..
        } = self;
        let age = self.age().as_secs();
        match (&self.name, self.vm) {
            _ if *what == PASS => format!("a pass is stuck at {object} since {since:.0} ({age} s)"),
            (Some(name), _) => {
                format!("step {what} ({object}) of {name} is stuck since {since:.0} ({age} s)")
            }
            (None, Some(vm)) => {
                format!("step {what} ({object}) of {vm} is stuck since {since:.0} ({age} s)")
            }
            (None, None) => format!("step {what} ({object}) is stuck since {since:.0} ({age} s)"),
        }
    }
}

/// What a pass is called among the steps.
const PASS: &str = "pass";

#[derive(Debug, Default)]
struct Table {
    next: u64,
    steps: BTreeMap<u64, Work>,
    pass: Option<Work>,
    /// Ended after it was told that they are stuck.
    went_on: Vec<Work>,
}

/// The pass and the steps that are under way.
#[derive(Debug)]
pub struct UnderWay {
    table: Mutex<Table>,
    pub(crate) told: Family<[(&'static str, &'static str); 1], Counter>,
    /// When it was looked at last.
    looked: Mutex<Instant>,
}

impl Default for UnderWay {
    fn default() -> Self {
        let told: Family<[(&'static str, &'static str); 1], Counter> = Family::default();
        for kind in Step::KINDS.into_iter().chain([PASS]) {
            drop(told.get_or_create(&[("kind", kind)]));
        }
        Self {
            table: Mutex::default(),
            told,
            looked: Mutex::new(Instant::now()),
        }
    }
}

/// A step is under way for as long as this lives.
#[derive(Debug)]
pub struct Taking<'a> {
    of: &'a UnderWay,
    number: u64,
}

impl Drop for Taking<'_> {
    fn drop(&mut self) {
        let mut table = self.of.table.lock();
        if let Some(work) = table.steps.remove(&self.number).filter(|work| work.told) {
            table.went_on.push(work);
        }
    }
}

impl UnderWay {
    /// A step begins.
    pub fn step(&self, step: &Step, name: Option<&str>, now: Timestamp) -> Taking<'_> {
        let work = Work {
            what: step.kind(),
            object: step.object(),
            vm: step.vm(),
            name: name.map(str::to_owned),
            since: now,
            begun: Instant::now(),
            deadline: deadline(step.kind()),
            told: false,
        };
        let mut table = self.table.lock();
        let number = table.next;
        table.next += 1;
        table.steps.insert(number, work);
        Taking { of: self, number }
    }

    /// A pass begins, or gets to its next stage.
    pub fn pass_at(&self, stage: &str, now: Timestamp) {
        let mut table = self.table.lock();
        if let Some(pass) = &mut table.pass {
            stage.clone_into(&mut pass.object);
            return;
        }
        table.pass = Some(Work {
            what: PASS,
            object: stage.to_owned(),
            vm: None,
            name: None,
            since: now,
            begun: Instant::now(),
            deadline: PASS_DEADLINE,
            told: false,
        });
    }

    /// A pass ended, well or not.
    pub fn pass_over(&self) {
        let mut table = self.table.lock();
        if let Some(pass) = table.pass.take().filter(|pass| pass.told) {
            table.went_on.push(pass);
        }
    }

    /// What has been under way for too long: the pass first, then the oldest step.
    #[must_use]
    pub fn stuck(&self) -> Vec<Work> {
        let table = self.table.lock();
        let all = table.pass.iter().chain(table.steps.values());
        all.filter(|work| work.is_stuck()).cloned().collect()
    }

    /// The steps, the oldest first.
    #[must_use]
    pub fn steps(&self) -> Vec<Work> {
        self.table.lock().steps.values().cloned().collect()
    }

    /// Whether the pass is among them.
    #[must_use]
    pub fn stalled(&self) -> bool {
        let table = self.table.lock();
        table.pass.as_ref().is_some_and(Work::is_stuck)
    }

    /// How long the pass that is under way has taken.
    #[must_use]
    pub fn pass_age(&self) -> Duration {
        let table = self.table.lock();
        table.pass.as_ref().map(Work::age).unwrap_or_default()
    }

    /// What is stuck and was not told yet, and what was told and has gone on since.
    fn news(&self) -> (Vec<Work>, Vec<Work>) {
        *self.looked.lock() = Instant::now();
        let mut table = self.table.lock();
        let went_on = std::mem::take(&mut table.went_on);
        let Table { pass, steps, .. } = &mut *table;
        let mut stuck = Vec::new();
        for work in pass.iter_mut().chain(steps.values_mut()) {
            if work.is_stuck() && !std::mem::replace(&mut work.told, true) {
                stuck.push(work.clone());
            }
        }
        (stuck, went_on)
    }

    /// How long nobody has looked.
    fn unwatched(&self) -> Duration {
        self.looked.lock().elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    #[tokio::test(start_paused = true)]
    async fn a_step_over_its_deadline_is_told_once_and_again_when_it_goes_on() {
        let under_way = UnderWay::default();
        let vm = VmId::new();
        let start = Step::StartVmm { vm, restart: false };
        let taking = under_way.step(&start, Some("web"), NOW);
        let quick = under_way.step(&Step::EnsureBridge, None, NOW);
        tokio::time::advance(deadline("start_vmm")).await;
        drop(quick);
        assert_eq!(under_way.news().0.len(), 0, "not over it yet");
        tokio::time::advance(Duration::from_secs(1)).await;
        let (stuck, _) = under_way.news();
        let words = stuck[0].words();
        assert!(words.starts_with("step start_vmm (VMM) of web is stuck since 1970"));
        assert_eq!((stuck.len(), stuck[0].vm), (1, Some(vm)));
        assert_eq!(under_way.news().0.len(), 0, "told once");
        assert_eq!(under_way.stuck().len(), 1, "and shown as long as it is");
        drop(taking);
        assert_eq!(under_way.news().1.len(), 1);
        assert!(under_way.stuck().is_empty() && under_way.news().1.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_pass_is_timed_as_a_whole_and_says_where_it_is() {
        let under_way = UnderWay::default();
        under_way.pass_at("the survey", NOW);
        tokio::time::advance(PASS_DEADLINE).await;
        under_way.pass_at("the shared steps", NOW);
        assert!(!under_way.stalled());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(under_way.stalled());
        let (stuck, _) = under_way.news();
        assert!(stuck[0].words().contains("stuck at the shared steps"));
        under_way.pass_over();
        assert!(!under_way.stalled());
        assert_eq!(under_way.pass_age(), Duration::ZERO);
        assert_eq!(under_way.news().1.len(), 1);
    }
}
