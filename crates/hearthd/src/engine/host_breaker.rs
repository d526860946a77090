//! The host's circuit breaker as the engine carries it: remembered, stored, told, and made a rule of
//! the mode.
//!
//! ```text
//!  stored memory ──► World ──► plan (pure) ──► memory, breaker ──► mode rule, events
//!        ▲                                        │
//!        └────────────────────────────────────────┘ before any step of that plan is taken
//! ```
//! While the database cannot be written it is held in memory and stored as soon as that works.

use hearth_plan::breaker::host::{self, HostBreaker, HostMemory};
use hearth_plan::{Plan, World};
use hearth_types::event::{NewEvent, Severity};
use hearth_types::mode::ModeRule;
use hearth_types::survey::chain;

use super::Engine;

/// Where the database keeps what is remembered.
const SETTING: &str = "host_breaker";

/// What the engine knows of the host's breaker.
#[derive(Debug, Default)]
pub(super) struct HostWatch {
    memory: HostMemory,
    /// What is in the database.
    stored: HostMemory,
    open: Option<HostBreaker>,
}

impl Engine {
    /// The host's circuit breaker as of the last pass, unless it is closed.
    #[must_use]
    pub fn host_breaker(&self) -> Option<HostBreaker> {
        self.host_watch.lock().open.clone()
    }

    /// What the planner is told to remember.
    pub(super) fn host_memory(&self) -> HostMemory {
        self.host_watch.lock().memory.clone()
    }

    /// Reads what an earlier daemon remembered: an open breaker is open from the start.
    pub(super) async fn recall_host_breaker(&self) {
        let stored = match self.parts.store.setting(SETTING).await {
            Ok(Some(value)) => {
                serde_json::from_value::<HostMemory>(value).map_err(|e| e.to_string())
            }
            Ok(None) => return,
            Err(error) => Err(chain(&error)),
        };
        let memory = match stored {
            Ok(memory) => memory,
            Err(error) => {
                tracing::error!(
                    error,
                    "what is stored of the host's breaker cannot be read; it begins closed"
                );
                return;
            }
        };
        if let Some(open) = &memory.open {
            let (cause, since) = (open.cause.as_str(), open.opened_at);
            tracing::warn!(cause, %since, "[recovery] the host breaker was open before; it still is");
            let reason = format!("the host breaker is open since {since:.0} ({cause})");
            self.mode_rule(ModeRule::HostBreaker, Some(reason)).await;
        }
        let mut watch = self.host_watch.lock();
        watch.stored = memory.clone();
        watch.memory = memory;
    }

    /// A pass found the host's breaker so: it is remembered, becomes a rule of the mode, and
    /// what changed is told.
    pub(super) async fn host_breaker_is(&self, world: &World, plan: &Plan) {
        let (before, was, news) = {
            let mut watch = self.host_watch.lock();
            if watch.memory.word != plan.host.word {
                // Somebody has reset it since the plan was made.
                return;
            }
            let was = std::mem::replace(&mut watch.memory, plan.host.clone());
            let before = std::mem::replace(&mut watch.open, plan.host_breaker.clone());
            (before, was, watch.stored != watch.memory)
        };
        if news {
            self.store_host_memory().await;
        }
        let open = plan.host_breaker.as_ref();
        let cause = open.map(HostBreaker::reason);
        self.mode_rule(ModeRule::HostBreaker, cause).await;
        for event in changes(world, &was, before.as_ref(), &plan.host, open) {
            self.tell(event).await;
        }
    }

    /// Closes the host's breaker by the operator's word. Whether it was open.
    pub async fn reset_host_breaker(&self) -> bool {
        let was = {
            let mut watch = self.host_watch.lock();
            watch.memory = host::reset(&watch.memory, self.now());
            watch.open.take()
        };
        self.store_host_memory().await;
        self.mode_rule(ModeRule::HostBreaker, None).await;
        if let Some(was) = &was {
            let message = format!(
                "[recovery] host breaker closed by hand ({})",
                was.cause.as_str()
            );
            let details = serde_json::json!({ "cause": was.cause, "by": "hand" });
            self.tell(NewEvent::info("host.breaker_closed", message).details(details))
                .await;
        }
        self.look_at_everything();
        was.is_some()
    }

    async fn store_host_memory(&self) {
        if !self.database_writable() {
            return;
        }
        let memory = self.host_memory();
        let value = serde_json::to_value(&memory).ok();
        match self.parts.store.set_setting(SETTING, value).await {
            Ok(()) => self.host_watch.lock().stored = memory,
            Err(error) => {
                tracing::error!(error = %chain(&error), "the host's breaker is held in memory only: it cannot be stored");
            }
        }
    }
}

/// What there is to tell between two passes.
fn changes(
    world: &World,
    was: &HostMemory,
    before: Option<&HostBreaker>,
    memory: &HostMemory,
    open: Option<&HostBreaker>,
) -> Vec<NewEvent> {
    let name = |vm| host::name_in(world, vm);
    let mut events = Vec::new();
    match (was.open.as_ref(), memory.open.as_ref().zip(open)) {
        (None, Some((_, open))) => {
            let reason = open.reason();
            let message = format!("[recovery] {reason}: no automatic starts but one on trial");
            let details = serde_json::json!({
                "cause": open.cause, "vms": open.vms, "shared": open.shared,
                "names": open.vms.iter().map(|vm| name(*vm)).collect::<Vec<_>>(),
                "since": open.opened_at, "until": open.until,
            });
            let event = NewEvent::info("host.breaker_opened", message);
            events.push(event.severity(Severity::Error).details(details));
        }
        (Some(was), Some((latch, open))) if latch.failed_trials > was.failed_trials => {
            let message = format!(
                "[recovery] host breaker: trial {} failed; {}",
                latch.failed_trials,
                open.waits_for(name)
            );
            let details = serde_json::json!({
                "cause": latch.cause, "failed_trials": latch.failed_trials, "until": latch.until,
            });
            let event = NewEvent::info("host.breaker_trial_failed", message);
            events.push(event.severity(Severity::Warning).details(details));
        }
        (Some(was), None) => {
            let cause = was.cause.as_str();
            let message = format!("[recovery] host breaker closed ({cause})");
            let details = serde_json::json!({ "cause": was.cause, "since": was.opened_at });
            events.push(NewEvent::info("host.breaker_closed", message).details(details));
        }
        _ => {}
    }
    let trial = open.and_then(|open| open.trial);
    if let Some(vm) = trial.filter(|vm| before.and_then(|open| open.trial) != Some(*vm)) {
        let message = format!(
            "[recovery] host breaker half open: {} is on trial",
            name(vm)
        );
        let event = NewEvent::info("host.breaker_half_open", message);
        events.push(event.vm(vm, name(vm)));
    }
    events
}
