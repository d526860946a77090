//! A VM with a disk in the thin pool, which is about to run out.
//!
//! ```text
//!  runs ── tight ──► stored: waits for the pool ──► paused ── room again ──► goes on
//!                                                    │  ▲
//!                               cannot be told ◄─────┘  └── daemon restarted: the wait is stored
//! ```
//! Who waits in time loses nothing: a write that finds no room hangs in the kernel for a minute, with
//! the VMM that made it, and fails then. A VM that its user had paused is left to its user.

use hearth_types::observe::{ObservedProcess, RunState};
use hearth_types::status::{Goal, Phase, PoolWait, VmStatus};

use super::Vm;
use crate::model::{PoolRoom, Step};

/// What the pool asks of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word<'a> {
    /// Nothing.
    Nothing,
    /// Wait: for this reason.
    Wait(&'a str),
    /// Go on waiting: whether there is room cannot be told.
    Stay,
    /// Go on: the wait is over.
    GoOn,
}

/// What the pool asks of a VM, by its room, whether the VM has a disk in it, whether it waits already,
/// and what its user wants.
#[must_use]
pub const fn word(room: &PoolRoom, on_pool: bool, waits: bool, goal: Goal) -> Word<'_> {
    match (room, goal) {
        (PoolRoom::Tight { why }, Goal::Running) if on_pool => Word::Wait(why.as_str()),
        (PoolRoom::Unknown, Goal::Running) if on_pool && waits => Word::Stay,
        _ if waits => Word::GoOn,
        _ => Word::Nothing,
    }
}

impl Vm<'_, '_> {
    /// Whether the VM's vCPUs wait for the pool; then nothing lets them run.
    pub(super) fn waits_for_pool(&mut self, live: &ObservedProcess) -> bool {
        let facts = &self.world.facts;
        let on_pool = facts.on_pool.contains(&self.vm.id);
        let waits = self.status.pool_wait.is_some();
        match word(&facts.pool, on_pool, waits, self.goal) {
            Word::Nothing => false,
            Word::GoOn => {
                self.end_pool_wait();
                false
            }
            // Who runs all the same has been told to by somebody.
            Word::Stay => self.run_state() != Some(RunState::Running),
            Word::Wait(why) => {
                let why = why.to_owned();
                self.pause_for_pool(live, &why)
            }
        }
    }

    fn pause_for_pool(&mut self, live: &ObservedProcess, why: &str) -> bool {
        let state = self.run_state();
        if !matches!(state, Some(RunState::Running | RunState::Paused)) {
            return false;
        }
        if self.status.pool_wait.is_none() {
            let next = VmStatus {
                pool_wait: Some(PoolWait {
                    since: self.world.now,
                }),
                phase: Phase::Paused,
                reason: Some(format!("it waits for room in the pool: {why}")),
                ..self.status.clone().into_owned()
            };
            self.set(next, Some("vm.pool_wait"), "the pool is about to run out");
        }
        if state == Some(RunState::Running) {
            self.plan.push(
                Step::Pause {
                    vm: self.vm.id,
                    identity: live.identity.clone(),
                },
                "the pool is about to run out",
            );
        }
        true
    }

    fn end_pool_wait(&mut self) {
        let next = VmStatus {
            pool_wait: None,
            reason: None,
            ..self.status.clone().into_owned()
        };
        let code = (self.goal == Goal::Running).then_some("vm.pool_room");
        self.set(next, code, "it need not wait for the pool any more");
    }
}
