//! What is known of one VM's health.

use std::collections::VecDeque;
use std::time::Duration;

use hearth_types::api::{CheckResult, CheckView, Health, VmHealth};
use hearth_types::spec::health::{Check, OnFailure};
use jiff::Timestamp;

use super::machine::{Machine, worst};
use super::probe::Outcome;

/// Results kept of each check.
const HISTORY: usize = 10;
/// Characters kept of a message: a guest may write it.
const MESSAGE_MAX: usize = 400;

/// All checks of a VM.
#[derive(Debug, Default)]
pub(super) struct Book {
    pages: Vec<Page>,
    since: Option<Timestamp>,
    /// The world was told that it is unhealthy, and not yet that it is healthy again.
    told_unhealthy: bool,
}

/// One check.
#[derive(Debug)]
struct Page {
    check: Check,
    machine: Machine,
    since: Timestamp,
    history: VecDeque<CheckResult>,
}

/// What a result has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    /// The result counts: the guest was not only coming up, and the check could be made.
    pub(super) counts: bool,
    /// The check's state is another one.
    pub(super) state: bool,
    /// The VM's health was this and is that.
    pub(super) health: Option<(Health, Health)>,
    /// What the world has to be told: that it is unhealthy, or healthy again.
    pub(super) told: Option<Health>,
    /// Why it is not well.
    pub(super) reason: Option<String>,
    /// The check has become unhealthy and asks for a restart.
    pub(super) calls_for_restart: bool,
}

impl Page {
    fn new(check: &Check, now: Timestamp) -> Self {
        Self {
            machine: Machine::new(check),
            check: check.clone(),
            since: now,
            history: VecDeque::new(),
        }
    }

    fn calls_for_restart(&self) -> bool {
        self.check.on_failure == OnFailure::Restart && self.machine.state() == Health::Unhealthy
    }

    /// Why it is as it is.
    fn reason(&self) -> String {
        let message = self.history.front().map(|last| last.message.as_str());
        let message = message.unwrap_or("it was not made yet");
        format!("check {}: {message}", self.check.name)
    }

    fn view(&self) -> CheckView {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        CheckView {
            name: self.check.name.clone(),
            kind: self.check.probe.kind(),
            state: self.machine.state(),
            since: self.since,
            failures: self.machine.failures(),
            successes: self.machine.successes(),
            failure_threshold: self.check.failure_threshold,
            success_threshold: self.check.success_threshold,
            interval_millis: millis(self.check.interval),
            timeout_millis: millis(self.check.timeout),
            on_failure: self.check.on_failure,
            history: self.history.iter().cloned().collect(),
        }
    }
}

impl Book {
    /// These checks are made from now on. What is known of one that stays is kept. Whether
    /// the VM's health is another one by that.
    pub(super) fn set(&mut self, checks: &[Check], now: Timestamp) -> bool {
        let before = self.health();
        let mut old = std::mem::take(&mut self.pages);
        self.pages = checks
            .iter()
            .map(
                |check| match old.iter().position(|page| page.check == *check) {
                    Some(index) => old.swap_remove(index),
                    None => Page::new(check, now),
                },
            )
            .collect();
        let changed = before != self.health();
        if changed {
            self.since = Some(now);
        }
        changed
    }

    /// All in one word.
    pub(super) fn health(&self) -> Health {
        worst(self.pages.iter().map(|page| page.machine.state()))
    }

    /// Whether the guest of a run of this age may still be coming up.
    pub(super) fn booting(&self, index: usize, age: Duration) -> bool {
        let page = self.pages.get(index);
        page.is_some_and(|page| page.machine.booting(age))
    }

    /// Nothing may be asked now.
    pub(super) fn interrupted(&mut self, index: usize) {
        if let Some(page) = self.pages.get_mut(index) {
            page.machine.interrupted();
        }
    }

    /// When the next attempt begins, after the beginning of the last one.
    pub(super) fn rest(&self, index: usize, check: &Check, age: Duration, spread: f64) -> Duration {
        let page = self.pages.get(index);
        page.map_or(check.interval, |page| page.machine.rest(check, age, spread))
    }

    /// Takes a result of an attempt that began when the run was this old.
    pub(super) fn result(
        &mut self,
        index: usize,
        outcome: Outcome,
        took: Duration,
        age: Duration,
        now: Timestamp,
    ) -> Change {
        let before = self.health();
        let Some(page) = self.pages.get_mut(index) else {
            return Change::nothing();
        };
        let (was, called) = (page.machine.state(), page.calls_for_restart());
        let counts = page.machine.record(outcome.verdict, age);
        page.history.push_front(CheckResult {
            at: now,
            verdict: outcome.verdict,
            millis: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            message: shortened(&outcome.message),
        });
        page.history.truncate(HISTORY);
        let state = page.machine.state() != was;
        if state {
            page.since = now;
        }
        let calls_for_restart = page.calls_for_restart() && !called;
        let health = self.health();
        if health != before {
            self.since = Some(now);
        }
        Change {
            counts,
            state,
            health: (health != before).then_some((before, health)),
            told: self.tell(health),
            reason: self.reason(),
            calls_for_restart,
        }
    }

    /// What the world has to be told of this health.
    fn tell(&mut self, health: Health) -> Option<Health> {
        let told = match health {
            Health::Unhealthy if !self.told_unhealthy => Some(true),
            Health::Healthy if self.told_unhealthy => Some(false),
            _ => None,
        }?;
        self.told_unhealthy = told;
        Some(health)
    }

    /// Why it is not well: the worst of its checks.
    pub(super) fn reason(&self) -> Option<String> {
        let health = self.health();
        if matches!(health, Health::Healthy | Health::None) {
            return None;
        }
        let mut pages = self.pages.iter();
        pages
            .find(|page| page.machine.state() == health)
            .map(Page::reason)
    }

    /// Since when and why a check asks for a restart, if one does.
    pub(super) fn calls_for_restart(&self) -> Option<(Timestamp, String)> {
        let pages = self.pages.iter().filter(|page| page.calls_for_restart());
        let first = pages.min_by_key(|page| page.since)?;
        Some((first.since, first.reason()))
    }

    /// As the API shows it.
    pub(super) fn view(&self) -> VmHealth {
        VmHealth {
            health: self.health(),
            since: self.since,
            reason: self.reason(),
            checks: self.pages.iter().map(Page::view).collect(),
        }
    }
}

impl Change {
    const fn nothing() -> Self {
        Self {
            counts: false,
            state: false,
            health: None,
            told: None,
            reason: None,
            calls_for_restart: false,
        }
    }
}

/// One line of a bounded length.
fn shortened(message: &str) -> String {
    let line = message.trim().chars().take(MESSAGE_MAX);
    line.map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests;
