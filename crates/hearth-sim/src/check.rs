//! What must hold of every plan and of the host after every pass, whatever happened before.

use std::collections::{BTreeMap, BTreeSet};

use hearth_plan::{Plan, Step, World};
use hearth_types::ids::VmId;
use hearth_types::names::tap_name;
use hearth_types::observe::ProcessRole;
use hearth_types::spec::NetworkMode;
use hearth_types::status::{Goal, Leases, VmStatus};

use crate::driver::Sim;
use crate::host::SimHost;

/// What is wrong with a plan, seen from the truth on the host.
#[must_use]
pub fn plan(world: &World, plan: &Plan, host: &SimHost) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut started = BTreeSet::new();
    for planned in &plan.steps {
        let step = &planned.step;
        if planned.reason.is_empty() {
            wrong.push(format!("{} has no reason", step.kind()));
        }
        if foreign(world, step) {
            wrong.push(format!(
                "{} of {} is planned, which is not ours",
                step.kind(),
                step.object()
            ));
        }
        if blind(world, step) {
            wrong.push(format!(
                "{} of {} is planned without knowing",
                step.kind(),
                step.object()
            ));
        }
        match step {
            Step::StartVmm { vm, .. } => {
                if !started.insert(*vm) {
                    wrong.push(format!("VM {vm} is started twice in one plan"));
                }
                if host.vmms(*vm).next().is_some() {
                    wrong.push(format!("VM {vm} is started beside a living VMM"));
                }
                let goal = world.vms.iter().find(|d| d.id == *vm).map(|d| d.goal);
                if !matches!(goal, Some(Goal::Running | Goal::Paused)) {
                    wrong.push(format!("VM {vm} is started against its goal {goal:?}"));
                }
            }
            Step::SetStatus { vm, status, .. } if buried_alive(world, host, *vm, status) => {
                wrong.push(format!("VM {vm} is recorded as ended and lives"));
            }
            Step::KillOrphan { identity } => {
                wrong.extend(unjust_kill(world, host, identity.mark.vm(), identity.pid));
            }
            Step::ApplyRules(rules) => {
                let addresses: BTreeSet<_> = rules.guests.iter().map(|rule| rule.ip).collect();
                let taps: BTreeSet<_> = rules.guests.iter().map(|rule| &rule.tap).collect();
                if addresses.len() != rules.guests.len() || taps.len() != rules.guests.len() {
                    wrong.push("two guests share an address or a TAP in the rules".to_owned());
                }
            }
            _ => {}
        }
    }
    wrong
}

/// A VMM of the database may be killed as an orphan only if it is a twin; a shim if it has no VMM.
fn unjust_kill(world: &World, host: &SimHost, vm: Option<VmId>, pid: i32) -> Option<String> {
    let vm = vm?;
    if !world.vms.iter().any(|desired| desired.id == vm) {
        return None;
    }
    let vmms = host.vmms(vm).count();
    let just = match host.processes.get(&pid).map(|p| p.role) {
        Some(ProcessRole::Vmm) => vmms > 1,
        Some(ProcessRole::Shim) => vmms == 0,
        Some(ProcessRole::Names | ProcessRole::Helper) => false,
        None => true,
    };
    (!just).then(|| format!("process {pid} of VM {vm} is killed as an orphan and is none"))
}

/// Whether a step acts on what does not carry our mark.
fn foreign(world: &World, step: &Step) -> bool {
    let mark = match step {
        Step::Adopt { identity, .. }
        | Step::Pause { identity, .. }
        | Step::Resume { identity, .. }
        | Step::Stop { identity, .. }
        | Step::EnsureLimits { identity, .. }
        | Step::KillOrphan { identity } => identity.mark,
        Step::RemoveTap { tap, .. } | Step::RemoveOrphanTap { tap } => tap.mark,
        Step::RemoveOrphanUnit { unit } => unit.mark,
        _ => return false,
    };
    mark.installation != world.installation
}

/// Whether the shim of the recorded VMM has written that it ended.
fn ended(world: &World, vm: VmId) -> bool {
    let desired = world.vms.iter().find(|desired| desired.id == vm);
    let recorded = desired.and_then(|desired| desired.status.vmm.as_ref());
    let dirs = world.observed.dirs.known().into_iter().flatten();
    let mut exits = dirs
        .filter(|dir| dir.vm == vm)
        .filter_map(|dir| dir.exit.as_ref());
    exits.any(|exit| Some(&exit.identity) == recorded)
}

/// A run's end is recorded while its VMM lives.
fn buried_alive(world: &World, host: &SimHost, vm: VmId, after: &VmStatus) -> bool {
    let desired = world.vms.iter().find(|desired| desired.id == vm);
    let recorded = desired.and_then(|desired| desired.status.vmm.as_ref());
    let lives = recorded.is_some_and(|vmm| host.vmms(vm).any(|p| p.identity == *vmm));
    after.vmm.is_none() && lives
}

/// Whether a step depends on a survey that failed.
fn blind(world: &World, step: &Step) -> bool {
    let observed = &world.observed;
    let processes = observed.processes.known().is_none();
    let taps = observed.taps.known().is_none();
    let dirs = observed.dirs.known().is_none();
    let bridged = |vm: &VmId| {
        world
            .vms
            .iter()
            .any(|d| d.id == *vm && d.spec.network.mode == NetworkMode::Bridge)
    };
    match step {
        Step::StartVmm { vm, .. } => processes || dirs || (taps && bridged(vm)),
        Step::EnsureDisks { .. } | Step::RemoveDir { .. } | Step::RemoveOrphanDir { .. } => {
            processes || dirs
        }
        Step::EnsureTap { .. } | Step::RemoveTap { .. } | Step::RemoveOrphanTap { .. } => {
            processes || taps
        }
        Step::Pause { vm, .. } | Step::Resume { vm, .. } => {
            let known = observed.run_states.get(vm).and_then(|state| state.known());
            processes || known.is_none()
        }
        Step::Adopt { .. } | Step::Stop { .. } | Step::KillOrphan { .. } => processes,
        Step::SetStatus { vm, .. } => processes && !ended(world, *vm),
        Step::Forget { .. } => {
            processes || dirs || (taps && step.vm().is_some_and(|vm| bridged(&vm)))
        }
        Step::RemoveOrphanUnit { .. } => processes || observed.units.known().is_none(),
        Step::EnsureLimits { vm, .. } => {
            let units = observed.units.known().into_iter().flatten();
            let unit = units.into_iter().find(|unit| unit.mark.vm() == Some(*vm));
            processes || unit.is_none_or(|unit| unit.limits.known().is_none())
        }
        Step::EnsureBridge | Step::RemoveBridge => observed.bridge.known().is_none(),
        Step::ApplyRules(_) | Step::RemoveRules => observed.rules.known().is_none(),
        Step::EnsureNames(_) | Step::RemoveNames => observed.names.known().is_none(),
        Step::SetGoal { .. } | Step::FlushConntrack { .. } => false,
    }
}

/// What is wrong on the host and in the store.
#[must_use]
pub fn truth(sim: &Sim) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut leases: BTreeMap<String, VmId> = BTreeMap::new();
    for (id, vm) in &sim.store.vms {
        let Leases { ip, mac, cid, uid } = &vm.leases;
        let held = [
            ip.map(|ip| ip.to_string()),
            mac.map(|mac| mac.to_string()),
            Some(format!("cid {cid}")),
            Some(format!("uid {uid}")),
        ];
        for lease in held.into_iter().flatten() {
            if let Some(other) = leases.insert(lease.clone(), *id) {
                wrong.push(format!("VMs {other} and {id} share the lease {lease}"));
            }
        }
    }
    wrong
}

/// What a VM that is to be forgotten still has on the host.
#[must_use]
pub fn remains(host: &SimHost, vm: VmId, leases: &Leases) -> Vec<&'static str> {
    let ours = |mark: &hearth_types::OwnerMark| {
        mark.vm() == Some(vm) && mark.installation == host.installation
    };
    let rules = host.rules.as_ref();
    [
        (
            host.processes.values().any(|p| ours(&p.identity.mark)),
            "a process",
        ),
        (
            host.taps.get(&tap_name(vm)).is_some_and(|tap| !tap.foreign),
            "a TAP",
        ),
        (host.dirs.contains_key(&vm), "a folder"),
        (
            rules.is_some_and(|rules| rules.guests.iter().any(|rule| Some(rule.ip) == leases.ip)),
            "a network rule",
        ),
    ]
    .into_iter()
    .filter_map(|(left, what)| left.then_some(what))
    .collect()
}
