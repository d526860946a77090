//! A VM in somebody else's hands than its owner task's: while it is borrowed no pass plans for it,
//! so nothing starts, stops, pauses or resumes it. What was asked for meanwhile is done afterwards,
//! and what the borrower has left behind is seen and put right: a VM that should run and is paused is
//! resumed, by this daemon or by the next.

use std::sync::Arc;
use std::time::Duration;

use hearth_types::ids::VmId;
use tokio::time::{Instant, timeout_at};

use super::Engine;

/// A VM that is borrowed until this is dropped.
pub(super) struct Borrowed {
    engine: Arc<Engine>,
    vm: VmId,
}

impl Engine {
    fn take_now(&self, vm: VmId) -> bool {
        let mut work = self.work.lock();
        let now = work.hands.moment();
        work.hands.take(vm, &now)
    }

    /// Waits until nobody works on a VM, and keeps everybody off it. `None` when that takes too long.
    pub(super) async fn borrow(self: &Arc<Self>, vm: VmId, patience: Duration) -> Option<Borrowed> {
        let until = Instant::now() + patience;
        let mut changes = self.changes();
        loop {
            changes.mark_unchanged();
            if self.take_now(vm) {
                let engine = Arc::clone(self);
                return Some(Borrowed { engine, vm });
            }
            // Whoever gives a VM back says that something has changed.
            let told = timeout_at(until, changes.changed()).await;
            if !matches!(told, Ok(Ok(()))) {
                return None;
            }
        }
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        self.engine.work.lock().hands.give_back(self.vm);
        self.engine.tell_changed();
        self.engine.look_at(self.vm);
    }
}
