//! Owner tasks: who works on one object and holds up no other.
//!
//! ```text
//!  steps of a VM ─► busy ─► its task ──────┬─ ended ─► not busy; looked at again
//!  orphans, by VM or object ─► busy ─► ────┴─ panic ─► not busy; a VM's step has failed, with its pause
//! ```

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt as _;
use hearth_plan::{PlannedStep, Step};
use hearth_types::ids::VmId;

use super::Engine;
use super::hands::Moment;

/// Whose orphans they are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Whose {
    /// Of a VM that has no record.
    Vm(VmId),
    /// Of no VM: the object itself.
    Nobody(String),
}

impl Engine {
    /// Takes a VM's steps to their end, whatever it is: a panic is a step that has failed.
    pub(super) async fn own(
        self: Arc<Self>,
        vm: VmId,
        generation: u64,
        step: Step,
        taking: impl Future<Output = ()>,
    ) {
        let Err(panic) = AssertUnwindSafe(taking).catch_unwind().await else {
            return;
        };
        let error = anyhow::anyhow!("a step panicked: {}", words(&*panic));
        tracing::error!(%vm, "[reconcile] {error}; this is a bug");
        let told = self.step_failed(vm, &step, &error, generation);
        if AssertUnwindSafe(told).catch_unwind().await.is_err() {
            tracing::error!(%vm, "[reconcile] what has failed could not be told");
        }
        {
            let mut work = self.work.lock();
            work.hands.give_back(vm);
            work.starting.remove(&vm);
        }
        self.tell_changed();
    }

    /// Removes orphans, each VM's in a task of its own: a process that does not die or a folder that
    /// is large holds up nothing else.
    pub(super) fn hand_over_orphans(self: &Arc<Self>, steps: Vec<PlannedStep>, seen: &Moment) {
        let mut by_owner: BTreeMap<Whose, Vec<PlannedStep>> = BTreeMap::new();
        for planned in steps {
            let nobody = || Whose::Nobody(planned.step.object());
            let whose = planned.step.vm().map_or_else(nobody, Whose::Vm);
            by_owner.entry(whose).or_default().push(planned);
        }
        for (whose, steps) in by_owner {
            let free = {
                let mut work = self.work.lock();
                match &whose {
                    Whose::Vm(vm) => work.hands.take(*vm, seen),
                    Whose::Nobody(object) => work.removing.insert(object.clone()),
                }
            };
            if free {
                tokio::spawn(Arc::clone(self).remove_orphans_of(whose, steps));
            }
        }
    }

    async fn remove_orphans_of(self: Arc<Self>, whose: Whose, steps: Vec<PlannedStep>) {
        let removing = AssertUnwindSafe(self.take_orphans(&steps)).catch_unwind();
        let removed = removing.await.unwrap_or_else(|panic| {
            let words = words(&*panic);
            tracing::error!("[reconcile] the removal of orphans panicked: {words}; this is a bug");
            false
        });
        {
            let mut work = self.work.lock();
            match &whose {
                Whose::Vm(vm) => work.hands.give_back(*vm),
                Whose::Nobody(object) => drop(work.removing.remove(object)),
            }
        }
        if removed {
            // What it used can go, too, and no other event says so.
            self.look_at_everything();
        }
    }

    /// Takes them one after the other; the failure of one is not the others'. Whether any is gone.
    async fn take_orphans(self: &Arc<Self>, steps: &[PlannedStep]) -> bool {
        let intents = self.begin_all(steps).await;
        let mut removed = false;
        for (index, planned) in steps.iter().enumerate() {
            // A stricter mode holds what has not begun.
            if !self.may(planned.origin) {
                continue;
            }
            match self.take_begun(planned, None, &intents, index).await {
                Ok(()) => removed = true,
                Err(error) => {
                    let error = format!("{error:#}");
                    tracing::error!(error, "[reconcile] {} failed", planned.reason);
                }
            }
        }
        self.abandon(intents).await;
        removed
    }
}

/// What a panic said.
fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("it said nothing")
}
