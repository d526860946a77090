//! The shim as the main process of a transient systemd service.
//!
//! ```text
//!            StartTransientUnit            answer: Started
//!   (none) ──────────────────► starting ───────────────────► running
//!      ▲                          │ answer: Failed,             │ the VMM ends, the shim
//!      │                          │ or no answer                │ writes exit.json and ends;
//!      │◄─────────────────────────┘                             │ systemctl stop: SIGTERM to
//!      └────────────────────────────────────────────────────────┘ the VMM (CollectMode)
//! ```
//!
//! The request and the answer go over pipes that systemd hands to the shim. systemd keeps
//! its ends open for as long as the unit is loaded, so an answer ends with its line, and
//! the pipe ends early only when the unit has gone without an answer.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use hearth_shim::{Answer, Request};
use hearth_systemd::{Manager, State, SystemdError};
use hearth_types::ids::VmId;
use hearth_types::names::unit_name;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::pipe;

use super::{ANSWER_MAX, Needs};
use crate::{LaunchSpec, VmmError, record};

mod limits;
mod properties;
mod survey;

pub(crate) use limits::{FILE as LIMITS, ensure as ensure_limits};
pub(crate) use survey::{remove, survey};

/// How long a unit whose VMM is dead may take to go away: its shim writes the exit record.
const GONE_DEADLINE: Duration = Duration::from_secs(15);
/// How often it is looked for meanwhile.
const GONE_RETRY: Duration = Duration::from_millis(5);

/// Starts the unit and returns what its shim answers.
pub(super) async fn talk(
    shim: &Utf8Path,
    spec: &LaunchSpec,
    request: &Request,
    needs: &Needs,
) -> Result<Vec<u8>, VmmError> {
    let request = &Request {
        oom_score: Some(properties::oom_score(spec.resources.priority)),
        ..request.clone()
    };
    let unit = unit_name(request.vm);
    let manager = Manager::connect()
        .await
        .map_err(|error| refused(request.vm, &error))?;
    let pipes = Pipes::new().map_err(|source| VmmError::Io {
        operation: "make pipes for",
        path: shim.to_owned(),
        source,
    })?;
    // What the last run's limits were says nothing of this one's.
    limits::forget(&spec.dir)?;
    start(&manager, &unit, shim, spec, request, needs, &pipes).await?;
    let Pipes {
        request: (mut writer, theirs_in),
        answer: (reader, theirs_out),
    } = pipes;
    // systemd has ends of its own now; ours would keep the pipes open for ever.
    drop((theirs_in, theirs_out));
    let text = serde_json::to_vec(request).map_err(|error| VmmError::Start {
        vm: request.vm,
        detail: format!("the request cannot be written: {error}"),
    })?;
    // A shim that ends early says why, or its silence does.
    drop(writer.write_all(&text).await);
    drop(writer);
    let mut answer = Vec::new();
    let mut reader = BufReader::new(reader.take(ANSWER_MAX));
    let heard = |source| VmmError::Io {
        operation: "hear the answer of",
        path: shim.to_owned(),
        source,
    };
    reader.read_until(b'\n', &mut answer).await.map_err(heard)?;
    match serde_json::from_slice(&answer) {
        // Its limits are set before its first instruction.
        Ok(Answer::Started(_)) => {
            limits::keep(&spec.dir, request.vm, &properties::limits(spec, needs))
        }
        Ok(Answer::Failed { .. }) => {
            // The pipe ends with the unit: nothing of the launch stays behind.
            drop(manager);
            reader.read_to_end(&mut Vec::new()).await.map_err(heard)?;
        }
        Err(_) => return Err(silence(&manager, &unit, request.vm).await),
    }
    Ok(answer)
}

/// Ends a launch that took too long. Nobody hears the shim's answer any more, so it ends what it
/// starts; but until then its VMM lives, and whoever looked would take it for a running VM. What
/// cannot be ended in time is found by the next survey.
pub(super) async fn give_up(request: &Request) {
    let vm = request.vm;
    if let Err(error) = remove(request.mark).await {
        let error = hearth_types::survey::chain(&error);
        tracing::warn!(%vm, error, "the unit of a launch that took too long is left");
    }
}

/// Both pipes: our end, and the end that goes to the shim.
struct Pipes {
    request: (pipe::Sender, OwnedFd),
    answer: (pipe::Receiver, OwnedFd),
}

impl Pipes {
    fn new() -> std::io::Result<Self> {
        let make = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
        let (theirs_in, writer) = make()?;
        let (reader, theirs_out) = make()?;
        Ok(Self {
            request: (pipe::Sender::from_owned_fd(writer)?, theirs_in),
            answer: (pipe::Receiver::from_owned_fd(reader)?, theirs_out),
        })
    }
}

/// Makes the unit. One that is left over is cleared away first; one that is alive stays.
async fn start(
    manager: &Manager,
    unit: &str,
    shim: &Utf8Path,
    spec: &LaunchSpec,
    request: &Request,
    needs: &Needs,
    pipes: &Pipes,
) -> Result<(), VmmError> {
    let vm = request.vm;
    let version = manager
        .version()
        .await
        .map_err(|error| refused(vm, &error))?;
    let properties = properties::of(version, shim, spec, request, needs, &used(shim, request));
    let give_up = tokio::time::Instant::now() + GONE_DEADLINE;
    loop {
        let (input, output) = (pipes.request.1.as_fd(), pipes.answer.1.as_fd());
        match manager.start(unit, &properties, input, output).await {
            Ok(()) => return Ok(()),
            Err(SystemdError::Exists { .. }) => {}
            Err(error) => return Err(refused(vm, &error)),
        }
        let state = manager.state(unit).await;
        match state.map_err(|error| refused(vm, &error))? {
            // It went in between.
            None => {}
            Some(State::Failed | State::Inactive) => manager
                .reset_failed(unit)
                .await
                .map_err(|error| refused(vm, &error))?,
            Some(State::Deactivating) => {}
            Some(State::Active) if record::vmm_is_over(&spec.dir) => {}
            Some(State::Active) => return Err(VmmError::AlreadyRunning { vm }),
        }
        if tokio::time::Instant::now() >= give_up {
            return Err(VmmError::Start {
                vm,
                detail: format!(
                    "the unit {unit} of its last run does not go away; look at `systemctl status {unit}`"
                ),
            });
        }
        tokio::time::sleep(GONE_RETRY).await;
    }
}

/// The real paths of all that is used; one that is not there is an error of the shim's.
fn used(shim: &Utf8Path, request: &Request) -> Vec<Utf8PathBuf> {
    properties::used(shim, request)
        .map(|path| path.canonicalize_utf8().unwrap_or_else(|_| path.to_owned()))
        .collect()
}

fn refused(vm: VmId, error: &SystemdError) -> VmmError {
    if error.is_transient() {
        let detail = hearth_types::survey::chain(error);
        return VmmError::Slow { vm, detail };
    }
    VmmError::Missing {
        what: format!("a unit for VM {vm}"),
        detail: hearth_types::survey::chain(error),
    }
}

/// Why a unit ended without an answer: most likely a step before the shim's first
/// instruction, which systemd tells by a status.
async fn silence(manager: &Manager, unit: &str, vm: VmId) -> VmmError {
    let ended = match manager.outcome(unit).await {
        Ok(Some(outcome)) => format!(": {} (status {})", outcome.result, outcome.status),
        Ok(None) | Err(_) => String::new(),
    };
    VmmError::Start {
        vm,
        detail: format!(
            "its unit ended without an answer{ended}; `journalctl -u {unit}` may say why"
        ),
    }
}
