//! Limits of a VM's unit that somebody has changed while it runs.

use hearth_types::observe::{ChangedLimit, ObservedProcess, UnitState};
use hearth_types::survey::Survey;

use super::Vm;
use crate::model::Step;

fn words(limit: &ChangedLimit) -> String {
    let ChangedLimit {
        name,
        wanted,
        found,
        ..
    } = limit;
    format!("{name} is {found:?} and was {wanted:?} when it was started")
}

impl Vm<'_, '_> {
    /// What was set at its start holds while it runs. It comes last of the VM's steps, so that a limit
    /// that cannot be put back holds up nothing else.
    pub(super) fn ensure_limits(&mut self, live: &ObservedProcess) {
        let active = |state| state == UnitState::Active;
        let Some(unit) = self.seen.unit.filter(|unit| active(unit.state)) else {
            return;
        };
        let changed = match &unit.limits {
            Survey::Known(changed) => changed,
            Survey::Unknown(why) => {
                let note = format!("its limits are unknown, so they are left as they are: {why}");
                return self.plan.note(Some(self.vm), note);
            }
        };
        let (fit, too_small): (Vec<_>, Vec<_>) = changed.iter().partition(|limit| limit.fits);
        for limit in too_small {
            let note = format!(
                "{}: its VMM uses more than that, so it is put back at its next start",
                words(limit)
            );
            self.plan.note(Some(self.vm), note);
        }
        if fit.is_empty() {
            return;
        }
        let reason: Vec<String> = fit.iter().copied().map(words).collect();
        self.plan.push(
            Step::EnsureLimits {
                vm: self.vm.id,
                identity: live.identity.clone(),
                limits: fit.into_iter().cloned().collect(),
            },
            format!("somebody has changed its limits: {}", reason.join("; ")),
        );
    }
}
