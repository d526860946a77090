//! How many objects of ours belong to nobody.

use std::collections::HashSet;

use hearth_plan::World;
use hearth_types::VmId;
use hearth_types::observe::ProcessRole;

/// Objects whose VM is not in the database, by kind. A kind that could not be seen is left
/// out: unknown is not none.
pub(super) fn count(world: &World) -> Vec<(&'static str, usize)> {
    let wanted: HashSet<VmId> = world.vms.iter().map(|vm| vm.id).collect();
    let orphaned = |vm: Option<VmId>| vm.is_some_and(|vm| !wanted.contains(&vm));
    let observed = &world.observed;
    let processes = observed.processes.known().map(|processes| {
        let of_vms = processes
            .iter()
            .filter(|p| matches!(p.role, ProcessRole::Vmm | ProcessRole::Shim));
        of_vms.filter(|p| orphaned(p.identity.mark.vm())).count()
    });
    let units = observed.units.known();
    let units = units.map(|units| units.iter().filter(|it| orphaned(it.mark.vm())).count());
    let taps = observed.taps.known();
    let taps = taps.map(|taps| taps.iter().filter(|tap| orphaned(tap.mark.vm())).count());
    let dirs = observed.dirs.known();
    let dirs = dirs.map(|dirs| dirs.iter().filter(|dir| orphaned(Some(dir.vm))).count());
    let kinds = [
        ("process", processes),
        ("unit", units),
        ("tap", taps),
        ("folder", dirs),
    ];
    let known = kinds.into_iter();
    known
        .filter_map(|(kind, count)| Some((kind, count?)))
        .collect()
}
