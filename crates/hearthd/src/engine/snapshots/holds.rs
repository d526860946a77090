//! Who works with which snapshot or volume: many may read one, and who makes, changes or removes it is
//! alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// How one is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Alone,
    Read(u32),
}

/// Those in use.
#[derive(Debug, Clone)]
pub(crate) struct Holds<Id: Ord + Copy>(Arc<Mutex<BTreeMap<Id, Use>>>);

impl<Id: Ord + Copy> Default for Holds<Id> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

/// A use; it ends with this.
#[derive(Debug)]
pub(crate) struct Hold<Id: Ord + Copy> {
    holds: Holds<Id>,
    id: Id,
}

impl<Id: Ord + Copy> Holds<Id> {
    /// Nobody else uses it; `None` if somebody does.
    pub(in crate::engine) fn alone(&self, id: Id) -> Option<Hold<Id>> {
        let mut uses = self.0.lock();
        if uses.contains_key(&id) {
            return None;
        }
        uses.insert(id, Use::Alone);
        Some(self.hold(id))
    }

    /// It does not go; `None` if it is being made or removed.
    pub(in crate::engine) fn read(&self, id: Id) -> Option<Hold<Id>> {
        let mut uses = self.0.lock();
        match uses.entry(id).or_insert(Use::Read(0)) {
            Use::Alone => return None,
            Use::Read(count) => *count += 1,
        }
        Some(self.hold(id))
    }

    fn hold(&self, id: Id) -> Hold<Id> {
        let holds = self.clone();
        Hold { holds, id }
    }
}

impl<Id: Ord + Copy> Drop for Hold<Id> {
    fn drop(&mut self) {
        let mut uses = self.holds.0.lock();
        match uses.get_mut(&self.id) {
            Some(Use::Read(count)) if *count > 1 => *count -= 1,
            _ => drop(uses.remove(&self.id)),
        }
    }
}

#[cfg(test)]
mod tests {
    use hearth_types::ids::SnapshotId;

    use super::*;

    #[test]
    fn many_read_and_one_is_alone() {
        let (holds, id) = (Holds::default(), SnapshotId::new());
        let readers = (holds.read(id), holds.read(id));
        assert!(readers.0.is_some() && readers.1.is_some());
        assert!(holds.alone(id).is_none());
        drop(readers.0);
        assert!(holds.alone(id).is_none(), "one still reads");
        drop(readers.1);
        let alone = holds.alone(id);
        assert!(alone.is_some() && holds.read(id).is_none() && holds.alone(id).is_none());
        drop(alone);
        assert!(holds.read(id).is_some());
    }
}
