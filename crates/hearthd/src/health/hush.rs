//! VMs that nobody asks anything of while a snapshot holds their guests' writes: a command or a page that
//! waits for a write says nothing about the guest.

use std::collections::BTreeMap;
use std::sync::Arc;

use hearth_types::VmId;
use parking_lot::Mutex;
use tokio::time::Instant;

/// Of each VM: how many hold it still, and when the last one let it go.
type Held = BTreeMap<VmId, (u32, Instant)>;

/// Who is not to be asked.
#[derive(Debug, Default, Clone)]
pub(crate) struct Hushed(Arc<Mutex<Held>>);

/// A VM that is not asked until this is dropped.
#[derive(Debug)]
pub(crate) struct Hush {
    of: Hushed,
    vm: VmId,
}

impl Hushed {
    /// Asks nothing of a VM from now on.
    pub(crate) fn begin(&self, vm: VmId) -> Hush {
        let mut held = self.0.lock();
        held.entry(vm).or_insert((0, Instant::now())).0 += 1;
        Hush {
            of: self.clone(),
            vm,
        }
    }

    /// Whether it is held still now.
    pub(super) fn is(&self, vm: VmId) -> bool {
        self.0.lock().get(&vm).is_some_and(|(count, _)| *count > 0)
    }

    /// Whether it was held still at any time since then: what was asked of it meanwhile says nothing.
    pub(super) fn was_since(&self, vm: VmId, since: Instant) -> bool {
        let held = self.0.lock();
        held.get(&vm)
            .is_some_and(|(count, ended)| *count > 0 || *ended >= since)
    }

    /// The VM's run is over: there is nothing to remember.
    pub(super) fn forget(&self, vm: VmId) {
        let mut held = self.0.lock();
        if held.get(&vm).is_some_and(|(count, _)| *count == 0) {
            held.remove(&vm);
        }
    }
}

impl Drop for Hush {
    fn drop(&mut self) {
        let mut held = self.of.0.lock();
        if let Some((count, ended)) = held.get_mut(&self.vm) {
            *count = count.saturating_sub(1);
            *ended = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_was_asked_while_it_was_held_still_says_nothing() {
        let (hushed, vm, other) = (Hushed::default(), VmId::new(), VmId::new());
        let before = Instant::now();
        let second = || tokio::time::advance(Duration::from_secs(1));
        second().await;
        assert!(!hushed.is(vm) && !hushed.was_since(vm, before));
        let (one, two) = (hushed.begin(vm), hushed.begin(vm));
        drop(one);
        assert!(hushed.is(vm) && !hushed.is(other), "another one holds it");
        hushed.forget(vm);
        assert!(hushed.is(vm), "still");
        second().await;
        let during = Instant::now();
        drop(two);
        assert!(!hushed.is(vm));
        assert!(hushed.was_since(vm, before) && hushed.was_since(vm, during));
        second().await;
        assert!(!hushed.was_since(vm, Instant::now()), "asked afterwards");
        hushed.forget(vm);
        assert!(!hushed.was_since(vm, before));
    }
}
