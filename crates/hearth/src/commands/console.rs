//! `hearth console`, and the console of `hearth run -it`.

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;

use hearth_client::{ConsoleReader, ConsoleSocket, ConsoleWriter};
use hearth_types::api::WaitResult;

use crate::cli::Context;
use crate::exit_codes;
use crate::failure::{Failure, Outcome};
use crate::stdio::{self, RawOutput, Signals, code_of_signal};
use crate::terminal::RawMode;

/// Ctrl-]: telnet's and `virsh console`'s key to leave.
const ESCAPE: u8 = 0x1d;

/// Connects to a VM's serial console; Ctrl-] leaves
#[derive(Debug, Args)]
pub(crate) struct ConsoleArgs {
    /// VM by name or id
    vm: String,
}

pub(crate) async fn run(context: &Context, args: ConsoleArgs) -> Outcome {
    let socket = context.client.console(&args.vm).await?;
    attach(
        context,
        socket,
        &args.vm,
        Duration::ZERO,
        std::future::pending(),
    )
    .await?;
    Ok(exit_codes::OK)
}

/// Joins terminal and console until the person leaves (`None`) or `end` is there. A console
/// that closes is the end, too; what `end` has to say may come so much (`grace`) later.
pub(crate) async fn attach(
    context: &Context,
    socket: ConsoleSocket,
    name: &str,
    grace: Duration,
    end: impl Future<Output = Result<WaitResult, Failure>>,
) -> Result<Option<WaitResult>, Failure> {
    let mut signals = Signals::ending()?;
    let raw = RawMode::enter().map_err(|e| {
        Failure::because(
            exit_codes::FAILURE,
            "Cannot switch the terminal to raw mode",
            &e,
        )
    })?;
    if raw.is_some() {
        // In raw mode a line feed does not return the carriage.
        context
            .out
            .note(format!("Connected to {name}; Ctrl-] leaves\r"));
    }
    let mut typed = tokio::spawn(send_typed(socket.writer, raw.is_some()));
    let mut shown = pin!(show(socket.reader));
    let mut end = pin!(end);
    let mut typing = true;
    let result = loop {
        tokio::select! {
            result = &mut end => break result.map(Some),
            closed = &mut shown => {
                closed?;
                // The guest has gone: its end, if anybody waits for it, comes at once.
                break tokio::select! {
                    result = &mut end => result.map(Some),
                    () = tokio::time::sleep(grace) => Ok(None),
                };
            }
            left = &mut typed, if typing => match left {
                Ok(Ok(Typed::Left)) => break Ok(None),
                // Without a terminal the input's end is not the end of the output.
                Ok(Ok(Typed::Ended)) => typing = false,
                Ok(Err(failure)) => break Err(failure),
                Err(error) => break Err(Failure::because(exit_codes::FAILURE, "Reading input failed", &error)),
            },
            number = signals.next() => break Err(Failure::silent(code_of_signal(number))),
        }
    };
    typed.abort();
    drop(raw);
    result
}

/// Why typing ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Typed {
    /// The escape key.
    Left,
    /// The end of the input.
    Ended,
}

async fn send_typed(mut writer: ConsoleWriter, escape: bool) -> Result<Typed, Failure> {
    let mut stdin = stdio::stdin();
    while let Some(chunk) = stdin.recv().await {
        let chunk = chunk
            .map_err(|e| Failure::because(exit_codes::FAILURE, "Cannot read standard input", &e))?;
        let (chunk, left) = until_escape(chunk, escape);
        if !chunk.is_empty() {
            writer.send(chunk).await?;
        }
        if left {
            // The daemon sees the connection's end in any case.
            drop(writer.close().await);
            return Ok(Typed::Left);
        }
    }
    Ok(Typed::Ended)
}

/// What comes before the escape key, and whether it was there.
fn until_escape(mut chunk: Bytes, escape: bool) -> (Bytes, bool) {
    match chunk.iter().position(|b| *b == ESCAPE).filter(|_| escape) {
        Some(at) => {
            chunk.truncate(at);
            (chunk, true)
        }
        None => (chunk, false),
    }
}

async fn show(mut reader: ConsoleReader) -> Result<(), Failure> {
    let mut output = RawOutput::new();
    while let Some(bytes) = reader.next().await? {
        output.stdout(&bytes).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_escape_key_cuts_the_input() {
        let typed = Bytes::from_static(b"ls\r\x1drm");
        assert_eq!(
            until_escape(typed.clone(), true),
            (Bytes::from_static(b"ls\r"), true)
        );
        assert_eq!(until_escape(typed.clone(), false), (typed, false));
    }
}
