//! Another command of ours on the terminal, for as long as it lasts: a log, a console.
//!
//! It is a process of its own: it has the terminal's input for itself, and whatever becomes of
//! it, the terminal is put back as it was found.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use jiff::Timestamp;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use hearth_monitor::{Key, Model, News};
use hearth_types::ids::VmId;

use super::feed::Feed;
use super::screen::{Keys, Screen};
use crate::cli::Context;
use crate::exit_codes;
use crate::failure::Failure;
use crate::stdio::{Signals, code_of_signal};

/// SIGINT: Ctrl-C went to both of us, and is meant for the other one.
const INTERRUPT: i32 = 2;

/// How long our own may take to be seen. It was sent to both at once; a kill of the child alone
/// (`kill -INT`) is not sent to us.
const OWN_INTERRUPT: Duration = Duration::from_millis(200);
/// Lines of a log from before it is looked at.
const LINES: &str = "1000";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum View {
    Logs,
    Console,
}

/// What goes on around it.
pub(super) struct Scene<'a> {
    pub(super) model: &'a mut Model,
    pub(super) screen: &'a mut Screen,
    pub(super) feed: &'a mut Feed,
    pub(super) signals: &'a mut Signals,
}

/// Shows it until the person leaves it. What the daemon tells meanwhile is taken in.
pub(super) async fn show(
    context: &Context,
    view: View,
    vm: VmId,
    scene: Scene<'_>,
) -> Result<(), Failure> {
    let Scene {
        model,
        screen,
        feed,
        signals,
    } = scene;
    screen.leave();
    let name = model.name_of(vm);
    crate::output::stderr(&match view {
        View::Logs => {
            format!("-- what {name} wrote on its console; Ctrl-C goes back to the dashboard")
        }
        View::Console => format!("-- the console of {name}; Ctrl-] goes back to the dashboard"),
    });
    let child = start(context, view, vm)?;
    let status = wait(child, model, feed, signals).await?;
    // A log that has ended would be hidden at once, and so would a failure.
    let by_the_person = interrupted(status) || (view == View::Console && status.success());
    if !by_the_person {
        wait_for_enter(signals).await?;
    }
    screen.come_back()?;
    let size = crate::terminal::size();
    model.update(News::Size(size.cols, size.rows), Timestamp::now());
    Ok(())
}

fn failed(error: &std::io::Error) -> Failure {
    Failure::because(
        exit_codes::FAILURE,
        "Cannot run hearth for the log or the console",
        error,
    )
}

/// The same program, with the same daemon and token.
fn start(context: &Context, view: View, vm: VmId) -> Result<Child, Failure> {
    let program = std::env::current_exe().map_err(|e| failed(&e))?;
    let mut command = Command::new(program);
    let host = context.client.endpoint().to_string();
    command.args(["--host", &host]);
    if let Some(file) = &context.token_file {
        command.arg("--token-file").arg(file);
    }
    match view {
        View::Logs => command.args(["logs", "--follow", "--tail", LINES]),
        View::Console => command.arg("console"),
    };
    command.arg(vm.to_string()).spawn().map_err(|e| failed(&e))
}

/// Until it ends. A signal that ends us ends it first: it may have the terminal in raw mode.
async fn wait(
    mut child: Child,
    model: &mut Model,
    feed: &mut Feed,
    signals: &mut Signals,
) -> Result<ExitStatus, Failure> {
    let mut ending = None;
    let mut interrupt_seen = false;
    loop {
        let status = tokio::select! {
            status = child.wait() => status.map_err(|e| failed(&e))?,
            number = signals.next() => {
                if number == INTERRUPT {
                    interrupt_seen = true;
                } else {
                    ending = Some(number);
                    terminate(&child);
                }
                continue;
            }
            news = feed.next() => {
                model.update(news, Timestamp::now());
                continue;
            }
        };
        return match ending {
            Some(number) => Err(Failure::silent(code_of_signal(number))),
            None if interrupted(status) && !interrupt_seen => {
                own_interrupt(signals).await?;
                Ok(status)
            }
            None => Ok(status),
        };
    }
}

/// The Ctrl-C that ended the child was sent to us, too, and must not end the dashboard later.
async fn own_interrupt(signals: &mut Signals) -> Result<(), Failure> {
    match tokio::time::timeout(OWN_INTERRUPT, signals.next()).await {
        Err(_) | Ok(INTERRUPT) => Ok(()),
        Ok(number) => Err(Failure::silent(code_of_signal(number))),
    }
}

fn terminate(child: &Child) {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    if let Some(pid) = pid.and_then(Pid::from_raw) {
        // It has ended: then nothing needs to be done.
        kill_process(pid, Signal::TERM).ok();
    }
}

/// Whether Ctrl-C ended it.
fn interrupted(status: ExitStatus) -> bool {
    status.signal() == Some(INTERRUPT)
        || status.code() == Some(i32::from(code_of_signal(INTERRUPT)))
}

/// The terminal is not raw: what was typed comes with Enter.
async fn wait_for_enter(signals: &mut Signals) -> Result<(), Failure> {
    crate::output::stderr("\n-- the end; Enter goes back to the dashboard");
    let mut keys = Keys::new()?;
    loop {
        tokio::select! {
            number = signals.next() => match number {
                INTERRUPT => return Ok(()),
                number => return Err(Failure::silent(code_of_signal(number))),
            },
            news = keys.next() => if matches!(news?, News::Key(Key::Enter | Key::Interrupt)) {
                return Ok(());
            },
        }
    }
}
