//! `hearth exec`: a command in a guest, with this process's standard streams.
//!
//! Two tasks, so that a guest that does not read never keeps us from showing what it writes:
//! one sends (input, signals, sizes), one receives (output, the end).

use std::collections::BTreeMap;
use std::io::IsTerminal;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use hearth_client::{ClientError, ExecOutput, ExecReader, ExecWriter};
use hearth_types::api::ExecRequest;
use hearth_types::problem::Code;

use crate::cli::Context;
use crate::exit_codes;
use crate::failure::{Failure, Outcome};
use crate::stdio::{self, RawOutput, Signals, code_of_signal};
use crate::terminal::{self, RawMode};

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
    let sender = tokio::spawn(send(
        writer,
        Some(signals),
        request.stdin,
        request.tty.is_some(),
    ));
    let outcome = receive(reader).await;
    sender.abort();
    outcome
}

/// Passes on input, sizes and signals. A lost connection is told by the receiver.
async fn send(
    mut writer: ExecWriter,
    mut signals: Option<Signals>,
    input: bool,
    tty: bool,
) -> Result<(), ClientError> {
    let mut stdin = input.then(stdio::stdin);
    let mut resized = signal(SignalKind::window_change()).ok().filter(|_| tty);
    loop {
        tokio::select! {
            chunk = async { stdin.as_mut()?.recv().await }, if stdin.is_some() => match chunk {
                Some(Ok(bytes)) => writer.stdin(&bytes).await?,
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
