//! systemd's view of a VM's service beside the kernel's.

use hearth_systemd::{Manager, State};
use hearth_types::VmId;
use hearth_types::names::unit_name;
use tokio::sync::Mutex;

use super::probe::Outcome;

/// systemd, connected to when it is first asked.
#[derive(Debug, Default)]
pub(super) struct Units {
    manager: Mutex<Option<Manager>>,
}

impl Units {
    /// Whether there are units at all.
    pub(super) fn are_here() -> bool {
        hearth_systemd::is_init()
    }

    /// The VMM lives, or nobody would ask: systemd should say so, too.
    pub(super) async fn check(&self, vm: VmId) -> Outcome {
        let unit = unit_name(vm);
        let mut manager = self.manager.lock().await;
        let connected = match manager.take() {
            Some(connected) => Ok(connected),
            None => Manager::connect().await,
        };
        let answer = match connected {
            Ok(connected) => {
                let answer = connected.state(&unit).await;
                // A connection that fails is made anew.
                if answer.is_ok() {
                    *manager = Some(connected);
                }
                answer
            }
            Err(error) => Err(error),
        };
        match answer {
            Ok(state) => judge(&unit, state),
            Err(error) => Outcome::unknown(hearth_types::survey::chain(&error)),
        }
    }
}

fn judge(unit: &str, state: Option<State>) -> Outcome {
    match state {
        Some(State::Active) => Outcome::pass("systemd says it is active"),
        Some(State::Inactive | State::Failed | State::Deactivating) => Outcome::fail(format!(
            "its VMM lives and systemd says that {unit} does not"
        )),
        None => Outcome::fail(format!("its VMM lives and systemd does not know {unit}")),
    }
}
