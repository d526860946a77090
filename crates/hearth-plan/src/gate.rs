//! The gate in front of the executor: finds out who asked for each step, and lets through what
//! mode and switches allow. Decisions are the same in every mode; the gate only sorts them.
//!
//! A VM's steps are one line of thought: the statuses in it build on one another. Therefore
//! once one of its statuses is held, the ones after it are held, too.

use hearth_types::status::{Goal, Phase, VmStatus};

use crate::breaker::host::HostBreaker;

use crate::index::word_is_new;
use crate::mode::{Automatic, Origin, allowed};
use crate::model::{DesiredVm, Held, Plan, PlannedStep, Step, World};
use crate::transition::later;

/// How soon to look again at what is held, at the earliest. Its own timers mean nothing: it is
/// let through by a change of the mode, which wakes the loop, or by a new configuration.
const HELD_REST: std::time::Duration = std::time::Duration::from_secs(5);

/// Sorts the steps of one plan.
#[derive(Debug)]
pub(crate) struct Gate<'a> {
    world: &'a World,
    /// Some VM is on its way to where its user wants it.
    asked: bool,
    host_breaker: Option<&'a HostBreaker>,
}

impl<'a> Gate<'a> {
    pub(crate) fn new(world: &'a World, host_breaker: Option<&'a HostBreaker>) -> Self {
        Self {
            world,
            asked: world.vms.iter().any(under_way),
            host_breaker,
        }
    }

    /// Decides for one VM and sorts its steps.
    pub(crate) fn vm(&self, vm: &DesiredVm, plan: &mut Plan, decide: impl FnOnce(&mut Plan)) {
        let trial = self.host_breaker.is_some_and(|open| open.lets(vm.id));
        let view = Sorting::of(vm, trial);
        self.sorted(plan, Some(vm), decide, |steps| view.sort(steps));
    }

    /// Decides what is done to orphans.
    pub(crate) fn orphans(&self, plan: &mut Plan, decide: impl FnOnce(&mut Plan)) {
        let origin = Origin::Automatic(Automatic::Orphans);
        self.sorted(plan, None, decide, |steps| all(steps, origin));
    }

    /// Decides what nobody needs any more.
    pub(crate) fn removals(&self, plan: &mut Plan, decide: impl FnOnce(&mut Plan)) {
        let origin = Origin::Automatic(Automatic::Cleanup);
        self.sorted(plan, None, decide, |steps| all(steps, origin));
    }

    /// Sorts what all VMs share: the first `count` steps. It was decided first and is sorted
    /// last, because it is needed by whatever of the VMs' own steps is let through.
    pub(crate) fn shared(&self, plan: &mut Plan, count: usize) {
        let need = plan.steps.get(count..).unwrap_or_default();
        let origin = if self.asked || need.iter().any(|step| step.origin == Origin::Manual) {
            Origin::Manual
        } else if plan.network_awaited {
            Origin::Automatic(Automatic::Bootstrap)
        } else {
            let start = need
                .iter()
                .find(|p| matches!(p.step, Step::StartVmm { .. }));
            start.map_or(Origin::Automatic(Automatic::Drift), |start| start.origin)
        };
        let rest = plan.steps.split_off(count.min(plan.steps.len()));
        let due = (plan.next_pass, plan.next_timer);
        self.sorted_from(plan, None, 0, |steps| all(steps, origin));
        (plan.next_pass, plan.next_timer) = due;
        plan.steps.extend(rest);
    }

    /// Says what the mode holds, once for all, and when to look at its cause again.
    pub(crate) fn conclude(&self, plan: &mut Plan) {
        let stance = &self.world.policy.stance;
        if stance.mode == hearth_types::mode::Mode::Normal {
            return;
        }
        let why = stance.reason.as_deref().unwrap_or("no reason is given");
        let count = plan.held.len();
        plan.note(
            None,
            format!(
                "the mode is {}: {count} step(s) that are due are not taken ({why})",
                stance.mode
            ),
        );
        if stance.by_rule {
            plan.due(later(self.world.now, HELD_REST));
        }
    }

    fn sorted(
        &self,
        plan: &mut Plan,
        vm: Option<&DesiredVm>,
        decide: impl FnOnce(&mut Plan),
        sort: impl FnOnce(&mut [PlannedStep]),
    ) {
        let from = plan.steps.len();
        let before = [plan.next_pass.take(), plan.next_timer.take()];
        decide(plan);
        if plan.steps.len() > from {
            self.sorted_from(plan, vm, from, sort);
        }
        for at in before.into_iter().flatten() {
            plan.due(at);
        }
    }

    /// Sorts the steps from `from` on; those that are held leave the plan.
    fn sorted_from(
        &self,
        plan: &mut Plan,
        vm: Option<&DesiredVm>,
        from: usize,
        sort: impl FnOnce(&mut [PlannedStep]),
    ) {
        sort(&mut plan.steps[from..]);
        let policy = &self.world.policy;
        let may = |step: &PlannedStep| allowed(&policy.stance, policy.auto, step.origin);
        if plan.steps[from..].iter().all(may) {
            return;
        }
        let mut statuses_held = false;
        for step in plan.steps.split_off(from) {
            let status = matches!(step.step, Step::SetStatus { .. });
            if may(&step) && !(status && statuses_held) {
                plan.steps.push(step);
                continue;
            }
            // What its VMM would have said after such a step is not what it says now.
            statuses_held |= status || steers(&step.step);
            self.hold(plan, vm, step);
        }
        let rest = later(self.world.now, HELD_REST);
        plan.next_pass = plan.next_pass.map(|at| at.max(rest));
        plan.next_timer = plan.next_timer.map(|at| at.max(rest));
    }

    fn hold(&self, plan: &mut Plan, vm: Option<&DesiredVm>, planned: PlannedStep) {
        let stance = &self.world.policy.stance;
        let by = match planned.origin {
            Origin::Automatic(kind) | Origin::Trial(kind) if !self.world.policy.auto.on(kind) => {
                let key = kind.key();
                plan.note(
                    vm,
                    format!(
                        "{} ({}) is not done: {key} is off",
                        planned.step.kind(),
                        planned.reason
                    ),
                );
                key.to_owned()
            }
            _ => format!("mode {}", stance.mode),
        };
        plan.held.push(Held { planned, by });
    }
}

const fn steers(step: &Step) -> bool {
    matches!(
        step,
        Step::Pause { .. } | Step::Resume { .. } | Step::Stop { .. }
    )
}

fn all(steps: &mut [PlannedStep], origin: Origin) {
    for step in steps {
        step.origin = origin;
    }
}

/// Whether the user's last word about a VM is still on its way: not taken up, or a start or a
/// removal that it asked for and that is not done.
fn under_way(vm: &DesiredVm) -> bool {
    word_is_new(vm)
        || vm.goal == Goal::Absent
        || (vm.status.asked && vm.status.phase == Phase::Starting)
}

/// One VM's steps, in their order.
struct Sorting<'a> {
    vm: &'a DesiredVm,
    /// What the user asked for makes its steps.
    manual: bool,
    /// It is the one that may be started while the host's breaker is half open.
    trial: bool,
}

impl<'a> Sorting<'a> {
    fn of(vm: &'a DesiredVm, trial: bool) -> Self {
        Self {
            vm,
            trial,
            manual: under_way(vm) || vm.goal == Goal::Stopped,
        }
    }

    fn sort(&self, steps: &mut [PlannedStep]) {
        let starts = steps
            .iter()
            .any(|planned| matches!(planned.step, Step::StartVmm { .. }));
        let mut before = self.vm.status.clone();
        for planned in steps {
            planned.origin = self.origin(&planned.step, &before, starts);
            if let Step::SetStatus { status, .. } = &planned.step {
                before = VmStatus::clone(status);
            }
        }
    }

    /// `before` is the status as the steps before this one leave it; `starts` says whether a
    /// VMM is to be started.
    fn origin(&self, step: &Step, before: &VmStatus, starts: bool) -> Origin {
        let by_itself = |kind| {
            if self.manual {
                Origin::Manual
            } else if self.trial && starts {
                Origin::Trial(kind)
            } else {
                Origin::Automatic(kind)
            }
        };
        match step {
            Step::Adopt { .. } => Origin::Recorded,
            Step::SetGoal { .. } => Origin::Automatic(Automatic::Bootstrap),
            Step::SetStatus { status, .. } if records(before, status) => Origin::Recorded,
            // A VM that is put down for its illness is on the way to its next start.
            Step::SetStatus { status, .. } if status.unresponsive.is_some() => {
                by_itself(Automatic::Restart)
            }
            Step::Stop { .. } if before.unresponsive.is_some() => by_itself(Automatic::Restart),
            Step::SetStatus { status, .. } if status.boot_id != before.boot_id => {
                by_itself(Automatic::Bootstrap)
            }
            Step::SetStatus { status, .. } if status.wait != before.wait => {
                by_itself(self.start(before))
            }
            // The user wants it to run on, and so that nothing of it is lost.
            Step::SetStatus { status, .. } if status.pool_wait != before.pool_wait => {
                Origin::Manual
            }
            Step::Pause { .. } if before.pool_wait.is_some() => Origin::Manual,
            Step::KillOrphan { .. } => by_itself(Automatic::Orphans),
            Step::EnsureDisks { .. } | Step::StartVmm { .. } => by_itself(self.start(before)),
            Step::EnsureTap { .. } if starts => by_itself(self.start(before)),
            Step::EnsureTap { .. } | Step::EnsureLimits { .. } => by_itself(Automatic::Drift),
            // A goal that was never reached is still the user's word.
            Step::Pause { .. } if self.vm.status.phase != Phase::Paused => Origin::Manual,
            Step::Resume { .. } if before.disk_full.is_some() => by_itself(Automatic::Drift),
            Step::Resume { .. } if self.vm.status.phase == Phase::Paused => Origin::Manual,
            Step::Pause { .. } | Step::Resume { .. } => by_itself(Automatic::Drift),
            _ => by_itself(Automatic::Cleanup),
        }
    }

    /// What makes a start that the user did not just ask for.
    fn start(&self, before: &VmStatus) -> Automatic {
        match before.phase {
            Phase::Starting => Automatic::Bootstrap,
            _ => Automatic::Restart,
        }
    }
}

/// Whether a status only says what has happened: an end, since when an end is awaited, or what
/// a living VMM says of itself. It decides nothing that a later pass would have to undo.
fn records(before: &VmStatus, after: &VmStatus) -> bool {
    if before.vmm.is_some() && after.vmm.is_none() {
        return true;
    }
    let said = VmStatus {
        phase: after.phase,
        ending_since: after.ending_since,
        disk_full: after.disk_full.clone(),
        reason: after.reason.clone(),
        ..before.clone()
    };
    let lives = matches!(after.phase, Phase::Running | Phase::Paused);
    said == *after && after.vmm.is_some() && (lives || after.phase == before.phase)
}
