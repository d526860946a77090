//! Goal Stopped or Absent: the ladder of a clean stop, and the tear-down after it.
//!
//! ```text
//! begun ──► Agent ── stop timeout ──► PowerButton ── power_button_wait ──► Quit ── quit_wait ──► Kill
//!   └──────────────────────────────── force ────────────────────────────────────────────────────┘
//! ```
//! Each rung is taken once; the last one again and again until the process is dead.

use std::time::Duration;

use hearth_types::observe::{ObservedProcess, ObservedTap, RunState};
use hearth_types::status::{Fate, Goal, Phase, StopRung, VmStatus};

use super::{SOON, Vm};
use crate::model::Step;
use crate::shared::{TapName, bridged};
use crate::transition::{self, elapsed, later};

impl Vm<'_, '_> {
    /// A VMM lives and should not.
    pub(super) fn take_down(&mut self, live: &ObservedProcess) {
        let reason = match self.goal {
            Goal::Absent => "it is being removed",
            _ => "the user stopped it",
        };
        self.climb(live, reason);
    }

    /// Takes the rung of the ladder that is due.
    pub(super) fn climb(&mut self, live: &ObservedProcess, reason: &str) {
        let now = self.world.now;
        let begun = self.status.stop.as_ref();
        let wanted = transition::stop_begun(&self.status, self.vm.generation, now, self.goal);
        if begun.is_none_or(|stop| stop.since > now) {
            // None, or the clock was set back: the ladder's clock starts now.
            self.set(wanted, Some("vm.stopping"), reason);
        } else {
            let next = VmStatus {
                stop: self.status.stop.clone(),
                ..wanted
            };
            self.set(next, None, reason);
        }
        let Some(stop) = self.status.stop.clone() else {
            return;
        };
        let rung = self.due_rung(elapsed(stop.since, now));
        let taken = stop.rung >= Some(rung);
        let next = match self.rung_ends(stop.rung.unwrap_or(rung).max(rung)) {
            Some(after) => later(stop.since, after),
            None => later(now, self.world.policy.quit_wait),
        };
        self.plan.due(next);
        if taken && rung != StopRung::Kill {
            return;
        }
        // A paused guest hears neither its agent nor the power button.
        let stands = matches!(
            self.run_state(),
            Some(RunState::Paused | RunState::DiskFull)
        );
        if rung < StopRung::Quit && stands {
            self.plan.push(
                Step::Resume {
                    vm: self.vm.id,
                    identity: live.identity.clone(),
                },
                "a paused guest cannot shut down",
            );
        }
        self.plan.push(
            Step::Stop {
                vm: self.vm.id,
                identity: live.identity.clone(),
                rung,
            },
            reason,
        );
    }

    /// How long after the stop began a rung gives way to the next one; the last one never does.
    fn rung_ends(&self, rung: StopRung) -> Option<Duration> {
        let policy = &self.world.policy;
        let timeout = self.vm.stop_timeout.unwrap_or(self.vm.spec.stop_timeout);
        let agent = timeout.as_duration();
        let power_button = agent.saturating_add(policy.power_button_wait);
        match rung {
            StopRung::Agent => Some(agent),
            StopRung::PowerButton => Some(power_button),
            StopRung::Quit => Some(power_button.saturating_add(policy.quit_wait)),
            StopRung::Kill => None,
        }
    }

    /// The rung that is due so long after the stop began.
    fn due_rung(&self, elapsed: Duration) -> StopRung {
        if self.vm.force_stop {
            return StopRung::Kill;
        }
        [StopRung::Agent, StopRung::PowerButton, StopRung::Quit]
            .into_iter()
            .find(|rung| self.rung_ends(*rung).is_some_and(|end| elapsed < end))
            .unwrap_or(StopRung::Kill)
    }

    /// No VMM lives and none should; disk and record stay.
    pub(super) fn settle(&mut self) {
        let phase = match self.status.phase {
            kept @ (Phase::Created | Phase::Exited | Phase::Failed) => kept,
            _ => Phase::Exited,
        };
        let mut next = VmStatus {
            phase,
            observed_generation: self.vm.generation,
            stop: None,
            next_start: None,
            ..self.status.clone().into_owned()
        };
        if let Some(bootstrap) = &mut next.bootstrap {
            let waited = next.wait.is_some() || bootstrap.fate == Fate::Left;
            next.reason = next.reason.filter(|_| !waited);
            bootstrap.fate = Fate::Stopped;
        }
        next.wait = None;
        self.set(next, None, "the user stopped it");
        self.end_shims();
        self.remove_taps("its VM does not run");
    }

    /// No VMM lives and all the VM has should go.
    pub(super) fn tear_down(&mut self) {
        let next = VmStatus {
            phase: Phase::Removing,
            observed_generation: self.vm.generation,
            stop: None,
            next_start: None,
            ..self.status.clone().into_owned()
        };
        self.set(next, Some("vm.removing"), "it is being removed");
        if self.shim_left() {
            return;
        }
        self.remove_taps("its VM is being removed");
        if self.seen.dir.is_some() {
            self.plan.push(
                Step::RemoveDir { vm: self.vm.id },
                "its VM is being removed",
            );
        }
        match self.still_there() {
            None => {
                let reason = "nothing of it is left on the host";
                if let Some(ip) = self.vm.leases.ip {
                    self.plan
                        .push(Step::FlushConntrack { vm: self.vm.id, ip }, reason);
                }
                self.plan.push(Step::Forget { vm: self.vm.id }, reason);
            }
            // It goes in this pass; the next one proves it.
            Some("") => self.plan.due(self.world.now),
            Some(what) => {
                self.plan
                    .note(Some(self.vm), format!("cannot be forgotten: {what}"));
                self.plan.due(later(self.world.now, SOON * 10));
            }
        }
    }

    /// Why the VM cannot be forgotten yet: an empty text when this pass removes what is left.
    fn still_there(&self) -> Option<&'static str> {
        let observed = &self.world.observed;
        if observed.dirs.known().is_none() {
            return Some("VM folders are unknown");
        }
        let network = bridged(self.vm) || self.vm.leases.ip.is_some();
        if network && observed.taps.known().is_none() {
            return Some("TAPs are unknown");
        }
        let named = match &self.pass.named {
            Some(named) => named.names(self.vm),
            None if network => return Some("network rules are unknown"),
            None => false,
        };
        let left = self.seen.dir.is_some() || !self.seen.taps.is_empty() || named;
        left.then_some("")
    }

    pub(super) fn remove_taps(&mut self, reason: &str) {
        self.remove_taps_but(None, reason);
    }

    pub(super) fn remove_taps_but(&mut self, keep: Option<TapName>, reason: &str) {
        let goes = |tap: &&ObservedTap| keep.is_none_or(|keep| !keep.is(&tap.name));
        for tap in self.seen.taps.iter().filter(goes) {
            self.plan.push(
                Step::RemoveTap {
                    vm: self.vm.id,
                    tap: tap.clone(),
                },
                reason,
            );
        }
    }
}
