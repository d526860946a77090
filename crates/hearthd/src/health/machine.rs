//! What a check's results add up to: pure, no clock and no I/O.
//!
//! ```text
//!             pass                  fail                fails = failure threshold
//!  Starting ────────► Healthy ───────────► Degraded ─────────────► Unhealthy
//!     │                 ▲  ▲────── pass ──────┘                        │
//!     │                 └──────── passes = success threshold ──────────┤
//!     └── start period over, fails = failure threshold ────────────────┘ ◄─
//!
//!  any ── cannot be made, failure-threshold times in a row ──► Unknown ── it can ──► where it was
//! ```
//! A check that cannot be made never counts as a failure. In the start period, until the
//! first success, neither does a failure.

use std::time::Duration;

use hearth_types::api::{Health, Verdict};
use hearth_types::spec::health::Check;

/// The shortest pause between two attempts while the guest comes up.
const BOOT_PAUSE: Duration = Duration::from_millis(500);
/// The longest one.
const LONG_BOOT_PAUSE: Duration = Duration::from_secs(5);

/// One check's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Machine {
    /// What it was by the last results that say something; never `Unknown` or `None`.
    settled: Health,
    /// Failures in a row.
    failures: u32,
    /// Successes in a row.
    successes: u32,
    /// Attempts in a row that could not be made.
    unknowns: u32,
    failure_threshold: u32,
    success_threshold: u32,
    start_period: Duration,
}

impl Machine {
    /// Nothing is known yet.
    pub(crate) fn new(check: &Check) -> Self {
        Self {
            settled: Health::Starting,
            failures: 0,
            successes: 0,
            unknowns: 0,
            failure_threshold: check.failure_threshold.max(1),
            success_threshold: check.success_threshold.max(1),
            start_period: check.start_period,
        }
    }

    /// What it says now.
    pub(crate) const fn state(&self) -> Health {
        if self.unknowns >= self.failure_threshold {
            Health::Unknown
        } else {
            self.settled
        }
    }

    /// Failures in a row.
    pub(crate) const fn failures(&self) -> u32 {
        self.failures
    }

    /// Successes in a row.
    pub(crate) const fn successes(&self) -> u32 {
        self.successes
    }

    /// Whether a guest whose run is this old may still be coming up.
    pub(crate) fn booting(&self, age: Duration) -> bool {
        self.settled == Health::Starting && self.failures == 0 && age < self.start_period
    }

    /// Takes a result of an attempt that began when the run was this old. Whether it counts.
    pub(crate) fn record(&mut self, verdict: Verdict, age: Duration) -> bool {
        if verdict != Verdict::Pass && self.booting(age) {
            return false;
        }
        match verdict {
            Verdict::Pass => self.passed(),
            Verdict::Fail => self.failed(),
            Verdict::Unknown => self.unknowns = self.unknowns.saturating_add(1),
        }
        verdict != Verdict::Unknown
    }

    fn passed(&mut self) {
        self.unknowns = 0;
        self.failures = 0;
        self.successes = self.successes.saturating_add(1);
        if self.settled != Health::Unhealthy || self.successes >= self.success_threshold {
            self.settled = Health::Healthy;
        }
    }

    fn failed(&mut self) {
        self.unknowns = 0;
        self.successes = 0;
        self.failures = self.failures.saturating_add(1);
        self.settled = match self.settled {
            _ if self.failures >= self.failure_threshold => Health::Unhealthy,
            Health::Healthy => Health::Degraded,
            settled => settled,
        };
    }

    /// Nothing was asked for a while, as nothing is of a paused VM: rows begin anew.
    pub(crate) fn interrupted(&mut self) {
        self.unknowns = 0;
        self.successes = 0;
        match self.settled {
            // As many failures as made it so.
            Health::Unhealthy => {}
            Health::Degraded => {
                self.settled = Health::Healthy;
                self.failures = 0;
            }
            _ => self.failures = 0,
        }
    }

    /// How long after the beginning of the last attempt the next one begins. `age` is the run's;
    /// `spread`, below 1, takes up to a tenth from the interval.
    ///
    /// What is in doubt is asked again after the time that an answer may take, so that a guest that
    /// hangs is known to after one interval and as many timeouts as there may be failures.
    pub(crate) fn rest(&self, check: &Check, age: Duration, spread: f64) -> Duration {
        let doubt = match self.settled {
            Health::Unhealthy => self.successes > 0,
            _ => self.failures > 0,
        };
        if self.booting(age) {
            let pause = (age / 8).clamp(BOOT_PAUSE, LONG_BOOT_PAUSE);
            return pause.min(check.interval);
        }
        if doubt && self.unknowns == 0 {
            return check.timeout.min(check.interval);
        }
        check.interval.mul_f64(1.0 - 0.1 * spread.clamp(0.0, 1.0))
    }
}

/// All checks in one word: the worst.
pub(crate) fn worst(states: impl IntoIterator<Item = Health>) -> Health {
    const fn badness(state: Health) -> u8 {
        match state {
            Health::None => 0,
            Health::Healthy => 1,
            Health::Unknown => 2,
            Health::Degraded => 3,
            Health::Starting => 4,
            Health::Unhealthy => 5,
        }
    }
    states
        .into_iter()
        .max_by_key(|state| badness(*state))
        .unwrap_or(Health::None)
}

#[cfg(test)]
mod tests;
