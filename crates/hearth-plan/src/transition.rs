//! Status transitions: pure functions that both the planner and the executor use, so that
//! there is one answer to "what does this mean for the VM".
//!
//! ```text
//!             accepted                started                 stop_begun
//! any ─────────────────► Starting ──────────────► Running ──────────────► Stopping
//!                           ▲  │ start_failed        │ ended                 │ ended
//!                           │  ▼                     ▼                       ▼
//!             next_start  Backoff ◄── policy ── (how it ended) ── no ──► Exited / Failed
//! ```

mod verdict;

use std::time::Duration;

use jiff::Timestamp;

use hearth_types::ids::VmId;
use hearth_types::process::{ExitRecord, ProcessIdentity};
use hearth_types::spec::{RestartPolicy, VmSpec};
use hearth_types::status::{
    Bootstrap, Cause, EndClass, Failure, Fate, Goal, Phase, RunEnd, StopProgress, StopRung,
    VmStatus,
};

use crate::breaker;
use crate::model::Policy;

pub use verdict::classify;

/// `at` and a length of time after it; the end of time if there is no such time.
#[must_use]
pub fn later(at: Timestamp, by: Duration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}

/// How long ago `since` was; zero for a time that is yet to come (the clock was set back).
#[must_use]
pub fn elapsed(since: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(since)).unwrap_or_default()
}

/// The user's newest word is taken up: a VM that should run gets a fresh start.
///
/// `alive` says whether a VMM of it lives; then only the counters are reset. An open breaker
/// stays: the start that follows is its trial ([`started`]).
#[must_use]
pub fn accepted(status: &VmStatus, generation: u64, alive: bool, boot_id: &str) -> VmStatus {
    VmStatus {
        phase: if alive { status.phase } else { Phase::Starting },
        asked: !alive,
        observed_generation: generation,
        stop: None,
        unresponsive: None,
        restarts: 0,
        failures: 0,
        next_start: None,
        reason: None,
        boot_id: Some(boot_id.to_owned()),
        bootstrap: status.bootstrap.clone().filter(|_| alive),
        wait: None,
        ..status.clone()
    }
}

/// A VM that the bootstrap was to start runs.
fn bootstrapped(status: &VmStatus) -> Option<Bootstrap> {
    let mut bootstrap = status.bootstrap.clone()?;
    if bootstrap.fate == Fate::Due {
        bootstrap.fate = Fate::Started;
    }
    Some(bootstrap)
}

/// A VMM was launched. `restart` says whether the restart policy asked for it.
#[must_use]
pub fn started(
    status: &VmStatus,
    identity: ProcessIdentity,
    now: Timestamp,
    restart: bool,
) -> VmStatus {
    VmStatus {
        phase: Phase::Running,
        asked: false,
        boot_id: Some(identity.boot_id.clone()),
        ending_since: None,
        vmm: Some(identity),
        started_at: Some(now),
        stop: None,
        unresponsive: None,
        disk_full: None,
        pool_wait: None,
        restarts: status.restarts.saturating_add(u32::from(restart)),
        next_start: None,
        reason: None,
        bootstrap: bootstrapped(status),
        wait: None,
        unhealthy: false,
        recovery: breaker::on_trial(&status.recovery, now),
        ..status.clone()
    }
}

/// A living VMM was found by its mark and is taken as this VM's. `started_at` is the process' own.
#[must_use]
pub fn adopted(status: &VmStatus, identity: ProcessIdentity, started_at: Timestamp) -> VmStatus {
    VmStatus {
        phase: Phase::Running,
        boot_id: Some(identity.boot_id.clone()),
        ending_since: None,
        vmm: Some(identity),
        started_at: Some(started_at),
        next_start: None,
        reason: None,
        bootstrap: bootstrapped(status),
        wait: None,
        recovery: breaker::on_trial(&status.recovery, started_at),
        ..status.clone()
    }
}

/// A start failed before a VMM ran: a disk, a TAP or the VMM itself. Counts as a failure.
///
/// While a VMM is recorded it is no start that failed (a TAP of a running VM could not be put
/// right, a second start was refused): then only the reason is kept.
#[must_use]
pub fn start_failed(
    status: &VmStatus,
    vm: VmId,
    spec: &VmSpec,
    reason: impl Into<String>,
    cause: Cause,
    now: Timestamp,
    policy: &Policy,
) -> VmStatus {
    let reason = reason.into();
    if status.vmm.is_some() {
        return VmStatus {
            reason: Some(reason),
            ..status.clone()
        };
    }
    let failures = status.failures.saturating_add(1);
    let again = restarts(spec.restart, true, failures);
    let next = VmStatus {
        phase: if again { Phase::Backoff } else { Phase::Failed },
        asked: false,
        vmm: None,
        stop: None,
        failures,
        next_start: again.then(|| later(now, backoff(failures, policy, vm))),
        reason: Some(reason.clone()),
        ..status.clone()
    };
    failed(next, spec, Failure { at: now, cause }, &reason, now, policy)
}

/// A failure is remembered; where the restart policy asks for another start, the breaker has
/// a word in it.
fn failed(
    mut next: VmStatus,
    spec: &VmSpec,
    failure: Failure,
    why: &str,
    now: Timestamp,
    policy: &Policy,
) -> VmStatus {
    let rules = breaker::rules(policy, spec);
    next.recovery = breaker::remember(&next.recovery, failure, &rules, now);
    if next.phase == Phase::Backoff {
        breaker::judge(&mut next.recovery, why, &rules, now);
        if let Some(open) = breaker::forbids(&next.recovery, &rules, now) {
            next.next_start = Some(open.until);
            next.reason = Some(breaker::reason(open));
        }
    }
    next
}

/// The recorded VMM has ended. Decides by goal and restart policy what comes next.
#[must_use]
pub fn ended(
    status: &VmStatus,
    vm: VmId,
    spec: &VmSpec,
    end: RunEnd,
    now: Timestamp,
    policy: &Policy,
    goal: Goal,
) -> VmStatus {
    let mut next = VmStatus {
        ending_since: None,
        vmm: None,
        asked: false,
        stop: None,
        unresponsive: None,
        disk_full: None,
        pool_wait: None,
        unhealthy: false,
        next_start: None,
        reason: end.failure.then(|| end.reason.clone()),
        ..status.clone()
    };
    let stable = status
        .started_at
        .is_some_and(|at| elapsed(at, end.at) >= policy.stable_after);
    if stable || !end.failure {
        next.failures = 0;
    }
    // A run that was good to its end proves as much as a stable one; the user's stop does not.
    let reboot = matches!(end.class, EndClass::GuestRebooted | EndClass::HostRebooted);
    let good = !end.failure && status.stop.is_none() && !reboot;
    if stable || (good && matches!(goal, Goal::Running | Goal::Paused)) {
        next.recovery.breaker = None;
    }
    if end.failure {
        next.failures = next.failures.saturating_add(1);
    }
    let wanted = matches!(goal, Goal::Running | Goal::Paused);
    // A guest that reboots does not end: it asks for its next boot. So does one that the
    // host took along: the next boot finds it waiting.
    let reboots = matches!(end.class, EndClass::GuestRebooted | EndClass::HostRebooted)
        && spec.restart != RestartPolicy::No;
    next.phase = match goal {
        Goal::Absent => Phase::Removing,
        // A stop on the way to a new start (`hearth restart`).
        Goal::Running | Goal::Paused
            if status.stop.is_some() && end.class != EndClass::Unresponsive =>
        {
            Phase::Starting
        }
        _ if wanted && (reboots || restarts(spec.restart, end.failure, next.failures)) => {
            // The shim's clock may be ahead of a clock that was set back.
            let from = end.at.min(now);
            next.next_start = Some(later(from, backoff(next.failures, policy, vm)));
            Phase::Backoff
        }
        _ if end.failure => Phase::Failed,
        _ => Phase::Exited,
    };
    if end.failure {
        let failure = Failure {
            at: end.at.min(now),
            cause: breaker::cause_of_end(end.class),
        };
        next = failed(next, spec, failure, &end.reason, now, policy);
    }
    next.last_end = Some(end);
    next
}

/// A stop begins because a check of the VM's health has failed for too long.
#[must_use]
pub fn put_down(
    status: &VmStatus,
    generation: u64,
    now: Timestamp,
    goal: Goal,
    illness: &str,
) -> VmStatus {
    VmStatus {
        unresponsive: Some(illness.to_owned()),
        ..stop_begun(status, generation, now, goal)
    }
}

/// The end of a run that was stopped for its illness is a failure, however clean it was; unless
/// the user has said meanwhile that it should end.
#[must_use]
pub fn end_of_illness(status: &VmStatus, goal: Goal, end: RunEnd) -> RunEnd {
    match &status.unresponsive {
        Some(illness) if status.stop.is_some() && matches!(goal, Goal::Running | Goal::Paused) => {
            RunEnd {
                class: EndClass::Unresponsive,
                failure: true,
                reason: format!("it was unhealthy: {illness}"),
                ..end
            }
        }
        _ => end,
    }
}

/// The recorded VMM is of an earlier boot: whatever it was, it is gone.
#[must_use]
pub fn rebooted(
    status: &VmStatus,
    spec: &VmSpec,
    end: RunEnd,
    goal: Goal,
    boot_id: &str,
) -> VmStatus {
    let phase = match goal {
        Goal::Absent => Phase::Removing,
        Goal::Stopped => Phase::Exited,
        Goal::Running | Goal::Paused if spec.restart == RestartPolicy::No => Phase::Exited,
        Goal::Running | Goal::Paused => Phase::Starting,
    };
    VmStatus {
        phase,
        asked: false,
        ending_since: None,
        vmm: None,
        stop: None,
        unresponsive: None,
        disk_full: None,
        pool_wait: None,
        next_start: None,
        reason: (phase == Phase::Exited).then(|| end.reason.clone()),
        last_end: Some(end),
        boot_id: Some(boot_id.to_owned()),
        ..status.clone()
    }
}

/// The end of a run that the reboot of the host ended.
#[must_use]
pub fn reboot_end(now: Timestamp) -> RunEnd {
    RunEnd {
        class: EndClass::HostRebooted,
        exit_code: None,
        vmm: None,
        guest: None,
        failure: false,
        reason: "host rebooted".to_owned(),
        at: now,
    }
}

/// How a run of an earlier boot ended. A host that goes down ends its VMMs with signals, so a
/// VMM that was killed without anybody of us having seen it went down with the host.
#[must_use]
pub fn ended_in_earlier_boot(exit: Option<&ExitRecord>, stopping: bool, now: Timestamp) -> RunEnd {
    let Some(record) = exit else {
        return reboot_end(now);
    };
    let end = classify(Some(record), stopping, now);
    match end.class {
        EndClass::Killed | EndClass::HostRebooted => RunEnd {
            vmm: end.vmm,
            guest: end.guest,
            exit_code: end.exit_code,
            ..reboot_end(end.at)
        },
        _ => end,
    }
}

/// A stop begins: the ladder's clock starts.
#[must_use]
pub fn stop_begun(status: &VmStatus, generation: u64, now: Timestamp, goal: Goal) -> VmStatus {
    VmStatus {
        phase: if goal == Goal::Absent {
            Phase::Removing
        } else {
            Phase::Stopping
        },
        // A stop for the sake of a restart leaves the user's word open: it asks for a start.
        observed_generation: match goal {
            Goal::Stopped | Goal::Absent => generation,
            Goal::Running | Goal::Paused => status.observed_generation,
        },
        stop: Some(StopProgress {
            since: now,
            rung: None,
        }),
        next_start: None,
        reason: None,
        ..status.clone()
    }
}

/// A rung of the stop was taken.
#[must_use]
pub fn rung_taken(status: &VmStatus, rung: StopRung) -> VmStatus {
    VmStatus {
        stop: status.stop.clone().map(|stop| StopProgress {
            rung: stop.rung.max(Some(rung)),
            ..stop
        }),
        ..status.clone()
    }
}

/// A guest that waits for room on the host was told to go on.
#[must_use]
pub fn told_to_go_on(status: &VmStatus, now: Timestamp) -> VmStatus {
    let mut next = status.clone();
    if let Some(full) = &mut next.disk_full {
        full.tries = full.tries.saturating_add(1);
        full.tried_at = Some(now);
    }
    next
}

/// The rung to take at once when `rung` cannot work (no agent answers, no control channel).
/// The deadlines of the rungs after it stay: a guest without agent has the whole stop
/// timeout for the power button.
#[must_use]
pub const fn skip_rung(rung: StopRung) -> StopRung {
    match rung {
        StopRung::Agent => StopRung::PowerButton,
        StopRung::PowerButton => StopRung::Quit,
        StopRung::Quit | StopRung::Kill => StopRung::Kill,
    }
}

/// Whether the restart policy asks for another start after a run that ended by itself.
/// `failures` counts this one, too.
#[must_use]
pub const fn restarts(policy: RestartPolicy, failure: bool, failures: u32) -> bool {
    match policy {
        RestartPolicy::No => false,
        RestartPolicy::OnFailure(None) => failure,
        RestartPolicy::OnFailure(Some(times)) => failure && failures <= times,
        RestartPolicy::Always | RestartPolicy::UnlessStopped => true,
    }
}

/// How long to wait before the next start after so many failures in a row: `backoff_first`
/// doubled with each failure after the first, at most `backoff_max`, less 5 to 30 hundredths
/// so that VMs that fell together do not rise together, and so that with the first wait of one
/// second a VM is started again within that second. The spread depends on the VM and the count
/// only: a plan that is made again says the same time.
#[must_use]
pub fn backoff(failures: u32, policy: &Policy, seed: VmId) -> Duration {
    let doublings = failures.saturating_sub(1).min(31);
    let whole = policy
        .backoff_first
        .saturating_mul(1 << doublings)
        .min(policy.backoff_max);
    whole - whole / 400 * (20 + spread(seed, failures) * 100 / 255)
}

/// 0 to 255, by FNV-1a (64 bit, offset basis and prime from its specification).
fn spread(seed: VmId, failures: u32) -> u32 {
    let bytes = seed.as_uuid().as_bytes().iter().copied();
    let hash = bytes
        .chain(failures.to_le_bytes())
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    // The high bits are mixed best.
    u32::from(hash.to_be_bytes()[0])
}
