//! What the daemon counts and measures: `GET /metrics`.
//!
//! ```text
//!  engine: pass, steps, ends, starts, health ──► Metrics (counters, histograms) ──┐
//!  recovery.rs: the same with its log line ─────────▲                             ├──► scrape.rs ──► text
//!  database, last pass, agents, /proc/self: read when asked ──────────────────────┘
//! ```
//!
//! Labels are words of this program: no VM, image or address is ever one, so the number of
//! series does not grow with the VMs. Each series is there from the beginning, with 0.
//! Counters and histograms begin at 0 with every daemon, which `process_start_time_seconds`
//! tells; `rate()` and `increase()` expect it. Gauges are read from the database or the last survey.
//!
//! Counting is an atomic addition behind a read lock that is never held over anything slow.

mod breakers;
mod gc;
mod images;
mod orphans;
mod pool;
mod process;
mod recovery;
mod scrape;
mod snapshots;
mod volumes;

pub use scrape::CONTENT_TYPE;

use std::collections::HashMap;
use std::time::Duration;

use hearth_plan::{Step, World};
use hearth_types::VmId;
use hearth_types::api::Verdict;
use hearth_types::spec::health::CheckKind;
use hearth_types::status::EndClass;
use jiff::Timestamp;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// One label with its value.
type Label = [(&'static str, &'static str); 1];
/// Two of them.
type Labels = [(&'static str, &'static str); 2];
/// A histogram for each value of a label.
type Histograms = Family<Label, Histogram, fn() -> Histogram>;

/// Kinds of passes.
const PASSES: [&str; 2] = ["full", "quick"];
/// How a step ended: taken, failed, or not taken because what it needs could not be made.
const OUTCOMES: [&str; 3] = ["done", "failed", "blocked"];
/// The steps whose failure is a failed start.
const START_STEPS: [&str; 3] = ["ensure_disks", "ensure_tap", "start_vmm"];
/// Kinds of objects that may be orphaned, as each full survey counts them.
const ORPHANS: [&str; 4] = ["process", "unit", "tap", "folder"];
/// Kinds of orphans that are removed by hand only.
const BY_HAND: [&str; 1] = ["connections"];
/// Why a VM was found orphaned: what is recorded of it is not what is.
const ORPHANED: [&str; 3] = ["process_dead", "host_rebooted", "unrecorded"];
/// How an attempt to recover a VM ended.
const ATTEMPTS: [&str; 3] = ["reconnected", "restarted", "failed"];
/// Kinds of objects that a survey looks for.
const SURVEYED: [&str; 7] = [
    "processes",
    "units",
    "taps",
    "dirs",
    "bridge",
    "rules",
    "names",
];
/// Kinds of ends.
const CLASSES: [EndClass; 12] = [
    EndClass::Clean,
    EndClass::WorkloadFailed,
    EndClass::GuestPoweredOff,
    EndClass::GuestRebooted,
    EndClass::GuestPanicked,
    EndClass::VmmCrashed,
    EndClass::OutOfMemory,
    EndClass::HostOutOfMemory,
    EndClass::Killed,
    EndClass::Unresponsive,
    EndClass::HostRebooted,
    EndClass::Unknown,
];
/// A reason of restarts beside the kinds of ends.
const START_FAILED: &str = "start_failed";

/// From a millisecond to the time after which a pass is stuck.
fn pass_seconds() -> Histogram {
    Histogram::new([
        0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    ])
}

/// From the few milliseconds of a pidfd to the longest back-off and beyond.
fn recovery_seconds() -> Histogram {
    Histogram::new([
        0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0,
    ])
}

/// A commit is an fsync: fast on flash, slow on a disk that is busy.
fn commit_seconds() -> Histogram {
    Histogram::new([
        0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    ])
}

/// What is counted. Methods are named by what happened.
pub struct Metrics {
    registry: Registry,
    passes: Histograms,
    pass_failures: Family<Label, Counter>,
    plan_steps: Family<Label, Gauge>,
    unknown: Family<Label, Counter>,
    steps: Family<Labels, Counter>,
    start_failures: Family<Label, Counter>,
    ends: Family<Label, Counter>,
    orphaned: Family<Label, Counter>,
    attempts: Family<Label, Counter>,
    given_up: Counter,
    breaker_opened: Counter,
    restarts: Family<Label, Counter>,
    health_checks: Family<Label, Counter>,
    health_failures: Family<Label, Counter>,
    detect: Histogram,
    recover: Histogram,
    downtime: Histogram,
    orphans: Family<Label, Gauge>,
    orphans_removed: Family<Label, Counter>,
    bridge_ports: Gauge,
    commits: Family<Label, Counter>,
    commit_latency: Histogram,
    gc: gc::GcMetrics,
    pool: pool::PoolMetrics,
    snapshots: snapshots::Figures,
    volumes: volumes::Figures,
    image_failures: Family<Labels, Counter>,
    image_jobs: Family<Label, Gauge>,
    stories: Mutex<HashMap<VmId, Story>>,
}

/// What is remembered of a VM that is being recovered; gone with its next healthy day.
#[derive(Debug, Default)]
struct Story {
    /// An attempt is under way.
    recovering: bool,
    /// What failed is a start that the user asked for, no run.
    start_failed: bool,
    /// Its VMM runs again and its guest has not answered since this death.
    silent_since: Option<Timestamp>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("hearth"),
            passes: Family::new_with_constructor(pass_seconds),
            pass_failures: Family::default(),
            plan_steps: Family::default(),
            unknown: Family::default(),
            steps: Family::default(),
            start_failures: Family::default(),
            ends: Family::default(),
            orphaned: Family::default(),
            attempts: Family::default(),
            given_up: Counter::default(),
            breaker_opened: Counter::default(),
            restarts: Family::default(),
            health_checks: Family::default(),
            health_failures: Family::default(),
            detect: recovery_seconds(),
            recover: recovery_seconds(),
            downtime: recovery_seconds(),
            orphans: Family::default(),
            orphans_removed: Family::default(),
            bridge_ports: Gauge::default(),
            commits: Family::default(),
            commit_latency: commit_seconds(),
            gc: gc::GcMetrics::default(),
            pool: pool::PoolMetrics::default(),
            snapshots: snapshots::Figures::default(),
            volumes: volumes::Figures::default(),
            image_failures: Family::default(),
            image_jobs: Family::default(),
            stories: Mutex::default(),
        };
        metrics.begin_at_zero();
        metrics.gc.begin();
        metrics.gc.register(&mut metrics.registry);
        metrics.pool.begin();
        metrics.pool.register(&mut metrics.registry);
        metrics.register_loop();
        metrics.register_vms();
        metrics.snapshots.register(&mut metrics.registry);
        metrics.volumes.register(&mut metrics.registry);
        metrics
    }
}

impl Metrics {
    /// A series that appears with its first event has no rate at that event.
    fn begin_at_zero(&self) {
        self.begin_images();
        for pass in PASSES {
            drop(self.passes.get_or_create(&[("pass", pass)]));
            zero(&self.pass_failures, "pass", &[pass]);
            self.plan_steps.get_or_create(&[("pass", pass)]).set(0);
        }
        zero(&self.unknown, "kind", &SURVEYED);
        zero(&self.start_failures, "step", &START_STEPS);
        zero(&self.ends, "class", &CLASSES.map(class_word));
        zero(&self.orphaned, "reason", &ORPHANED);
        zero(&self.attempts, "outcome", &ATTEMPTS);
        zero(&self.restarts, "reason", &CLASSES.map(class_word));
        zero(&self.restarts, "reason", &[START_FAILED]);
        let checks = CheckKind::ALL.map(CheckKind::as_str);
        zero(&self.health_checks, "check", &checks);
        zero(&self.health_failures, "check", &checks);
        zero(&self.orphans_removed, "kind", &ORPHANS);
        zero(&self.orphans_removed, "kind", &BY_HAND);
        zero(&self.commits, "outcome", &["done", "failed"]);
        for kind in ORPHANS {
            self.orphans.get_or_create(&[("kind", kind)]).set(0);
        }
        for kind in Step::KINDS {
            for outcome in OUTCOMES {
                drop(
                    self.steps
                        .get_or_create(&[("kind", kind), ("outcome", outcome)]),
                );
            }
        }
    }

    #[rustfmt::skip]
    fn register_loop(&mut self) {
        let registry = &mut self.registry;
        let seconds = |registry: &mut Registry, name: &str, help: &str, metric: Histogram| {
            registry.register_with_unit(name, help, Unit::Seconds, metric);
        };
        registry.register_with_unit("reconcile_duration", "How long a pass took, its shared steps included", Unit::Seconds, self.passes.clone());
        registry.register("reconcile_failures", "Passes that ended with an error", self.pass_failures.clone());
        registry.register("reconcile_plan_steps", "Steps in the last plan", self.plan_steps.clone());
        registry.register("survey_unknown", "Kinds of objects that a full survey could not see; nothing of the kind is acted on then", self.unknown.clone());
        registry.register("steps", "Steps of plans; blocked ones were not taken because the network was not ready", self.steps.clone());
        registry.register("orphans", "Objects of this installation that belong to no VM, as the last full survey saw them", self.orphans.clone());
        registry.register("orphans_removed", "Orphans removed, second VMMs of a VM included", self.orphans_removed.clone());
        registry.register("bridge_ports", "Ports of the bridge in use: TAPs of this installation, as last seen", self.bridge_ports.clone());
        registry.register("store_commits", "Transactions of the database", self.commits.clone());
        registry.register("image_jobs", "Pulls and imports by state; ended ones as long as they are shown", self.image_jobs.clone());
        registry.register("image_failures", "Pulls and imports that were aborted, by the state and the kind of cause", self.image_failures.clone());
        seconds(registry, "store_commit_duration", "How long a transaction of the database took, its fsync included", self.commit_latency.clone());
    }

    #[rustfmt::skip]
    fn register_vms(&mut self) {
        let registry = &mut self.registry;
        registry.register("vm_run_ends", "Ends of VMs' runs, asked for or not", self.ends.clone());
        registry.register("vm_orphaned", "VMs whose record was not what was: their VMM had died unasked, or lived unrecorded", self.orphaned.clone());
        registry.register("vm_recovery_attempts", "Attempts to bring a VM back after an unasked end or a failed start", self.attempts.clone());
        registry.register("vm_recovery_given_up", "VMs that their restart policy gave up", self.given_up.clone());
        registry.register("vm_breaker_opened", "Circuit breakers of VMs that opened, for the first time or after a trial", self.breaker_opened.clone());
        registry.register("process_restart", "VMMs started again without a word of the user, by how the run before had ended", self.restarts.clone());
        registry.register("vm_start_failures", "Starts that failed before a VMM ran, by the step that failed", self.start_failures.clone());
        registry.register("vm_health_checks", "Checks of running VMs' health that were made and count, by kind", self.health_checks.clone());
        registry.register("vm_health_check_failures", "Of those, the ones that failed", self.health_failures.clone());
        registry.register_with_unit("vm_time_to_detect", "From the end of a run, as its shim recorded it, to the daemon's record of it", Unit::Seconds, self.detect.clone());
        registry.register_with_unit("vm_time_to_recover", "From an unasked end of a run to the next VMM that runs", Unit::Seconds, self.recover.clone());
        registry.register_with_unit("vm_downtime", "From an unasked end of a run to the guest's next answer", Unit::Seconds, self.downtime.clone());
    }

    /// A pass ended.
    pub(crate) fn pass_ended(&self, full: bool, took: Duration, well: bool) {
        let label = [("pass", pass(full))];
        self.passes
            .get_or_create(&label)
            .observe(took.as_secs_f64());
        if !well {
            self.pass_failures.get_or_create(&label).inc();
        }
    }

    /// A plan was made.
    pub(crate) fn planned(&self, full: bool, steps: usize) {
        self.plan_steps
            .get_or_create(&[("pass", pass(full))])
            .set(whole(steps));
    }

    /// A survey could not see this kind of objects.
    pub(crate) fn unknown(&self, kind: &'static str) {
        self.unknown.get_or_create(&[("kind", kind)]).inc();
    }

    /// A full survey was made.
    pub(crate) fn surveyed(&self, world: &World) {
        for (kind, count) in orphans::count(world) {
            self.orphans
                .get_or_create(&[("kind", kind)])
                .set(whole(count));
        }
    }

    /// The bridge was looked at: so many ports are ours.
    pub(crate) fn ports_seen(&self, ports: usize) {
        self.bridge_ports.set(whole(ports));
    }

    /// A step was taken.
    pub(crate) fn step_taken(&self, kind: &'static str, well: bool) {
        let outcome = if well { "done" } else { "failed" };
        self.steps
            .get_or_create(&[("kind", kind), ("outcome", outcome)])
            .inc();
    }

    /// A step was not taken: what it needs could not be made.
    pub(crate) fn step_blocked(&self, kind: &'static str) {
        self.steps
            .get_or_create(&[("kind", kind), ("outcome", "blocked")])
            .inc();
    }

    /// An orphan was removed.
    pub(crate) fn orphan_removed(&self, kind: &'static str) {
        self.orphans_removed.get_or_create(&[("kind", kind)]).inc();
    }

    /// A VM's circuit breaker opened.
    pub(crate) fn breaker_opened(&self) {
        self.breaker_opened.inc();
    }

    /// A check of a VM's health was made and counts.
    pub(crate) fn health_checked(&self, kind: CheckKind, verdict: Verdict) {
        let label = [("check", kind.as_str())];
        self.health_checks.get_or_create(&label).inc();
        if verdict == Verdict::Fail {
            self.health_failures.get_or_create(&label).inc();
        }
    }

    /// What the database is to call for each of its transactions.
    pub(crate) fn commits(&self) -> impl Fn(Duration, bool) + Send + Sync + 'static {
        let (commits, latency) = (self.commits.clone(), self.commit_latency.clone());
        move |took, well| {
            let outcome = if well { "done" } else { "failed" };
            commits.get_or_create(&[("outcome", outcome)]).inc();
            latency.observe(took.as_secs_f64());
        }
    }
}

const fn pass(full: bool) -> &'static str {
    if full { PASSES[0] } else { PASSES[1] }
}

/// The word that the API has for a kind of end.
const fn class_word(class: EndClass) -> &'static str {
    match class {
        EndClass::Clean => "clean",
        EndClass::WorkloadFailed => "workload_failed",
        EndClass::GuestPoweredOff => "guest_powered_off",
        EndClass::GuestRebooted => "guest_rebooted",
        EndClass::GuestPanicked => "guest_panicked",
        EndClass::VmmCrashed => "vmm_crashed",
        EndClass::OutOfMemory => "out_of_memory",
        EndClass::HostOutOfMemory => "host_out_of_memory",
        EndClass::Killed => "killed",
        EndClass::Unresponsive => "unresponsive",
        EndClass::HostRebooted => "host_rebooted",
        EndClass::Unknown => "unknown",
    }
}

fn zero(family: &Family<Label, Counter>, label: &'static str, values: &[&'static str]) {
    for value in values {
        drop(family.get_or_create(&[(label, *value)]));
    }
}

/// The same for two labels.
fn zero_pairs(
    family: &Family<Labels, Counter>,
    first: (&'static str, &[&'static str]),
    second: (&'static str, &[&'static str]),
) {
    for one in first.1 {
        for other in second.1 {
            drop(family.get_or_create(&[(first.0, *one), (second.0, *other)]));
        }
    }
}

/// A gauge's number.
fn whole(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
