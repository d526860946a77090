//! A guest that its VMM has stopped, though nobody asked: for want of room, or by an error.
//!
//! ```text
//! a write finds no room ──► stopped, reason told ── wait is over ──► told to go on
//!                               ▲                                        │
//!                               └──────── stopped again: longer wait ◄───┤
//!                                             runs for a moment: over ◄──┘
//! ```
//! The guest loses nothing by it, so it is neither quit nor held against its health.

use std::time::Duration;

use hearth_types::observe::{ObservedProcess, RunState};
use hearth_types::status::{DiskFull, Goal, Phase, StopRung, VmStatus};
use jiff::Timestamp;

use super::Vm;
use crate::model::Step;
use crate::transition::{self, elapsed, later};

/// The wait before the first try; it doubles with each.
const FIRST: Duration = Duration::from_secs(1);
/// The longest one: room may come at any time, and a try costs next to nothing.
const LONGEST: Duration = Duration::from_secs(30);
/// A guest that goes on for so long has made the write that it was stopped at.
const SETTLED: Duration = Duration::from_secs(2);

const REASON: &str = "its disk has no room on the host: the guest is stopped at a write, loses \
                      nothing, and goes on when there is room";
const BROKEN: &str = "its VMM has stopped the guest by an internal error";

fn last_word(full: &DiskFull) -> Timestamp {
    full.tried_at.unwrap_or(full.since)
}

fn next_try(full: &DiskFull) -> Timestamp {
    let doubled = FIRST.saturating_mul(1 << full.tries.min(16));
    later(last_word(full), doubled.min(LONGEST))
}

impl Vm<'_, '_> {
    /// Whether the guest waits for room, or has just been told to go on.
    pub(super) fn waits_for_room(&self) -> bool {
        self.run_state() == Some(RunState::DiskFull) || self.status.disk_full.is_some()
    }

    /// A write of the guest has found no room.
    pub(super) fn wait_for_room(&mut self, live: &ObservedProcess) {
        let now = self.world.now;
        let known = self.status.disk_full.clone();
        // With a clock that was set back it begins anew.
        let known = known.filter(|full| last_word(full) <= now);
        let code = known.is_none().then_some("vm.disk_full");
        let full = known.unwrap_or(DiskFull {
            since: now,
            tries: 0,
            tried_at: None,
        });
        let at = next_try(&full);
        let next = VmStatus {
            phase: Phase::Paused,
            disk_full: Some(full),
            reason: Some(REASON.to_owned()),
            ..self.status.clone().into_owned()
        };
        self.set(next, code, "a write of its guest finds no room on the host");
        if self.goal != Goal::Running {
            return;
        }
        if now < at {
            return self.plan.due(at);
        }
        self.plan.push(
            Step::Resume {
                vm: self.vm.id,
                identity: live.identity.clone(),
            },
            "there may be room for its write",
        );
        self.plan.due(later(now, SETTLED));
    }

    /// The guest runs after it had found no room: `false` until it has gone on for a moment.
    pub(super) fn found_room(&mut self) -> bool {
        let Some(full) = &self.status.disk_full else {
            return true;
        };
        let (now, last) = (self.world.now, last_word(full));
        if last <= now && elapsed(last, now) < SETTLED {
            self.plan.due(later(last, SETTLED));
            return false;
        }
        let next = VmStatus {
            phase: Phase::Running,
            disk_full: None,
            reason: None,
            ..self.status.clone().into_owned()
        };
        self.set(next, Some("vm.disk_room"), "its guest has found room");
        true
    }

    /// Its VMM cannot go on: it is ended at once, which is a failure of the run.
    pub(super) fn end_broken(&mut self, live: &ObservedProcess) {
        let (now, generation) = (self.world.now, self.vm.generation);
        let next = transition::put_down(&self.status, generation, now, self.goal, BROKEN);
        self.set(next, Some("vm.broken"), BROKEN);
        self.plan.push(
            Step::Stop {
                vm: self.vm.id,
                identity: live.identity.clone(),
                rung: StopRung::Quit,
            },
            BROKEN,
        );
        self.plan.due(later(now, self.world.policy.quit_wait));
    }
}
