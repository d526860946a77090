//! Holding a running VM still while its disks are cloned, and letting it go on whatever happens.
//!
//! ```text
//!  agent answers ──► freeze, with the guest's own deadline ──► clones ──► thaw ── not frozen any more ─► no snapshot
//!  no agent, or --pause ──► vCPUs stopped ──► clones ──► resumed
//!                                 └ the daemon dies: it should run and is paused, so the next one resumes it
//! ```

use std::time::Duration;

use anyhow::Context as _;
use hearth_guest_proto::client::AgentClient;
use hearth_store::VmRow;
use hearth_types::observe::RunState;
use hearth_types::problem::{Code, Problem};
use hearth_types::snapshot::Consistency;
use hearth_types::status::{Goal, Phase, VmStatus};
use tokio::time::{Instant, timeout};

use super::conflict;
use crate::engine::Engine;
use crate::health::Hush;

/// How long the guest's agent may take to answer before the VM is paused instead.
const AGENT_WAIT: Duration = Duration::from_secs(5);
/// After this the guest thaws by itself; clones that share blocks take milliseconds.
const FROZEN_AT_MOST: Duration = Duration::from_secs(10);
/// How long a guest may take to write out what it holds, and to go on.
const FREEZE_WAIT: Duration = Duration::from_secs(30);
/// How long a VMM may take to tell its state.
const ANSWER: Duration = Duration::from_secs(5);

/// How a VM's disks are made to belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum Way {
    /// It does not run.
    Stopped,
    /// It stands still already.
    Standing,
    /// Its agent is asked to hold all writes; where none answers it is paused.
    Freeze,
    /// It is paused.
    Pause,
    /// As it is.
    Crash,
}

/// A VM that stands still, or does not.
pub(in crate::engine) enum Still {
    Frozen(AgentClient, Instant, Hush),
    Paused(Instant),
    AsItIs(Consistency),
}

impl Engine {
    /// What a VM does, and so what has to be done.
    pub(in crate::engine) async fn way_of(
        &self,
        row: &VmRow,
        pause: bool,
        crash: bool,
    ) -> anyhow::Result<Way> {
        if row.status.vmm.is_none() {
            return Ok(Way::Stopped);
        }
        let name = &row.spec.name;
        let dir = self.paths.vm(row.id);
        let state = self.parts.vmm.run_state(row.id, &dir, ANSWER).await;
        let state = state.map_err(|error| {
            let words = hearth_types::survey::chain(&error);
            let detail = format!("the VMM of {name} does not tell what it does: {words}");
            Problem::new(Code::GuestUnreachable, detail)
        })?;
        match state {
            RunState::Running if pause => Ok(Way::Pause),
            RunState::Running if crash => Ok(Way::Crash),
            RunState::Running => Ok(Way::Freeze),
            RunState::Paused | RunState::DiskFull => Ok(Way::Standing),
            RunState::Broken | RunState::Ended => {
                Err(conflict(format!("{name} is ending: its VMM has stopped it")).into())
            }
        }
    }

    /// Holds a VM still.
    pub(in crate::engine) async fn hold_still(
        &self,
        row: &VmRow,
        way: Way,
    ) -> anyhow::Result<Option<Still>> {
        let still = match way {
            Way::Stopped => return Ok(None),
            Way::Standing => Still::AsItIs(Consistency::Paused),
            Way::Crash => Still::AsItIs(Consistency::Crash),
            Way::Pause => self.pause_for_snapshot(row).await?,
            Way::Freeze => match self.freeze(row).await {
                Ok(frozen) => frozen,
                Err(error) => {
                    tracing::warn!(vm = %row.id, error = format!("{error:#}"), "the guest cannot hold its writes: it is paused for the snapshot instead");
                    self.pause_for_snapshot(row).await?
                }
            },
        };
        self.failpoints.hit("after", "snapshot_still").await;
        Ok(Some(still))
    }

    async fn freeze(&self, row: &VmRow) -> anyhow::Result<Still> {
        let client = self.agents.get(self, row.id, AGENT_WAIT).await?;
        let hush = self.health.hushed.begin(row.id);
        let since = Instant::now();
        let frozen = timeout(FREEZE_WAIT, client.freeze(FROZEN_AT_MOST)).await;
        let frozen = frozen.context("it does not say that it has");
        if let Err(error) = frozen.and_then(|frozen| Ok(frozen?)) {
            // It may have, all the same.
            let thawed = timeout(ANSWER, client.thaw()).await;
            tracing::debug!(vm = %row.id, thawed = ?thawed.is_ok(), "thawed after a freeze that failed");
            return Err(error);
        }
        Ok(Still::Frozen(client, since, hush))
    }

    async fn pause_for_snapshot(&self, row: &VmRow) -> anyhow::Result<Still> {
        let since = Instant::now();
        let paused = self.parts.vmm.pause(row.id, &self.paths.vm(row.id)).await;
        paused.map_err(|error| {
            let words = hearth_types::survey::chain(&error);
            Problem::new(
                Code::GuestUnreachable,
                format!("{} cannot be paused: {words}", row.spec.name),
            )
        })?;
        // Nobody asks the guest for a sign of life meanwhile.
        self.phase_is(row, Phase::Paused).await;
        Ok(Still::Paused(since))
    }

    /// Lets it go on. What was done for the snapshot's consistency, and for how long the guest could
    /// not write, in milliseconds.
    pub(in crate::engine) async fn let_go(
        &self,
        row: &VmRow,
        still: Still,
    ) -> anyhow::Result<(Consistency, Option<u64>)> {
        let millis = |since: Instant| u64::try_from(since.elapsed().as_millis()).ok();
        match still {
            Still::AsItIs(consistency) => Ok((consistency, None)),
            Still::Frozen(client, since, _hush) => {
                let thawed = timeout(FREEZE_WAIT, client.thaw()).await;
                let took = millis(since);
                let thawed = thawed.context("it does not answer");
                if let Err(error) = thawed.and_then(|thawed| Ok(thawed?)) {
                    let detail = format!(
                        "the guest of {} did not hold its writes to the end: {error:#}",
                        row.spec.name
                    );
                    return Err(Problem::new(Code::GuestUnreachable, detail)
                        .hint("pause it instead: --pause")
                        .into());
                }
                Ok((Consistency::Frozen, took))
            }
            Still::Paused(since) => {
                self.resume_after_snapshot(row).await;
                Ok((Consistency::Paused, millis(since)))
            }
        }
    }

    /// A VM that does not go on now should run and is paused: the loop sees that, and resumes it.
    async fn resume_after_snapshot(&self, row: &VmRow) {
        let now = self.parts.store.vm(row.id).await;
        if now.is_none_or(|now| now.goal == Goal::Paused) {
            return;
        }
        match self.parts.vmm.resume(row.id, &self.paths.vm(row.id)).await {
            Ok(()) => self.phase_is(row, Phase::Running).await,
            Err(error) => {
                tracing::warn!(vm = %row.id, error = %hearth_types::survey::chain(&error), "the VM does not go on yet");
            }
        }
    }

    async fn phase_is(&self, row: &VmRow, phase: Phase) {
        let stored = self.change_status(row.id, move |row| VmStatus {
            phase,
            ..row.status.clone()
        });
        if let Err(error) = stored.await {
            tracing::warn!(vm = %row.id, error = format!("{error:#}"), "its phase could not be stored");
        }
        self.tell_changed();
    }
}
