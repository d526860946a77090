//! Goal Running or Paused.

use hearth_types::observe::{ObservedProcess, RunState};
use hearth_types::status::{Goal, Phase, StopRung, VmStatus};

use super::{UNTOLD, Vm};
use crate::bootstrap;
use crate::breaker;
use crate::index::word_is_new;
use crate::model::{PlannedStep, Step};
use crate::shared::{TapName, bridged};
use crate::transition::{self, elapsed, later};

/// How the reason of a VM begins whose VMM was stopped by a signal.
const SUSPENDED: &str = "its VMM is stopped by a signal";

fn is_suspended(reason: &str) -> bool {
    reason.starts_with(SUSPENDED)
}

impl Vm<'_, '_> {
    /// A VMM lives and should.
    pub(super) fn keep_up(&mut self, live: &ObservedProcess) {
        if word_is_new(self.vm) && self.status.stop.is_some() {
            self.climb(live, "it is stopped in order to be started again");
            return;
        }
        if self.put_down(live) {
            return;
        }
        if word_is_new(self.vm) || self.status.stop.is_some() {
            let next =
                transition::accepted(&self.status, self.vm.generation, true, &self.world.boot_id);
            self.set(next, None, "the user's newest word is taken up");
        }
        self.close_stable_breaker();
        let from = self.plan.steps.len();
        self.follow(live);
        // What cannot be put back holds up nothing that the user or the guest waits for.
        if !live.suspended {
            self.ensure_limits(live);
        }
        self.ensure_tap(true);
        self.forget_failure(live, from);
    }

    /// What could not be done to it while it ran is done, or need not be any more.
    fn forget_failure(&mut self, live: &ObservedProcess, from: usize) {
        let status = &self.status;
        let explained = live.suspended || status.disk_full.is_some() || status.pool_wait.is_some();
        let as_wanted = matches!(
            (self.run_state(), self.goal),
            (Some(RunState::Running), Goal::Running) | (Some(RunState::Paused), Goal::Paused)
        );
        let seen = !bridged(self.vm) || self.world.observed.taps.known().is_some();
        let recorded = |planned: &PlannedStep| matches!(planned.step, Step::SetStatus { .. });
        let idle = self.plan.steps[from..].iter().all(recorded);
        if status.reason.is_none() || explained || !as_wanted || !seen || !idle {
            return;
        }
        let next = VmStatus {
            reason: None,
            ..status.clone().into_owned()
        };
        self.set(next, None, "what had failed is done");
    }

    /// Does what its run state asks for.
    fn follow(&mut self, live: &ObservedProcess) {
        if live.suspended {
            return self.say_suspended(live);
        }
        if self.status.reason.as_deref().is_some_and(is_suspended) {
            let next = VmStatus {
                reason: None,
                ..self.status.clone().into_owned()
            };
            self.set(next, Some("vm.vmm_continued"), "its VMM goes on");
        }
        if self.waits_for_pool(live) {
            return;
        }
        match (self.run_state(), self.goal) {
            (Some(RunState::Running), Goal::Paused) => {
                self.plan.push(
                    Step::Pause {
                        vm: self.vm.id,
                        identity: live.identity.clone(),
                    },
                    "it should be paused",
                );
                self.set_phase(Phase::Paused);
            }
            (Some(RunState::Paused), Goal::Running) => {
                self.plan.push(
                    Step::Resume {
                        vm: self.vm.id,
                        identity: live.identity.clone(),
                    },
                    "it should run and is paused",
                );
                self.set_phase(Phase::Running);
            }
            (Some(RunState::Running), _) => {
                if self.found_room() {
                    self.set_phase(Phase::Running);
                }
            }
            (Some(RunState::Paused), _) => self.set_phase(Phase::Paused),
            (Some(RunState::DiskFull), _) => self.wait_for_room(live),
            (Some(RunState::Broken), _) => self.end_broken(live),
            (Some(RunState::Ended), _) => self.see_off(live),
            // Not asked, or no answer: it lives, and that is all that is known.
            (None, Goal::Paused) if self.status.phase != Phase::Paused => {
                self.plan.due(later(self.world.now, UNTOLD));
                self.set_phase(Phase::Running);
            }
            (None, _) => {
                if !matches!(self.status.phase, Phase::Running | Phase::Paused) {
                    self.set_phase(Phase::Running);
                }
            }
        }
    }

    /// Somebody stopped its VMM with a signal. It may be a debugger, so it is left alone; but
    /// nobody should have to guess why the guest does not answer.
    fn say_suspended(&mut self, live: &ObservedProcess) {
        let reason = format!(
            "{SUSPENDED} (pid {pid}): `kill -CONT {pid}` lets it go on",
            pid = live.identity.pid
        );
        let next = VmStatus {
            phase: Phase::Running,
            reason: Some(reason),
            ..self.status.clone().into_owned()
        };
        self.set(
            next,
            Some("vm.vmm_suspended"),
            "its VMM was stopped by a signal",
        );
    }

    /// The guest has ended, and its VMM should end by itself within moments. If not, it is
    /// asked to quit (phase `Stopping` says that it was), and at last it is killed.
    fn see_off(&mut self, live: &ObservedProcess) {
        let since = self.ending_since("its guest has ended");
        let (now, patience) = (self.world.now, self.world.policy.quit_wait);
        let asked = self.status.phase == Phase::Stopping;
        let rung = match elapsed(since, now) {
            age if age < patience => {
                let why = "its guest has ended; its VMM is about to end";
                return self.wait(since, patience, why);
            }
            age if age < patience * 2 && asked => {
                return self.plan.due(later(since, patience * 2));
            }
            _ if asked => StopRung::Kill,
            _ => StopRung::Quit,
        };
        self.plan.push(
            Step::Stop {
                vm: self.vm.id,
                identity: live.identity.clone(),
                rung,
            },
            "its guest has ended and its VMM does not",
        );
        self.plan.due(later(now, patience));
        self.set_phase(Phase::Stopping);
    }

    /// Stores what its VMM says. The executor of Pause and Resume tells the world.
    pub(super) fn set_phase(&mut self, phase: Phase) {
        if self.status.phase == phase {
            return;
        }
        let next = VmStatus {
            phase,
            reason: None,
            ..self.status.clone().into_owned()
        };
        self.set(next, None, "what its VMM says");
    }

    /// No VMM lives and one should, if policy and time allow.
    pub(super) fn bring_up(&mut self) {
        let restart = self.status.phase == Phase::Backoff
            || (bootstrap::is_due(self.world, self.vm)
                && !self.status.asked
                && !word_is_new(self.vm))
            || (self.vm.status.vmm.is_some()
                && self.status.phase == Phase::Starting
                && !word_is_new(self.vm));
        if word_is_new(self.vm) {
            let next =
                transition::accepted(&self.status, self.vm.generation, false, &self.world.boot_id);
            self.set(next, None, "the user's newest word is taken up");
        }
        let phase = self.status.phase;
        match phase {
            Phase::Exited | Phase::Failed => {
                self.remove_taps("it has ended and is not started again");
                if self.vm.spec.auto_remove {
                    // The end is stored first, for those who wait for it; then it goes.
                    self.plan.due(self.world.now);
                }
                return;
            }
            _ if !self.breaker_lets() => return,
            Phase::Backoff if !self.backoff_over() => return,
            _ if !self.host_lets() => return,
            _ if !self.nothing_to_wait_for() => return,
            _ => {}
        }
        self.start(restart);
    }

    /// A run on trial that has become stable closes the breaker.
    fn close_stable_breaker(&mut self) {
        if self.status.recovery.breaker.is_none() {
            return;
        }
        let (now, patience) = (self.world.now, self.world.policy.stable_after);
        let since = self.status.started_at.unwrap_or(now);
        if elapsed(since, now) < patience {
            return self.plan.due(later(since, patience));
        }
        let mut next = self.status.clone().into_owned();
        next.recovery.breaker = None;
        self.set(next, None, "its run is stable: its breaker closes");
    }

    /// Whether the breaker lets it start. When the cool-down is over it is half open from here on.
    fn breaker_lets(&mut self) -> bool {
        let (now, policy) = (self.world.now, &self.world.policy);
        let recovery = &self.status.recovery;
        let Some(breaker) = &recovery.breaker else {
            return true;
        };
        if breaker.trial.is_some() || self.status.asked {
            return true;
        }
        let rules = breaker::rules(policy, &self.vm.spec);
        let Some(open) = breaker::forbids(recovery, &rules, now) else {
            let next = VmStatus {
                recovery: breaker::on_trial(recovery, now),
                ..self.status.clone().into_owned()
            };
            self.set(next, None, "its breaker is half open: one start on trial");
            return true;
        };
        let (until, reason) = (open.until, breaker::reason(open));
        self.plan
            .note(Some(self.vm), format!("is not started: {reason}"));
        self.plan.due(until);
        let next = VmStatus {
            phase: Phase::Backoff,
            next_start: Some(until),
            reason: Some(reason),
            ..self.status.clone().into_owned()
        };
        self.set(next, None, "its breaker is open");
        false
    }

    /// Whether the host's breaker lets it start.
    fn host_lets(&mut self) -> bool {
        let Some(open) = &self.pass.host_breaker else {
            return true;
        };
        if self.status.asked || open.lets(self.vm.id) {
            return true;
        }
        let (until, reason) = (open.until, open.reason());
        self.plan
            .note(Some(self.vm), format!("is not started: {reason}"));
        // Once the time is up, it is the trial's end that wakes the others.
        if until > self.world.now {
            self.plan.due(until);
        }
        false
    }

    /// Whether the wait before the next start is over; else the next pass is due then.
    fn backoff_over(&mut self) -> bool {
        let now = self.world.now;
        match self.status.next_start {
            // A wait that no back-off can have made: the clock was set back. Do not wait for it.
            Some(at) if at > later(now, self.world.policy.backoff_max) => true,
            Some(at) if at > now => {
                self.plan.note(
                    Some(self.vm),
                    format!("waits until {at} for its next start"),
                );
                self.plan.due(at);
                false
            }
            _ => true,
        }
    }

    fn start(&mut self, restart: bool) {
        let observed = &self.world.observed;
        if observed.dirs.known().is_none() || (bridged(self.vm) && observed.taps.known().is_none())
        {
            // Why is said once for all VMs.
            self.plan.note(
                Some(self.vm),
                "is not started: its folder or TAP is unknown",
            );
            return;
        }
        if bridged(self.vm) && self.vm.leases.ip.is_none() {
            self.plan.note(
                Some(self.vm),
                "is not started: no address is leased to it; remove it and create it again",
            );
            return;
        }
        if self.shim_left() {
            return;
        }
        let missing = match self.seen.dir {
            Some(dir) if dir.has_disk && !dir.behind => None,
            Some(dir) if dir.has_disk => {
                Some("its specification asks for more disks, or larger ones")
            }
            _ => Some("its folder or root disk is missing"),
        };
        if let Some(missing) = missing {
            self.plan
                .push(Step::EnsureDisks { vm: self.vm.id }, missing);
        }
        self.ensure_tap(false);
        let reason = match (restart, &self.status.last_end) {
            (true, Some(end)) => format!("restart policy {}: {}", self.vm.spec.restart, end.reason),
            (true, None) => format!("restart policy {}", self.vm.spec.restart),
            (false, _) => "it should run and no VMM of it lives".to_owned(),
        };
        self.plan.push(
            Step::StartVmm {
                vm: self.vm.id,
                restart,
            },
            reason,
        );
        if self.goal == Goal::Paused {
            self.plan.due(self.world.now);
        }
    }

    fn ensure_tap(&mut self, alive: bool) {
        if self.world.observed.taps.known().is_none() {
            return;
        }
        if !bridged(self.vm) {
            self.remove_taps("it has no network");
            return;
        }
        let name = TapName::of(self.vm.id);
        self.remove_taps_but(Some(name), "it is not the VM's TAP of today");
        let reason = match self.seen.taps.iter().find(|tap| name.is(&tap.name)) {
            Some(tap) if tap.attached => return,
            Some(_) => "its TAP is down or not a port of the bridge",
            None => "its TAP is missing",
        };
        if alive && !self.seen.taps.iter().any(|tap| name.is(&tap.name)) {
            self.plan.note(
                Some(self.vm),
                "lost its TAP while it ran: restart it to connect it again",
            );
        }
        self.plan.push(Step::EnsureTap { vm: self.vm.id }, reason);
    }
}
