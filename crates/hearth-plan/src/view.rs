//! Plans for people: the shape that the API and `hearth plan` show.

use std::collections::HashMap;

use hearth_types::api::{PlanStep, PlanView, VmPlan};
use hearth_types::ids::VmId;
use hearth_types::mode::HeldStep;
use hearth_types::names::{tap_name, unit_name};
use hearth_types::status::StopRung;

use crate::model::{Plan, PlannedStep, Step, World};

impl Step {
    /// Every [`Step::kind`].
    pub const KINDS: [&str; 24] = [
        "ensure_bridge",
        "remove_bridge",
        "apply_rules",
        "remove_rules",
        "ensure_names",
        "remove_names",
        "ensure_disks",
        "ensure_tap",
        "ensure_limits",
        "start_vmm",
        "set_goal",
        "adopt",
        "pause",
        "resume",
        "stop",
        "set_status",
        "remove_tap",
        "flush_conntrack",
        "remove_dir",
        "forget",
        "kill_orphan",
        "remove_orphan_tap",
        "remove_orphan_unit",
        "remove_orphan_dir",
    ];

    /// The kind of step as shown, such as `start_vmm`.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::EnsureBridge => "ensure_bridge",
            Self::RemoveBridge => "remove_bridge",
            Self::ApplyRules(_) => "apply_rules",
            Self::RemoveRules => "remove_rules",
            Self::EnsureNames(_) => "ensure_names",
            Self::RemoveNames => "remove_names",
            Self::EnsureDisks { .. } => "ensure_disks",
            Self::EnsureTap { .. } => "ensure_tap",
            Self::EnsureLimits { .. } => "ensure_limits",
            Self::StartVmm { .. } => "start_vmm",
            Self::SetGoal { .. } => "set_goal",
            Self::Adopt { .. } => "adopt",
            Self::Pause { .. } => "pause",
            Self::Resume { .. } => "resume",
            Self::Stop { .. } => "stop",
            Self::SetStatus { .. } => "set_status",
            Self::RemoveTap { .. } => "remove_tap",
            Self::FlushConntrack { .. } => "flush_conntrack",
            Self::RemoveDir { .. } => "remove_dir",
            Self::Forget { .. } => "forget",
            Self::KillOrphan { .. } => "kill_orphan",
            Self::RemoveOrphanTap { .. } => "remove_orphan_tap",
            Self::RemoveOrphanUnit { .. } => "remove_orphan_unit",
            Self::RemoveOrphanDir { .. } => "remove_orphan_dir",
        }
    }

    /// The VM whose step it is; `None` for what is shared and for orphans.
    #[must_use]
    pub const fn vm(&self) -> Option<VmId> {
        match self {
            Self::EnsureDisks { vm }
            | Self::EnsureTap { vm }
            | Self::EnsureLimits { vm, .. }
            | Self::StartVmm { vm, .. }
            | Self::SetGoal { vm, .. }
            | Self::Adopt { vm, .. }
            | Self::Pause { vm, .. }
            | Self::Resume { vm, .. }
            | Self::Stop { vm, .. }
            | Self::SetStatus { vm, .. }
            | Self::RemoveTap { vm, .. }
            | Self::FlushConntrack { vm, .. }
            | Self::RemoveDir { vm }
            | Self::Forget { vm }
            | Self::RemoveOrphanDir { vm } => Some(*vm),
            Self::KillOrphan { identity } => identity.mark.vm(),
            Self::RemoveOrphanTap { tap } => tap.mark.vm(),
            Self::RemoveOrphanUnit { unit } => unit.mark.vm(),
            Self::EnsureBridge
            | Self::RemoveBridge
            | Self::ApplyRules(_)
            | Self::RemoveRules
            | Self::EnsureNames(_)
            | Self::RemoveNames => None,
        }
    }

    /// Whether it takes something away: removes, kills, stops.
    #[must_use]
    pub const fn destructive(&self) -> bool {
        matches!(
            self,
            Self::RemoveBridge
                | Self::RemoveRules
                | Self::RemoveNames
                | Self::Stop { .. }
                | Self::RemoveTap { .. }
                | Self::RemoveDir { .. }
                | Self::Forget { .. }
                | Self::KillOrphan { .. }
                | Self::RemoveOrphanTap { .. }
                | Self::RemoveOrphanUnit { .. }
                | Self::RemoveOrphanDir { .. }
        )
    }

    /// Whether it changes the database only, not the host.
    #[must_use]
    pub const fn only_stores(&self) -> bool {
        matches!(
            self,
            Self::SetStatus { .. }
                | Self::SetGoal { .. }
                | Self::Adopt { .. }
                | Self::Forget { .. }
        )
    }

    /// The object acted on, in words.
    #[must_use]
    pub fn object(&self) -> String {
        match self {
            Self::EnsureBridge | Self::RemoveBridge => "bridge".to_owned(),
            Self::ApplyRules(rules) => format!(
                "network rules: {} guest(s), {} published port(s)",
                rules.guests.len(),
                rules.ports.len()
            ),
            Self::RemoveRules => "network rules".to_owned(),
            Self::EnsureNames(names) => format!("name server with {} name(s)", names.len()),
            Self::RemoveNames => "name server".to_owned(),
            Self::EnsureDisks { .. } => "folder and disks".to_owned(),
            Self::EnsureTap { vm } => format!("TAP {}", tap_name(*vm)),
            Self::EnsureLimits { vm, limits, .. } => {
                let names: Vec<&str> = limits.iter().map(|limit| limit.name.as_str()).collect();
                format!("{} of {}", names.join(", "), unit_name(*vm))
            }
            Self::StartVmm { .. } => "VMM".to_owned(),
            Self::SetGoal { goal, .. } => format!("goal {goal:?}").to_lowercase(),
            Self::Adopt { identity, .. }
            | Self::Pause { identity, .. }
            | Self::Resume { identity, .. } => format!("VMM with pid {}", identity.pid),
            Self::Stop { identity, rung, .. } => {
                format!("VMM with pid {}, {}", identity.pid, rung_words(*rung))
            }
            Self::SetStatus { status, .. } => format!("status {}", status.phase.as_str()),
            Self::RemoveTap { tap, .. } | Self::RemoveOrphanTap { tap } => {
                format!("TAP {}", tap.name)
            }
            Self::FlushConntrack { ip, .. } => format!("connections of {ip}"),
            Self::RemoveDir { .. } => "folder and disks".to_owned(),
            Self::Forget { .. } => "record and leases".to_owned(),
            Self::KillOrphan { identity } => format!("process {}", identity.pid),
            Self::RemoveOrphanUnit { unit } => match unit.mark.vm() {
                Some(vm) => unit_name(vm),
                None => "unit".to_owned(),
            },
            Self::RemoveOrphanDir { vm } => format!("folder {vm}"),
        }
    }
}

const fn rung_words(rung: StopRung) -> &'static str {
    match rung {
        StopRung::Agent => "by its agent",
        StopRung::PowerButton => "by the power button",
        StopRung::Quit => "by QMP quit",
        StopRung::Kill => "by SIGKILL",
    }
}

/// One step as shown; `name` is the name of its VM, if it has one.
#[must_use]
pub fn step(planned: &PlannedStep, name: Option<&str>) -> PlanStep {
    PlanStep {
        step: planned.step.kind().to_owned(),
        vm: planned.step.vm(),
        name: name.map(str::to_owned),
        object: planned.step.object(),
        reason: planned.reason.clone(),
        destructive: planned.step.destructive(),
    }
}

/// A whole plan as shown.
#[must_use]
pub fn plan(plan: &Plan, world: &World) -> PlanView {
    let names: HashMap<VmId, &str> = world
        .vms
        .iter()
        .map(|vm| (vm.id, vm.spec.name.as_str()))
        .collect();
    PlanView {
        steps: plan
            .steps
            .iter()
            .map(|planned| {
                let name = planned.step.vm().and_then(|vm| names.get(&vm).copied());
                step(planned, name)
            })
            .collect(),
        notes: plan
            .notes
            .iter()
            .map(|note| match &note.vm {
                Some((_, name)) => format!("{name}: {}", note.text),
                None => note.text.clone(),
            })
            .collect(),
        held: plan
            .held
            .iter()
            .map(|held| HeldStep {
                step: {
                    let planned = &held.planned;
                    let name = planned.step.vm().and_then(|vm| names.get(&vm).copied());
                    step(planned, name)
                },
                by: held.by.clone(),
            })
            .collect(),
        next_pass: plan.next_pass,
    }
}

/// What a plan has in it for one VM, with the reasons; `None` if the VM is not in the world.
#[must_use]
pub fn vm(whole: &Plan, world: &World, id: VmId) -> Option<VmPlan> {
    let vm = world.vms.iter().find(|vm| vm.id == id)?;
    let name = vm.spec.name.as_str();
    let own = |planned: &&PlannedStep| planned.step.vm() == Some(id);
    Some(VmPlan {
        vm: id,
        name: name.to_owned(),
        steps: whole
            .steps
            .iter()
            .filter(own)
            .map(|planned| step(planned, Some(name)))
            .collect(),
        reasons: crate::explain::explain(world, whole, vm),
        next_pass: whole.next_pass,
    })
}
