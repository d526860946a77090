//! `hearth run`: create, start and, in the foreground, stay until the end.

use std::time::Duration;

use clap::Args;
use futures::TryStreamExt;

use hearth_client::{ActOptions, Action, ByteStream, ClientError, LogOptions, Wait, WaitCondition};
use hearth_types::api::{StopVm, Vm, WaitResult};

use super::create::{self, PullArgs};
use super::wait::patient;
use crate::cli::Context;
use crate::exit_codes;
use crate::failure::{Failure, Outcome};
use crate::spec_args::SpecArgs;
use crate::stdio::{RawOutput, Signals, code_of_signal};

/// How long a VMM may take to come up before `run` gives up waiting (the VM stays).
const START_TIMEOUT: Duration = Duration::from_secs(120);
/// How long the console's last words may take after the VM's end.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Creates and starts a VM
///
/// Without -d it shows the console until the VM ends, and exits with the exit code of the
/// image's program; Ctrl-C stops the VM, a second Ctrl-C kills it.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Leave it in the background and print its id
    #[arg(short, long)]
    detach: bool,

    /// Connect standard input to the console
    #[arg(short, long, conflicts_with = "detach")]
    interactive: bool,

    /// Use the console with the terminal in raw mode (as -i; Ctrl-] leaves)
    #[arg(short, long, conflicts_with = "detach")]
    tty: bool,

    #[command(flatten)]
    pull: PullArgs,

    #[command(flatten)]
    spec: SpecArgs,
}

pub(crate) async fn run(context: &Context, args: RunArgs) -> Outcome {
    if args.detach {
        let wait = Some(Wait {
            timeout: Some(START_TIMEOUT),
        });
        let vm = create::create(context, &args.spec, args.pull.pull, true, wait).await?;
        create::print_created(context, &vm)?;
        return Ok(exit_codes::OK);
    }
    // The guest's codes are from 0 up: our own failures must not look like them.
    foreground(context, &args).await.map_err(|failure| {
        if failure.code == exit_codes::USAGE {
            failure
        } else {
            failure.with_code(exit_codes::HEARTH_FAILED)
        }
    })
}

async fn foreground(context: &Context, args: &RunArgs) -> Outcome {
    let vm = create::create(context, &args.spec, args.pull.pull, false, None).await?;
    let name = vm.spec.name.as_str();
    // With --rm the daemon forgets the VM with its end: the wait must be there before the start.
    let removed = args.spec.rm.then(|| {
        let client = context.client.clone();
        let id = vm.id.to_string();
        tokio::spawn(async move { patient(&client, &id, WaitCondition::Removed, None).await })
    });
    context.out.note(format!("Starting {name}"));
    let options = ActOptions::waiting(Some(START_TIMEOUT));
    let started = context
        .client
        .act(&vm.id.to_string(), Action::Start, &options)
        .await;
    if let Err(error) = started
        && !has_run(context, &vm, &error, args.spec.rm).await
    {
        let failure = Failure::from(error);
        return Err(if failure.hint.is_none() {
            failure.hint(format!(
                "hearth inspect {name} and hearth logs --vmm {name} tell more"
            ))
        } else {
            failure
        });
    }
    let end = async {
        match removed {
            Some(task) => task
                .await
                .map_err(|e| Failure::because(exit_codes::FAILURE, "The wait ended early", &e))?
                .map_err(Failure::from),
            None => {
                let id = vm.id.to_string();
                Ok(patient(&context.client, &id, WaitCondition::Stopped, None).await?)
            }
        }
    };
    let result = if args.interactive || args.tty {
        match context.client.console(&vm.id.to_string()).await {
            Ok(socket) => super::console::attach(context, socket, name, LAST_WORDS, end).await?,
            // It has ended before the console could be opened.
            Err(error)
                if error
                    .problem()
                    .is_some_and(|p| matches!(p.status, 404 | 409)) =>
            {
                Some(end.await?)
            }
            Err(error) => return Err(error.into()),
        }
    } else {
        follow(context, &vm, end).await?
    };
    Ok(result.map_or(exit_codes::OK, |end| code_of(context, name, &end)))
}

/// Whether a start that "failed" did run: the VM's program ended before anybody looked.
async fn has_run(context: &Context, vm: &Vm, error: &ClientError, removes: bool) -> bool {
    if error.is_not_found() {
        return removes;
    }
    if error.problem().is_none_or(|p| p.status != 409) {
        return false;
    }
    let now = context.client.vm(&vm.id.to_string()).await;
    now.is_ok_and(|vm| vm.last_end.is_some_and(|end| end.exit_code.is_some()))
}

/// Shows the console until the VM has ended; signals stop it.
async fn follow(
    context: &Context,
    vm: &Vm,
    end: impl Future<Output = Result<WaitResult, Failure>>,
) -> Result<Option<WaitResult>, Failure> {
    let id = vm.id.to_string();
    let logs = show_logs(context, &id);
    let mut logs = std::pin::pin!(logs);
    let mut end = std::pin::pin!(end);
    let mut signals = Signals::ending()?;
    let mut log_open = true;
    let mut stops = 0;
    loop {
        tokio::select! {
            result = &mut end => {
                let result = result?;
                if log_open {
                    // The log ends by itself; a daemon that forgets to must not hold us.
                    match tokio::time::timeout(LAST_WORDS, &mut logs).await {
                        Ok(written) => written?,
                        Err(_) => context.out.warn("the console's log did not end"),
                    }
                }
                return Ok(Some(result));
            }
            written = &mut logs, if log_open => {
                written?;
                log_open = false;
            }
            number = signals.next() => {
                stops += 1;
                if stops > 2 {
                    return Err(Failure::silent(code_of_signal(number)));
                }
                stop(context, &id, vm.spec.name.as_str(), stops == 2).await?;
            }
        }
    }
}

async fn stop(context: &Context, id: &str, name: &str, force: bool) -> Result<(), Failure> {
    let body = StopVm {
        force,
        timeout: None,
    };
    context.out.note(if force {
        format!("Killing {name}")
    } else {
        format!("Stopping {name}; once more to kill it")
    });
    match context
        .client
        .stop_vm(id, &body, &ActOptions::default())
        .await
    {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Shows the console's log to its end; a daemon that restarts is waited for by the wait
/// beside it, and the log goes on with what comes after.
async fn show_logs(context: &Context, id: &str) -> Result<(), Failure> {
    let mut output = RawOutput::new();
    let mut options = LogOptions {
        follow: true,
        ..LogOptions::default()
    };
    loop {
        match context.client.logs(id, options).await {
            Ok(stream) => match copy(stream, &mut output).await? {
                None => return Ok(()),
                Some(lost) => context.out.note(format!(
                    "{lost}; some lines may be missing (hearth logs has them)"
                )),
            },
            // Ended and removed before the first look.
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) if error.is_connection() => {}
            Err(error) => return Err(error.into()),
        }
        options.tail = Some(0);
        tokio::time::sleep(super::wait::RETRY).await;
    }
}

/// Shows one stream; `Some` when the connection broke.
async fn copy(
    mut stream: ByteStream,
    output: &mut RawOutput,
) -> Result<Option<ClientError>, Failure> {
    loop {
        match stream.try_next().await {
            Ok(Some(bytes)) => output.stdout(&bytes).await?,
            Ok(None) => return Ok(None),
            Err(error) if error.is_connection() => return Ok(Some(error)),
            Err(error) => return Err(error.into()),
        }
    }
}

/// The exit code for how the VM ended, with a word when it was not by its program.
pub(crate) fn code_of(context: &Context, name: &str, result: &WaitResult) -> u8 {
    if let Some(code) = result.exit_code {
        return exit_codes::of_guest(code);
    }
    let Some(end) = &result.end else {
        return exit_codes::OK;
    };
    if end.failure {
        crate::output::error(&format!(
            "{name} ended without an exit code: {}",
            end.reason
        ));
        exit_codes::HEARTH_FAILED
    } else {
        context
            .out
            .note(format!("{name} has ended: {}", end.reason));
        exit_codes::OK
    }
}
