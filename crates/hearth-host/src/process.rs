//! Processes that carry the owner mark: who they are, proof before each signal, their end.
//!
//! A pid alone may be anybody's after a while. A signal therefore goes through a pidfd that
//! was opened *before* the identity was compared: whatever happens to the pid afterwards,
//! the pidfd still means the process that was compared.
//!
//! ```text
//!   ProcessIdentity ──prove──► Proven ──signal──► Proven ──wait_dead──► dead
//!        │                        ▲
//!        └── NotProven: Gone │ Different │ Unreadable      (nothing was touched)
//! ```
//!
//! A zombie is dead: it runs nothing and holds nothing. Its parent may take long to reap it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use hearth_types::OwnerMark;
use hearth_types::process::ProcessIdentity;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::boot::{BootError, BootId};

mod procfs;
mod scan;
#[cfg(test)]
mod tests;

pub use rustix::process::Signal;
pub use scan::survey;

use procfs::{Environ, Proc};

/// How often a process is looked at again when no pidfd can be had for it (out of file
/// descriptors, say). The pidfd is the mechanism, this the net below it.
const WATCH_RETRY: Duration = Duration::from_millis(500);

/// A process could not be looked at. It says nothing on whether the process lives.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The boot is unknown.
    #[error("cannot tell which boot this is")]
    Boot(#[from] BootError),
    /// A file of `/proc` could not be read.
    #[error("cannot read /proc/{file}")]
    Read {
        /// The file below `/proc`.
        file: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file of `/proc` has a content that is not understood.
    #[error("/proc/{file} has an unexpected content: {detail}")]
    Malformed {
        /// The file below `/proc`.
        file: String,
        /// What is wrong.
        detail: String,
    },
    /// The process lives but carries no owner mark.
    #[error("process {pid} carries no owner mark in its environment")]
    NotMarked {
        /// Which process.
        pid: i32,
    },
}

/// Why a process could not be proven to be the one that is meant.
#[derive(Debug, thiserror::Error)]
pub enum NotProven {
    /// It is dead: gone or a zombie.
    #[error("it is dead")]
    Gone,
    /// The pid belongs to somebody else now.
    #[error("its {what} is {found:?}, expected {expected:?}")]
    Different {
        /// Which part of the identity.
        what: &'static str,
        /// What was expected.
        expected: String,
        /// What was found.
        found: String,
    },
    /// It could not be looked at; nothing is known.
    #[error("it cannot be examined")]
    Unreadable(#[source] io::Error),
}

/// The process did not end in time.
#[derive(Debug, thiserror::Error)]
pub enum WaitError {
    /// The deadline passed.
    #[error("process {pid} still lives after {} ms", deadline.as_millis())]
    Deadline {
        /// Which process.
        pid: i32,
        /// The time it was given.
        deadline: Duration,
    },
    /// The pidfd could not be waited on.
    #[error("cannot wait for the end of process {pid}")]
    Wait {
        /// Which process.
        pid: i32,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A living process whose identity was compared after a pidfd to it was opened.
#[derive(Debug)]
pub struct Proven {
    pidfd: OwnedFd,
    pid: i32,
}

/// What a look at a pid finds.
enum Look {
    /// Nothing, or a zombie.
    Gone,
    /// A process that has given up its memory, and with it environment and program, on its
    /// way to being a zombie. It may take seconds to free a large guest's memory first.
    Exiting { start_time: u64 },
    /// A living process without a mark.
    Unmarked,
    /// A living process with a mark.
    Marked(ProcessIdentity),
}

/// Reads the identity of a process; `None` when it is gone, a zombie, or about to be one.
///
/// # Errors
/// When the process cannot be looked at, or lives and carries no owner mark.
pub fn identity_of(pid: i32) -> Result<Option<ProcessIdentity>, ProcessError> {
    match look(pid)? {
        Look::Gone | Look::Exiting { .. } => Ok(None),
        Look::Unmarked => Err(ProcessError::NotMarked { pid }),
        Look::Marked(identity) => Ok(Some(identity)),
    }
}

fn look(pid: i32) -> Result<Look, ProcessError> {
    let boot_id = String::from(BootId::current()?);
    let proc = Proc::open()?;
    let mut buffer = Vec::new();
    let Some(before) = proc.stat(pid)? else {
        return Ok(Look::Gone);
    };
    let mark = match proc.environ(pid, &mut buffer)? {
        Environ::Gone => return Ok(Look::Gone),
        Environ::NoProgram => None,
        Environ::Is(environ) => procfs::mark_in(environ),
    };
    let exe = proc.exe(pid)?;
    // Still the same process after everything was read: then all of it belongs together.
    match proc.stat(pid)? {
        Some(after) if after.start_time == before.start_time => {}
        _ => return Ok(Look::Gone),
    }
    Ok(match (exe, mark) {
        (None, _) => Look::Exiting {
            start_time: before.start_time,
        },
        (Some(_), None) => Look::Unmarked,
        (Some(exe), Some(mark)) => Look::Marked(ProcessIdentity {
            boot_id,
            pid,
            start_time: before.start_time,
            exe,
            mark,
        }),
    })
}

/// Opens a pidfd and then compares every part of the identity with the process behind it.
///
/// A process that is exiting has neither environment nor program any more; its pid and its
/// start time, which no other process of this boot has, must do.
///
/// # Errors
/// [`NotProven`] says whether the process is dead, somebody else, or unknown.
pub fn prove(identity: &ProcessIdentity) -> Result<Proven, NotProven> {
    // Zero and negative numbers mean groups of processes to the kernel.
    let pid = Some(identity.pid)
        .filter(|&pid| pid > 0)
        .and_then(Pid::from_raw)
        .ok_or_else(|| different("pid", "a positive number", &identity.pid.to_string()))?;
    let boot = BootId::current().map_err(|error| NotProven::Unreadable(error.source))?;
    if boot.as_str() != identity.boot_id {
        return Err(different("boot id", &identity.boot_id, boot.as_str()));
    }
    let pidfd = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Ok(fd) => fd,
        Err(Errno::SRCH) => return Err(NotProven::Gone),
        Err(error) => return Err(NotProven::Unreadable(error.into())),
    };
    let proven = Proven {
        pidfd,
        pid: identity.pid,
    };
    let compared = match look(identity.pid) {
        Ok(Look::Marked(found)) => compare(identity, &found),
        Ok(Look::Exiting { start_time }) if start_time == identity.start_time => Ok(()),
        Ok(Look::Exiting { .. } | Look::Unmarked) => {
            Err(different("mark", &identity.mark.to_string(), "none"))
        }
        Ok(Look::Gone) => Err(NotProven::Gone),
        Err(error) => Err(NotProven::Unreadable(io::Error::other(error))),
    };
    // The pidfd still lives, so the pid was not given away while `/proc` was read; and a
    // process that died meanwhile is dead, whatever was read of it.
    if proven.is_dead() {
        return Err(NotProven::Gone);
    }
    compared.map(|()| proven)
}

/// How a process is at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// It is dead, or a zombie, or the pid is somebody else's now.
    Gone,
    /// A signal or a debugger has stopped it.
    Suspended,
    /// Its main thread waits in the kernel, for a disk say. A moment of it is normal.
    Stuck,
    /// None of these.
    Runs,
}

/// Looks at a process, by pid and start time only: cheap enough to be asked often.
///
/// # Errors
/// When it could not be looked at.
pub fn condition(identity: &ProcessIdentity) -> Result<Condition, ProcessError> {
    let stat = Proc::open()?.stat(identity.pid)?;
    Ok(match stat {
        Some(stat) if stat.start_time != identity.start_time => Condition::Gone,
        None => Condition::Gone,
        Some(stat) if stat.suspended => Condition::Suspended,
        Some(stat) if stat.stuck => Condition::Stuck,
        Some(_) => Condition::Runs,
    })
}

fn compare(expected: &ProcessIdentity, found: &ProcessIdentity) -> Result<(), NotProven> {
    let mark = |mark: &OwnerMark| mark.to_string();
    let start = |time: u64| time.to_string();
    for (what, expected, found) in [
        (
            "start time",
            start(expected.start_time),
            start(found.start_time),
        ),
        ("program", expected.exe.clone(), found.exe.clone()),
        ("mark", mark(&expected.mark), mark(&found.mark)),
    ] {
        if expected != found {
            return Err(different(what, &expected, &found));
        }
    }
    Ok(())
}

fn different(what: &'static str, expected: &str, found: &str) -> NotProven {
    NotProven::Different {
        what,
        expected: expected.to_owned(),
        found: found.to_owned(),
    }
}

impl Proven {
    /// Sends a signal to exactly the process that was proven.
    ///
    /// # Errors
    /// When the kernel refuses. A process that has died meanwhile is not an error.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        match rustix::process::pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the process is dead; a zombie is.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let now = rustix::time::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        matches!(rustix::event::poll(&mut fds, Some(&now)), Ok(1))
    }

    /// Returns when the process is dead.
    ///
    /// # Errors
    /// When it still lives after `deadline`, or the pidfd cannot be waited on.
    pub async fn wait_dead(&self, deadline: Duration) -> Result<(), WaitError> {
        match tokio::time::timeout(deadline, self.dead()).await {
            Ok(result) => result,
            Err(_) => Err(WaitError::Deadline {
                pid: self.pid,
                deadline,
            }),
        }
    }

    /// Returns when the process is dead, however long that takes.
    ///
    /// # Errors
    /// When the pidfd cannot be waited on.
    pub async fn dead(&self) -> Result<(), WaitError> {
        let failed = |source| WaitError::Wait {
            pid: self.pid,
            source,
        };
        let pidfd = self.pidfd.as_fd().try_clone_to_owned().map_err(failed)?;
        // SAFETY: the descriptor is owned by the `AsyncFd` and is closed only when that is
        // dropped, after it was taken out of the reactor.
        let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }
            .map_err(|error| failed(error.into()))?;
        // A pidfd is readable when the whole process, not only one thread, has ended.
        pidfd.readable().await.map_err(failed)?.retain_ready();
        Ok(())
    }
}

/// Returns when the process is dead, or at once when it is dead already or somebody else.
pub async fn watch(identity: ProcessIdentity) {
    loop {
        match prove(&identity) {
            Ok(proven) => {
                if proven.dead().await.is_ok() {
                    return;
                }
            }
            Err(NotProven::Gone | NotProven::Different { .. }) => return,
            Err(NotProven::Unreadable(error)) => {
                tracing::warn!(pid = identity.pid, %error, "cannot watch a process; looking again");
            }
        }
        tokio::time::sleep(WATCH_RETRY).await;
    }
}
