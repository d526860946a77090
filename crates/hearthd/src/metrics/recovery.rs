//! Deaths, recoveries and guests' health: each is counted and told in one place.
//!
//! The words of the log lines are relied on by alerts that read logs; they never change. Every
//! line has the fields `vm_id`, `vm_name` (from the span) and `reason`.
//!
//! ```text
//!  end recorded, unasked ─► orphaned vm detected ──► policy gives up ─► vm recovery failed completely
//!                                   │                                          ▲
//!            VMM unrecorded ────────┤                                          │
//!                                   ▼                                          │
//!                        attempting vm recovery ──► vm recovery failed ────────┘
//!                                   ├──► vm recovered via reconnection   (the VMM lived)
//!                                   └──► vm recovered successfully       (a new VMM runs)
//! ```
//! A start after an end that is no failure (policy `always` and a guest that exits with 0, a
//! guest that reboots) is a restart and no recovery.

use hearth_plan::transition::elapsed;
use hearth_plan::{PlannedStep, Step};
use hearth_store::VmRow;
use hearth_types::VmId;
use hearth_types::process::ProcessIdentity;
use hearth_types::spec::RestartPolicy;
use hearth_types::status::{EndClass, Goal, Phase, RunEnd};
use jiff::Timestamp;

use super::{Metrics, START_FAILED, class_word};
use crate::engine::Engine;
use crate::logging::about_vm;

/// Why an adoption was needed.
const UNRECORDED: &str = "its VMM lives and is not recorded";

/// Ended although nobody asked for it.
fn unasked(end: &RunEnd) -> bool {
    end.failure || end.class == EndClass::HostRebooted
}

/// When a run ended, if that is known and counts: while the host was down nobody could
/// have noticed or mended anything.
fn time_of_death(end: &RunEnd) -> Option<Timestamp> {
    (end.class != EndClass::HostRebooted).then_some(end.at)
}

fn wanted(row: &VmRow) -> bool {
    matches!(row.goal, Goal::Running | Goal::Paused)
}

impl Metrics {
    /// A VM is gone, or the user stopped it.
    pub(crate) fn forget(&self, vm: VmId) {
        self.stories.lock().remove(&vm);
    }

    fn run_ended(&self, vm: VmId, end: &RunEnd, orphaned: bool, now: Timestamp) {
        let class = class_word(end.class);
        self.ends.get_or_create(&[("class", class)]).inc();
        // Without the shim's word the time of the end is that of its discovery.
        if let (Some(_), Some(at)) = (end.vmm, time_of_death(end)) {
            self.detect.observe(elapsed(at, now).as_secs_f64());
        }
        if !orphaned {
            self.forget(vm);
            return;
        }
        if let Some(story) = self.stories.lock().get_mut(&vm) {
            story.start_failed = false;
        }
        let reason = match end.class {
            EndClass::HostRebooted => "host_rebooted",
            _ => "process_dead",
        };
        self.orphaned.get_or_create(&[("reason", reason)]).inc();
    }

    fn attempted(&self, outcome: &'static str) {
        self.attempts.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// A VMM runs. Whether that was a recovery.
    fn started(&self, vm: VmId, row: &VmRow, restart: bool, now: Timestamp) -> bool {
        let mut stories = self.stories.lock();
        let story = stories.remove(&vm).unwrap_or_default();
        let end = row.status.last_end.as_ref();
        let end = end.filter(|_| !story.start_failed);
        if restart || story.recovering {
            let reason = end.map_or(START_FAILED, |end| class_word(end.class));
            self.restarts.get_or_create(&[("reason", reason)]).inc();
        }
        if !story.recovering {
            return false;
        }
        let died = end.filter(|end| unasked(end)).and_then(time_of_death);
        if let Some(at) = died {
            self.recover.observe(elapsed(at, now).as_secs_f64());
            // It may have died before its guest could answer: down since the first death.
            let silent_since = story.silent_since.or(died);
            stories.entry(vm).or_default().silent_since = silent_since;
        }
        self.attempted("restarted");
        true
    }

    /// A start failed before a VMM ran. Whether that was a recovery.
    fn start_failed(&self, vm: VmId, step: &'static str) -> bool {
        self.start_failures.get_or_create(&[("step", step)]).inc();
        let mut stories = self.stories.lock();
        let story = stories.entry(vm).or_default();
        let recovering = std::mem::take(&mut story.recovering);
        if recovering {
            self.attempted("failed");
        } else {
            story.start_failed = true;
        }
        recovering
    }

    fn guest_answers(&self, vm: VmId, now: Timestamp) {
        let mut stories = self.stories.lock();
        let since = stories
            .get_mut(&vm)
            .and_then(|story| story.silent_since.take());
        if let Some(since) = since {
            stories.remove(&vm);
            self.downtime.observe(elapsed(since, now).as_secs_f64());
        }
    }
}

impl Engine {
    /// The end of a run was recorded; the row is as of after it.
    pub(crate) async fn end_recorded(&self, vm: VmId) {
        let Some(row) = self.parts.store.vm(vm).await else {
            return;
        };
        let Some(end) = &row.status.last_end else {
            return;
        };
        let orphaned = wanted(&row) && unasked(end);
        self.metrics.run_ended(vm, end, orphaned, self.now());
        if !orphaned {
            return;
        }
        about_vm(vm, Some(row.spec.name.as_str()), || {
            tracing::warn!(
                reason = end.reason,
                class = class_word(end.class),
                "orphaned vm detected"
            );
        });
        self.tell_given_up(&row, &end.reason);
    }

    /// The restart policy may have said that it was enough. Policy `no` never tries.
    fn tell_given_up(&self, row: &VmRow, reason: &str) {
        if row.status.phase != Phase::Failed
            || !wanted(row)
            || row.spec.restart == RestartPolicy::No
        {
            return;
        }
        self.metrics.given_up.inc();
        about_vm(row.id, Some(row.spec.name.as_str()), || {
            tracing::error!(
                reason,
                failures = row.status.failures,
                "vm recovery failed completely"
            );
        });
    }

    /// A VM's steps are about to be taken; `before` is its row as the plan saw it.
    pub(crate) async fn steps_begin(
        &self,
        vm: VmId,
        before: Option<&VmRow>,
        steps: &[PlannedStep],
    ) {
        let start = steps.iter().find_map(|planned| match planned.step {
            Step::StartVmm { restart, .. } => Some((restart, &planned.reason)),
            _ => None,
        });
        let (Some((restart, reason)), Some(before)) = (start, before) else {
            return;
        };
        let Some(row) = self.parts.store.vm(vm).await else {
            return;
        };
        let status = &row.status;
        let rebooted = |end: &RunEnd| end.class == EndClass::HostRebooted;
        let by_itself = restart || before.generation == before.status.observed_generation;
        let ill = status.failures > 0 || status.last_end.as_ref().is_some_and(rebooted);
        let recovering = by_itself && ill;
        let mut stories = self.metrics.stories.lock();
        if let Some(story) = stories.get_mut(&vm) {
            story.recovering = recovering;
        } else if recovering {
            stories.entry(vm).or_default().recovering = true;
        }
        drop(stories);
        if recovering {
            about_vm(vm, Some(row.spec.name.as_str()), || {
                tracing::info!(reason, failures = status.failures, "attempting vm recovery");
            });
        }
    }

    /// A VMM runs and is recorded.
    pub(crate) fn vmm_started(&self, vm: VmId, row: &VmRow, restart: bool) {
        if !self.metrics.started(vm, row, restart, self.now()) {
            return;
        }
        let reason = row.status.last_end.as_ref().map(|end| end.reason.as_str());
        about_vm(vm, Some(row.spec.name.as_str()), || {
            tracing::info!(
                reason = reason.unwrap_or("an earlier start failed"),
                "vm recovered successfully"
            );
        });
    }

    /// A step of a start failed and the failure is recorded.
    pub(crate) fn start_step_failed(&self, row: &VmRow, step: &Step, reason: &str) {
        if row.status.vmm.is_some() || !wanted(row) {
            return;
        }
        if self.metrics.start_failed(row.id, step.kind()) {
            about_vm(row.id, Some(row.spec.name.as_str()), || {
                tracing::warn!(reason, step = step.kind(), "vm recovery failed");
            });
        }
        self.tell_given_up(row, reason);
    }

    /// A living VMM is about to be taken as a VM's.
    pub(crate) fn reconnecting(&self, vm: VmId, row: Option<&VmRow>, identity: &ProcessIdentity) {
        self.metrics
            .orphaned
            .get_or_create(&[("reason", "unrecorded")])
            .inc();
        about_vm(vm, row.map(|row| row.spec.name.as_str()), || {
            tracing::warn!(
                reason = UNRECORDED,
                pid = identity.pid,
                "orphaned vm detected"
            );
            tracing::info!(
                reason = UNRECORDED,
                pid = identity.pid,
                "attempting vm recovery"
            );
        });
    }

    /// It was taken, or not.
    pub(crate) fn reconnected(&self, vm: VmId, row: Option<&VmRow>, result: &anyhow::Result<()>) {
        self.metrics.attempted(if result.is_ok() {
            "reconnected"
        } else {
            "failed"
        });
        about_vm(vm, row.map(|row| row.spec.name.as_str()), || match result {
            Ok(()) => tracing::info!(reason = UNRECORDED, "vm recovered via reconnection"),
            Err(error) => tracing::warn!(reason = format!("{error:#}"), "vm recovery failed"),
        });
    }

    /// A running guest has answered.
    pub(crate) fn guest_answers(&self, vm: VmId) {
        self.metrics.guest_answers(vm, self.now());
    }
}
