//! Steps on what all VMs share, and how a VM's own steps wait for them.
//!
//! The loop's task takes them, one after another; rules and names have nothing to do with
//! each other and are made side by side. Owner tasks work on disks meanwhile:
//!
//! ```text
//! loop   bridge ──► rules ┬──► told: ready │ failed: reason
//!                   names ┘        │
//! owner  disks ────────────────────┴──► TAP ──► VMM
//! ```

use std::sync::Arc;

use hearth_plan::{PlannedStep, Step};
use hearth_store::VmRow;
use hearth_types::spec::NetworkMode;
use tokio::sync::watch;

use super::Engine;
use super::journal::Intents;

/// How a pass's shared steps ended; `None` while they are being taken.
pub(super) type Outcome = Option<Result<(), Blocked>>;

/// Why shared steps could not be taken.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{reason}")]
pub(super) struct Blocked {
    reason: String,
    /// The host was only too slow: see [`super::slow`].
    pub(super) slow: bool,
}

/// An owner task's view of the shared steps of the pass that gave it its own.
#[derive(Clone)]
pub(super) struct Ready(watch::Receiver<Outcome>);

impl Ready {
    pub(super) fn channel() -> (watch::Sender<Outcome>, Self) {
        let (told, ready) = watch::channel(None);
        (told, Self(ready))
    }

    /// Waits until a step of this VM may be taken.
    ///
    /// # Errors
    /// What failed, if the step needs what could not be made.
    pub(super) async fn wait_for(
        &mut self,
        step: &Step,
        row: Option<&VmRow>,
    ) -> Result<(), Blocked> {
        let need = need(step, row);
        if need == Need::Nothing {
            return Ok(());
        }
        let outcome = match self.0.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or(Ok(())),
            Err(_) => Err(Blocked {
                reason: "the pass was interrupted".to_owned(),
                slow: true,
            }),
        };
        match need {
            Need::Success => outcome,
            Need::End | Need::Nothing => Ok(()),
        }
    }
}

/// What of the shared steps a VM's step needs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    Nothing,
    /// They were tried: filters of an address go before the address can be given away.
    End,
    /// They are done: no guest runs without its filters.
    Success,
}

fn need(step: &Step, row: Option<&VmRow>) -> Need {
    let bridged = row.is_none_or(|row| row.spec.network.mode == NetworkMode::Bridge);
    match step {
        _ if !bridged => Need::Nothing,
        Step::EnsureTap { .. } | Step::StartVmm { .. } => Need::Success,
        Step::RemoveTap { .. } | Step::FlushConntrack { .. } | Step::Forget { .. } => Need::End,
        _ => Need::Nothing,
    }
}

/// Neighbours in a plan that may be taken side by side.
const fn side_by_side(step: &Step) -> bool {
    matches!(step, Step::ApplyRules(_) | Step::EnsureNames(_))
}

impl Engine {
    /// Takes the shared steps of a plan. One that fails stops all that build on it.
    pub(super) async fn take_shared(
        self: &Arc<Self>,
        steps: &[PlannedStep],
    ) -> Result<(), Blocked> {
        if steps.is_empty() {
            return Ok(());
        }
        let intents = self.begin_all(steps).await;
        let mut outcome = Ok(());
        let mut index = 0;
        let groups = steps.chunk_by(|a, b| side_by_side(&a.step) && side_by_side(&b.step));
        for group in groups {
            let begin = index;
            index += group.len();
            if outcome.is_err() {
                break;
            }
            let taken = group
                .iter()
                .zip(begin..)
                .map(|(planned, at)| self.take_one_shared(planned, &intents, at));
            for result in futures::future::join_all(taken).await {
                outcome = outcome.and(result);
            }
        }
        self.abandon(intents).await;
        outcome
    }

    async fn take_one_shared(
        self: &Arc<Self>,
        planned: &PlannedStep,
        intents: &Intents,
        index: usize,
    ) -> Result<(), Blocked> {
        if !self.may(planned.origin) {
            let reason = format!("the mode is {}", self.modes.mode());
            return Err(Blocked {
                reason,
                slow: false,
            });
        }
        let Err(error) = self.take_begun(planned, None, intents, index).await else {
            return Ok(());
        };
        let slow = super::slow::is_slow(&error);
        let error = format!("{error:#}");
        tracing::error!(error, slow, "[reconcile] {} failed", planned.reason);
        Err(Blocked {
            reason: error,
            slow,
        })
    }
}
