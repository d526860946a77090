//! The simulated host behind the traits of the rooms: VMM driver, network, volumes.
//!
//! All handles are clones of one [`Rooms`]. Time is tokio's, so a test that pauses tokio's
//! clock runs in virtual time. The agents of simulated guests answer who asks whether they are there,
//! unless the guest hangs, and do nothing else (or are missing, if the guest says so), so a stop
//! goes on with the power button; there is no console.

mod agent;
mod net;
mod vmm;
mod volumes;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use hearth_types::observe::ObservedProcess;
use hearth_types::process::ProcessIdentity;

use crate::host::SimHost;

#[derive(Debug)]
struct Shared {
    host: Mutex<SimHost>,
    /// Until when nothing happens on the host by itself, if that was looked up since the last
    /// change; `None` in it: ever. Written only by who has the lock of the host.
    quiet: Mutex<Option<Option<Timestamp>>>,
    /// Counts changes: who waits for a death looks again.
    changes: watch::Sender<u64>,
    /// The kernel tells of a change of the network.
    network: Notify,
    /// Tokio's time that goes with the host's time at the beginning.
    began: (Instant, Timestamp),
}

/// A handle of the simulated host: driver, network and volumes in one.
#[derive(Debug, Clone)]
pub struct Rooms(Arc<Shared>);

impl Rooms {
    /// Puts a host behind the traits. Call it within a tokio runtime.
    #[must_use]
    pub fn new(host: SimHost) -> Self {
        let began = (Instant::now(), host.now);
        Self(Arc::new(Shared {
            host: Mutex::new(host),
            quiet: Mutex::new(None),
            changes: watch::Sender::new(0),
            network: Notify::new(),
            began,
        }))
    }

    /// The host's time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let (began, at) = self.0.began;
        hearth_plan::transition::later(at, began.elapsed())
    }

    /// The boot id.
    #[must_use]
    pub fn boot_id(&self) -> String {
        self.lock().boot_id()
    }

    /// Our living processes.
    ///
    /// # Errors
    /// The reason, when the survey is set to fail.
    pub fn processes(&self) -> Result<Vec<ObservedProcess>, String> {
        match self.look().survey().processes {
            hearth_types::Survey::Known(processes) => Ok(processes),
            hearth_types::Survey::Unknown(why) => Err(why),
        }
    }

    /// Whether this very process lives.
    #[must_use]
    pub fn lives(&self, identity: &ProcessIdentity) -> bool {
        let host = self.look();
        host.processes
            .get(&identity.pid)
            .is_some_and(|process| process.identity == *identity)
    }

    /// Does something on the host, as fate or a test would, and lets everybody look again.
    pub fn change<T>(&self, change: impl FnOnce(&mut SimHost) -> T) -> T {
        let done = {
            let mut host = self.look();
            let done = change(&mut host);
            *self.quiet() = None;
            done
        };
        self.0.changes.send_modify(|count| *count += 1);
        done
    }

    /// Somebody changes the network, and the kernel tells of it.
    pub fn change_network(&self, change: impl FnOnce(&mut SimHost)) {
        self.change(change);
        self.0.network.notify_one();
    }

    /// Returns when the kernel tells of a change of the network.
    pub(crate) async fn network_news(&self) {
        self.0.network.notified().await;
    }

    /// A look at a kind of objects begins: it is counted, and hangs while that is wanted.
    pub async fn look_begins(&self, kind: &'static str) {
        *self.lock().looks.entry(kind).or_default() += 1;
        self.until(|host| !host.hung.contains(kind)).await;
    }

    /// Looks at the host as it is now.
    pub fn see<T>(&self, look: impl FnOnce(&SimHost) -> T) -> T {
        look(&self.look())
    }

    /// Returns when something has changed on the host, or happens there by itself.
    pub async fn news(&self) {
        let mut changes = self.0.changes.subscribe();
        let next = self.next_event(&self.look());
        match next.map(|at| hearth_plan::transition::elapsed(self.now(), at)) {
            // Either is news.
            Some(wait) => {
                let wait = wait.max(std::time::Duration::from_millis(1));
                let _either = tokio::time::timeout(wait, changes.changed()).await;
            }
            // It cannot end: the sender is ours.
            None => drop(changes.changed().await),
        }
    }

    /// The host as it is now.
    fn look(&self) -> MutexGuard<'_, SimHost> {
        let now = self.now();
        let mut host = self.lock();
        if self.next_event(&host).is_some_and(|at| at <= now) {
            host.advance(now);
            *self.quiet() = None;
        } else {
            host.now = host.now.max(now);
        }
        host
    }

    /// The next thing that happens on the host by itself. Looked for among all processes only
    /// after a change: everybody asks, again and again.
    fn next_event(&self, host: &SimHost) -> Option<Timestamp> {
        *self.quiet().get_or_insert_with(|| host.next_event())
    }

    fn quiet(&self) -> MutexGuard<'_, Option<Option<Timestamp>>> {
        self.0.quiet.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, SimHost> {
        // A test that panicked with the lock has failed already.
        self.0.host.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when `done` holds, looking again at each change and each event of the host.
    async fn until(&self, done: impl Fn(&SimHost) -> bool) {
        while !done(&self.look()) {
            self.news().await;
        }
    }
}
