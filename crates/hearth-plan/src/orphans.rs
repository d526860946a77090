//! What is ours and belongs to nobody.
//!
//! An orphan is removed only if it carries our mark, no VM of the database and no open intent names it, and it
//! is older than the grace age. What runs or holds data goes only if the journal knows its VM
//! (`docs/adr`, "A lost record is no order to remove"). Where there are suddenly many, the likelier explanation is that the
//! database is the wrong one: then none is removed.

use std::collections::HashSet;
use std::time::Duration;

use jiff::Timestamp;

use hearth_types::ids::VmId;
use hearth_types::observe::{ObservedProcess, ProcessRole, UnitState};

use crate::index::Index;
use crate::model::{OrphanAction, Plan, Step, World};
use crate::transition::{elapsed, later};

/// How soon to look again at what an open intent names.
const INTENT_WAIT: Duration = Duration::from_secs(1);

struct Search<'a> {
    world: &'a World,
    index: &'a Index<'a>,
    /// VMs with an open intent.
    intended: HashSet<VmId>,
    /// What may be removed.
    found: Vec<(Step, String)>,
    /// Orphans within their grace age: how many, and when the first grows out of it.
    young: (usize, Option<Timestamp>),
    /// Orphans that an open intent names.
    kept: usize,
    /// VMMs and VM folders of which nothing says that they may go.
    unproven: (usize, usize),
}

/// Adds the removal of orphans to the plan.
pub(crate) fn plan(world: &World, index: &Index<'_>, plan: &mut Plan) {
    crate::units::note(world, index, plan);
    if world.observed.processes.known().is_none() {
        // A TAP or folder may be in use by a process that was not seen.
        return;
    }
    if !index.strangers {
        return;
    }
    let mut search = Search {
        world,
        index,
        intended: world
            .intents
            .iter()
            .filter_map(|intent| intent.vm)
            .collect(),
        found: Vec::new(),
        young: (0, None),
        kept: 0,
        unproven: (0, 0),
    };
    let policy = &world.policy;
    search.processes();
    search.conclude_processes(plan);
    let before = search.found.len();
    search.units();
    search.conclude("units", policy.orphan_units, before, plan);
    let before = search.found.len();
    search.taps();
    search.conclude("TAPs", policy.orphan_taps, before, plan);
    search.dirs();
    search.tell_unproven(plan);
    if let (count, Some(at)) = search.young {
        plan.note(
            None,
            format!(
                "{count} object(s) of no VM are left alone until they are {} s old",
                policy.orphan_grace.as_secs()
            ),
        );
        plan.due(at);
    }
    if search.kept > 0 {
        plan.note(
            None,
            format!(
                "{} object(s) of no VM are left alone: an open journal entry names them",
                search.kept
            ),
        );
        // A whole survey closes the entry; then they are looked at again.
        plan.due(later(world.now, INTENT_WAIT));
    }
    if search.found.len() > policy.orphan_cap {
        plan.note(None, format!(
            "{} objects of ours belong to no VM, more than the {} that one pass may remove: none is removed. If the database is the right one, raise the limit",
            search.found.len(), policy.orphan_cap
        ));
        return;
    }
    for (step, reason) in search.found {
        plan.push(step, reason);
    }
}

impl<'a> Search<'a> {
    fn is_orphan(&mut self, vm: VmId) -> bool {
        if self.index.of(vm).desired {
            return false;
        }
        let intended = self.intended.contains(&vm);
        self.kept += usize::from(intended);
        !intended
    }

    /// Whether the object is older than the grace age.
    fn is_old(&mut self, since: Timestamp) -> bool {
        let grace = self.world.policy.orphan_grace;
        let old = elapsed(since, self.world.now) >= grace;
        if !old {
            let at = later(since.min(self.world.now), grace);
            self.young.0 += 1;
            self.young.1 = Some(self.young.1.map_or(at, |first| first.min(at)));
        }
        old
    }

    fn processes(&mut self) {
        for process in self.world.observed.processes.known().into_iter().flatten() {
            let Some(vm) = self.owner(process) else {
                continue;
            };
            let seen = self.index.of(vm);
            let since = match process.role {
                ProcessRole::Names | ProcessRole::Helper => continue,
                ProcessRole::Vmm => process.started_at,
                // It ends by itself after its VMM, once it has written the record.
                ProcessRole::Shim if !seen.vmms.is_empty() => continue,
                ProcessRole::Shim => {
                    let exit = seen.dir.and_then(|dir| dir.exit.as_ref());
                    exit.map_or(process.started_at, |exit| {
                        exit.ended_at.max(process.started_at)
                    })
                }
            };
            let vmm = process.role == ProcessRole::Vmm;
            if self.is_orphan(vm) && vmm && !self.may_go(vm, self.world.policy.orphan_vmms) {
                self.unproven.0 += 1;
                continue;
            }
            if self.is_orphan(vm) && self.is_old(since) {
                let identity = process.identity.clone();
                let reason = format!(
                    "a {} of VM {vm}, which does not exist",
                    process.role.as_str()
                );
                self.found.push((Step::KillOrphan { identity }, reason));
            }
        }
    }

    fn owner(&self, process: &ObservedProcess) -> Option<VmId> {
        let identity = &process.identity;
        let ours = identity.mark.installation == self.world.installation
            && identity.boot_id == self.world.boot_id;
        identity.mark.vm().filter(|_| ours)
    }

    /// Whether a process of an orphaned VM may still use its things.
    fn in_use(&self, vm: VmId) -> bool {
        let seen = self.index.of(vm);
        !seen.vmms.is_empty() || !seen.shims.is_empty()
    }

    /// Units that have failed or were left over. One that holds a process goes after it.
    fn units(&mut self) {
        for unit in self.world.observed.units.known().into_iter().flatten() {
            let ours = unit.mark.installation == self.world.installation;
            let Some(vm) = unit.mark.vm().filter(|_| ours) else {
                continue;
            };
            // One whose age nobody knows is left alone, and so is one that is ending.
            let since = unit.since.filter(|_| unit.state != UnitState::Deactivating);
            let Some(since) = since else { continue };
            if self.is_orphan(vm) && !self.in_use(vm) && self.is_old(since) {
                let reason = format!("a unit of VM {vm}, which does not exist");
                let unit = unit.clone();
                self.found.push((Step::RemoveOrphanUnit { unit }, reason));
            }
        }
    }

    fn taps(&mut self) {
        for tap in self.world.observed.taps.known().into_iter().flatten() {
            let ours = tap.mark.installation == self.world.installation;
            let Some(vm) = tap.mark.vm().filter(|_| ours) else {
                continue;
            };
            if self.is_orphan(vm) && !self.in_use(vm) {
                let reason = format!("a TAP of VM {vm}, which does not exist");
                self.found
                    .push((Step::RemoveOrphanTap { tap: tap.clone() }, reason));
            }
        }
    }

    fn dirs(&mut self) {
        for dir in self.world.observed.dirs.known().into_iter().flatten() {
            if !self.is_orphan(dir.vm) || self.in_use(dir.vm) {
                continue;
            }
            if !self.may_go(dir.vm, self.world.policy.orphan_dirs) {
                self.unproven.1 += 1;
                continue;
            }
            if self.is_old(dir.changed_at) {
                let reason = format!("the folder of VM {}, which does not exist", dir.vm);
                self.found
                    .push((Step::RemoveOrphanDir { vm: dir.vm }, reason));
            }
        }
    }

    /// Whether what runs, or holds data, may go. Its mark says only that some daemon with this
    /// installation's id made it. The journal says that this database knew its VM, and without a
    /// record that means that the user had it removed: what is left is left over from a crash.
    fn may_go(&self, vm: VmId, action: OrphanAction) -> bool {
        match action {
            OrphanAction::Remove => true,
            OrphanAction::Proven => self.world.journaled.contains(&vm),
            OrphanAction::Report => false,
        }
    }

    fn tell_unproven(&self, plan: &mut Plan) {
        let (vmms, dirs) = self.unproven;
        for (count, what, policy) in [
            (vmms, "VMM(s) that run", self.world.policy.orphan_vmms),
            (dirs, "VM folder(s)", self.world.policy.orphan_dirs),
        ] {
            let why = match policy {
                OrphanAction::Proven => {
                    "the journal does not know their VMs, so their records may be lost"
                }
                OrphanAction::Remove | OrphanAction::Report => "as configured",
            };
            if count > 0 {
                plan.note(None, format!(
                    "{count} {what} belong to no VM and are only reported ({why}): see hearth orphans"
                ));
            }
        }
    }

    /// VMMs have a policy of their own, which was asked already.
    fn conclude_processes(&mut self, plan: &mut Plan) {
        let vmms = |step: &Step| {
            let processes = self.world.observed.processes.known();
            let mut all = processes.into_iter().flatten();
            matches!(step, Step::KillOrphan { identity }
                if all.any(|p| p.identity == *identity && p.role == ProcessRole::Vmm))
        };
        let (found, others): (Vec<_>, Vec<_>) = std::mem::take(&mut self.found)
            .into_iter()
            .partition(|(step, _)| vmms(step));
        let from = found.len();
        self.found = found;
        self.found.extend(others);
        let action = self.world.policy.orphan_processes;
        self.conclude("processes", action, from, plan);
    }

    /// Turns what was found of one kind into a note if the operator wants only to know.
    fn conclude(&mut self, kind: &str, action: OrphanAction, from: usize, plan: &mut Plan) {
        let count = self.found.len() - from;
        if action == OrphanAction::Report && count > 0 {
            self.found.truncate(from);
            plan.note(
                None,
                format!("{count} {kind} belong to no VM and are only reported, as configured"),
            );
        }
    }
}
