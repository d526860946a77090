//! What the survey found, looked up by VM: built once per pass.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use hearth_types::ids::VmId;
use hearth_types::observe::{ObservedDir, ObservedProcess, ObservedTap, ObservedUnit, ProcessRole};
use hearth_types::status::{Goal, Phase};

use crate::model::{DesiredVm, World};

/// None, one, or (which should never be) more. One needs no allocation: there are
/// thousands of these in a pass.
#[derive(Debug)]
pub(crate) struct Few<'a, T> {
    first: Option<&'a T>,
    more: Vec<&'a T>,
}

impl<T> Default for Few<'_, T> {
    fn default() -> Self {
        Self {
            first: None,
            more: Vec::new(),
        }
    }
}

impl<'a, T> Few<'a, T> {
    fn push(&mut self, item: &'a T) {
        match self.first {
            None => self.first = Some(item),
            Some(_) => self.more.push(item),
        }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// The only one there is.
    pub(crate) fn only(&self) -> Option<&'a T> {
        self.first.filter(|_| self.more.is_empty())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &'a T> + '_ {
        self.first.iter().chain(&self.more).copied()
    }
}

/// All that the survey found of one VM.
#[derive(Debug, Default)]
pub(crate) struct Seen<'a> {
    /// It is in the database.
    pub(crate) desired: bool,
    /// Its living VMMs; more than one should never be.
    pub(crate) vmms: Few<'a, ObservedProcess>,
    /// Its living shims.
    pub(crate) shims: Few<'a, ObservedProcess>,
    /// Its TAPs.
    pub(crate) taps: Few<'a, ObservedTap>,
    /// Its unit.
    pub(crate) unit: Option<&'a ObservedUnit>,
    /// Its folder.
    pub(crate) dir: Option<&'a ObservedDir>,
}

/// Hashes ids. They are random already and made by us, so that nothing has to be defended
/// against; the multiplier (of Fibonacci hashing, 2^64 over the golden ratio) spreads the
/// fixed bits of a UUID.
#[derive(Debug, Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(29) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write_usize(&mut self, _length: usize) {
        // All ids have the same length.
    }

    fn finish(&self) -> u64 {
        // The table takes its place from the low bits, which a product mixes least.
        self.0.rotate_left(26)
    }
}

/// Finds by VM.
#[derive(Debug)]
pub(crate) struct Index<'a> {
    by_vm: HashMap<VmId, Seen<'a>, BuildHasherDefault<IdHasher>>,
    nothing: Seen<'a>,
    /// Something was found of VMs that are not in the database.
    pub(crate) strangers: bool,
}

impl<'a> Index<'a> {
    /// Sorts the survey by VM. Whatever does not carry this installation's mark is left
    /// out here, a second time after the survey, and so cannot be acted on.
    pub(crate) fn new(world: &'a World) -> Self {
        let mut by_vm: HashMap<VmId, Seen<'a>, BuildHasherDefault<IdHasher>> =
            HashMap::with_capacity_and_hasher(world.vms.len(), BuildHasherDefault::default());
        for vm in &world.vms {
            by_vm.entry(vm.id).or_default().desired = true;
        }
        let desired = by_vm.len();
        let ours = |mark: &hearth_types::OwnerMark| {
            mark.vm()
                .filter(|_| mark.installation == world.installation)
        };
        for process in world.observed.processes.known().into_iter().flatten() {
            // A process of another boot cannot live: such an entry proves nothing.
            let here = process.identity.boot_id == world.boot_id;
            if let Some(vm) = ours(&process.identity.mark).filter(|_| here) {
                let seen = by_vm.entry(vm).or_default();
                match process.role {
                    ProcessRole::Vmm => seen.vmms.push(process),
                    ProcessRole::Shim => seen.shims.push(process),
                    ProcessRole::Names | ProcessRole::Helper => {}
                }
            }
        }
        for unit in world.observed.units.known().into_iter().flatten() {
            if let Some(vm) = ours(&unit.mark) {
                by_vm.entry(vm).or_default().unit = Some(unit);
            }
        }
        for tap in world.observed.taps.known().into_iter().flatten() {
            if let Some(vm) = ours(&tap.mark) {
                by_vm.entry(vm).or_default().taps.push(tap);
            }
        }
        for dir in world.observed.dirs.known().into_iter().flatten() {
            by_vm.entry(dir.vm).or_default().dir = Some(dir);
        }
        Self {
            strangers: by_vm.len() > desired,
            by_vm,
            nothing: Seen::default(),
        }
    }

    /// What was found of this VM.
    pub(crate) fn of(&self, vm: VmId) -> &Seen<'a> {
        self.by_vm.get(&vm).unwrap_or(&self.nothing)
    }
}

/// Whether the user has said something that no pass has taken up yet.
pub(crate) const fn word_is_new(vm: &DesiredVm) -> bool {
    vm.status.observed_generation < vm.generation
}

/// What is wanted in effect: a VM with `auto_remove` that has ended is wanted no more, unless
/// it is held.
pub(crate) fn effective_goal(vm: &DesiredVm) -> Goal {
    let ended = vm.status.vmm.is_none()
        && matches!(
            vm.status.phase,
            Phase::Exited | Phase::Failed | Phase::Removing
        );
    let start_asked = matches!(vm.goal, Goal::Running | Goal::Paused) && word_is_new(vm);
    let held = vm.status.recovery.hold.is_some();
    if vm.spec.auto_remove && ended && !start_asked && !held {
        Goal::Absent
    } else {
        vm.goal
    }
}
