//! Who waits, who is under way, who does not come back.

use std::collections::BTreeMap;
use std::sync::Arc;

use hearth_types::pool::{PoolOperation, PoolOperationState};
use jiff::Timestamp;
use parking_lot::Mutex;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::Notify;

#[derive(Debug, Clone, Copy)]
struct Entry {
    name: &'static str,
    state: PoolOperationState,
    since: Timestamp,
    /// The thread that does it.
    tid: Option<i32>,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    entries: BTreeMap<u64, Entry>,
}

/// The queue.
#[derive(Debug, Default)]
pub(super) struct Queue {
    table: Mutex<Table>,
    given_up: Notify,
}

/// A place in it; dropping it leaves.
#[derive(Debug)]
pub(super) struct Place {
    queue: Arc<Queue>,
    number: u64,
    name: &'static str,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.queue.table.lock().entries.remove(&self.number);
    }
}

impl Queue {
    pub(super) fn enter(queue: &Arc<Self>, name: &'static str) -> Place {
        let mut table = queue.table.lock();
        let number = table.next;
        table.next += 1;
        let entry = Entry {
            name,
            state: PoolOperationState::Waiting,
            since: Timestamp::now(),
            tid: None,
        };
        table.entries.insert(number, entry);
        Place {
            queue: Arc::clone(queue),
            number,
            name,
        }
    }

    /// `helper`: the process that works for a thread.
    pub(super) fn view(&self, helper: impl Fn(i32) -> Option<i32>) -> Vec<PoolOperation> {
        let table = self.table.lock();
        let view = |entry: &Entry| PoolOperation {
            operation: entry.name.to_owned(),
            state: entry.state,
            since: entry.since,
            helper: entry.tid.and_then(&helper),
        };
        table.entries.values().map(view).collect()
    }

    /// What is under way, for people.
    pub(super) fn words(&self) -> String {
        let table = self.table.lock();
        let ahead = table.entries.values().filter_map(|entry| {
            let Entry { name, since, .. } = entry;
            match entry.state {
                PoolOperationState::Waiting => None,
                PoolOperationState::Running => {
                    Some(format!("{name} has been under way since {since:.0}"))
                }
                PoolOperationState::Stuck => {
                    Some(format!("{name} has not come back since {since:.0}"))
                }
            }
        });
        let ahead: Vec<_> = ahead.collect();
        if ahead.is_empty() {
            return "others were before it".to_owned();
        }
        ahead.join(", ")
    }

    /// Returns when so many operations do not come back.
    pub(super) async fn until_stuck(&self, count: usize) {
        loop {
            let told = self.given_up.notified();
            if self.count(PoolOperationState::Stuck) >= count {
                return;
            }
            told.await;
        }
    }

    fn count(&self, state: PoolOperationState) -> usize {
        let table = self.table.lock();
        let entries = table.entries.values();
        entries.filter(|entry| entry.state == state).count()
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let queue: Family<[(&'static str, &'static str); 1], Gauge> = Family::default();
        for state in PoolOperationState::ALL {
            let count = i64::try_from(self.count(state)).unwrap_or(i64::MAX);
            queue.get_or_create(&[("state", state.as_str())]).set(count);
        }
        let help = "Device-mapper operations that wait, are under way, or do not come back";
        registry.register("dm_queue", help, queue);
    }
}

impl Place {
    pub(super) const fn name(&self) -> &'static str {
        self.name
    }

    fn change<T>(&self, change: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        let mut table = self.queue.table.lock();
        table.entries.get_mut(&self.number).map(change)
    }

    /// It is under way, on this thread.
    pub(super) fn begin(&self) {
        let tid = rustix::thread::gettid().as_raw_nonzero().get();
        self.change(|entry| {
            entry.state = PoolOperationState::Running;
            entry.since = Timestamp::now();
            entry.tid = Some(tid);
        });
    }

    /// It does not come back.
    pub(super) fn give_up(&self) {
        self.change(|entry| entry.state = PoolOperationState::Stuck);
        self.queue.given_up.notify_waiters();
    }

    pub(super) fn is_given_up(&self) -> bool {
        self.change(|entry| entry.state == PoolOperationState::Stuck) == Some(true)
    }

    pub(super) fn thread(&self) -> Option<i32> {
        self.change(|entry| entry.tid).flatten()
    }
}
