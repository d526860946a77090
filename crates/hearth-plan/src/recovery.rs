//! The operator's words as pure changes of a status: hold, release, restart, recover.
//!
//! Each makes `recovery.word` grow, so that what was planned before it is not carried out
//! after it.

use jiff::Timestamp;

use hearth_types::ids::VmId;
use hearth_types::status::{Bootstrap, Fate, Goal, Hold, Phase, Recovery, VmStatus};

use crate::bootstrap::{self, Verdict};
use crate::breaker;
use crate::model::World;
use crate::transition;

/// A status as the operator's word leaves it, and what that means for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// The new status; `None` when there was nothing to do.
    pub status: Option<VmStatus>,
    /// What was done, or why nothing was.
    pub detail: String,
}

impl Said {
    fn nothing(detail: impl Into<String>) -> Self {
        Self {
            status: None,
            detail: detail.into(),
        }
    }
}

fn spoken(recovery: &Recovery) -> Recovery {
    Recovery {
        word: recovery.word.saturating_add(1),
        ..recovery.clone()
    }
}

/// From now on the VM is observed, and nothing is done of the daemon's own accord.
#[must_use]
pub fn hold(status: &VmStatus, reason: Option<String>, now: Timestamp) -> VmStatus {
    let since = status.recovery.hold.as_ref().map_or(now, |hold| hold.since);
    VmStatus {
        recovery: Recovery {
            hold: Some(Hold { since, reason }),
            ..spoken(&status.recovery)
        },
        ..status.clone()
    }
}

/// The daemon may act again.
#[must_use]
pub fn release(status: &VmStatus) -> VmStatus {
    VmStatus {
        recovery: Recovery {
            hold: None,
            ..spoken(&status.recovery)
        },
        ..status.clone()
    }
}

/// A stop begins after which the VM is started again, if a VMM of it lives. It is the word of
/// its user: what was planned before it must not overwrite the stop.
#[must_use]
pub fn restart(status: &VmStatus, generation: u64, now: Timestamp) -> VmStatus {
    if status.vmm.is_none() {
        return status.clone();
    }
    VmStatus {
        recovery: spoken(&status.recovery),
        ..transition::stop_begun(status, generation, now, Goal::Running)
    }
}

/// Starts now what waits. `force` sets an open breaker on trial and starts what has been
/// given up; a hold and the user's stop are respected all the same.
#[must_use]
pub fn recover(status: &VmStatus, goal: Goal, force: bool, now: Timestamp) -> Said {
    if !matches!(goal, Goal::Running | Goal::Paused) {
        return Said::nothing("it should not run: its user stopped it");
    }
    if status.recovery.hold.is_some() {
        return Said::nothing("it is held: release it first");
    }
    if status.vmm.is_some() {
        return Said::nothing("it runs");
    }
    let open = status.recovery.breaker.as_ref();
    let open = open.filter(|breaker| breaker.trial.is_none());
    let left = bootstrap::left_by_policy(status);
    let failures = match (status.phase, open) {
        (Phase::Exited, _) if left.is_none() => {
            return Said::nothing("it has ended well: start it");
        }
        (Phase::Failed, _) if !force => {
            return Said::nothing("its restart policy has given it up: force it, or start it");
        }
        (_, Some(open)) if !force => {
            let why = breaker::reason(open);
            return Said::nothing(format!("{why}: force it, or reset its breaker"));
        }
        (Phase::Exited | Phase::Failed, _) => 0,
        _ => status.failures,
    };
    let detail = match (status.phase, open) {
        (_, Some(_)) => "started on trial: its breaker was open".to_owned(),
        (Phase::Failed, None) => "started: its restart policy had given it up".to_owned(),
        (Phase::Backoff, None) => "started: it was waiting".to_owned(),
        (_, None) => match left {
            Some(policy) => format!("started: policy {policy} had left it after the reboot"),
            None => "its turn has come".to_owned(),
        },
    };
    let next = VmStatus {
        phase: Phase::Starting,
        asked: true,
        failures,
        next_start: None,
        reason: None,
        recovery: breaker::on_trial(&spoken(&status.recovery), now),
        bootstrap: status.bootstrap.clone().map(|decided| Bootstrap {
            fate: Fate::Due,
            ..decided
        }),
        wait: None,
        ..status.clone()
    };
    Said {
        status: Some(next),
        detail,
    }
}

/// What a reboot of the host did to the VMs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rebooted {
    /// Those that ran when it went down.
    pub ran: Vec<VmId>,
    /// Those of them that are started again.
    pub again: Vec<VmId>,
    /// Those of them that wait for somebody: held, with an open breaker, or left by a policy.
    pub left: Vec<VmId>,
}

/// What a reboot did, as long as no pass has recorded it; `None` when nothing ran under it.
#[must_use]
pub fn rebooted(world: &World) -> Option<Rebooted> {
    let mut found = Rebooted::default();
    for vm in &world.vms {
        let status = &vm.status;
        let earlier = |vmm: &hearth_types::process::ProcessIdentity| vmm.boot_id != world.boot_id;
        if !status.vmm.as_ref().is_some_and(earlier) {
            continue;
        }
        found.ran.push(vm.id);
        if !matches!(vm.goal, Goal::Running | Goal::Paused) {
            // Its user had said that it should go: that it is gone is as wanted.
            continue;
        }
        let rules = breaker::rules(&world.policy, &vm.spec);
        let waits = matches!(bootstrap::judge(world, vm), Verdict::Left { .. })
            || status.recovery.hold.is_some()
            || breaker::forbids(&status.recovery, &rules, world.now).is_some();
        if waits {
            found.left.push(vm.id);
        } else {
            found.again.push(vm.id);
        }
    }
    (!found.ran.is_empty()).then_some(found)
}
