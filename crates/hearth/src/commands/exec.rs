//! `hearth exec`: a command in a guest, with this process's standard streams.
//!
//! Two tasks, so that a guest that does not read never keeps us from showing what it writes:
//! one sends (input, signals, sizes), one receives (output, the end).

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

use hearth_client::{ClientError, ExecOutput, ExecReader, ExecWriter};
use hearth_types::api::ExecRequest;
use hearth_types::problem::Code;

use crate::cli::Context;
use crate::exit_codes;
use crate::failure::{Failure, Outcome};
use crate::stdio::{self, RawOutput, Signals, code_of_signal};
use crate::terminal::{self, RawMode};

/// How long a signal waits behind input that the guest does not take.
const SIGNAL_PATIENCE: Duration = Duration::from_secs(1);

/// Runs a command in a running VM
///
/// Exits with the command's exit code; see `hearth help exit-codes`.
#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// Pass on standard input
    #[arg(short, long)]
    interactive: bool,

    /// Give the command a terminal
    #[arg(short, long)]
    tty: bool,

    /// Environment variable: KEY=VALUE, or KEY to pass on one's own (several times)
    #[arg(short, long = "env", value_name = "KEY[=VALUE]")]
    env: Vec<String>,

    /// Working folder in the guest
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,

    /// User in the guest: USER[:GROUP]
    #[arg(short, long)]
    user: Option<String>,

    /// VM by name or id
    vm: String,

    /// Command and arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

pub(crate) async fn run(context: &Context, args: ExecArgs) -> Outcome {
    if args.tty && args.interactive && !std::io::stdin().is_terminal() {
        return Err(Failure::usage("Standard input is not a terminal").hint("leave out -t"));
    }
    let mut env = BTreeMap::new();
    for entry in &args.env {
        crate::spec_args::add_variable(entry, &mut env);
    }
    if args.tty
        && let Ok(term) = std::env::var("TERM")
    {
        env.entry("TERM".to_owned()).or_insert(term);
    }
    let request = ExecRequest {
        argv: args.command,
        env,
        workdir: args.workdir,
        user: args.user,
        tty: args.tty.then(terminal::size),
        stdin: args.interactive,
    };
    let ours = |failure: Failure| failure.with_code(exit_codes::HEARTH_FAILED);
    let session = context.client.exec(&args.vm, &request).await;
    let session = session.map_err(Failure::from).map_err(ours)?;
    // Raw only when the keys reach the command: else Ctrl-C must stay ours.
    let raw = if args.tty && args.interactive {
        RawMode::enter().map_err(|e| {
            ours(Failure::because(
                exit_codes::FAILURE,
                "Cannot switch the terminal to raw mode",
                &e,
            ))
        })?
    } else {
        None
    };
    let signals = if raw.is_some() {
        Signals::ending()
    } else {
        Signals::forwardable()
    }?;
    let outcome = join(
        session.writer,
        session.reader,
        signals,
        &request,
        raw.is_some(),
    )
    .await;
    drop(raw);
    outcome
}

async fn join(
    writer: ExecWriter,
    reader: ExecReader,
    signals: Signals,
    request: &ExecRequest,
    raw: bool,
) -> Outcome {
    if raw {
        // Signals from outside end us, and with the connection the command's terminal.
        let sender = tokio::spawn(send(writer, None, request.stdin, request.tty.is_some()));
        let mut signals = signals;
        let outcome = tokio::select! {
            outcome = receive(reader) => outcome,
            number = signals.next() => Err(Failure::silent(code_of_signal(number))),
        };
        sender.abort();
        return outcome;
    }
    let mut sender = tokio::spawn(send(
        writer,
        Some(signals),
        request.stdin,
        request.tty.is_some(),
    ));
    let outcome = tokio::select! {
        outcome = receive(reader) => outcome,
        number = undelivered(&mut sender) => Err(Failure::silent(code_of_signal(number))),
    };
    sender.abort();
    outcome
}

/// The signal that could not be passed on; a sender that ends for another reason says nothing.
async fn undelivered(sender: &mut JoinHandle<Result<i32, ClientError>>) -> i32 {
    match sender.await {
        Ok(Ok(number)) => number,
        _ => std::future::pending().await,
    }
}

/// Sends a piece of input. A signal that comes meanwhile goes behind it, or is given back when
/// the guest does not take the input.
async fn send_input(
    writer: &mut ExecWriter,
    signals: Option<&mut Signals>,
    bytes: &[u8],
) -> Result<Option<i32>, ClientError> {
    let number = {
        let sending = writer.stdin(bytes);
        tokio::pin!(sending);
        let signalled = async {
            match signals {
                Some(signals) => signals.next().await,
                None => std::future::pending().await,
            }
        };
        let number = tokio::select! {
            biased;
            sent = &mut sending => return sent.map(|()| None),
            number = signalled => number,
        };
        match tokio::time::timeout(SIGNAL_PATIENCE, sending).await {
            Ok(sent) => sent?,
            Err(_) => return Ok(Some(number)),
        }
        number
    };
    writer.signal(number).await?;
    Ok(None)
}

/// Passes on input, sizes and signals; ends with a signal that could not be passed on. A lost
/// connection is told by the receiver.
async fn send(
    mut writer: ExecWriter,
    mut signals: Option<Signals>,
    input: bool,
    tty: bool,
) -> Result<i32, ClientError> {
    let mut stdin = input.then(stdio::stdin);
    let mut resized = signal(SignalKind::window_change()).ok().filter(|_| tty);
    loop {
        tokio::select! {
            chunk = async { stdin.as_mut()?.recv().await }, if stdin.is_some() => match chunk {
                Some(Ok(bytes)) => {
                    if let Some(number) = send_input(&mut writer, signals.as_mut(), &bytes).await? {
                        return Ok(number);
                    }
                }
                // An input that cannot be read ends as one that is empty.
                Some(Err(_)) | None => {
                    stdin = None;
                    writer.close_stdin().await?;
                }
            },
            number = async { match &mut signals {
                Some(signals) => signals.next().await,
                None => std::future::pending().await,
            } } => writer.signal(number).await?,
            () = async { match &mut resized {
                Some(resized) => { resized.recv().await; }
                None => std::future::pending().await,
            } } => writer.resize(terminal::size()).await?,
        }
    }
}

/// Shows output until the command's end.
async fn receive(mut reader: ExecReader) -> Outcome {
    let mut output = RawOutput::new();
    loop {
        match reader.next().await {
            Ok(ExecOutput::Stdout(bytes)) => output.stdout(&bytes).await?,
            Ok(ExecOutput::Stderr(bytes)) => output.stderr(&bytes).await?,
            Ok(ExecOutput::Exit(code)) => return Ok(exit_codes::of_guest(code)),
            Err(error) => return Err(not_run(error)),
        }
    }
}

/// Docker's codes for a command that was not run.
fn not_run(error: ClientError) -> Failure {
    let code = match error.problem().map(|p| p.code) {
        Some(Code::NotFound) => exit_codes::NO_SUCH_COMMAND,
        Some(Code::Invalid) => exit_codes::CANNOT_RUN,
        _ => exit_codes::HEARTH_FAILED,
    };
    Failure::from(error).with_code(code)
}
