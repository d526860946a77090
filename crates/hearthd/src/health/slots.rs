//! How many checks are made at once, and why those who say nothing hold up nobody.
//!
//! ```text
//!  answered in time the last time ──► one of 64 slots ──► asked ─┬► answers soon ──► slot free
//!                                                                └► silent ──► waiting room, slot free
//!  was silent the last time ────────► waiting room ─────► asked ──► answers soon ──► a slot next time
//! ```
//! Asking is work and takes a slot. Waiting for an answer is none, but it may take a descriptor: the waiting
//! room is as large as those allow. When it is full, who is silent keeps a slot.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use hearth_types::spec::health::CheckKind;
use rustix::process::{Resource, getrlimit};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Checks that are made at once.
const AT_ONCE: usize = 64;
/// Who has not answered after this is silent. A VMM or an agent that is well takes a few milliseconds.
const SOON: Duration = Duration::from_millis(250);
/// The waiting room takes one of so many of the daemon's descriptors.
const SHARE: u64 = 4;
/// The least and the most that wait.
const ROOM: (usize, usize) = (AT_ONCE, 8192);

/// Places for checks.
#[derive(Debug)]
pub(super) struct Slots {
    work: Semaphore,
    room: Semaphore,
}

impl Default for Slots {
    fn default() -> Self {
        let descriptors = getrlimit(Resource::Nofile).current;
        Self::new(AT_ONCE, room(descriptors))
    }
}

/// How many may wait with so many descriptors; without a limit as many as ever.
fn room(descriptors: Option<u64>) -> usize {
    let share = descriptors.map_or(u64::MAX, |most| most / SHARE);
    usize::try_from(share)
        .unwrap_or(usize::MAX)
        .clamp(ROOM.0, ROOM.1)
}

/// What a check remembers of those that it asked.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Silence(bool);

impl Slots {
    fn new(work: usize, room: usize) -> Self {
        Self {
            work: Semaphore::new(work),
            room: Semaphore::new(room),
        }
    }

    /// Makes a check when there is a place for it.
    pub(super) async fn take<T>(
        &self,
        kind: CheckKind,
        silence: &mut Silence,
        check: impl Future<Output = T>,
    ) -> T {
        let silent = silence.0 && only_waits(kind);
        let first = if silent { &self.room } else { &self.work };
        // Neither is ever closed.
        let mut place = first.acquire().await.ok();
        let mut check = pin!(check);
        if let Ok(made) = timeout(SOON, &mut check).await {
            silence.0 = false;
            return made;
        }
        silence.0 = true;
        if !silent
            && only_waits(kind)
            && let Ok(seat) = self.room.try_acquire()
        {
            place = Some(seat);
        }
        let made = check.await;
        drop(place);
        made
    }
}

/// Whether a check of this kind does nothing while it is not answered. The others use a thread,
/// and a disk that is slow gets no more of those for it.
const fn only_waits(kind: CheckKind) -> bool {
    !matches!(kind, CheckKind::Process | CheckKind::Console)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures::future::{join, join_all};
    use tokio::time::{Instant, sleep};

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(5);
    const INTERVAL: Duration = Duration::from_secs(30);

    /// Counts who is asked at the same time.
    #[derive(Default)]
    struct Asked {
        now: Cell<usize>,
        most: Cell<usize>,
    }

    impl Asked {
        async fn one(&self, takes: Duration) {
            self.now.set(self.now.get() + 1);
            self.most.set(self.most.get().max(self.now.get()));
            sleep(takes).await;
            self.now.set(self.now.get() - 1);
        }
    }

    /// Asks again and again; the longest time between two beginnings, without the first.
    async fn rounds(slots: &Slots, asked: &Asked, takes: Duration, rounds: u32) -> Duration {
        let mut silence = Silence::default();
        let (mut before, mut longest) = (None, Duration::ZERO);
        for round in 0..rounds {
            let due = Instant::now();
            let begun = slots.take(CheckKind::Agent, &mut silence, async {
                let begun = Instant::now();
                asked.one(takes).await;
                begun
            });
            let begun = begun.await;
            let apart = before.map_or(Duration::ZERO, |before| begun - before);
            if round > 1 {
                longest = longest.max(apart);
            }
            before = Some(begun);
            tokio::time::sleep_until(due.max(begun) + INTERVAL).await;
        }
        longest
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_who_are_silent_hold_up_nobody() {
        let (slots, asked) = (Slots::new(64, 256), Asked::default());
        let silent = join_all((0..1000).map(|_| rounds(&slots, &asked, TIMEOUT, 10)));
        let well = Duration::from_millis(5);
        let others = join_all((0..100).map(|_| rounds(&slots, &asked, well, 10)));
        let (silent, others) = join(silent, others).await;
        let most = others.into_iter().max().unwrap();
        assert!(most <= INTERVAL + SOON, "{most:?}");
        // They get in each other's way, and no further: a thousand of 5 s in a room of 256.
        let most = silent.into_iter().max().unwrap();
        assert!(most <= INTERVAL + 4 * TIMEOUT, "{most:?}");
        assert!(asked.most.get() <= 64 + 256, "{}", asked.most.get());
    }

    #[tokio::test(start_paused = true)]
    async fn a_room_that_is_full_leaves_them_their_slots() {
        let (slots, asked) = (Slots::new(4, 2), Asked::default());
        let all = (0..30).map(|_| rounds(&slots, &asked, TIMEOUT, 3));
        join_all(all).await;
        assert_eq!(asked.most.get(), 4 + 2);
        assert_eq!(
            (
                slots.work.available_permits(),
                slots.room.available_permits()
            ),
            (4, 2)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn who_uses_a_thread_keeps_its_slot_and_who_answers_again_has_one_again() {
        let slots = Slots::new(1, 1);
        let mut silence = Silence::default();
        let reading = slots.take(CheckKind::Console, &mut silence, async {
            sleep(TIMEOUT).await;
            slots.work.available_permits()
        });
        assert_eq!(reading.await, 0);
        let mut silence = Silence::default();
        let places = || {
            (
                slots.work.available_permits(),
                slots.room.available_permits(),
            )
        };
        let late = slots.take(CheckKind::Agent, &mut silence, async {
            sleep(TIMEOUT).await;
            places()
        });
        assert_eq!(late.await, (1, 0));
        let again = slots.take(CheckKind::Agent, &mut silence, async { places() });
        assert_eq!(again.await, (1, 0), "it was silent");
        let again = slots.take(CheckKind::Agent, &mut silence, async { places() });
        assert_eq!(again.await, (0, 1), "it has answered");
    }

    #[test]
    fn the_room_is_as_large_as_the_descriptors_allow() {
        assert_eq!(room(Some(64)), 64);
        assert_eq!(room(Some(1024)), 256);
        assert_eq!(room(Some(65_536)), 8192);
        assert_eq!(room(None), 8192);
    }
}
