//! The circuit breaker of one VM: pure functions over what its status remembers.
//!
//! ```text
//!            N failures in the window                     cool-down over, or the user starts it
//! closed ───────────────────────────► open ──────────────────────────► half open: one start
//!   ▲                                   ▲                                   │         │
//!   │                                   └── failure: the cool-down doubles ─┘         │
//!   └──────────── a run that is stable or ends well by itself; the operator ──────────┘
//! ```
//! Runs that failed and starts that did count alike. The breaker restrains automatic starts
//! only, so it opens only where the restart policy asks for one.

pub mod host;

use std::time::Duration;

use jiff::Timestamp;

use hearth_types::spec::VmSpec;
use hearth_types::status::recovery::MAX_FAILURES;
use hearth_types::status::{Breaker, Cause, EndClass, Failure, Phase, Recovery, VmStatus};
use hearth_types::units::Span;

use crate::model::{BreakerPolicy, Policy};
use crate::transition::{elapsed, later};

/// How long a failure is remembered at least.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// What holds for one VM.
#[must_use]
pub fn rules(policy: &Policy, spec: &VmSpec) -> BreakerPolicy {
    let (host, own) = (policy.breaker, &spec.breaker);
    let or = |own: Option<Span>, host| own.map_or(host, Span::as_duration);
    BreakerPolicy {
        failures: own.failures.unwrap_or(host.failures),
        window: or(own.window, host.window),
        cooldown: or(own.cooldown, host.cooldown),
        ..host
    }
}

/// What an end of this class has in common with other VMs' ends.
#[must_use]
pub const fn cause_of_end(class: EndClass) -> Cause {
    match class {
        EndClass::VmmCrashed => Cause::Vmm,
        EndClass::HostOutOfMemory => Cause::Memory,
        _ => Cause::Own,
    }
}

/// What a start that failed at this kind of step has in common with other VMs' failed starts.
#[must_use]
pub fn cause_of_step(kind: &str) -> Cause {
    match kind {
        "ensure_disks" => Cause::Disk,
        "ensure_tap" => Cause::Network,
        "start_vmm" => Cause::Start,
        _ => Cause::Own,
    }
}

/// Remembers a failure, and forgets those that are too old or of a time that is yet to come
/// (the clock was set back).
#[must_use]
pub(crate) fn remember(
    recovery: &Recovery,
    failure: Failure,
    rules: &BreakerPolicy,
    now: Timestamp,
) -> Recovery {
    let keep = REMEMBERED.max(rules.window);
    let mut next = recovery.clone();
    next.failures
        .retain(|failure| failure.at <= now && elapsed(failure.at, now) < keep);
    next.failures.push(failure);
    let surplus = next.failures.len().saturating_sub(MAX_FAILURES);
    next.failures.drain(..surplus);
    next
}

/// Opens the breaker if this failure, which is remembered already, asks for it.
pub(crate) fn judge(recovery: &mut Recovery, why: &str, rules: &BreakerPolicy, now: Timestamp) {
    if rules.failures == 0 {
        recovery.breaker = None;
        return;
    }
    let (opens, reason) = match &recovery.breaker {
        Some(before) => (
            before.opens.saturating_add(1),
            format!("trial {} failed: {why}", before.opens),
        ),
        None => {
            let recent = recent(recovery, rules, now);
            if recent < usize::try_from(rules.failures).unwrap_or(usize::MAX) {
                return;
            }
            let window = span(rules.window);
            (1, format!("{recent} failures in {window}, last: {why}"))
        }
    };
    let doublings = opens.saturating_sub(1).min(31);
    let wait = rules.cooldown.saturating_mul(1 << doublings);
    recovery.breaker = Some(Breaker {
        opened_at: now,
        until: later(now, wait.min(rules.cooldown_max.max(rules.cooldown))),
        opens,
        trial: None,
        reason,
    });
}

fn recent(recovery: &Recovery, rules: &BreakerPolicy, now: Timestamp) -> usize {
    let within = |failure: &&Failure| elapsed(failure.at, now) < rules.window;
    recovery.failures.iter().filter(within).count()
}

fn span(time: Duration) -> Span {
    Span::millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

/// A start is about to be made or was made: an open breaker is half open from then on.
#[must_use]
pub fn on_trial(recovery: &Recovery, now: Timestamp) -> Recovery {
    let mut next = recovery.clone();
    if let Some(breaker) = &mut next.breaker {
        breaker.trial.get_or_insert(now);
    }
    next
}

/// Why the VM waits, as its status says it.
#[must_use]
pub fn reason(breaker: &Breaker) -> String {
    format!(
        "breaker open until {:.0}: {}",
        breaker.until, breaker.reason
    )
}

/// An open breaker that still forbids automatic starts. A wait that is longer than any that
/// could have been set means that the clock was set back: it is over.
#[must_use]
pub fn forbids<'a>(
    recovery: &'a Recovery,
    rules: &BreakerPolicy,
    now: Timestamp,
) -> Option<&'a Breaker> {
    let longest = rules.cooldown_max.max(rules.cooldown);
    recovery.breaker.as_ref().filter(|breaker| {
        breaker.trial.is_none() && breaker.until > now && breaker.until <= later(now, longest)
    })
}

/// The operator closes the breaker and wipes the failures: what waits starts now.
#[must_use]
pub fn reset(status: &VmStatus) -> VmStatus {
    let recovery = Recovery {
        word: status.recovery.word.saturating_add(1),
        failures: Vec::new(),
        breaker: None,
        ..status.recovery.clone()
    };
    let waits = status.phase == Phase::Backoff;
    VmStatus {
        failures: 0,
        next_start: status.next_start.filter(|_| !waits),
        reason: status.reason.clone().filter(|_| !waits),
        recovery,
        ..status.clone()
    }
}

/// What became of a breaker between two statuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It opened, for the first time or again.
    Opened,
    /// One start is on trial.
    HalfOpen,
    /// It closed.
    Closed,
}

/// What became of the breaker, if anything.
#[must_use]
pub fn change(before: &VmStatus, after: &VmStatus) -> Option<Change> {
    match (&before.recovery.breaker, &after.recovery.breaker) {
        (Some(_), None) => Some(Change::Closed),
        (None, Some(_)) => Some(Change::Opened),
        (Some(old), Some(new)) if old.opens != new.opens => Some(Change::Opened),
        (Some(old), Some(new)) if old.trial.is_none() && new.trial.is_some() => {
            Some(Change::HalfOpen)
        }
        _ => None,
    }
}
