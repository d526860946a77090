//! Starts that fail only because the host is slow.
//!
//! A deadline that passed or a kernel that was busy says nothing about the VM: for a while
//! its start is tried again without counting as a failure, so that it costs no restart of
//! its policy. The memory of it is this daemon's own; another one begins to wait anew.
//!
//! ```text
//!              slow                      slow, for less than PATIENCE
//! starting ───────────► waiting (phase `starting`, with the reason) ◄──┐
//!     ▲                    │  │         └───── again after SHARED_PAUSE ┘
//!     └── it works ────────┘  └── slow for longer, or refused ──► a failed start
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hearth_net::NetError;
use hearth_plan::Step;
use hearth_pool::{PoolError, Unfit};
use hearth_safeguards::GuardError;
use hearth_types::event::{NewEvent, Severity};
use hearth_types::ids::VmId;
use hearth_types::status::{Goal, Phase, VmStatus};
use hearth_vmm::VmmError;
use tokio::time::Instant;

use super::Engine;
use super::pass::SHARED_PAUSE;
use super::shared::Blocked;

/// How long a start may be held up by a slow host before it counts as failed: five times the
/// longest deadline of a tool (20 s) with the pauses between.
const PATIENCE: Duration = Duration::from_secs(120);

/// VMs whose start is held up, since when, and for which word of the user.
#[derive(Debug, Default)]
pub(super) struct Waiting(BTreeMap<VmId, (u64, Instant)>);

impl Waiting {
    /// A start was held up. Since when; `None` if that is too long.
    fn held_up(&mut self, vm: VmId, generation: u64, patience: Duration) -> Option<Instant> {
        let now = Instant::now();
        let entry = self.0.entry(vm).or_insert((generation, now));
        if entry.0 != generation {
            *entry = (generation, now);
        }
        let since = entry.1;
        (now.duration_since(since) < patience).then_some(since)
    }

    /// These steps were taken: a start among them works, and so does the TAP of a VM that runs.
    pub(super) fn done<'a>(&mut self, vm: VmId, steps: impl IntoIterator<Item = &'a Step>) {
        let works = |step: &Step| {
            matches!(
                step,
                Step::EnsureTap { .. } | Step::StartVmm { .. } | Step::Forget { .. }
            )
        };
        if steps.into_iter().any(works) {
            self.0.remove(&vm);
        }
    }
}

/// Whether the host was only too slow or busy.
pub(super) fn is_slow(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<NetError>()
            .is_some_and(NetError::is_transient)
            || matches!(cause.downcast_ref(), Some(VmmError::Slow { .. }))
            || cause.downcast_ref().is_some_and(pool_is_busy)
            || cause
                .downcast_ref::<Blocked>()
                .is_some_and(|blocked| blocked.slow)
    })
}

/// The pool is at something else, or the host is in a state in which nothing is made. What was
/// asked for was not begun.
fn pool_is_busy(error: &PoolError) -> bool {
    matches!(
        error,
        PoolError::Working { .. }
            | PoolError::Device {
                unfit: Unfit::Missing,
                ..
            }
            | PoolError::Guard(GuardError::Refused { .. } | GuardError::NotInTurn { .. })
    )
}

/// The device that the pool's data is on is not there.
fn is_without_device(error: &anyhow::Error) -> bool {
    let pool = |cause: &(dyn std::error::Error + 'static)| {
        cause
            .downcast_ref()
            .is_some_and(PoolError::is_missing_device)
    };
    error.chain().any(pool)
}

impl Engine {
    /// A step of a start failed: if only the host was slow, and not for too long, the VM
    /// waits and tries again. `false` if it is a failure.
    pub(super) async fn start_waits(
        self: &Arc<Self>,
        vm: VmId,
        step: &Step,
        error: &anyhow::Error,
        generation: u64,
    ) -> bool {
        let of_start = matches!(
            step,
            Step::EnsureDisks { .. } | Step::EnsureTap { .. } | Step::StartVmm { .. }
        );
        if !of_start || !is_slow(error) {
            return false;
        }
        let begun = Instant::now();
        // A disk that is not attached yet says nothing about the VM, however long that takes.
        let patience = if is_without_device(error) {
            Duration::MAX
        } else {
            PATIENCE
        };
        let since = self.work.lock().waiting.held_up(vm, generation, patience);
        let Some(since) = since else {
            return false;
        };
        let reason = format!("waits for the host: {error:#}");
        let why = reason.clone();
        let stored = self.change_status(vm, move |row| {
            let wanted = matches!(row.goal, Goal::Running | Goal::Paused);
            // A restart stays one, and a VM that runs stays what it is.
            let starts = wanted && row.status.vmm.is_none() && row.status.phase != Phase::Backoff;
            VmStatus {
                phase: if starts {
                    Phase::Starting
                } else {
                    row.status.phase
                },
                reason: Some(why),
                ..row.status.clone()
            }
        });
        match stored.await {
            // Said once for each time that it waits.
            Ok(Some(row)) if since >= begun => {
                let event = NewEvent::info("vm.start_waits", format!("{} {reason}", row.spec.name))
                    .severity(Severity::Warning);
                self.tell(event.vm(vm, &row.spec.name)).await;
            }
            Ok(_) => {}
            Err(error) => {
                tracing::error!(%vm, error = format!("{error:#}"), "what it waits for could not be stored");
            }
        }
        self.tell_changed();
        let engine = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(SHARED_PAUSE).await;
            engine.look_at(vm);
        });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_that_is_being_put_together_is_waited_for_and_a_lost_one_is_not() {
        let told = |error: PoolError| {
            let disk = hearth_disk::DiskError::Ground {
                operation: "use",
                path: "root.img".into(),
                source: Box::new(hearth_pool::ThinError::from(error)),
            };
            is_slow(&anyhow::Error::from(disk))
        };
        assert!(told(PoolError::Working {
            what: "bring_up".to_owned(),
            since: Duration::ZERO,
        }));
        assert!(!told(PoolError::Absent));
        let device = |unfit| PoolError::Device {
            device: "/dev/vg/pool".into(),
            what: "is not there".to_owned(),
            unfit,
        };
        assert!(told(device(Unfit::Missing)));
        assert!(!told(device(Unfit::Lost)));
        let missing = anyhow::Error::from(hearth_pool::ThinError::from(device(Unfit::Missing)));
        assert!(is_without_device(&missing));
        assert!(!is_without_device(&anyhow::Error::from(PoolError::Absent)));
    }

    #[tokio::test(start_paused = true)]
    async fn patience_ends_and_begins_anew_with_each_word() {
        let mut waiting = Waiting::default();
        let vm = VmId::new();
        let began = Instant::now();
        assert_eq!(waiting.held_up(vm, 1, PATIENCE), Some(began));
        tokio::time::advance(PATIENCE / 2).await;
        assert_eq!(waiting.held_up(vm, 1, PATIENCE), Some(began));
        tokio::time::advance(PATIENCE / 2).await;
        assert_eq!(waiting.held_up(vm, 1, PATIENCE), None);
        assert_eq!(waiting.held_up(vm, 1, PATIENCE), None, "it stays a failure");
        assert_eq!(waiting.held_up(vm, 1, Duration::MAX), Some(began));
        assert_eq!(waiting.held_up(vm, 2, PATIENCE), Some(Instant::now()));
        let started = Step::StartVmm { vm, restart: false };
        tokio::time::advance(PATIENCE).await;
        waiting.done(vm, &[started]);
        assert_eq!(waiting.held_up(vm, 2, PATIENCE), Some(Instant::now()));
    }
}
