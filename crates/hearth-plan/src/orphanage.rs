//! The list of orphans for people: what is ours and not wanted, what is wanted and missing,
//! each with what the next passes will do about it.
//!
//! Nothing is decided here: the plan is, and this list says what is in it, and why the rest is
//! not.

mod rest;

use std::collections::HashSet;

use jiff::Timestamp;

use hearth_types::ids::VmId;
use hearth_types::observe::{ObservedProcess, ProcessRole};
use hearth_types::orphan::{Fate, FateKind, Orphan, OrphanKind, OrphanState};

use crate::model::{OrphanAction, Plan, PlannedStep, Step, World};
use crate::transition::{elapsed, later};

/// Lists them. What the host alone knows (sizes, names in folders) is left out.
#[must_use]
pub fn list(world: &World, plan: &Plan) -> Vec<Orphan> {
    let mut list = List {
        world,
        plan,
        desired: world.vms.iter().map(|vm| vm.id).collect(),
        intended: world.intents.iter().filter_map(|it| it.vm).collect(),
        items: Vec::new(),
    };
    list.processes();
    list.taps();
    list.folders();
    list.units();
    list.rest();
    list.missing();
    list.items
}

/// The id of a process: no other has pid and start time in common with it in a boot.
#[must_use]
pub fn process_id(process: &ObservedProcess) -> Option<String> {
    let kind = process_kind(process.role)?;
    let identity = &process.identity;
    Some(format!(
        "{}-{}-{}",
        kind.as_str(),
        identity.pid,
        identity.start_time
    ))
}

const fn process_kind(role: ProcessRole) -> Option<OrphanKind> {
    match role {
        ProcessRole::Vmm => Some(OrphanKind::Vmm),
        ProcessRole::Shim => Some(OrphanKind::Shim),
        ProcessRole::Names | ProcessRole::Helper => None,
    }
}

struct List<'a> {
    world: &'a World,
    plan: &'a Plan,
    desired: HashSet<VmId>,
    intended: HashSet<VmId>,
    items: Vec<Orphan>,
}

impl List<'_> {
    /// The VM, if an object with this mark is ours and no VM of the database has it.
    fn stranger(&self, mark: &hearth_types::OwnerMark) -> Option<VmId> {
        let ours = mark.installation == self.world.installation;
        mark.vm().filter(|vm| ours && !self.desired.contains(vm))
    }

    fn add(
        &mut self,
        id: String,
        kind: OrphanKind,
        object: String,
        vm: VmId,
        since: Option<Timestamp>,
        fate: Fate,
    ) {
        self.items.push(Orphan {
            id,
            kind,
            state: OrphanState::Unwanted,
            object,
            vm: Some(vm),
            name: None,
            image: None,
            since,
            bytes: None,
            reason: format!("no VM {vm} is in the database"),
            fate,
            adoptable: false,
            removable: false,
        });
    }

    fn processes(&mut self) {
        for process in self.world.observed.processes.known().into_iter().flatten() {
            let identity = &process.identity;
            let (Some(vm), Some(kind)) =
                (self.stranger(&identity.mark), process_kind(process.role))
            else {
                continue;
            };
            let is =
                |step: &Step| matches!(step, Step::KillOrphan { identity: its } if its == identity);
            let policy = &self.world.policy;
            let (action, key) = match kind {
                OrphanKind::Vmm => (policy.orphan_vmms, "ORPHAN_VMMS"),
                _ => (policy.orphan_processes, "ORPHAN_PROCESSES"),
            };
            let fate = if kind == OrphanKind::Shim && self.lives(vm) {
                kept("it goes by itself after its VMM")
            } else {
                self.fate(is, vm, action, key, Some(process.started_at))
            };
            let object = format!("pid {} ({})", identity.pid, identity.exe);
            if let Some(id) = process_id(process) {
                self.add(id, kind, object, vm, Some(process.started_at), fate);
            }
        }
    }

    fn taps(&mut self) {
        for tap in self.world.observed.taps.known().into_iter().flatten() {
            let Some(vm) = self.stranger(&tap.mark) else {
                continue;
            };
            let is = |step: &Step| matches!(step, Step::RemoveOrphanTap { tap: its } if its == tap);
            let action = self.world.policy.orphan_taps;
            let fate = self.fate(is, vm, action, "ORPHAN_TAPS", None);
            let id = format!("tap-{}", tap.name);
            self.add(id, OrphanKind::Tap, tap.name.clone(), vm, None, fate);
        }
    }

    fn folders(&mut self) {
        for dir in self.world.observed.dirs.known().into_iter().flatten() {
            if self.desired.contains(&dir.vm) {
                continue;
            }
            let vm = dir.vm;
            let is = |step: &Step| matches!(step, Step::RemoveOrphanDir { vm: its } if *its == vm);
            let action = self.world.policy.orphan_dirs;
            let since = Some(dir.changed_at);
            let fate = self.fate(is, vm, action, "ORPHAN_DIRS", since);
            let id = format!("folder-{vm}");
            self.add(id, OrphanKind::Folder, vm.to_string(), vm, since, fate);
        }
    }

    /// Of units only those are listed that the plan removes.
    fn units(&mut self) {
        let held = self
            .plan
            .held
            .iter()
            .map(|held| (&held.planned, Some(&held.by)));
        let taken = self.plan.steps.iter().map(|planned| (planned, None));
        let all: Vec<_> = taken.chain(held).collect();
        for (planned, by) in all {
            let is = planned.step.kind() == "remove_orphan_unit";
            let Some(vm) = planned.step.vm().filter(|_| is) else {
                continue;
            };
            let fate = Fate {
                what: by.map_or(FateKind::Removed, |_| FateKind::Held),
                at: None,
                why: by.map_or_else(|| "it is older than the grace age".to_owned(), Clone::clone),
            };
            let object = planned.step.object();
            self.add(
                format!("unit-{vm}"),
                OrphanKind::Unit,
                object,
                vm,
                None,
                fate,
            );
        }
    }

    fn lives(&self, vm: VmId) -> bool {
        let processes = self.world.observed.processes.known();
        processes
            .into_iter()
            .flatten()
            .any(|p| p.role == ProcessRole::Vmm && p.identity.mark.vm() == Some(vm))
    }

    fn in_use(&self, vm: VmId) -> bool {
        let processes = self.world.observed.processes.known();
        processes
            .into_iter()
            .flatten()
            .any(|p| p.identity.mark.vm() == Some(vm))
    }

    /// What the plan has for it, or why it has nothing.
    fn fate(
        &self,
        is: impl Fn(&Step) -> bool,
        vm: VmId,
        action: OrphanAction,
        key: &str,
        since: Option<Timestamp>,
    ) -> Fate {
        let of = |planned: &&PlannedStep| is(&planned.step);
        if self.plan.steps.iter().any(|planned| of(&planned)) {
            return Fate {
                what: FateKind::Removed,
                at: None,
                why: "it is older than the grace age".to_owned(),
            };
        }
        if let Some(held) = self.plan.held.iter().find(|held| is(&held.planned.step)) {
            return Fate {
                what: FateKind::Held,
                at: None,
                why: held.by.clone(),
            };
        }
        if self.world.observed.processes.known().is_none() {
            return kept("processes are unknown, and one may use it");
        }
        if self.intended.contains(&vm) {
            return kept("an open journal entry names its VM");
        }
        match action {
            OrphanAction::Report => {
                return Fate {
                    what: FateKind::Reported,
                    at: None,
                    why: format!("{key} is report"),
                };
            }
            OrphanAction::Proven if !self.world.journaled.contains(&vm) => {
                return Fate {
                    what: FateKind::Reported,
                    at: None,
                    why: "the journal does not know its VM: its record may be lost".to_owned(),
                };
            }
            OrphanAction::Proven | OrphanAction::Remove => {}
        }
        let process = since.is_some() && key != "ORPHAN_DIRS";
        if !process && self.in_use(vm) {
            return kept("a process of its VM lives and may use it");
        }
        let grace = self.world.policy.orphan_grace;
        match since {
            Some(since) if elapsed(since, self.world.now) < grace => Fate {
                what: FateKind::Removed,
                at: Some(later(since.min(self.world.now), grace)),
                why: "it is removed when it has the grace age".to_owned(),
            },
            _ => kept("more orphans than ORPHAN_CAP: none is removed"),
        }
    }

    /// What the plan makes or puts right is what is missing.
    fn missing(&mut self) {
        let held = self
            .plan
            .held
            .iter()
            .map(|held| (&held.planned, Some(&held.by)));
        let taken = self.plan.steps.iter().map(|planned| (planned, None));
        let all: Vec<_> = taken.chain(held).collect();
        for (planned, by) in all {
            let kind = match &planned.step {
                Step::EnsureBridge => OrphanKind::Bridge,
                Step::ApplyRules(_) => OrphanKind::Rules,
                Step::EnsureNames(_) => OrphanKind::Names,
                Step::EnsureTap { .. } => OrphanKind::Tap,
                Step::EnsureDisks { .. } => OrphanKind::Folder,
                Step::StartVmm { .. } => OrphanKind::Vmm,
                _ => continue,
            };
            let vm = planned.step.vm();
            let named = vm.and_then(|id| self.world.vms.iter().find(|vm| vm.id == id));
            let name = named.map(|vm| vm.spec.name.to_string());
            let of = name.as_deref().unwrap_or("all VMs");
            let fate = Fate {
                what: by.map_or(FateKind::PutBack, |_| FateKind::Held),
                at: None,
                why: by.map_or_else(|| "the next pass does it".to_owned(), Clone::clone),
            };
            self.items.push(Orphan {
                id: format!("missing-{}-{of}", kind.as_str()).replace(' ', "-"),
                kind,
                state: OrphanState::Missing,
                object: planned.step.object(),
                vm,
                name,
                image: None,
                since: None,
                bytes: None,
                reason: planned.reason.clone(),
                fate,
                adoptable: false,
                removable: false,
            });
        }
    }
}

fn kept(why: &str) -> Fate {
    Fate {
        what: FateKind::Kept,
        at: None,
        why: why.to_owned(),
    }
}

/// What of the list a person may have removed at once: it is ours, and no VM has it.
#[must_use]
pub fn removable(orphan: &Orphan, world: &World) -> bool {
    let kind = matches!(
        orphan.kind,
        OrphanKind::Vmm
            | OrphanKind::Shim
            | OrphanKind::Tap
            | OrphanKind::Folder
            | OrphanKind::Connections
    );
    // What a VM of the database has too much is the loop's own affair.
    let of_vm = |vm| world.vms.iter().any(|desired| Some(desired.id) == vm);
    kind && orphan.state == OrphanState::Unwanted
        && orphan.fate.what != FateKind::Never
        && (orphan.vm.is_none() || !of_vm(orphan.vm))
}
