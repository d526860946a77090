//! The host's circuit breaker: many VMs that fail for one cause at once are not the patients,
//! the host is.
//!
//! ```text
//!          so many VMs within the window, one cause
//! closed ─────────────────────────────────────────────► OPEN: mode maintenance, no automatic start
//!   ▲ ▲                                                   │  ▲
//!   │ │ nobody waits for an                cool-down over │  │ it fails: the wait doubles,
//!   │ └ automatic start ──────┐   and the cause not seen  │  │ the cause is what it failed for
//!   │                         │                           ▼  │
//!   └── a VM that had failed, or the one on trial ──── HALF OPEN: one VM at a time on trial
//!       has run for a while; reset by hand                (the one thing that passes the mode)
//! ```
//! It is latched: how many VMs there are, which of them are removed, and how old their failures
//! get changes nothing once it is open. What it remembers ([`HostMemory`]) goes into
//! each [`World`] and comes out of each [`Plan`](crate::Plan); whoever carries the plan out stores it.
//! It restrains automatic starts; the user's word is carried out, and a run that it makes is as
//! good a trial as any.
//!
//! # Why it cannot lock itself up
//!
//! Open leads to half open by time alone, unless the cause is still seen ([`still_there`]) at
//! every pass. Half open has a VM to try, or ends: with nobody who waits there is nothing to restrain.
//! The trial has an origin of its own ([`Origin::Trial`](crate::mode::Origin)), which the
//! mode that the breaker asked for lets through. A mode that a person set, or a stricter rule,
//! holds the trial; then the breaker stays half open for as long as that mode is in force.

mod trial;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use hearth_types::ids::VmId;
use hearth_types::status::{Cause, Goal};
use hearth_types::survey::Survey;

use crate::model::{DesiredVm, HostBreakerPolicy, World};
use crate::transition::{elapsed, later};

/// What is remembered from one pass to the next, and stored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostMemory {
    /// Grows with every reset by hand: a plan that was made before it changes nothing after it.
    pub word: u64,
    /// The breaker, unless it is closed.
    pub open: Option<Latch>,
    /// When it was closed last: what had failed until then does not open it again.
    pub closed_at: Option<Timestamp>,
}

/// A breaker that is open or half open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latch {
    /// What the VMs have in common.
    pub cause: Cause,
    /// When so many had failed.
    pub opened_at: Timestamp,
    /// Those that have failed so.
    pub vms: BTreeSet<VmId>,
    /// Trials that have failed since.
    pub failed_trials: u32,
    /// The last failure that was taken into account.
    pub last_failure: Timestamp,
    /// When the cool-down is over.
    pub until: Timestamp,
    /// The VM that was chosen for a trial.
    #[serde(default)]
    pub trial: Option<VmId>,
    /// The boot that all of this was in: a new one is tried at once.
    pub boot_id: String,
}

/// The host's breaker as one pass finds it, when it is not closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostBreaker {
    /// What the VMs have in common.
    pub cause: Cause,
    /// When so many had failed.
    pub opened_at: Timestamp,
    /// Those that have failed so.
    pub vms: BTreeSet<VmId>,
    /// What else all of them share and others do not, such as an image.
    pub shared: Vec<String>,
    /// Trials that have failed since.
    pub failed_trials: u32,
    /// When the next trial is due, or the one that runs has held.
    pub until: Timestamp,
    /// The VM that runs on trial, or that may be started on trial now: then it is half open.
    pub trial: Option<VmId>,
    /// Whether that VM is being started or runs already.
    pub on_trial: bool,
    /// What of the cause is still seen, although the cool-down is over.
    pub still: Option<String>,
}

impl HostBreaker {
    /// What is wrong, for people.
    #[must_use]
    pub fn reason(&self) -> String {
        let (count, word, words) = (self.vms.len(), self.cause.as_str(), self.cause.words());
        let shared = if self.shared.is_empty() {
            String::new()
        } else {
            format!("; all of them use {}", self.shared.join(", "))
        };
        format!("host breaker open ({word}): {count} VMs failed at once, {words}{shared}")
    }

    /// What it waits for, for people; `name` names VMs.
    #[must_use]
    pub fn waits_for(&self, name: impl Fn(VmId) -> String) -> String {
        let until = self.until;
        match (self.trial, &self.still) {
            (Some(vm), _) if self.on_trial => {
                format!("{} is on trial until {until:.0}", name(vm))
            }
            (Some(vm), _) => format!("{} is tried next", name(vm)),
            (None, Some(still)) => format!("no trial yet: {still}"),
            (None, None) => format!("the next trial is due at {until:.0}"),
        }
    }

    /// Whether this VM may be started automatically now.
    #[must_use]
    pub fn lets(&self, vm: VmId) -> bool {
        !self.on_trial && self.trial == Some(vm)
    }
}

/// Whether the host's breaker is open, and for whom it opens a little.
#[must_use]
pub fn judge(world: &World) -> Option<HostBreaker> {
    remember(world).1
}

/// The same, with what is to be remembered of it.
#[must_use]
pub fn remember(world: &World) -> (HostMemory, Option<HostBreaker>) {
    let policy = &world.policy.host_breaker;
    let mut memory = world.host.clone();
    if policy.vms == 0 {
        memory.open = None;
        return (memory, None);
    }
    let now = world.now;
    // The clock may have been set back.
    memory.closed_at = memory.closed_at.map(|at| at.min(now));
    let latch = match memory.open.take() {
        Some(latch) => Some(latch.after(world)),
        None => opens(world, policy, memory.closed_at),
    };
    let Some(mut latch) = latch else {
        return (memory, None);
    };
    let Some(breaker) = trial::stands(world, &mut latch) else {
        memory.closed_at = Some(now);
        return (memory, None);
    };
    memory.open = Some(latch);
    (memory, Some(breaker))
}

/// What people call a VM.
#[must_use]
pub fn name_in(world: &World, vm: VmId) -> String {
    let found = world.vms.iter().find(|known| known.id == vm);
    found.map_or_else(|| vm.to_string(), |known| known.spec.name.to_string())
}

/// Closes it by the operator's word.
#[must_use]
pub fn reset(memory: &HostMemory, now: Timestamp) -> HostMemory {
    HostMemory {
        word: memory.word.saturating_add(1),
        open: None,
        closed_at: Some(now),
    }
}

impl Latch {
    /// What has failed since it was looked at last.
    fn after(mut self, world: &World) -> Self {
        let (now, policy) = (world.now, &world.policy.host_breaker);
        self.last_failure = self.last_failure.min(now);
        self.until = self.until.min(later(now, policy.cooldown_max));
        if self.boot_id != world.boot_id {
            world.boot_id.clone_into(&mut self.boot_id);
            self.until = self.until.min(now);
            self.failed_trials = 0;
        }
        for (at, vm, cause) in failures(world, Some(self.last_failure), None) {
            let on_trial = at >= self.until;
            if cause != self.cause && !on_trial {
                continue;
            }
            // Of starts that were under way when it opened, or that the user made, nothing is
            // learnt but that the cause is still there.
            if on_trial {
                self.failed_trials = self.failed_trials.saturating_add(1);
                self.trial = None;
                self.cause = cause;
            }
            self.vms.insert(vm);
            self.last_failure = at;
            self.until = later(at, wait(policy, self.failed_trials));
        }
        self
    }
}

/// How long after a failure the next trial is due.
fn wait(policy: &HostBreakerPolicy, failed_trials: u32) -> Duration {
    let wait = policy.cooldown.saturating_mul(1 << failed_trials.min(16));
    wait.min(policy.cooldown_max.max(policy.cooldown))
}

/// Failures for causes that VMs can share, after `after` and not yet to come, oldest first.
fn failures(
    world: &World,
    after: Option<Timestamp>,
    only: Option<Cause>,
) -> Vec<(Timestamp, VmId, Cause)> {
    let mut found = Vec::new();
    for vm in &world.vms {
        let counts = vm.status.recovery.failures.iter().filter(|failure| {
            failure.cause.is_shared()
                && only.is_none_or(|cause| cause == failure.cause)
                && failure.at <= world.now
                && after.is_none_or(|after| failure.at > after)
        });
        found.extend(counts.map(|failure| (failure.at, vm.id, failure.cause)));
    }
    found.sort_unstable();
    found
}

fn wanted(vm: &DesiredVm) -> bool {
    matches!(vm.goal, Goal::Running | Goal::Paused)
}

/// So many VMs must have failed: the policy's number, or half of those that should run.
fn threshold(world: &World, policy: &HostBreakerPolicy) -> usize {
    let half = world.vms.iter().filter(|vm| wanted(vm)).count().div_ceil(2);
    let number = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
    number(policy.vms).min(half.max(number(policy.least)))
}

/// Opens it if so many have failed for one cause just now.
fn opens(world: &World, policy: &HostBreakerPolicy, closed_at: Option<Timestamp>) -> Option<Latch> {
    if world
        .vms
        .iter()
        .all(|vm| vm.status.recovery.failures.is_empty())
    {
        return None;
    }
    let enough = threshold(world, policy);
    let of_cause = Cause::SHARED
        .iter()
        .filter_map(|cause| of_cause(world, policy, *cause, enough, closed_at));
    of_cause.min_by_key(|latch| (latch.opened_at, latch.cause))
}

fn of_cause(
    world: &World,
    policy: &HostBreakerPolicy,
    cause: Cause,
    enough: usize,
    closed_at: Option<Timestamp>,
) -> Option<Latch> {
    let mut failures = failures(world, closed_at, Some(cause));
    // A host that is well again needs no breaker; twice the window, because a pass may be late.
    failures.retain(|(at, ..)| elapsed(*at, world.now) < policy.window.saturating_mul(2));
    let opened_at = failures.get(together(&failures, enough, policy.window)?)?.0;
    let last_failure = failures.last()?.0;
    Some(Latch {
        cause,
        opened_at,
        vms: failures.iter().map(|(_, vm, _)| *vm).collect(),
        failed_trials: 0,
        last_failure,
        until: later(last_failure, wait(policy, 0)),
        trial: None,
        boot_id: world.boot_id.clone(),
    })
}

/// The first failure at which so many VMs had failed within the window.
fn together(
    failures: &[(Timestamp, VmId, Cause)],
    enough: usize,
    window: Duration,
) -> Option<usize> {
    let mut counts: BTreeMap<VmId, usize> = BTreeMap::new();
    let mut first = 0;
    for (index, (at, vm, _)) in failures.iter().enumerate() {
        *counts.entry(*vm).or_default() += 1;
        while let Some((old, gone, _)) = failures.get(first) {
            if elapsed(*old, *at) < window {
                break;
            }
            if let Some(count) = counts.get_mut(gone) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(gone);
                }
            }
            first += 1;
        }
        if counts.len() >= enough {
            return Some(index);
        }
    }
    None
}

/// What of a cause can be seen without a trial. Most cannot.
#[must_use]
pub fn still_there(world: &World, cause: Cause) -> Option<String> {
    let observed = &world.observed;
    match cause {
        Cause::Memory => {
            let (most, now) = (
                world.policy.storm.memory_pressure,
                world.load.memory_pressure,
            );
            let percent = now.filter(|now| most > 0 && *now >= most)?;
            Some(format!("memory pressure is {percent} %"))
        }
        Cause::Network => {
            let why = unknown(&observed.taps)
                .or_else(|| unknown(&observed.bridge))
                .or_else(|| unknown(&observed.rules))?;
            Some(format!("the network cannot be looked at: {why}"))
        }
        Cause::Disk => {
            let why = unknown(&observed.dirs)?;
            Some(format!("the VMs' folders cannot be looked at: {why}"))
        }
        Cause::Kvm | Cause::Start | Cause::Vmm | Cause::Image | Cause::Config | Cause::Own => None,
    }
}

fn unknown<T>(survey: &Survey<T>) -> Option<&str> {
    match survey {
        Survey::Unknown(why) => Some(why),
        Survey::Known(_) => None,
    }
}
