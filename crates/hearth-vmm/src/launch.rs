//! Starting a VMM through its shim, for every driver.
//!
//! ```text
//!  driver ── Request ──► through_shim ──► Launcher ──► hearth-shim ──► VMM
//!                                            │
//!                                            └ Direct: a detached process of its own session
//! ```

use std::future::Future;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use camino::Utf8Path;
use hearth_host::process::{NotProven, Signal};
use hearth_shim::{Answer, Reason, Request};
use hearth_types::ids::VmId;
use hearth_types::mark::OWNER_ENV;
use hearth_types::observe::{ProcessRole, ROLE_ENV};
use hearth_types::process::ProcessIdentity;
use hearth_types::units::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use crate::{LaunchSpec, VmmError, record};

/// Moves a program into a unit of its own.
const SYSTEMD_RUN: &str = "systemd-run";

/// How long the shim may take to execute the VMM. It waits up to 15 s for the lock.
const SHIM_DEADLINE: Duration = Duration::from_secs(20);
/// How long a killed VMM may take to be dead: freeing a large guest's memory takes seconds.
const KILL_DEADLINE: Duration = Duration::from_secs(60);
/// Longest answer of the shim, in bytes.
const ANSWER_MAX: u64 = 64 << 10;

/// How shims are started on this host.
#[derive(Debug, Clone, Default)]
pub enum Launcher {
    /// In a unit of its own where systemd is the init, else directly.
    #[default]
    Detect,
    /// As a detached process in a session of its own.
    Direct,
}

/// What a VMM needs of the host beyond its folder; all else may be kept from it.
#[derive(Debug, Clone, Default)]
#[expect(
    dead_code,
    reason = "read by the launcher of units, which is the next commit"
)]
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
    launcher: &Launcher,
    shim: &Utf8Path,
    spec: &LaunchSpec,
    request: &Request,
    needs: &Needs,
) -> Result<ProcessIdentity, VmmError> {
    let vm = request.vm;
    tracing::trace!(?launcher, name = spec.name, ?needs, "launch");
    let talk = talk(shim, request);
    let text = tokio::time::timeout(SHIM_DEADLINE, talk)
        .await
        .map_err(|_| VmmError::Start {
            vm,
            detail: format!(
                "its shim did not answer within {} s",
                SHIM_DEADLINE.as_secs()
            ),
        })?
        .map_err(|source| VmmError::Io {
            operation: "run",
            path: shim.to_owned(),
            source,
        })?;
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

/// systemd is the init of this host.
fn under_systemd() -> bool {
    Utf8Path::new("/run/systemd/system").is_dir()
        && hearth_host::command::find(SYSTEMD_RUN).is_some()
}

fn shim_or_scope(shim: &Utf8Path) -> PathBuf {
    let scope = under_systemd()
        .then(|| hearth_host::command::find(SYSTEMD_RUN))
        .flatten();
    scope.unwrap_or_else(|| shim.as_std_path().to_owned())
}

/// Under systemd the shim is moved into a scope of its own before it runs, so that neither
/// a stop of the daemon's unit nor one of its limits reaches the VM.
fn shim_arguments(shim: &Utf8Path, vm: VmId, systemd: bool) -> Vec<String> {
    let own = ["--id".to_owned(), vm.to_string()];
    if !systemd {
        return own.into();
    }
    let unit = hearth_types::names::unit_name(vm).replace(".service", ".scope");
    let scope = [
        "--scope",
        "--quiet",
        "--collect",
        "--slice=hearth.slice",
        "--unit",
        &unit,
        "--",
        shim.as_str(),
    ];
    scope.into_iter().map(str::to_owned).chain(own).collect()
}

async fn talk(shim: &Utf8Path, request: &Request) -> std::io::Result<Vec<u8>> {
    let request_text = serde_json::to_vec(request)?;
    let mut child = Command::new(shim_or_scope(shim))
        .args(shim_arguments(shim, request.vm, under_systemd()))
        .env_clear()
        .env(OWNER_ENV, request.mark.to_string())
        .env(ROLE_ENV, ProcessRole::Shim.as_str())
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A shim that ends early says why, or its silence does.
        drop(stdin.write_all(&request_text).await);
    }
    let mut answer = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(ANSWER_MAX).read_to_end(&mut answer).await?;
    }
    // The child forked and ended at once; this only reaps it.
    child.wait().await?;
    Ok(answer)
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
            Ok(Err(detail)) => detail,
            Err(_) => Some(format!("it did not answer within {} s", deadline.as_secs())),
        },
        () = dead => None,
    };
    clean_up(dir, identity).await?;
    Err(VmmError::Start {
        vm,
        detail: detail.unwrap_or_else(|| record::vmm_log_tail(dir)),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn under_systemd_the_shim_gets_a_scope() {
        let vm = VmId::new();
        let shim = Utf8Path::new("/usr/lib/hearth/hearth-shim");
        assert_eq!(
            shim_arguments(shim, vm, false),
            ["--id".to_owned(), vm.to_string()]
        );
        let arguments = shim_arguments(shim, vm, true);
        assert!(arguments.contains(&"--slice=hearth.slice".to_owned()));
        assert!(arguments.contains(&format!("hearth-vm-{vm}.scope")));
        let command = arguments.iter().position(|word| word == "--").unwrap();
        assert_eq!(
            arguments[command + 1..],
            [shim.to_string(), "--id".to_owned(), vm.to_string()]
        );
    }
}
