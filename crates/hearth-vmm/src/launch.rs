//! Starting a VMM through its shim, for every driver.
//!
//! ```text
//!  driver ── Request ──► through_shim ──┬─ direct: a detached process ─┬─► hearth-shim ──► VMM
//!                  ◄── Answer ──────────┴─ unit: a transient service ──┘
//! ```
//!
//! | module | starts the shim |
//! | --- | --- |
//! | `direct` | as a process in a session of its own, which outlives this one |
//! | `unit` | by systemd, in `hearth-vm-<id>.service` of `hearth.slice`, with limits |

use std::future::Future;
use std::time::Duration;

use camino::Utf8Path;
use hearth_host::process::{NotProven, Signal};
use hearth_shim::{Answer, Reason, Request};
use hearth_types::ids::VmId;
use hearth_types::process::ProcessIdentity;
use hearth_types::units::Bytes;

use crate::{LaunchSpec, VmmError, record};

mod direct;
mod unit;

pub(crate) use unit::{LIMITS, ensure_limits, remove as remove_unit, survey as survey_units};

/// How long the shim may take to execute the VMM. It waits up to 15 s for the lock.
const SHIM_DEADLINE: Duration = Duration::from_secs(20);
/// How long a killed VMM may take to be dead: freeing a large guest's memory takes seconds.
const KILL_DEADLINE: Duration = Duration::from_secs(60);
/// Longest answer of the shim, in bytes.
const ANSWER_MAX: u64 = 64 << 10;

/// How shims are started on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Launcher {
    /// In units where systemd is the init and this process is root, else directly.
    #[default]
    Detect,
    /// As a detached process in a session of its own. No limit of the VM's resources holds.
    Direct,
    /// In a transient service of systemd, with limits and without what it does not need.
    Unit,
}

impl Launcher {
    /// Whether VMMs get units on this host. When they should and systemd cannot be asked, a
    /// launch fails: a VMM in the daemon's own control group would be ended with it.
    #[must_use]
    pub fn makes_units(self) -> bool {
        match self {
            Self::Detect => hearth_systemd::is_init() && rustix::process::geteuid().is_root(),
            Self::Direct => false,
            Self::Unit => true,
        }
    }
}

/// What a VMM needs of the host beyond its folder; all else may be kept from it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Needs {
    /// Device nodes that it, or the shim for it, opens for reading and writing. The TAP's
    /// `/dev/net/tun` follows from the request.
    pub(crate) devices: Vec<&'static str>,
    /// It generates machine code, as an emulator does.
    pub(crate) makes_code: bool,
    /// Memory of the host that it may use beyond the guest's.
    pub(crate) overhead: Bytes,
    /// Threads that it may have beside its vCPUs.
    pub(crate) threads: u32,
}

/// Has the shim execute the VMM.
pub(crate) async fn through_shim(
    launcher: Launcher,
    shim: &Utf8Path,
    spec: &LaunchSpec,
    request: &Request,
    needs: &Needs,
) -> Result<ProcessIdentity, VmmError> {
    let vm = request.vm;
    let talk = async {
        if launcher.makes_units() {
            unit::talk(shim, spec, request, needs).await
        } else {
            direct::talk(shim, request).await
        }
    };
    let Ok(answered) = tokio::time::timeout(SHIM_DEADLINE, talk).await else {
        if launcher.makes_units() {
            unit::give_up(request).await;
        }
        return Err(VmmError::Slow {
            vm,
            detail: format!(
                "its shim did not answer within {} s",
                SHIM_DEADLINE.as_secs()
            ),
        });
    };
    let text = answered?;
    match serde_json::from_slice(&text) {
        Ok(Answer::Started(identity)) => Ok(identity),
        Ok(Answer::Failed { reason, detail }) => Err(match reason {
            Reason::AlreadyRunning => VmmError::AlreadyRunning { vm },
            Reason::Missing => VmmError::Missing {
                what: format!("something that VM {vm} needs"),
                detail,
            },
            Reason::Request | Reason::System => VmmError::Start { vm, detail },
        }),
        Err(_) => Err(VmmError::Start {
            vm,
            detail: "its shim ended without an answer".to_owned(),
        }),
    }
}

/// Returns when `answer` says that the VMM's control channel answers. If the VMM ends
/// before, or the answer is an error or does not come within `deadline`, the VMM is ended
/// and nothing of the launch stays.
///
/// `answer` fails with `None` when the other side hung up: the VMM's log says why then.
pub(crate) async fn greeted(
    vm: VmId,
    dir: &Utf8Path,
    identity: &ProcessIdentity,
    deadline: Duration,
    answer: impl Future<Output = Result<(), Option<String>>>,
) -> Result<(), VmmError> {
    let dead = hearth_host::process::watch(identity.clone());
    let detail = tokio::select! {
        answer = tokio::time::timeout(deadline, answer) => match answer {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(detail)) => Ok(detail),
            Err(_) => Err(format!("it did not answer within {} s", deadline.as_secs())),
        },
        () = dead => Ok(None),
    };
    clean_up(dir, identity).await?;
    Err(match detail {
        Ok(detail) => VmmError::Start {
            vm,
            detail: detail.unwrap_or_else(|| record::vmm_log_tail(dir)),
        },
        Err(detail) => VmmError::Slow { vm, detail },
    })
}

/// Ends a VMM whose launch failed, and waits for its shim to have cleaned up. A launch
/// that failed is no run: it leaves no exit record.
async fn clean_up(dir: &Utf8Path, identity: &ProcessIdentity) -> Result<(), VmmError> {
    kill(identity).await?;
    let ended = record::exit_record(dir).await?;
    if ended.is_some_and(|record| record.identity == *identity) {
        drop(std::fs::remove_file(dir.join(hearth_shim::EXIT_RECORD)));
    }
    Ok(())
}

/// Proves, kills and waits.
pub(crate) async fn kill(identity: &ProcessIdentity) -> Result<(), VmmError> {
    let not_proven = |detail: String| VmmError::NotProven {
        identity: Box::new(identity.clone()),
        detail,
    };
    let proven = match hearth_host::process::prove(identity) {
        Ok(proven) => proven,
        Err(NotProven::Gone) => return Ok(()),
        Err(error) => return Err(not_proven(hearth_types::survey::chain(&error))),
    };
    proven
        .signal(Signal::KILL)
        .map_err(|error| not_proven(format!("it cannot be signalled: {error}")))?;
    proven
        .wait_dead(KILL_DEADLINE)
        .await
        .map_err(|error| not_proven(hearth_types::survey::chain(&error)))
}
