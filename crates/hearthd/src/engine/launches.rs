//! How many VMMs are launched at once.
//!
//! Whatever asks for many VMs at once (a file of a hundred, a user's loop) is served a few at a time:
//! each launch has a deadline, and systemd makes units one after another. A hundred launches at
//! once would all be late, and so all fail, on a host that makes each of them in a fraction of a second.

use std::num::NonZero;

use hearth_plan::Step;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::Engine;

/// Launches for each CPU: most of one is waiting (for systemd, the kernel, the VMM's first word).
const FOR_EACH_CPU: usize = 4;
/// The least, which a host of one CPU makes well within a launch's deadline …
const LEAST: usize = 8;
/// … and the most: more than this does not make systemd faster.
const MOST: usize = 64;

/// How many VMMs are launched at once on this host.
#[must_use]
pub fn launches_at_once() -> usize {
    let cpus = std::thread::available_parallelism().map_or(1, NonZero::get);
    (cpus * FOR_EACH_CPU).clamp(LEAST, MOST)
}

/// Whose turn it is to launch a VMM.
#[derive(Debug)]
pub(super) struct Launches(Semaphore);

impl Default for Launches {
    fn default() -> Self {
        Self(Semaphore::new(launches_at_once()))
    }
}

impl Engine {
    /// Waits for a turn, if the step is one that launches a VMM. What the user has said meanwhile
    /// is looked at after it.
    pub(super) async fn turn_to_launch(&self, step: &Step) -> Option<SemaphorePermit<'_>> {
        if !matches!(step, Step::StartVmm { .. }) {
            return None;
        }
        // It is never closed.
        self.launches.0.acquire().await.ok()
    }
}
