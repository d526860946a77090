//! Where systemd and `/proc` disagree about a VM: told once, when it lasts.
//!
//! The two are not asked at the same time, and a unit ends a moment after its processes. So
//! what disagrees is looked at again before it is believed:
//!
//! ```text
//! agree ──► disagree ──(the next full pass, SETTLES later, says the same)──► told
//!   ▲          │                                                              │
//!   └──────────┴────────────────────── agree again ◄─────────────────────────┘
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hearth_plan::World;
use hearth_plan::units::{Disagreement, disagreements};
use hearth_types::event::{NewEvent, Severity};
use hearth_types::ids::VmId;
use tokio::time::Instant;

use super::Engine;

/// How long they may disagree before it is told: longer than a unit takes to come or go on a
/// host that is busy.
const SETTLES: Duration = Duration::from_secs(10);

/// What disagrees: since when, and whether it was told.
#[derive(Debug, Default)]
pub(super) struct Disagreements(BTreeMap<(VmId, Disagreement), (Instant, bool)>);

impl Disagreements {
    /// What was found now. Gives what is to be told, and whether to look again soon.
    fn found(&mut self, now: &[(VmId, Disagreement)]) -> (Vec<(VmId, Disagreement)>, bool) {
        self.0.retain(|known, _| now.contains(known));
        let (mut tell, mut again) = (Vec::new(), false);
        for found in now {
            let new = (Instant::now(), false);
            let (since, told) = self.0.entry(*found).or_insert(new);
            if *told {
                continue;
            }
            if since.elapsed() >= SETTLES {
                *told = true;
                tell.push(*found);
            } else {
                again = true;
            }
        }
        (tell, again)
    }
}

impl Engine {
    /// Tells what has disagreed for long enough. On `Unknown` nothing is concluded.
    pub(super) async fn tell_disagreements(self: &Arc<Self>, world: &World) {
        let observed = &world.observed;
        if observed.units.known().is_none() || observed.processes.known().is_none() {
            return;
        }
        let (tell, again) = self.work.lock().disagreements.found(&disagreements(world));
        for (vm, disagreement) in tell {
            let Some(desired) = world.vms.iter().find(|desired| desired.id == vm) else {
                continue;
            };
            let name = &desired.spec.name;
            let message = format!("{name}: {}", disagreement.tell(vm));
            let event = NewEvent::info("vm.unit_disagrees", message).severity(Severity::Warning);
            self.tell(event.vm(vm, name)).await;
        }
        if again {
            let engine = Arc::clone(self);
            tokio::spawn(async move {
                tokio::time::sleep(SETTLES).await;
                engine.look_at_everything();
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_lasts_is_told_once_and_what_passes_is_not() {
        let mut known = Disagreements::default();
        let (one, two) = (VmId::new(), VmId::new());
        let both = [(one, Disagreement::Empty), (two, Disagreement::Over)];
        assert_eq!(known.found(&both), (Vec::new(), true));
        tokio::time::advance(SETTLES).await;
        assert_eq!(known.found(&both[..1]), (both[..1].to_vec(), false));
        assert_eq!(known.found(&both[..1]), (Vec::new(), false));
        // It went and came back: another time.
        assert_eq!(known.found(&both), (Vec::new(), true));
        tokio::time::advance(SETTLES).await;
        assert_eq!(known.found(&both), (both[1..].to_vec(), false));
        assert_eq!(known.found(&[]), (Vec::new(), false));
        assert_eq!(known.found(&both).0, Vec::new());
    }
}
