//! Whom an automatic start waits for: the VMs that `after` names.
//!
//! ```text
//!               there, and wanted up? ── no ──► not waited for
//!                        │ yes
//!               runs? ── no ──► will be started by itself? ── no ──► not waited for
//!                 │                        │ yes
//!                 │                        └──► waited for ◄──┐
//!                 ▼                                           │
//!         healthy, or without checks? ── no ── its run is younger than the longest wait
//!                 │ yes                        │ no
//!                 └──► started after it ◄──────┘
//! ```
//! The order is a help and no condition: a VM that others are started after may be gone, be
//! stopped or fail, and they are started all the same, at once or after [`Policy::after_wait`].
//! The user's own start waits for nobody.
//!
//! [`Policy::after_wait`]: crate::model::Policy::after_wait

use std::collections::{BTreeMap, HashMap};

use hearth_types::api::Health;
use hearth_types::ids::VmId;
use hearth_types::names::VmName;
use hearth_types::resources::Priority;
use hearth_types::status::{Goal, Phase};

use crate::bootstrap::{self, is_untaken, left_by_policy, will_start};
use crate::index::{effective_goal, word_is_new};
use crate::model::{DesiredVm, World};
use crate::transition::elapsed;

/// VMs by name; empty when nobody waits for anybody.
#[derive(Debug, Default)]
pub(crate) struct Names<'a>(HashMap<&'a VmName, &'a DesiredVm>);

/// How a VM stands whom another one is started after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It runs and is well.
    Up,
    /// It is on its way.
    Coming(String),
    /// It does not come by itself.
    Out(String),
}

impl<'a> Names<'a> {
    pub(crate) fn of(world: &'a World) -> Self {
        if world.vms.iter().all(|vm| vm.spec.after.is_empty()) {
            return Self::default();
        }
        Self(world.vms.iter().map(|vm| (&vm.spec.name, vm)).collect())
    }

    pub(crate) fn get(&self, name: &VmName) -> Option<&'a DesiredVm> {
        self.0.get(name).copied()
    }

    /// How each VM stands that this one is started after, in the order of its specification.
    pub(crate) fn standings(
        &self,
        world: &World,
        vm: &'a DesiredVm,
    ) -> impl Iterator<Item = (&'a VmName, Standing)> {
        vm.spec.after.iter().map(|name| {
            let standing = match self.get(name) {
                Some(other) => standing(world, other),
                None => Standing::Out("there is no such VM".to_owned()),
            };
            (name, standing)
        })
    }

    /// What it waits for, in words: `waits for db: starting`.
    pub(crate) fn waits_for(&self, world: &World, vm: &'a DesiredVm) -> Option<String> {
        let coming = self.standings(world, vm).filter_map(|(name, standing)| {
            if let Standing::Coming(how) = standing {
                Some(format!("{name}: {how}"))
            } else {
                None
            }
        });
        let coming: Vec<_> = coming.collect();
        (!coming.is_empty()).then(|| format!("waits for {}", coming.join(", ")))
    }
}

fn standing(world: &World, vm: &DesiredVm) -> Standing {
    let status = &vm.status;
    let out = |why: &str| Standing::Out(why.to_owned());
    let coming = |how: &str| Standing::Coming(how.to_owned());
    match effective_goal(vm) {
        Goal::Absent => return out("it is being removed"),
        Goal::Stopped => return out("its user stopped it"),
        Goal::Running | Goal::Paused => {}
    }
    if status.vmm.is_some() && !is_untaken(world, vm) {
        return match status.phase {
            Phase::Running => running(world, vm),
            Phase::Paused => Standing::Up,
            _ => coming("stopping, in order to be started again"),
        };
    }
    if !will_start(world, vm) {
        return Standing::Out(why_not(world, vm));
    }
    match (&status.wait, status.phase) {
        (Some(wait), Phase::Starting) if !wait.over => coming("waits itself"),
        (_, Phase::Backoff) if !word_is_new(vm) && !is_untaken(world, vm) => {
            coming("waits for its next start")
        }
        _ => coming("starting"),
    }
}

fn running(world: &World, vm: &DesiredVm) -> Standing {
    let health = world.facts.health.get(&vm.id);
    let how = match health.copied().unwrap_or(Health::None) {
        Health::Healthy | Health::Degraded | Health::None => return Standing::Up,
        Health::Starting => "booting",
        Health::Unhealthy => "unhealthy",
        Health::Unknown => "runs, its health is not known yet",
    };
    let since = vm.status.started_at.unwrap_or(world.now);
    if elapsed(since, world.now) >= world.policy.after_wait {
        return Standing::Out(format!("{how} for too long"));
    }
    Standing::Coming(how.to_owned())
}

fn why_not(world: &World, vm: &DesiredVm) -> String {
    if vm.status.recovery.hold.is_some() {
        "it is held".to_owned()
    } else if is_untaken(world, vm)
        && let bootstrap::Verdict::Left { reason, .. } = bootstrap::judge(world, vm)
    {
        reason
    } else if left_by_policy(&vm.status).is_some() {
        let reason = vm.status.reason.clone();
        reason.unwrap_or_else(|| "left stopped after the reboot".to_owned())
    } else {
        "it has ended and is not started again".to_owned()
    }
}

/// How those stand that a VM's automatic start comes after, in words.
pub(crate) fn explain(world: &World, vm: &DesiredVm) -> Vec<String> {
    let names = Names::of(world);
    let up = vm.status.vmm.is_some() && !is_untaken(world, vm);
    let words = |(name, standing): (&VmName, Standing)| match standing {
        Standing::Up => format!("{name} runs and is well"),
        Standing::Coming(how) if up => format!("{name}: {how}"),
        Standing::Coming(how) if vm.status.asked => {
            format!("{name}: {how}; the user's own start does not wait for it")
        }
        Standing::Coming(how) => format!("waits for {name}: {how}"),
        Standing::Out(why) => format!("{name} is not waited for: {why}"),
    };
    names.standings(world, vm).map(words).collect()
}

/// The priority of each VM's start: its own, or that of a VM that waits for it, if that one
/// matters more. Empty when nobody waits for anybody.
pub(crate) fn urgency(world: &World) -> BTreeMap<VmId, Priority> {
    let names = Names::of(world);
    let mut urgency = BTreeMap::new();
    let mut queue: Vec<&DesiredVm> = Vec::new();
    if !names.0.is_empty() {
        queue.extend(world.vms.iter().filter(|vm| !vm.spec.after.is_empty()));
    }
    while let Some(vm) = queue.pop() {
        let own = vm.spec.resources.priority;
        let mine = urgency.get(&vm.id).copied().unwrap_or(own);
        for other in vm.spec.after.iter().filter_map(|name| names.get(name)) {
            let theirs = urgency
                .entry(other.id)
                .or_insert(other.spec.resources.priority);
            if *theirs < mine {
                *theirs = mine;
                queue.push(other);
            }
        }
    }
    urgency
}
