//! The name server's process: found by its mark, proved again at each signal. The proof
//! itself is `hearth_host::process`'s; here are its arguments and the way it is ended.

use std::io;
use std::time::Duration;

use hearth_host::process::{NotProven, ProcessError, Proven, Signal, prove, survey};
use hearth_types::OwnerMark;
use hearth_types::observe::ProcessRole;
use hearth_types::process::ProcessIdentity;

/// A living name server with our mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Server {
    identity: ProcessIdentity,
    parent: i32,
    /// Its arguments, the program's name first.
    pub(super) args: Vec<String>,
}

/// All living name servers of the installation. dnsmasq serves each TCP client in a child with
/// the same mark and arguments: a child of a server is no other server.
pub(super) fn find(mark: OwnerMark) -> Result<Vec<Server>, ProcessError> {
    let mut found = Vec::new();
    for process in survey(mark.installation)? {
        if process.role == ProcessRole::Names && process.identity.mark == mark {
            let file = format!("{}/cmdline", process.identity.pid);
            let cmdline = match std::fs::read(format!("/proc/{file}")) {
                Ok(cmdline) => cmdline,
                Err(error) if is_gone(&error) => continue,
                Err(source) => return Err(ProcessError::Read { file, source }),
            };
            let Some(parent) = parent_of(process.identity.pid)? else {
                continue;
            };
            let args = cmdline.split(|byte| *byte == 0);
            found.push(Server {
                identity: process.identity,
                parent,
                args: args
                    .filter(|arg| !arg.is_empty())
                    .map(|arg| String::from_utf8_lossy(arg).into_owned())
                    .collect(),
            });
        }
    }
    let pids: Vec<i32> = found.iter().map(Server::pid).collect();
    found.retain(|server| !pids.contains(&server.parent));
    Ok(found)
}

/// The process that started it, or that has taken it over; `None` when it has ended.
fn parent_of(pid: i32) -> Result<Option<i32>, ProcessError> {
    let file = format!("{pid}/stat");
    let stat = match std::fs::read(format!("/proc/{file}")) {
        Ok(stat) => stat,
        Err(error) if is_gone(&error) => return Ok(None),
        Err(source) => return Err(ProcessError::Read { file, source }),
    };
    // pid (name) state ppid …; the name may contain anything, also parentheses.
    let stat = String::from_utf8_lossy(&stat);
    let fields = stat.rsplit_once(')').map(|(_, fields)| fields);
    let parent = fields.and_then(|fields| fields.split_ascii_whitespace().nth(1)?.parse().ok());
    let strange = || io::Error::new(io::ErrorKind::InvalidData, "it names no parent");
    parent.map(Some).ok_or_else(|| ProcessError::Read {
        file,
        source: strange(),
    })
}

impl Server {
    /// Its process id.
    pub(super) const fn pid(&self) -> i32 {
        self.identity.pid
    }
}

/// `ESRCH` is what reading a process that just ended gives.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

/// Holds the process; `None` when it has ended.
fn hold(server: &Server) -> io::Result<Option<Proven>> {
    match prove(&server.identity) {
        Ok(proven) => Ok(Some(proven)),
        Err(NotProven::Gone | NotProven::Different { .. }) => Ok(None),
        Err(error) => Err(io::Error::other(error)),
    }
}

/// Lets it read its names again; says whether it was still there.
pub(super) fn reload(server: &Server) -> io::Result<bool> {
    match hold(server)? {
        Some(proven) => proven.signal(Signal::HUP).map(|()| !proven.is_dead()),
        None => Ok(false),
    }
}

/// Ends the process: SIGTERM, then SIGKILL after `patience`, and waits for its end.
pub(super) async fn end(server: &Server, patience: Duration) -> io::Result<()> {
    let Some(proven) = hold(server)? else {
        return Ok(());
    };
    proven.signal(Signal::TERM)?;
    if proven.wait_dead(patience).await.is_ok() {
        return Ok(());
    }
    proven.signal(Signal::KILL)?;
    proven.wait_dead(patience).await.map_err(io::Error::other)
}
