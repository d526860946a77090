//! Pauses between attempts at a step that keeps failing.
//!
//! A start that fails counts as a failure of the VM, and the planner makes it wait. Any other
//! step (a pause, a TAP that cannot be removed) would be planned again by the very next pass;
//! it waits here. A new word of the user begins anew.

use std::collections::BTreeMap;
use std::time::Duration;

use hearth_plan::{PlannedStep, Step};
use hearth_types::ids::VmId;
use tokio::time::Instant;

/// Pause after the first failure; it doubles with each one in a row.
const FIRST: Duration = Duration::from_secs(1);
/// The longest pause: a stop must not wait long for a host that is well again.
const LONGEST: Duration = Duration::from_secs(30);

/// The steps that failed last, by VM.
#[derive(Debug, Default)]
pub(super) struct Retries(BTreeMap<VmId, Failing>);

#[derive(Debug)]
struct Failing {
    step: &'static str,
    /// The user's word that the step was planned for.
    generation: u64,
    failures: u32,
    until: Instant,
}

impl Retries {
    /// A step failed. How long to wait before the next attempt.
    pub(super) fn failed(&mut self, vm: VmId, step: &Step, generation: u64) -> Duration {
        let kind = step.kind();
        let before = self
            .0
            .get(&vm)
            .filter(|failing| failing.step == kind && failing.generation == generation);
        let failures = before.map_or(0, |failing| failing.failures);
        let pause = FIRST
            .saturating_mul(2_u32.saturating_pow(failures))
            .min(LONGEST);
        let failing = Failing {
            step: kind,
            generation,
            failures: failures.saturating_add(1),
            until: Instant::now() + pause,
        };
        self.0.insert(vm, failing);
        pause
    }

    /// Leaves out what has to wait: the step that failed and all that comes after it.
    pub(super) fn hold_back(&self, vm: VmId, generation: u64, steps: &mut Vec<PlannedStep>) {
        let Some(failing) = self.0.get(&vm) else {
            return;
        };
        if failing.generation != generation || Instant::now() >= failing.until {
            return;
        }
        let waits = |planned: &PlannedStep| planned.step.kind() == failing.step;
        if let Some(index) = steps.iter().position(waits) {
            steps.truncate(index);
        }
    }

    /// These steps were taken: if the one that failed is among them, all is well.
    pub(super) fn done(&mut self, vm: VmId, steps: &[PlannedStep]) {
        let well = self.0.get(&vm).is_some_and(|failing| {
            let mut kinds = steps.iter().map(|planned| planned.step.kind());
            kinds.any(|kind| kind == failing.step || kind == "forget")
        });
        if well {
            self.0.remove(&vm);
        }
    }
}
