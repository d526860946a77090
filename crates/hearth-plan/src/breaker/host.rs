//! The host's circuit breaker: many VMs that fail for one cause at once are not the patients,
//! the host is.
//!
//! ```text
//!          so many VMs within the window, one cause              cool-down over
//! closed ─────────────────────────────────────────────► open ──────────────────► one VM on trial
//!   ▲                                                     ▲                          │      │
//!   │                                                     └─ it fails: wait doubles ─┘      │
//!   └───────────────────────── a VM that had failed has run for a while ────────────────────┘
//! ```
//! Nothing of it is stored by itself: it follows from the failures that the VMs' statuses
//! remember, so every pass of every daemon comes to the same answer. It restrains automatic
//! starts; the user's word is carried out.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use hearth_types::ids::VmId;
use hearth_types::status::{Cause, Goal, Phase};

use super::{REMEMBERED, forbids, rules};
use crate::index::word_is_new;
use crate::model::{DesiredVm, HostBreakerPolicy, World};
use crate::transition::{elapsed, later};

/// A host's breaker that is not closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostBreaker {
    /// What the VMs have in common.
    pub cause: Cause,
    /// When so many had failed.
    pub opened_at: Timestamp,
    /// Those that have failed so.
    pub vms: BTreeSet<VmId>,
    /// Trials that have failed since.
    pub failed_trials: u32,
    /// When the next trial is due, or the one that runs has held.
    pub until: Timestamp,
    /// The VM that runs on trial, or that may be started on trial now.
    pub trial: Option<VmId>,
    /// Whether that VM runs already.
    pub on_trial: bool,
}

impl HostBreaker {
    /// What is wrong, for people.
    #[must_use]
    pub fn reason(&self) -> String {
        let (count, word, words) = (self.vms.len(), self.cause.as_str(), self.cause.words());
        format!("host breaker open ({word}): {count} VMs failed at once, {words}")
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
    let policy = &world.policy.host_breaker;
    let blank = |vm: &DesiredVm| vm.status.recovery.failures.is_empty();
    if policy.vms == 0 || world.vms.iter().all(blank) {
        return None;
    }
    let open = Cause::SHARED
        .iter()
        .filter_map(|cause| of_cause(world, policy, *cause));
    open.max_by_key(|breaker| (breaker.opened_at, Reverse(breaker.cause)))
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

fn of_cause(world: &World, policy: &HostBreakerPolicy, cause: Cause) -> Option<HostBreaker> {
    let now = world.now;
    let mut failures: Vec<(Timestamp, VmId)> = Vec::new();
    for vm in &world.vms {
        let same = vm.status.recovery.failures.iter().filter(|failure| {
            failure.cause == cause && failure.at <= now && elapsed(failure.at, now) < REMEMBERED
        });
        failures.extend(same.map(|failure| (failure.at, vm.id)));
    }
    failures.sort_unstable();
    let last_together = together(&failures, threshold(world, policy), policy.window)?;
    let opened_at = failures.get(last_together)?.0;
    let last = failures.last()?.0;
    let vms: BTreeSet<VmId> = failures.iter().map(|(_, vm)| *vm).collect();
    let failed_trials = failures.len().saturating_sub(last_together + 1);
    let failed_trials = u32::try_from(failed_trials).unwrap_or(u32::MAX);
    let wait = policy.cooldown.saturating_mul(1 << failed_trials.min(16));
    let next_trial = later(last, wait.min(policy.cooldown_max));
    let mut breaker = HostBreaker {
        cause,
        opened_at,
        vms,
        failed_trials,
        until: next_trial,
        trial: None,
        on_trial: false,
    };
    let runs = world.vms.iter().filter(|vm| {
        let since = vm.status.started_at.filter(|at| *at > opened_at);
        breaker.vms.contains(&vm.id) && vm.status.vmm.is_some() && since.is_some()
    });
    let oldest = runs.min_by_key(|vm| vm.status.started_at);
    if let Some(runs) = oldest {
        let since = runs.status.started_at.unwrap_or(now);
        if elapsed(since, now) >= policy.hold {
            return None;
        }
        breaker.trial = Some(runs.id);
        breaker.on_trial = true;
        breaker.until = later(since, policy.hold);
    } else if now >= next_trial {
        if elapsed(next_trial, now) >= policy.cooldown_max {
            // Nobody has tried for so long that what was is past.
            return None;
        }
        breaker.trial = candidate(world, &breaker.vms);
    }
    Some(breaker)
}

/// The last failure at which so many VMs had failed within the window.
fn together(failures: &[(Timestamp, VmId)], threshold: usize, window: Duration) -> Option<usize> {
    let mut counts: BTreeMap<VmId, usize> = BTreeMap::new();
    let (mut first, mut found) = (0, None);
    for (index, (at, vm)) in failures.iter().enumerate() {
        *counts.entry(*vm).or_default() += 1;
        while let Some((old, gone)) = failures.get(first) {
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
        if counts.len() >= threshold {
            found = Some(index);
        }
    }
    found
}

/// Who is tried first: of those that have failed so and wait, the one that matters most, then
/// the oldest.
fn candidate(world: &World, failed: &BTreeSet<VmId>) -> Option<VmId> {
    let waits = |vm: &&DesiredVm| {
        let status = &vm.status;
        let rules = rules(&world.policy, &vm.spec);
        wanted(vm)
            && failed.contains(&vm.id)
            && status.vmm.is_none()
            && matches!(status.phase, Phase::Starting | Phase::Backoff)
            && status.recovery.hold.is_none()
            && forbids(&status.recovery, &rules, world.now).is_none()
            && !word_is_new(vm)
    };
    let waiting = world.vms.iter().filter(waits);
    let first = waiting.min_by_key(|vm| {
        let rests = vm.status.next_start.filter(|at| *at > world.now);
        (rests, Reverse(vm.spec.resources.priority), vm.id)
    });
    first.map(|vm| vm.id)
}
