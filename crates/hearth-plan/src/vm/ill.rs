//! A VM that runs and is not well, and whose specification asks for a restart then.
//!
//! ```text
//! ill (a fact of the world, for this very VMM) ──► stop begun, illness stored ──► the stop's ladder
//!                                                                                      │
//!           restart policy: back-off, limit, breaker ◄── end of class Unresponsive ◄───┘
//! ```
//! Once the stop has begun it is carried through, whatever is said of its health: the guest may
//! have been asked to go down already.

use hearth_types::event::{NewEvent, Severity};
use hearth_types::observe::ObservedProcess;
use hearth_types::spec::RestartPolicy;
use hearth_types::status::Goal;

use super::Vm;
use crate::index::word_is_new;
use crate::model::Step;
use crate::transition;

impl Vm<'_, '_> {
    /// Whether it is being stopped for its illness; the steps are planned then.
    pub(super) fn put_down(&mut self, live: &ObservedProcess) -> bool {
        if word_is_new(self.vm) {
            // The user's newest word comes first; who is ill after it will be found so.
            return false;
        }
        let begun = self.status.unresponsive.is_some() && self.status.stop.is_some();
        if !begun && !self.begin_to_put_down(live) {
            return false;
        }
        self.climb(live, "it is unhealthy and is to be started again");
        true
    }

    fn begin_to_put_down(&mut self, live: &ObservedProcess) -> bool {
        let Some(ill) = self.world.ill.get(&self.vm.id) else {
            return false;
        };
        let free = self.goal == Goal::Running
            && self.status.stop.is_none()
            && ill.vmm == live.identity
            && self.status.vmm.as_ref() == Some(&live.identity)
            && self.vm.spec.restart != RestartPolicy::No;
        if !free {
            return false;
        }
        if self.waits_for_room() {
            // It does not answer because it stands still, and an end would lose its write.
            return false;
        }
        if self.status.recovery.hold.is_some() {
            let why = format!(
                "is unhealthy and is not started again: it is held ({})",
                ill.reason
            );
            self.plan.note(Some(self.vm), why);
            return false;
        }
        let (now, generation) = (self.world.now, self.vm.generation);
        let next = transition::put_down(&self.status, generation, now, self.goal, &ill.reason);
        let name = &self.vm.spec.name;
        let event = NewEvent::info(
            "vm.unresponsive",
            format!(
                "{name} is stopped in order to be started again: {}",
                ill.reason
            ),
        );
        let event = event.severity(Severity::Warning).vm(self.vm.id, name);
        self.plan.push(
            Step::SetStatus {
                vm: self.vm.id,
                status: Box::new(next.clone()),
                event: Some(Box::new(event)),
            },
            format!("it is unhealthy: {}", ill.reason),
        );
        self.status = std::borrow::Cow::Owned(next);
        true
    }
}
