//! A VM that its operator holds: what happens to it is written down, and nothing is done to it.
//!
//! The user's word still holds: a VM that is to be stopped or removed is not "held" here, for
//! `hearth stop` and `hearth rm` are no acts of the daemon's own accord.

use hearth_types::observe::{ObservedProcess, RunState};
use hearth_types::status::{Goal, Phase};

use super::Vm;

impl<'a> Vm<'a, '_> {
    /// Whether its operator holds it, and its user wants it up.
    pub(super) fn held(&self) -> bool {
        self.status.recovery.hold.is_some() && matches!(self.vm.goal, Goal::Running | Goal::Paused)
    }

    /// Writes down what is seen: an end, a VMM that lives, what it says of itself.
    pub(super) fn look_only(mut self) {
        match self.any_vmm() {
            Some(live) => {
                if self.status.vmm.as_ref() != Some(&live.identity) {
                    self.adopt(live);
                }
                match self.run_state() {
                    Some(RunState::Running) => self.set_phase(Phase::Running),
                    Some(RunState::Paused) => self.set_phase(Phase::Paused),
                    Some(RunState::DiskFull | RunState::Broken | RunState::Ended) | None => {}
                }
            }
            None => {
                if !self.record_end() {
                    return;
                }
            }
        }
        let Some(hold) = &self.status.recovery.hold else {
            return;
        };
        let why = hold.reason.as_deref();
        let why = why.map_or_else(String::new, |why| format!(" ({why})"));
        let (since, name) = (hold.since, &self.vm.spec.name);
        let text = format!(
            "is held since {since:.0}{why}, so nothing is done to it: hearth release {name}"
        );
        self.plan.note(Some(self.vm), text);
    }

    /// The recorded VMM, else the oldest. A second one is left alone, too, and told.
    fn any_vmm(&mut self) -> Option<&'a ObservedProcess> {
        let recorded = self.status.vmm.as_ref();
        let found = self.seen.vmms.iter().min_by_key(|process| {
            (
                Some(&process.identity) != recorded,
                process.started_at,
                process.identity.start_time,
                process.identity.pid,
            )
        })?;
        if self.seen.vmms.only().is_none() {
            let text =
                "has a second VMM, which is not ended because it is held: two VMMs write one disk";
            self.plan.note(Some(self.vm), text);
        }
        Some(found)
    }
}
