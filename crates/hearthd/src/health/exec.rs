//! A command in the guest.

use std::time::Duration;

use hearth_guest_proto::client::{AgentClient, ClientError, StreamReader};
use hearth_guest_proto::message::{ExecRequest, ExitStatus};
use hearth_types::VmId;
use tokio::time::{Instant, timeout_at};

use super::probe::Outcome;
use crate::engine::Engine;

/// How much of the command's output is kept, in bytes; the rest is taken and dropped.
const OUTPUT_MAX: usize = 400;
/// How much is taken, in bytes. A command that says more is held up, as by a pipe that nobody reads: else a
/// guest could have the host read for as long as the check may take.
const TAKEN_MAX: usize = 1 << 20;
/// What is left of the deadline for ending a command that took too long.
const ENDING: Duration = Duration::from_millis(200);
/// SIGKILL.
const KILL: i32 = 9;

/// Good if the command exits with 0 in time.
pub(super) async fn check(
    engine: &Engine,
    vm: VmId,
    command: &[String],
    deadline: Duration,
) -> Outcome {
    // The caller has the deadline itself.
    let until = Instant::now() + deadline.saturating_sub(ENDING.min(deadline / 4));
    let client = match timeout_at(until, engine.agents.get(engine, vm, deadline)).await {
        Ok(Ok(client)) => client,
        // That is another check's affair.
        Ok(Err(error)) => return Outcome::unknown(format!("{error:#}")),
        Err(_) => return Outcome::unknown("the guest's agent does not answer"),
    };
    run(&client, command, deadline, until).await
}

async fn run(
    client: &AgentClient,
    command: &[String],
    deadline: Duration,
    until: Instant,
) -> Outcome {
    let request = ExecRequest {
        argv: command.to_vec(),
        // The guest hangs up on a program that has its input from a session that is lost.
        stdin: true,
        ..ExecRequest::default()
    };
    let mut session = match timeout_at(until, client.exec(request)).await {
        Ok(Ok(session)) => session,
        Ok(Err(error @ ClientError::Refused { .. })) => return Outcome::fail(error.to_string()),
        Ok(Err(error)) => return Outcome::unknown(hearth_types::survey::chain(&error)),
        Err(_) => return Outcome::unknown("the guest's agent does not start the command"),
    };
    drop(session.stdin.take());
    let (stdout, stderr) = (session.stdout.take(), session.stderr.take());
    let control = session.control();
    let work = async { tokio::join!(session.wait(), said(stdout), said(stderr)) };
    match timeout_at(until, work).await {
        Ok((Ok(status), stdout, stderr)) => judge(status, &stdout, &stderr),
        Ok((Err(error), ..)) => Outcome::unknown(hearth_types::survey::chain(&error)),
        Err(_) => {
            // It is of no use any more, and the next one is about to come.
            drop(control.signal(KILL));
            Outcome::fail(format!(
                "the command did not end within {} ms",
                deadline.as_millis()
            ))
        }
    }
}

fn judge(status: ExitStatus, stdout: &str, stderr: &str) -> Outcome {
    let said = [stderr, stdout].map(str::trim);
    let said = said.into_iter().find(|text| !text.is_empty());
    let told = |text: String| match said {
        Some(said) => format!("{text}: {said}"),
        None => text,
    };
    match status {
        ExitStatus::Code(0) => Outcome::pass(told("exit status 0".to_owned())),
        ExitStatus::Code(code) => Outcome::fail(told(format!("exit status {code}"))),
        ExitStatus::Signal(signal) => Outcome::fail(told(format!("ended by signal {signal}"))),
    }
}

/// Reads to the end and keeps the beginning.
async fn said(reader: Option<StreamReader>) -> String {
    let (mut kept, mut taken) = (Vec::new(), 0_usize);
    let Some(mut reader) = reader else {
        return String::new();
    };
    // A stream that breaks has said what it has said.
    while let Ok(Some(bytes)) = reader.next().await {
        taken = taken.saturating_add(bytes.len());
        if taken > TAKEN_MAX {
            // The deadline ends this, and the command with it.
            std::future::pending::<()>().await;
        }
        let room = OUTPUT_MAX.saturating_sub(kept.len());
        kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
    String::from_utf8_lossy(&kept).into_owned()
}
