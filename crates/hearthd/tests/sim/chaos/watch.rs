//! What must hold in every world, looked at before and after each step and at each plan.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt as _;
use hearth_plan::breaker::{forbids, rules};
use hearth_plan::transition::elapsed;
use hearth_plan::{Plan, Policy, Step};
use hearth_sim::{SimHost, check};
use hearth_store::{Store, VmRow};
use hearth_types::ids::VmId;
use hearth_types::observe::ProcessRole;
use hearth_types::status::{EndClass, Goal};
use hearthd::failpoint::{Failpoints, Hook};
use jiff::Timestamp;
use tokio::sync::watch;

use super::super::world::Life;

/// Steps of one VM in one plan, at the most.
const STEPS_OF_A_VM: usize = 12;
/// Steps for what VMs share.
const SHARED_STEPS: usize = 6;
/// A word is at work after this time at the latest, in a step that was begun before it, too.
const WORD: Duration = Duration::from_secs(30);
/// So many passes a second are too many, whatever happens.
const PASSES: u64 = 20;

/// A VMM that was started, and what was known of its VM then.
type Launches = BTreeMap<(VmId, u64), Timestamp>;

/// Plans in one moment of virtual time that no work explains.
const PLANS_AT_ONCE: u32 = 500;

/// Looks on. What is wrong is a violation of the simulated host.
#[derive(Default)]
pub(super) struct Watch {
    life: Mutex<Option<(hearth_sim::rooms::Rooms, Store)>>,
    policy: Policy,
    /// What belongs to neighbours.
    foreign: Mutex<BTreeSet<String>>,
    launches: Mutex<Launches>,
    /// Places until the daemon dies.
    fuse: AtomicU32,
    /// The moment of the last plan, and how many there were in it.
    moment: Mutex<(Timestamp, u32)>,
    /// When users' words that forbid a start were answered.
    forbidden: Mutex<BTreeMap<VmId, Timestamp>>,
    /// What was looked at, in numbers.
    pub(super) places: AtomicU32,
    pub(super) plans: AtomicU32,
}

/// No death is near.
const NEVER: u32 = u32::MAX;

impl Watch {
    pub(super) fn new(policy: Policy) -> Arc<Self> {
        Arc::new(Self {
            policy,
            fuse: AtomicU32::new(NEVER),
            ..Self::default()
        })
    }

    /// A daemon begins to live.
    pub(super) fn meet(&self, life: &Life) {
        let met = (life.rooms.clone(), life.engine.parts.store.clone());
        *self.life.lock().unwrap() = Some(met);
    }

    /// It is over: whoever comes next opens the database anew.
    pub(super) fn part(&self) {
        *self.life.lock().unwrap() = None;
    }

    /// The daemon dies at the n-th place from here.
    pub(super) fn light(&self, places: u32) {
        self.fuse.store(places, Ordering::Relaxed);
    }

    /// What is foreign now is to stay so.
    pub(super) fn count_foreign(&self, host: &SimHost) {
        *self.foreign.lock().unwrap() = foreign(host);
    }

    /// A user's word was answered.
    pub(super) fn said(&self, vm: VmId, starts_nothing: bool, now: Timestamp) {
        let mut forbidden = self.forbidden.lock().unwrap();
        if starts_nothing {
            forbidden.entry(vm).or_insert(now);
        } else {
            forbidden.remove(&vm);
        }
    }

    /// The host has gone down and come up: policies decide anew.
    pub(super) fn rebooted(&self) {
        self.forbidden.lock().unwrap().clear();
    }

    pub(super) fn failpoints(self: &Arc<Self>) -> (Failpoints, impl Future<Output = ()> + use<>) {
        let (died, mut dead) = watch::channel(false);
        let stopped = died.clone();
        let (at_place, at_plan) = (Arc::clone(self), Arc::clone(self));
        let hook: Hook = Arc::new(move |_, _| {
            if at_place.place() {
                died.send_replace(true);
                std::future::pending().boxed()
            } else {
                std::future::ready(()).boxed()
            }
        });
        let judge = Arc::new(move |world: &hearth_plan::World, plan: &Plan| {
            if at_plan.plan(world, plan) {
                stopped.send_replace(true);
            }
        });
        let dead = async move { drop(dead.wait_for(|dead| *dead).await) };
        (Failpoints::hooked(hook).judged(judge), dead)
    }

    fn life(&self) -> Option<(hearth_sim::rooms::Rooms, Store)> {
        self.life.lock().unwrap().clone()
    }

    /// A place was reached. Whether the daemon dies here.
    fn place(&self) -> bool {
        self.places.fetch_add(1, Ordering::Relaxed);
        let Some((rooms, store)) = self.life() else {
            return false;
        };
        let rows = store.vms().now_or_never().expect("it waits for nothing");
        let wrong = rooms.see(|host| self.look(&rows, host));
        report(&rooms, wrong);
        match self.fuse.load(Ordering::Relaxed) {
            NEVER => false,
            0 => {
                self.light(NEVER);
                true
            }
            left => {
                self.light(left - 1);
                false
            }
        }
    }

    /// What is wrong on the host and in the database at this moment.
    fn look(&self, rows: &[VmRow], host: &SimHost) -> Vec<String> {
        let mut wrong = twins(host);
        wrong.extend(shared_leases(rows));
        if *self.foreign.lock().unwrap() != foreign(host) {
            wrong.push("something of a neighbour's is gone or is another".to_owned());
        }
        let mut launches = self.launches.lock().unwrap();
        for process in host.processes.values().filter(|p| !p.foreign) {
            let Some(vm) = process.identity.mark.vm() else {
                continue;
            };
            if process.role != ProcessRole::Vmm
                || process.started_at != host.now
                || launches
                    .insert((vm, process.identity.start_time), host.now)
                    .is_some()
            {
                continue;
            }
            if let Some(row) = rows.iter().find(|row| row.id == vm) {
                wrong.extend(self.start(row, host.now));
            }
        }
        wrong
    }

    /// What is wrong with a start that was just made.
    fn start(&self, row: &VmRow, now: Timestamp) -> Option<String> {
        let (name, status) = (&row.spec.name, &row.status);
        let forbidden = self.forbidden.lock().unwrap().get(&row.id).copied();
        if forbidden.is_some_and(|at| elapsed(at, now) > WORD) {
            return Some(format!("{name} was started against its user's word"));
        }
        if status.asked || status.vmm.is_some() {
            return None;
        }
        let rules = rules(&self.policy, &row.spec);
        if let Some(breaker) = forbids(&status.recovery, &rules, now) {
            return Some(format!(
                "{name} was started while its breaker is open: {breaker:?}"
            ));
        }
        let rebooted = status.last_end.as_ref().is_some_and(|end| {
            matches!(end.class, EndClass::HostRebooted | EndClass::GuestRebooted)
        });
        let last = status.recovery.failures.last().filter(|_| !rebooted)?;
        let (gap, least) = (elapsed(last.at, now), self.least_wait(status.failures));
        (status.failures > 0 && gap < least).then(|| {
            format!(
                "{name} was started {gap:?} after failure {} in a row, {least:?} is the least",
                status.failures
            )
        })
    }

    /// As `docs/recovery.md` says it: doubling from the first wait to the longest, and shortened
    /// by 30 % at the most.
    fn least_wait(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(20);
        let raw = self.policy.backoff_first * (1 << doublings);
        raw.min(self.policy.backoff_max) * 7 / 10
    }

    /// A plan is about to be carried out. Whether the daemon has to be stopped: it goes round and
    /// round, and no time passes.
    fn plan(&self, world: &hearth_plan::World, plan: &Plan) -> bool {
        self.plans.fetch_add(1, Ordering::Relaxed);
        let Some((rooms, _)) = self.life() else {
            return false;
        };
        let round = {
            let mut moment = self.moment.lock().unwrap();
            let before = if moment.0 == world.now { moment.1 } else { 0 };
            *moment = (world.now, before + 1);
            before > PLANS_AT_ONCE
        };
        let mut wrong = rooms.see(|host| check::plan(world, plan, host));
        let mut of_vms: BTreeMap<VmId, usize> = BTreeMap::new();
        let (mut shared, mut orphans) = (0, 0);
        for planned in &plan.steps {
            match (planned.step.kind().contains("orphan"), planned.step.vm()) {
                (true, _) => orphans += 1,
                (false, Some(vm)) => *of_vms.entry(vm).or_default() += 1,
                (false, None) => shared += 1,
            }
            if let Step::StartVmm { vm, .. } = planned.step {
                let held = world.vms.iter().find(|desired| desired.id == vm);
                if held.is_some_and(|desired| desired.status.recovery.hold.is_some()) {
                    wrong.push(format!("VM {vm} is held and is to be started"));
                }
            }
        }
        let most = of_vms.values().max().copied().unwrap_or(0);
        if most > STEPS_OF_A_VM || shared > SHARED_STEPS || orphans > self.policy.orphan_cap {
            wrong.push(format!("a plan is too large: {:?}", plan.steps));
        }
        if round {
            let steps = plan
                .steps
                .iter()
                .map(|planned| format!("{} ({})", planned.step.kind(), planned.reason));
            let steps: Vec<_> = steps.collect();
            wrong.push(format!(
                "the loop goes round and round: {steps:?}, {:?}",
                world.vms
            ));
        }
        report(&rooms, wrong);
        round
    }
}

/// Bounded work: passes are no storm.
pub(super) fn too_many_passes(count: u64, within: Duration) -> Option<String> {
    let most = 50 + PASSES * within.as_secs();
    (count > most).then(|| format!("{count} passes within {within:?}"))
}

fn report(rooms: &hearth_sim::rooms::Rooms, wrong: Vec<String>) {
    if !wrong.is_empty() {
        rooms.change(|host| {
            for violation in wrong {
                host.violation(violation);
            }
        });
    }
}

fn twins(host: &SimHost) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let ours = host
        .processes
        .values()
        .filter(|p| !p.foreign && p.role == ProcessRole::Vmm);
    ours.filter(|p| !seen.insert(p.identity.mark.vm()))
        .map(|p| format!("{:?} has two living VMMs", p.identity.mark.vm()))
        .collect()
}

fn shared_leases(rows: &[VmRow]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let mut wrong = Vec::new();
    for row in rows {
        let leases = &row.leases;
        let held = [
            leases.ip.map(|ip| ip.to_string()),
            leases.mac.map(|mac| mac.to_string()),
            Some(format!("cid {}", leases.cid)),
        ];
        for lease in held.into_iter().flatten() {
            if !seen.insert(lease.clone()) {
                wrong.push(format!("two VMs share the lease {lease}"));
            }
        }
    }
    wrong
}

/// What belongs to neighbours, one line each.
pub(super) fn foreign(host: &SimHost) -> BTreeSet<String> {
    let processes = host.processes.values().filter(|p| p.foreign);
    let processes =
        processes.map(|p| format!("process {} {}", p.identity.pid, p.identity.start_time));
    let taps = host.taps.iter().filter(|(_, tap)| tap.foreign);
    let taps = taps.map(|(name, tap)| format!("TAP {name} {tap:?}"));
    processes.chain(taps).collect()
}

/// Whether this word keeps a VM from being started.
pub(super) const fn starts_nothing(goal: Goal) -> bool {
    matches!(goal, Goal::Stopped | Goal::Absent)
}
