//! Deaths wait for nobody: the task that watches a VMM records its end, whatever the loop is at.
//!
//! A pass takes long where much is to be looked at or something does not answer: a VMM that hangs, a
//! shim that is slow to write, a kernel that holds up a dump, a bridge that cannot be made. None of
//! that is needed to know how a run has ended:
//!
//! ```text
//!  pidfd: dead ──► in somebody's hands? ─ yes ─► until he gives it back
//!                    │ no
//!                    ▼                     nothing written
//!                 exit record (≤ 3 s) ─────────────────────► processes: is a shim left?
//!                    │ written                                  │ no             │ yes, or unknown
//!                    ▼                                          ▼                ▼
//!                 plan (pure): the end ──► owner task: status and event      the loop
//! ```
//! Nothing else is decided here. What follows (the next start, a removal) is a pass's, which is asked
//! for in any case. A pass that looked at the host before leaves the VM out: see [`super::hands`].

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use hearth_plan::{Facts, Load, Plan, Policy, World};
use hearth_store::VmRow;
use hearth_types::Survey;
use hearth_types::ids::VmId;
use hearth_types::observe::{Observed, ObservedNames, ObservedProcess};
use hearth_types::process::ProcessIdentity;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use super::Engine;
use super::shared::Ready;

/// How long whoever has the VM in his hands is waited for. The loop is asked to look then, and by him.
const PATIENCE: Duration = Duration::from_secs(60);

/// The processes as they were looked for last after a death that nobody had written down, and when
/// that look began: of many deaths at once one look tells all.
#[derive(Default)]
pub(super) struct AfterDeaths(Mutex<Option<(Instant, Survey<Vec<ObservedProcess>>)>>);

impl Engine {
    /// Records how a run has ended whose VMM is known to be dead, unless somebody else does.
    pub(super) async fn end_of_run(self: &Arc<Self>, vm: VmId, dead: &ProcessIdentity) {
        let died = Instant::now();
        let mut changes = self.changes();
        loop {
            changes.mark_unchanged();
            let (seen, busy) = {
                let mut work = self.work.lock();
                (work.hands.moment(), work.hands.is_busy(vm))
            };
            if !busy {
                let row = self.parts.store.vm(vm).await;
                let recorded = |row: &VmRow| row.status.vmm.as_ref() == Some(dead);
                let Some(row) = row.filter(recorded) else {
                    // Somebody else was quicker, or the VM is gone.
                    return;
                };
                let plan = self.plan_end(&row, dead, died).await;
                let (_nothing_shared, ready) = Ready::channel();
                let engine = Arc::clone(self);
                let nothing = plan.steps.is_empty();
                if nothing || engine.hand_over(vm, Some(row), plan.steps, ready, &seen) {
                    return;
                }
            }
            // Whoever gives a VM back says that something has changed.
            let told = timeout_at(died + PATIENCE, changes.changed()).await;
            if !matches!(told, Ok(Ok(()))) {
                return;
            }
        }
    }

    /// What there is to record of this end by now.
    async fn plan_end(&self, row: &VmRow, dead: &ProcessIdentity, died: Instant) -> Plan {
        let world = self.world_of_end(row, dead, died).await;
        let plan = hearth_plan::plan_end(&world, row.id, dead);
        self.failpoints.planned(&world, &plan);
        plan
    }

    /// A world with one VM, of which no more is looked at than its end needs.
    async fn world_of_end(&self, row: &VmRow, dead: &ProcessIdentity, died: Instant) -> World {
        let only = BTreeSet::from([row.id]);
        let dirs = self
            .look_at_dirs("the folders of ended runs", Some(&only))
            .await;
        let records = dirs.known().into_iter().flatten();
        let mut records = records.filter_map(|dir| dir.exit.as_ref());
        let processes = if records.any(|record| record.identity == *dead) {
            unseen()
        } else {
            self.processes_after(died).await
        };
        World {
            now: self.now(),
            boot_id: self.parts.processes.boot_id(),
            installation: self.parts.store.installation(),
            vms: Self::desired(std::slice::from_ref(row)),
            observed: Observed {
                processes,
                dirs,
                run_states: Default::default(),
                units: unseen(),
                taps: unseen(),
                bridge: unseen(),
                rules: unseen(),
                names: unseen::<ObservedNames>(),
            },
            ill: Default::default(),
            intents: Vec::new(),
            load: Load::default(),
            host: Default::default(),
            facts: Facts::default(),
            journaled: BTreeSet::new(),
            policy: Policy {
                stance: self.modes.stance(),
                ..self.settings.policy.clone()
            },
        }
    }

    /// The processes, looked at after this moment.
    async fn processes_after(&self, moment: Instant) -> Survey<Vec<ObservedProcess>> {
        let mut last = self.after_deaths.0.lock().await;
        if let Some((begun, seen)) = &*last
            && *begun > moment
        {
            return seen.clone();
        }
        let begun = Instant::now();
        let seen = self.survey_processes().await;
        *last = Some((begun, seen.clone()));
        seen
    }
}

fn unseen<T>() -> Survey<T> {
    Survey::Unknown("an end does not depend on it".to_owned())
}
