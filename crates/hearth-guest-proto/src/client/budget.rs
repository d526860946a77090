//! How much a guest may say that nobody has asked it.
//!
//! Each frame costs the host time: it is summed up, read as JSON, looked up. What was asked for is paid by
//! who asked: a reader's window, a ping, a request. The rest comes out of a bucket that fills up slowly. A
//! guest that empties it is hung up on: however fast it sends, it has no more of the host's time than that.

use std::time::Duration;

use tokio::time::Instant;

/// What the bucket holds when nobody has asked for anything, in bytes.
const MOST: u64 = 4 << 20;
/// What flows in, in bytes each second: fifty programs' beginnings and ends, and more.
const EACH_SECOND: u64 = 64 << 10;
/// The most that it holds at all.
const MOST_EARNED: u64 = 64 << 20;
/// The least that a frame costs, in bytes: small ones cost time, too.
const LEAST: u64 = 256;

/// The bucket.
#[derive(Debug)]
pub(super) struct Budget {
    left: u64,
    filled: Instant,
    spent: bool,
}

impl Budget {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            left: MOST,
            filled: now,
            spent: false,
        }
    }

    /// A frame came, with a payload of so many bytes, that nobody had asked for.
    pub(super) fn spend(&mut self, payload: usize) {
        let cost = u64::try_from(payload).unwrap_or(u64::MAX).max(LEAST);
        match self.left.checked_sub(cost) {
            Some(left) => self.left = left,
            None => self.spent = true,
        }
    }

    /// Frames of so many bytes may come because of something that we did.
    pub(super) fn earn(&mut self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.left = self.left.saturating_add(bytes).min(MOST_EARNED);
    }

    /// It has said more than it may.
    pub(super) fn is_spent(&self) -> bool {
        self.spent
    }

    /// Time has gone by.
    pub(super) fn fill(&mut self, now: Instant) {
        let gone = now.saturating_duration_since(self.filled);
        let whole = Duration::from_secs(gone.as_secs());
        self.filled += whole;
        let more = EACH_SECOND.saturating_mul(whole.as_secs());
        if self.left < MOST {
            self.left = self.left.saturating_add(more).min(MOST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_ends_it_and_a_trickle_does_not() {
        let mut now = Instant::now();
        let mut budget = Budget::new(now);
        let mut frames = 0;
        while !budget.is_spent() {
            budget.spend(1);
            frames += 1;
        }
        assert_eq!(frames, MOST / LEAST + 1);
        let mut budget = Budget::new(now);
        for _ in 0..3600 {
            for _ in 0..EACH_SECOND / LEAST {
                budget.spend(1);
            }
            now += Duration::from_secs(1);
            budget.fill(now);
        }
        assert!(!budget.is_spent());
    }

    #[test]
    fn what_is_earned_is_kept_and_has_an_end() {
        let now = Instant::now();
        let mut budget = Budget::new(now);
        budget.earn(10 << 20);
        budget.fill(now + Duration::from_secs(3600));
        for _ in 0..12 {
            budget.spend(1 << 20);
        }
        assert!(!budget.is_spent());
        for _ in 0..1000 {
            budget.earn(usize::MAX);
        }
        assert_eq!(budget.left, MOST_EARNED);
    }
}
