//! Half open: whether the breaker still stands, and who is tried.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use hearth_types::ids::VmId;
use hearth_types::spec::VmSpec;
use hearth_types::status::{Awaited, Cause, Phase, Wait};

use super::super::{cause_of_end, forbids, rules};
use super::{HostBreaker, Latch, still_there, wanted};
use crate::index::word_is_new;
use crate::model::{DesiredVm, World};
use crate::transition::{elapsed, later};

/// The breaker as this pass finds it; `None` when it closes. Remembers who is tried.
pub(super) fn stands(world: &World, latch: &mut Latch) -> Option<HostBreaker> {
    if proved(world, latch) {
        return None;
    }
    let mut breaker = HostBreaker {
        cause: latch.cause,
        opened_at: latch.opened_at,
        vms: latch.vms.clone(),
        shared: shared(world, &latch.vms),
        failed_trials: latch.failed_trials,
        until: latch.until,
        trial: None,
        on_trial: false,
        still: None,
    };
    if let Some((vm, since)) = running(world, latch) {
        breaker.trial = Some(vm);
        breaker.on_trial = true;
        breaker.until = later(since, world.policy.host_breaker.hold);
        return Some(breaker);
    }
    if world.now < latch.until {
        return Some(breaker);
    }
    breaker.still = still_there(world, latch.cause);
    if breaker.still.is_some() {
        return Some(breaker);
    }
    let starting = |vm: &VmId| world.load.starting.contains(vm);
    if let Some(begun) = latch.trial.filter(starting) {
        breaker.trial = Some(begun);
        breaker.on_trial = true;
        return Some(breaker);
    }
    let waiting: Vec<_> = world.vms.iter().filter(|vm| waits(world, vm)).collect();
    if waiting.is_empty() {
        return None;
    }
    latch.trial = candidate(world, latch, &waiting);
    breaker.trial = latch.trial;
    Some(breaker)
}

/// VMs whose runs say something about the cause.
fn telling<'a>(world: &'a World, latch: &'a Latch) -> impl Iterator<Item = &'a DesiredVm> {
    let tells = |vm: &&DesiredVm| {
        let since = vm.status.started_at;
        (latch.vms.contains(&vm.id) || latch.trial == Some(vm.id))
            && since.is_some_and(|at| at > latch.last_failure && at <= world.now)
    };
    world.vms.iter().filter(tells)
}

/// A VM that runs and has not proved anything yet: the oldest.
fn running(world: &World, latch: &Latch) -> Option<(VmId, jiff::Timestamp)> {
    let alive = telling(world, latch).filter(|vm| vm.status.vmm.is_some());
    let runs = alive.filter_map(|vm| Some((vm.status.started_at?, vm.id)));
    runs.min().map(|(since, vm)| (vm, since))
}

/// Whether a run since the last failure shows that the cause is gone.
fn proved(world: &World, latch: &Latch) -> bool {
    let hold = world.policy.host_breaker.hold;
    telling(world, latch).any(|vm| {
        let Some(since) = vm.status.started_at else {
            return false;
        };
        if vm.status.vmm.is_some() {
            return elapsed(since, world.now) >= hold && lives(world, vm);
        }
        // It started; whatever ended it, it was nothing that the host's VMs share.
        let ended = vm.status.last_end.as_ref().filter(|end| end.at >= since);
        ended.is_some_and(|end| {
            let own = !end.failure || cause_of_end(end.class) == Cause::Own;
            let long = elapsed(since, end.at) >= hold;
            own && (latch.cause != Cause::Vmm || long)
        })
    })
}

/// Whether its VMM was seen in this pass: what is recorded may have died since.
fn lives(world: &World, vm: &DesiredVm) -> bool {
    let mut seen = world.observed.processes.known().into_iter().flatten();
    seen.any(|process| vm.status.vmm.as_ref() == Some(&process.identity))
}

/// Whether a VM would be started automatically if the breaker were closed, now or later.
fn waits(world: &World, vm: &DesiredVm) -> bool {
    let (status, auto) = (&vm.status, world.policy.auto);
    let due = match status.phase {
        Phase::Starting => auto.bootstrap,
        Phase::Backoff => auto.restart,
        _ => false,
    };
    // A VMM of an earlier boot does not live.
    let dead = status
        .vmm
        .as_ref()
        .is_none_or(|vmm| vmm.boot_id != world.boot_id);
    // Who waits for its own disks cannot be tried.
    let blocked = |wait: &Wait| wait.on == Awaited::Disks;
    let ready = !status.wait.as_ref().is_some_and(blocked);
    let free = !status.asked && status.recovery.hold.is_none() && !word_is_new(vm);
    wanted(vm) && due && dead && ready && free
}

/// Who is tried: the one that was chosen before; else of those that have failed so, and then of
/// the others, the one that rests the shortest, matters most, is the oldest.
fn candidate(world: &World, latch: &Latch, waiting: &[&DesiredVm]) -> Option<VmId> {
    let rests = |vm: &DesiredVm| vm.status.next_start.filter(|at| *at > world.now);
    let may = |vm: &&&DesiredVm| {
        let rules = rules(&world.policy, &vm.spec);
        forbids(&vm.status.recovery, &rules, world.now).is_none()
    };
    let first = waiting.iter().filter(may).min_by_key(|vm| {
        let rests = rests(vm);
        (
            rests.is_some(),
            latch.trial != Some(vm.id),
            !latch.vms.contains(&vm.id),
            rests,
            Reverse(vm.spec.resources.priority),
            vm.id,
        )
    });
    first.map(|vm| vm.id)
}

/// What all that have failed share, where others that should run do without it.
fn shared(world: &World, failed: &BTreeSet<VmId>) -> Vec<String> {
    let (ill, well): (Vec<&DesiredVm>, Vec<&DesiredVm>) = world
        .vms
        .iter()
        .filter(|vm| wanted(vm))
        .partition(|vm| failed.contains(&vm.id));
    let alike = |of: fn(&VmSpec) -> Option<&str>| {
        let first = ill.first().and_then(|vm| of(&vm.spec))?;
        let all = ill.iter().all(|vm| of(&vm.spec) == Some(first));
        let others = well.iter().any(|vm| of(&vm.spec) != Some(first));
        (all && others).then(|| first.to_owned())
    };
    let image = alike(|spec| Some(&spec.image)).map(|image| format!("image {image}"));
    let kernel = alike(|spec| spec.kernel.as_deref()).map(|kernel| format!("kernel {kernel}"));
    image.into_iter().chain(kernel).collect()
}
