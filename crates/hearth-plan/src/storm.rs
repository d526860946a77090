//! Start storms: automatic starts that are due at once are let through a few at a time.
//!
//! ```text
//!  automatic starts due ──► by priority, then age ──► as many as there are free places and tokens ──► taken
//!                                                 └─► the rest: a note, and a pass when the next token is there
//! ```
//! The bucket holds as many tokens as starts may be under way at once, and fills with so many a
//! second. Its level follows from when the VMs' runs began, so nothing is remembered between two
//! passes. Under memory or CPU pressure one start is made at a time, with a rest in between.
//! What the user asked for is never delayed, but it takes tokens, too.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;

use hearth_types::ids::VmId;

use crate::mode::Origin;
use crate::model::{DesiredVm, Plan, PlannedStep, Step, World};
use crate::order;
use crate::transition::{elapsed, later};

/// The rest between two starts on a host under pressure: half of what its average spans.
const REST: Duration = Duration::from_secs(5);
/// How soon to look again when all places are taken; the end of a start wakes the loop, too.
const SOON: Duration = Duration::from_secs(1);

/// How fast automatic starts follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StormPolicy {
    /// So many starts are under way at once at the most; 0: no limit, and no bucket either.
    pub at_once: u32,
    /// So many tokens a second flow into the bucket; 0: no bucket.
    pub per_second: u32,
    /// With so much CPU pressure, in percent, starts are made one by one; 0: never.
    pub cpu_pressure: u32,
    /// The same for memory.
    pub memory_pressure: u32,
}

impl Default for StormPolicy {
    fn default() -> Self {
        Self {
            at_once: 4,
            per_second: 2,
            cpu_pressure: 80,
            memory_pressure: 20,
        }
    }
}

/// What may be started now.
struct Budget {
    count: usize,
    next: Timestamp,
    why: String,
}

/// Takes out of the plan the automatic starts that have to wait for their turn.
pub(crate) fn thin(world: &World, plan: &mut Plan) {
    let policy = &world.policy.storm;
    if policy.at_once == 0 {
        return;
    }
    let begun = |vm: &VmId| world.load.starting.contains(vm);
    let due: BTreeSet<VmId> = plan
        .steps
        .iter()
        .filter_map(automatic_start)
        .filter(|vm| !begun(vm))
        .collect();
    if due.is_empty() {
        return;
    }
    let budget = budget(world);
    if due.len() <= budget.count {
        return;
    }
    let mut queue: Vec<_> = world.vms.iter().filter(|vm| due.contains(&vm.id)).collect();
    let urgency = order::urgency(world);
    let urgent = |vm: &DesiredVm| {
        let own = vm.spec.resources.priority;
        urgency.get(&vm.id).copied().unwrap_or(own)
    };
    queue.sort_by_key(|vm| (Reverse(urgent(vm)), vm.id));
    let waiting: BTreeSet<VmId> = queue.iter().skip(budget.count).map(|vm| vm.id).collect();
    plan.steps.retain(|planned| {
        let of_start = matches!(
            planned.step,
            Step::EnsureDisks { .. } | Step::EnsureTap { .. } | Step::StartVmm { .. }
        );
        !of_start || planned.step.vm().is_none_or(|vm| !waiting.contains(&vm))
    });
    for vm in queue.into_iter().skip(budget.count) {
        plan.note(Some(vm), format!("waits for its turn: {}", budget.why));
    }
    plan.due(budget.next);
}

fn automatic_start(planned: &PlannedStep) -> Option<VmId> {
    match (&planned.step, planned.origin) {
        (Step::StartVmm { vm, .. }, Origin::Automatic(_)) => Some(*vm),
        _ => None,
    }
}

fn budget(world: &World) -> Budget {
    let (now, policy, load) = (world.now, &world.policy.storm, &world.load);
    let under_way = load.starting.len();
    let at_once = usize::try_from(policy.at_once).unwrap_or(usize::MAX);
    if let Some(pressure) = pressure(world) {
        let last = begun(world).into_iter().max();
        let rested = last.is_none_or(|at| elapsed(at, now) >= REST);
        return Budget {
            count: usize::from(under_way == 0 && rested),
            next: later(now, REST),
            why: format!("{pressure}, so starts are made one by one"),
        };
    }
    let places = at_once.saturating_sub(under_way);
    let (tokens, wait) = bucket(world, at_once);
    if places < tokens {
        Budget {
            count: places,
            next: later(now, wait.max(SOON)),
            why: format!("{at_once} starts at once are the most"),
        }
    } else {
        let rate = policy.per_second;
        Budget {
            count: tokens,
            next: later(now, wait),
            why: format!("{rate} starts a second are the most"),
        }
    }
}

/// Which resource the host is short of, if it is.
fn pressure(world: &World) -> Option<String> {
    let (policy, load) = (&world.policy.storm, &world.load);
    let over = |now: Option<u32>, most: u32| now.filter(|now| most > 0 && *now >= most);
    if let Some(percent) = over(load.memory_pressure, policy.memory_pressure) {
        return Some(format!("memory pressure is {percent} %"));
    }
    let percent = over(load.cpu_pressure, policy.cpu_pressure)?;
    Some(format!("CPU pressure is {percent} %"))
}

/// When runs began, as far back as it matters to a bucket.
fn begun(world: &World) -> Vec<Timestamp> {
    let matters = Duration::from_secs(60).max(REST);
    let times = world.vms.iter().filter_map(|vm| vm.status.started_at);
    times
        .filter(|at| *at <= world.now && elapsed(*at, world.now) < matters)
        .collect()
}

/// Whole tokens in the bucket, and how long until there is one more.
fn bucket(world: &World, size: usize) -> (usize, Duration) {
    /// Parts of a token: a rate per second is parts per millisecond.
    const PARTS: u64 = 1000;
    let rate = u64::from(world.policy.storm.per_second);
    if rate == 0 {
        return (usize::MAX, SOON);
    }
    let full = u64::try_from(size)
        .unwrap_or(u64::MAX)
        .saturating_mul(PARTS);
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let mut times = begun(world);
    times.sort_unstable();
    // Those under way have taken theirs and are not recorded yet.
    times.extend(world.load.starting.iter().map(|_| world.now));
    let (mut level, mut last) = (full, times.first().copied().unwrap_or(world.now));
    for at in times {
        let filled = rate.saturating_mul(millis(elapsed(last, at)));
        level = level.saturating_add(filled).min(full).saturating_sub(PARTS);
        last = at;
    }
    let filled = rate.saturating_mul(millis(elapsed(last, world.now)));
    level = level.saturating_add(filled).min(full);
    let missing = PARTS - level % PARTS;
    let wait = Duration::from_millis(missing.div_ceil(rate));
    (usize::try_from(level / PARTS).unwrap_or(usize::MAX), wait)
}
