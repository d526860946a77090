//! In whose hands a VM is: one worker at a time, and nobody works by what was seen before another one
//! did.
//!
//! ```text
//!  look begins: moment ──► the host is looked at ──► plan ──► take ──┬─ free since the moment ──► busy
//!                                                                   └─ else: looked at again
//! ```
//! A look at the host takes its time, and a plan is as old as the look that it was made from. What
//! was done to a VM since then (the end of its run was recorded, it was borrowed) makes all of it wrong
//! that the look says of this VM, though the plan may find the newest record beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};

use hearth_types::ids::VmId;

use super::Engine;

/// When a look began, by the count of VMs that were taken and given back until then.
#[derive(Debug, Clone)]
pub(super) struct Moment {
    at: u64,
    /// While somebody has the moment, what happened since is remembered.
    _held: Arc<()>,
}

/// Who is worked on, and who was since the oldest moment that somebody still has.
#[derive(Debug, Default)]
pub(super) struct Hands {
    busy: BTreeSet<VmId>,
    now: u64,
    /// When a VM was taken or given back last.
    turned: BTreeMap<VmId, u64>,
    /// The moments that were given out, the oldest first.
    moments: Vec<(u64, Weak<()>)>,
}

impl Hands {
    /// A look begins now.
    pub(super) fn moment(&mut self) -> Moment {
        self.moments.retain(|(_, held)| held.strong_count() > 0);
        let oldest = self.moments.first().map_or(self.now, |(at, _)| *at);
        self.turned.retain(|_, at| *at > oldest);
        let held = Arc::new(());
        self.moments.push((self.now, Arc::downgrade(&held)));
        Moment {
            at: self.now,
            _held: held,
        }
    }

    /// Takes a VM that nobody works on or has worked on since `seen`. Whether that could be done.
    pub(super) fn take(&mut self, vm: VmId, seen: &Moment) -> bool {
        if self.is_stale(vm, seen) || !self.busy.insert(vm) {
            return false;
        }
        self.turn(vm);
        true
    }

    /// Nobody works on the VM any more.
    pub(super) fn give_back(&mut self, vm: VmId) {
        if self.busy.remove(&vm) {
            self.turn(vm);
        }
    }

    /// Somebody works on the VM.
    pub(super) fn is_busy(&self, vm: VmId) -> bool {
        self.busy.contains(&vm)
    }

    /// Somebody has worked on the VM since `seen`.
    pub(super) fn is_stale(&self, vm: VmId, seen: &Moment) -> bool {
        self.turned.get(&vm).is_some_and(|at| *at > seen.at)
    }

    /// VMs of which a look that began at `seen` may say what does not hold any more.
    pub(super) fn since(&self, seen: &Moment) -> BTreeSet<VmId> {
        let turned = self.turned.iter().filter(|(_, at)| **at > seen.at);
        let turned = turned.map(|(vm, _)| *vm);
        self.busy.iter().copied().chain(turned).collect()
    }

    fn turn(&mut self, vm: VmId) {
        self.now += 1;
        self.turned.insert(vm, self.now);
    }
}

impl Engine {
    /// VMs that somebody works on now.
    pub(super) fn busy(&self) -> BTreeSet<VmId> {
        self.work.lock().hands.busy.clone()
    }

    /// A look at the host begins.
    pub(super) fn moment(&self) -> Moment {
        self.work.lock().hands.moment()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_takes_a_vm_by_what_was_seen_before_another_one_had_it() {
        let (mut hands, vm, other) = (Hands::default(), VmId::new(), VmId::new());
        let old = hands.moment();
        assert!(hands.take(vm, &old));
        let during = hands.moment();
        assert!(!hands.take(vm, &during), "it is taken");
        hands.give_back(vm);
        assert!(!hands.take(vm, &old), "seen before the other took it");
        assert!(!hands.take(vm, &during), "seen while the other had it");
        assert!(hands.is_stale(vm, &old) && !hands.is_stale(other, &old));
        assert_eq!(hands.since(&old), BTreeSet::from([vm]));
        assert!(hands.take(other, &old));
        let new = hands.moment();
        assert!(hands.take(vm, &new));
        assert_eq!(hands.since(&new), BTreeSet::from([vm, other]));
    }

    #[test]
    fn what_no_look_is_older_than_is_forgotten() {
        let (mut hands, vm) = (Hands::default(), VmId::new());
        let old = hands.moment();
        assert!(hands.take(vm, &old));
        hands.give_back(vm);
        drop(hands.moment());
        assert!(hands.is_stale(vm, &old));
        drop(old);
        let new = hands.moment();
        assert!(hands.turned.is_empty() && hands.moments.len() == 1);
        assert!(hands.take(vm, &new));
    }
}
