//! The service manager: what systemd passes to the daemon, and what the daemon tells it.
//!
//! ```text
//!  LISTEN_FDS ──► listeners           NOTIFY_SOCKET ◄── READY=1   after the first pass, when
//!  WATCHDOG_USEC ──► Watchdog                       │             the API listens
//!                        ▲                          ├── WATCHDOG=1 after each pass that ends
//!    engine: pass ends ──┘                          └── STOPPING=1 at SIGTERM
//! ```
//!
//! The watchdog says one thing: *the loop comes round*. Nothing but the end of a pass feeds
//! it, no timer and no request; a pass that hangs starves it, and systemd restarts the daemon.
//! A pass that ended with an error did end: a restart would not mend a full disk, and the
//! status line says what is wrong.
//!
//! Without a service manager all of this does nothing. The variables stay in this process's
//! environment; none of the programs that Hearth starts inherits any of it.

use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use sd_notify::NotifyState;
use tokio::sync::watch;

use crate::engine::{Engine, Turn};

/// The shortest time between two messages: passes may follow each other quickly, and each
/// message wakes PID 1. What is said after it is what holds then.
const REST: Duration = Duration::from_secs(1);

/// Characters kept of a status.
const STATUS_MAX: usize = 300;

/// Where messages go.
pub type Send = Arc<dyn Fn(&[NotifyState<'_>]) + std::marker::Send + Sync>;

/// The service manager, if there is one.
#[derive(Clone)]
pub struct Manager {
    send: Send,
    watchdog: Option<Duration>,
}

impl std::fmt::Debug for Manager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Manager")
            .field("watchdog", &self.watchdog)
            .finish_non_exhaustive()
    }
}

impl Manager {
    /// The one that started this process, as its environment says.
    #[must_use]
    pub fn from_env() -> Self {
        let send = |states: &[NotifyState<'_>]| {
            if let Err(error) = sd_notify::notify(states) {
                tracing::warn!(error = %error, "the service manager could not be told {states:?}");
            }
        };
        Self::new(Arc::new(send), sd_notify::watchdog_enabled())
    }

    /// One that hears what is given to `send` and expects to be fed once per `watchdog`.
    #[must_use]
    pub fn new(send: Send, watchdog: Option<Duration>) -> Self {
        Self { send, watchdog }
    }

    /// How long the manager waits for a sign of life.
    #[must_use]
    pub const fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// The longest pause between two passes: two fit into the watchdog's time.
    #[must_use]
    pub fn longest_pause(&self, resync: Duration) -> Duration {
        match self.watchdog {
            Some(watchdog) => resync.min(watchdog / 2),
            None => resync,
        }
    }

    /// The API answers.
    pub fn ready(&self) {
        (self.send)(&[NotifyState::Ready]);
    }

    /// The daemon ends.
    pub fn stopping(&self) {
        let status = NotifyState::Status("ending; the VMs go on");
        (self.send)(&[NotifyState::Stopping, status]);
    }

    /// Tells of each pass that ends, until `stop` turns true.
    pub async fn follow(self, engine: Arc<Engine>, mut stop: watch::Receiver<bool>) {
        let mut turns = engine.turns();
        // The pass that made the daemon ready counts, too.
        turns.mark_changed();
        loop {
            tokio::select! {
                changed = turns.changed() => if changed.is_err() { return },
                _ = stop.wait_for(|stop| *stop) => return,
            }
            let turn = turns.borrow_and_update().clone();
            if self.watchdog.is_some() {
                (self.send)(&[NotifyState::Watchdog]);
            }
            let status = status(&engine, &turn).await;
            (self.send)(&[NotifyState::Status(&status)]);
            tokio::time::sleep(REST).await;
        }
    }
}

/// One line for `systemctl status`.
async fn status(engine: &Engine, turn: &Turn) -> String {
    let rows = engine.parts.store.vms().await;
    let running = rows.iter().filter(|row| row.status.vmm.is_some()).count();
    let stance = engine.modes.stance();
    let mode = match stance.reason {
        Some(reason) => format!("mode {}: {reason}; ", stance.mode),
        None => String::new(),
    };
    let vms = format!("{mode}{running} of {} VMs run", rows.len());
    match &turn.failure {
        None => one_line(&vms),
        Some(failure) => one_line(&format!("{vms}; the last pass failed: {failure}")),
    }
}

/// Errors quote what programs said, and a message is made of lines: one in a status would be
/// a word of its own to the service manager.
fn one_line(text: &str) -> String {
    let spaced = text.replace(char::is_control, " ");
    spaced.chars().take(STATUS_MAX).collect()
}

/// The listening sockets that the service manager passed to this process; none when it passed
/// none, or passed them to another process.
///
/// Takes the variables out of the environment, so call it before there are threads.
///
/// # Errors
/// When something else than a listening unix socket was passed.
pub fn listeners() -> anyhow::Result<Vec<UnixListener>> {
    let own = std::process::id().to_string();
    if std::env::var("LISTEN_PID").ok().as_deref() != Some(own.as_str()) {
        return Ok(Vec::new());
    }
    let mut passed = listenfd::ListenFd::from_env();
    (0..passed.len())
        .filter_map(|index| passed.take_unix_listener(index).transpose())
        .map(|listener| {
            let listener = listener.context(
                "hearthd.socket may have ListenStream= with a path only; the TCP port is set by API_PORT",
            )?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_one_line() {
        let said = one_line("nft failed: a\nMAINPID=1\r\tb");
        assert_eq!(said, "nft failed: a MAINPID=1  b");
        assert_eq!(one_line(&"é".repeat(1000)).chars().count(), STATUS_MAX);
    }

    #[test]
    fn two_passes_fit_into_the_watchdogs_time() {
        let minute = Duration::from_secs(60);
        let with = |watchdog| Manager::new(Arc::new(|_: &[NotifyState<'_>]| ()), watchdog);
        assert_eq!(with(None).longest_pause(minute), minute);
        assert_eq!(with(Some(minute)).longest_pause(minute), minute / 2);
        assert_eq!(with(Some(4 * minute)).longest_pause(minute), minute);
    }
}
