//! The pure planner: what is wanted and what is there in, steps out.
//!
//! No I/O, no async, no clock of its own: `now` is part of the [`World`]. That is why it can
//! be tested over many generated worlds, and why `hearth plan` can print its answer
//! before anything happens.
//!
//! # How one VM is decided
//!
//! ```text
//! 1. processes unknown? ───────────────► nothing at all is done for any VM
//! 2. two VMMs? ────────────────────────► the recorded (else the oldest) stays, the others are killed
//! 3. lives, not recorded? ─────────────► Adopt
//!    recorded, does not live? ─────────► SetStatus: its end, by the exit record
//! 4. goal   Running / Paused: accepted ► Starting ► disks, TAP, StartVmm ► Running ⇄ Paused
//!           Stopped: SetStatus(stop begun) ► Agent ► PowerButton ► Quit ► Kill ► Exited, TAP removed
//!           Absent:  the same ladder ► TAP, folder removed ► Forget
//! ```
//!
//! # Whose word holds
//!
//! Each word of the user (goal or spec) makes `generation` grow. While
//! `status.observed_generation < generation` the word is *new*, and the next pass takes it up:
//!
//! * A new word with goal `Running` or `Paused` starts a VM that does not run, whatever its restart policy
//!   and its past; failures, restarts and the back-off begin at 0
//!   ([`transition::accepted`]: phase `Starting`).
//! * Without a new word, the phase says what is due when no VMM lives: `Starting` a start (a
//!   crash cut one off), `Backoff` a start at `next_start`, `Exited` and `Failed` nothing:
//!   the restart policy was asked when the end was recorded, and said no.
//! * A goal `Running` that finds a stop under way with a rung taken, or that was stored together with a
//!   begun stop (`hearth restart`: [`transition::stop_begun`]), lets the stop finish and starts
//!   then: a guest that is half down is of no use.
//! * Goal `Stopped` or `Absent` never starts a VMM. One exception changes the goal first, in the open:
//!   policy `always` in a new boot ([`Step::SetGoal`]).
//!
//! `Phase::Unknown` is for views only; it is never stored.
//!
//! # The gate
//!
//! Each step carries who asked for it ([`mode::Origin`]). Decisions are the same in every mode;
//! what the mode or a switch holds goes to [`Plan::held`] instead of [`Plan::steps`].
//!
//! # Unknown
//!
//! A kind of object that could not be surveyed is not acted on, and nothing that depends on it is
//! decided; a note says so.

#![forbid(unsafe_code)]

pub mod bootstrap;
pub mod breaker;
pub mod explain;
mod gate;
pub mod gc;
mod index;
pub mod mode;
pub mod model;
mod order;
pub mod orphanage;
mod orphans;
pub mod recovery;
mod shared;
mod storm;
pub mod transition;
pub mod units;
pub mod view;
mod vm;

use std::collections::HashSet;

use hearth_types::ids::VmId;
use hearth_types::process::ProcessIdentity;
use hearth_types::survey::Survey;

use gate::Gate;
use index::Index;
pub use model::{
    BreakerPolicy, DesiredVm, Facts, Held, HostBreakerPolicy, Ill, Load, Note, OpenIntent,
    OrphanAction, Plan, PlannedStep, Policy, PoolRoom, Step, StormPolicy, World,
};
use transition::later;
use vm::Pass;
pub use vm::pool;

/// Decides the next pass over everything.
#[must_use]
pub fn plan(world: &World) -> Plan {
    let index = Index::new(world);
    let pass = Pass::new(world, &index);
    let gate = Gate::new(world, pass.host_breaker());
    let mut plan = begin(world);
    note_host_breaker(world, &pass, &mut plan);
    shared::ensure(world, &index, &mut plan);
    let shared = plan.steps.len();
    for vm in &world.vms {
        gate.vm(vm, &mut plan, |plan| pass.plan_vm(vm, plan));
    }
    storm::thin(world, &mut plan);
    gate.shared(&mut plan, shared);
    gate.orphans(&mut plan, |plan| orphans::plan(world, &index, plan));
    gate.removals(&mut plan, |plan| shared::remove(world, plan));
    gate.conclude(&mut plan);
    plan
}

/// Decides a quick pass for some VMs: shared things are made for them, but nothing that is
/// shared and no orphan is removed. Ids that are not in the world are passed over.
#[must_use]
pub fn plan_for(world: &World, ids: &[VmId]) -> Plan {
    let index = Index::new(world);
    let pass = Pass::new(world, &index);
    let gate = Gate::new(world, pass.host_breaker());
    let ids: HashSet<VmId> = ids.iter().copied().collect();
    let mut plan = begin(world);
    note_host_breaker(world, &pass, &mut plan);
    shared::ensure(world, &index, &mut plan);
    let shared = plan.steps.len();
    for vm in world.vms.iter().filter(|vm| ids.contains(&vm.id)) {
        gate.vm(vm, &mut plan, |plan| pass.plan_vm(vm, plan));
    }
    storm::thin(world, &mut plan);
    gate.shared(&mut plan, shared);
    gate.conclude(&mut plan);
    plan
}

/// Decides for one VM only, without anything shared.
#[must_use]
pub fn plan_vm(world: &World, vm: &DesiredVm) -> Plan {
    let index = Index::new(world);
    let pass = Pass::new(world, &index);
    let gate = Gate::new(world, pass.host_breaker());
    let mut plan = begin(world);
    gate.vm(vm, &mut plan, |plan| pass.plan_vm(vm, plan));
    gate.conclude(&mut plan);
    plan
}

/// Writes down how a run ended whose VMM was seen to die, and decides nothing else: it needs no survey
/// of the host. That `dead` does not live any more is what the caller has proved.
///
/// Empty where it is not this plan's to tell: another VMM is recorded, or nothing says yet how it
/// ended and its shim may be about to.
#[must_use]
pub fn plan_end(world: &World, vm: VmId, dead: &ProcessIdentity) -> Plan {
    let index = Index::new(world);
    let pass = Pass::new(world, &index);
    let gate = Gate::new(world, pass.host_breaker());
    let mut plan = Plan {
        made_at: world.now,
        ..Plan::default()
    };
    for vm in world.vms.iter().filter(|desired| desired.id == vm) {
        gate.vm(vm, &mut plan, |plan| pass.plan_end(vm, dead, plan));
    }
    plan
}

/// Says that the host's breaker is open and what it waits for, and looks again then.
fn note_host_breaker(world: &World, pass: &Pass<'_>, plan: &mut Plan) {
    plan.host = pass.host_memory().clone();
    plan.host_breaker = pass.host_breaker().cloned();
    let Some(open) = pass.host_breaker() else {
        return;
    };
    let waits = open.waits_for(|vm| breaker::host::name_in(world, vm));
    plan.note(
        None,
        format!(
            "{}: no automatic starts but one on trial; {waits}",
            open.reason()
        ),
    );
    if open.until > world.now {
        plan.due(open.until);
    }
}

/// A plan that says no more than when to look again and what cannot be seen.
fn begin(world: &World) -> Plan {
    let mut plan = Plan {
        made_at: world.now,
        ..Plan::default()
    };
    plan.due(later(world.now, world.policy.resync));
    note_unknown(world, &mut plan);
    plan
}

fn note_unknown(world: &World, plan: &mut Plan) {
    let observed = &world.observed;
    if let Survey::Unknown(why) = &observed.processes {
        plan.note(
            None,
            format!("processes could not be surveyed, so no VM is started, stopped or declared dead and no orphan is removed: {why}"),
        );
    }
    if let Survey::Unknown(why) = &observed.taps {
        plan.note(
            None,
            format!("TAPs could not be surveyed, so none is made or removed and no VM that needs one is started: {why}"),
        );
    }
    if let Survey::Unknown(why) = &observed.dirs {
        plan.note(
            None,
            format!("VM folders could not be surveyed, so none is made or removed and no VM is started or declared dead: {why}"),
        );
    }
}
