//! The loop: observe, plan, act.
//!
//! One task runs the loop and owns what is shared (bridge, rules, names). A VM's steps are
//! taken by a task of its own; while that task works, the VM is *busy* and no other pass
//! plans for it. So each VM has one owner at any time, and a slow VM holds up no other.
//!
//! ```text
//!            wake(vm) · death seen by pidfd · timer · owner task done
//!                                │
//!                                ▼
//!   idle ──► survey (quick: the woken VMs; full: everything) ──► plan ──► shared steps
//!     ▲                                                             │
//!     └──────────────── owner tasks, one per VM ◄───────────────────┘
//! ```
//!
//! A death does not wait for a pass: the task that watches a VMM records its end ([`deaths`]). A plan is
//! taken for a VM only if nobody has worked on it since the plan's look began ([`hands`]).
//!
//! A full pass runs at start, every `resync`, and after a quick pass failed. Whatever wakes
//! the loop only says "look again"; decisions come from what is then seen.

pub mod act;
pub mod agents;
mod bootstrap;
mod borrow;
mod deaths;
mod disks;
mod ears;
pub mod guest_config;
mod hands;
mod host_breaker;
pub mod journal;
pub mod launch;
pub mod launches;
mod limits;
mod looks;
mod nodes;
mod owner;
pub mod pass;
pub mod paths;
mod pool;
mod recovery;
mod respec;
mod retry;
mod shared;
mod slow;
mod snapshots;
pub mod survey;
mod units;
pub mod volumes;
pub mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use hearth_disk::Volumes;
use hearth_image::ImageStore;
use hearth_kernel::KernelStore;
use hearth_net::{Network, NetworkConfig};
use hearth_plan::Policy;
use hearth_store::{LeaseRanges, Reserved, Store, VmRow};
use hearth_types::event::NewEvent;
use hearth_types::ids::VmId;
use hearth_types::observe::Observed;
use hearth_types::status::RunEnd;
use hearth_vmm::{LogLimits, Vmm};
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch as watch_channel};
use tokio::time::Instant;

use crate::backups::Backups;
use crate::cgroups::CgroupWatch;
use crate::failpoint::Failpoints;
use crate::health::Wards;
use crate::host::{Clock, Processes};
use crate::metrics::Metrics;
use crate::mode::Modes;
use crate::stuck::UnderWay;
use paths::Paths;
pub use snapshots::ImageSource;

/// What the engine needs to know of the configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The planner's policy.
    pub policy: Policy,
    /// The shape of the network.
    pub network: NetworkConfig,
    /// Where leases come from.
    pub leases: LeaseRanges,
    /// Run VMMs as unprivileged users (their leased uid).
    pub unprivileged: bool,
    /// Limits of console logs.
    pub console: LogLimits,
}

/// The parts of the host and of the data folder that the engine works with.
pub struct Parts {
    /// The database.
    pub store: Store,
    /// Images.
    pub images: ImageStore,
    /// Kernels.
    pub kernels: Arc<KernelStore>,
    /// The driver.
    pub vmm: Arc<dyn Vmm>,
    /// The network.
    pub net: Arc<dyn Network>,
    /// Volumes.
    pub disks: Arc<dyn Volumes>,
    /// Processes.
    pub processes: Arc<dyn Processes>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The guest agent's binary as a cpio segment.
    pub guest_segment: Arc<Vec<u8>>,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts")
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}

/// The engine. Shared by the API and the loop.
pub struct Engine {
    /// What it works with.
    pub parts: Parts,
    /// How.
    pub settings: Settings,
    /// Where files are.
    pub paths: Paths,
    /// Connections to the guests' agents.
    pub agents: agents::Agents,
    /// How the VMs that run are.
    pub health: Wards,
    /// What tells of their control groups, where their units have some.
    cgroups: OnceLock<CgroupWatch>,
    /// Read by whoever makes a VM use an image, until the VM is recorded; written by whoever
    /// removes one.
    pub image_use: tokio::sync::RwLock<()>,
    /// How much may be done.
    pub modes: Modes,
    /// What is being done.
    pub under_way: UnderWay,
    /// How much room the thin pool has.
    pool_room: Mutex<hearth_plan::PoolRoom>,
    /// Backups of the database.
    pub backups: Backups,
    host_watch: Mutex<host_breaker::HostWatch>,
    /// VMs whose guests their VMMs keep when they panic.
    pub(crate) kept_guests: Mutex<Vec<VmId>>,
    /// VMs whose guests' memory is being dumped.
    pub(crate) dumping: Mutex<BTreeSet<VmId>>,
    pub(crate) metrics: Metrics,
    failpoints: Failpoints,
    /// Who works with which snapshot.
    snapshots: snapshots::Holds<hearth_types::SnapshotId>,
    /// Who works with which volume.
    volumes: snapshots::Holds<hearth_types::VolumeId>,
    launches: launches::Launches,
    wake: Arc<Notify>,
    looks: looks::Looks,
    /// Processes as they were looked for after deaths that nobody had written down.
    after_deaths: deaths::AfterDeaths,
    work: Mutex<Work>,
    farewells: Mutex<Farewells>,
    /// Held while a record is kept in a VM's folder: one writer at a time.
    pub(crate) keeping: Mutex<()>,
    /// The same for the records of volumes.
    pub(crate) keeping_volumes: tokio::sync::Mutex<()>,
    /// What the store was told to keep for VMs whose record is lost.
    pub(crate) reserved: tokio::sync::Mutex<Vec<Reserved>>,
    changed: watch_channel::Sender<u64>,
    last_pass: watch_channel::Sender<Option<Timestamp>>,
    turns: watch_channel::Sender<Turn>,
}

/// A pass that ended, well or not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Turn {
    /// How many passes have ended before and with this one.
    pub count: u64,
    /// Why it failed, if it did.
    pub failure: Option<String>,
}

/// How the last run of VMs that were just removed had ended, for those who still wait: a VM
/// with `auto_remove` is gone moments after its end.
#[derive(Default)]
struct Farewells(std::collections::VecDeque<(VmId, Option<RunEnd>)>);

/// Farewells kept.
const FAREWELLS: usize = 1024;

/// The shortest time from a pass to the next one that nothing but a timer asks for.
const SHORT_REST: std::time::Duration = std::time::Duration::from_millis(100);

/// What the loop has to look at, and who is being worked on.
#[derive(Default)]
struct Work {
    /// VMs to look at.
    dirty: BTreeSet<VmId>,
    /// A full pass is due.
    full: bool,
    /// VMs whose owner task works.
    hands: hands::Hands,
    /// Orphans of no VM that a task removes.
    removing: BTreeSet<String>,
    /// Those of them that are being started.
    starting: BTreeSet<VmId>,
    /// Steps that failed and wait.
    retries: retry::Retries,
    /// Where systemd and `/proc` disagree.
    disagreements: units::Disagreements,
    /// Starts that a slow host holds up.
    waiting: slow::Waiting,
    /// VMMs that are being watched for their death, by pid and start time.
    watched: BTreeSet<(i32, u64)>,
    /// The bootstrap after the host's last reboot.
    bootstrap: bootstrap::Watch,
    /// VMs whose disks are what this generation of them asks for.
    covered: BTreeMap<VmId, u64>,
    /// The last survey of shared objects, kept until a full pass or a change by us.
    shared: Option<Observed>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("paths", &self.paths)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// Puts an engine together; nothing happens until [`Engine::run`].
    #[must_use]
    pub fn new(parts: Parts, settings: Settings, paths: Paths) -> Arc<Self> {
        Self::with_failpoints(parts, settings, paths, Failpoints::default())
    }

    /// The same, with failpoints that a test watches.
    #[must_use]
    pub fn with_failpoints(
        parts: Parts,
        settings: Settings,
        paths: Paths,
        failpoints: Failpoints,
    ) -> Arc<Self> {
        let metrics = Metrics::default();
        let (modes, wake) = (Modes::default(), Arc::new(Notify::new()));
        let (count, database, waker) = (metrics.commits(), modes.database(), Arc::clone(&wake));
        parts.store.on_commit(move |took, committed| {
            count(took, committed);
            database.told(committed, &waker);
        });
        Arc::new(Self {
            modes,
            image_use: tokio::sync::RwLock::default(),
            under_way: UnderWay::default(),
            pool_room: Mutex::default(),
            backups: Backups::new(paths.backups()),
            host_watch: Mutex::default(),
            kept_guests: Mutex::default(),
            dumping: Mutex::default(),
            metrics,
            failpoints,
            snapshots: snapshots::Holds::default(),
            volumes: snapshots::Holds::default(),
            launches: launches::Launches::default(),
            parts,
            settings,
            paths,
            agents: agents::Agents::default(),
            health: Wards::default(),
            cgroups: OnceLock::new(),
            wake,
            looks: looks::Looks::default(),
            after_deaths: deaths::AfterDeaths::default(),
            farewells: Mutex::default(),
            keeping: Mutex::default(),
            keeping_volumes: tokio::sync::Mutex::default(),
            reserved: tokio::sync::Mutex::default(),
            work: Mutex::new(Work {
                full: true,
                ..Work::default()
            }),
            changed: watch_channel::Sender::new(0),
            last_pass: watch_channel::Sender::new(None),
            turns: watch_channel::Sender::new(Turn::default()),
        })
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.parts.clock.now()
    }

    /// How the last run of a VM that was removed had ended.
    #[must_use]
    pub fn farewell(&self, vm: VmId) -> Option<RunEnd> {
        let farewells = self.farewells.lock();
        let found = farewells.0.iter().rev().find(|(id, _)| *id == vm);
        found.and_then(|(_, end)| end.clone())
    }

    fn say_farewell(&self, vm: VmId, end: Option<RunEnd>) {
        let mut farewells = self.farewells.lock();
        farewells.0.push_back((vm, end));
        if farewells.0.len() > FAREWELLS {
            farewells.0.pop_front();
        }
    }

    /// Asks the loop to look at one VM.
    pub fn look_at(&self, vm: VmId) {
        self.work.lock().dirty.insert(vm);
        self.health.poke(vm);
        self.wake.notify_one();
    }

    /// Asks the loop to look at everything.
    pub fn look_at_everything(&self) {
        self.work.lock().full = true;
        self.wake.notify_one();
    }

    /// Changes whenever a VM's goal or status or the log of events has changed.
    #[must_use]
    pub fn changes(&self) -> watch_channel::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Says that a VM's goal or status or the log of events has changed.
    pub fn tell_changed(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// When the last pass ended well.
    #[must_use]
    pub fn last_pass(&self) -> Option<Timestamp> {
        *self.last_pass.borrow()
    }

    /// Changes with every pass that ended well.
    #[must_use]
    pub fn passes(&self) -> watch_channel::Receiver<Option<Timestamp>> {
        self.last_pass.subscribe()
    }

    /// Changes with every pass that ended, well or not.
    #[must_use]
    pub fn turns(&self) -> watch_channel::Receiver<Turn> {
        self.turns.subscribe()
    }

    fn turn_ended(&self, failure: Option<String>) {
        self.turns.send_modify(|turn| {
            turn.count += 1;
            turn.failure = failure;
        });
    }

    /// Writes an event to the log and tells the watchers. An event that cannot be written
    /// is logged: it must not stop the work it tells about.
    pub async fn tell(&self, event: NewEvent) {
        let line = || tracing::info!(code = event.code, "{}", event.message);
        match event.vm {
            Some(vm) => crate::logging::about_vm(vm, event.name.as_deref(), line),
            None => line(),
        }
        if let Err(error) = self.parts.store.event(event, self.now()).await {
            tracing::error!(error = %hearth_types::survey::chain(&error), "an event could not be stored");
        }
        self.tell_changed();
    }

    /// The span for work on one VM, with its name.
    pub(crate) async fn span_of(&self, vm: VmId) -> tracing::Span {
        let row = self.parts.store.vm(vm).await;
        let name = row.as_ref().map(|row| row.spec.name.as_str());
        crate::logging::vm_span(vm, name)
    }

    /// Runs the loop until `stop` turns true.
    pub async fn run(self: Arc<Self>, mut stop: watch_channel::Receiver<bool>) {
        // When everything is to be looked at again. A quick pass may bring it forward for its
        // own VMs, and never puts it off: it knows nothing of what the others wait for.
        let mut due = Instant::now();
        self.open_ears(&stop);
        self.recall_mode().await;
        self.recall_host_breaker().await;
        self.settle_snapshots().await;
        self.settle_volumes().await;
        self.watch_recorded().await;
        self.keep_records();
        drop(tokio::spawn(
            Arc::clone(&self).watch_for_stuck(stop.clone()),
        ));
        drop(tokio::spawn(
            Arc::clone(&self).watch_for_panics(stop.clone()),
        ));
        while !*stop.borrow() {
            // A timer cannot say which VM it was for, and planning all of them is cheap.
            let full = std::mem::take(&mut self.work.lock().full) || Instant::now() >= due;
            let next = self.clone().turn(full).await;
            let wanted = Instant::now() + self.until(next);
            due = if full { wanted } else { due.min(wanted) };
            tokio::select! {
                biased;
                () = self.wake.notified() => {}
                () = tokio::time::sleep_until(due) => {}
                _ = stop.changed() => {}
            }
        }
        tracing::info!("the loop has ended; the VMs go on");
    }

    /// One pass over everything or over what is due. Returns when the next one is.
    async fn turn(self: Arc<Self>, full: bool) -> Option<Timestamp> {
        let dirty = std::mem::take(&mut self.work.lock().dirty);
        let begun = Instant::now();
        self.pass_at("the rules of the mode");
        self.look_at_rules(full).await;
        let result = if full {
            self.clone().full_pass().await
        } else {
            self.clone().quick_pass(&dirty).await
        };
        self.under_way.pass_over();
        self.metrics
            .pass_ended(full, begun.elapsed(), result.is_ok());
        match result {
            Ok(next) => {
                self.turn_ended(None);
                self.last_pass.send_replace(Some(self.now()));
                next
            }
            Err(error) => {
                tracing::error!(
                    error = format!("{error:#}"),
                    "[reconcile] a pass failed; it is tried again"
                );
                self.turn_ended(Some(format!("{error:#}")));
                self.work.lock().full = true;
                Some(self.now() + std::time::Duration::from_secs(1))
            }
        }
    }

    /// What the pass does from here on.
    fn pass_at(&self, stage: &str) {
        self.under_way.pass_at(stage, self.now());
    }

    fn until(&self, next: Option<Timestamp>) -> std::time::Duration {
        let resync = self.settings.policy.resync;
        let wait = next.map_or(resync, |at| {
            at.duration_since(self.now()).try_into().unwrap_or_default()
        });
        // The time has come while the pass was under way.
        let wait = if wait.is_zero() { SHORT_REST } else { wait };
        wait.min(resync)
    }

    /// The VMs as the planner takes them.
    fn desired(rows: &[VmRow]) -> Vec<hearth_plan::DesiredVm> {
        rows.iter()
            .map(|row| hearth_plan::DesiredVm {
                id: row.id,
                spec: row.spec.clone(),
                generation: row.generation,
                goal: row.goal,
                force_stop: row.force_stop,
                stop_timeout: row.stop_timeout,
                leases: row.leases.clone(),
                status: row.status.clone(),
            })
            .collect()
    }
}
