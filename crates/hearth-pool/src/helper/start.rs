//! How a helper is started: the daemon's own program, with nothing of the daemon's but one socket.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use hearth_types::mark::{OWNER_ENV, OwnerMark};
use hearth_types::observe::{ProcessRole, ROLE_ENV};

/// A helper that was started.
#[derive(Debug)]
pub struct Started {
    /// Our end of the talk.
    pub stream: UnixStream,
    /// The process; `None` for a thread of this one, in tests.
    pub process: Option<Child>,
}

/// Starts a program as a helper: its standard input is the socket. It is of a group of its own, so that what a
/// terminal tells the daemon does not end it in the middle of a call.
///
/// # Errors
/// When it cannot be started.
pub fn command(program: &str, args: &[&str], mark: OwnerMark) -> io::Result<Started> {
    let (stream, theirs) = UnixStream::pair()?;
    let process = Command::new(program)
        .args(args)
        .env_clear()
        .env(OWNER_ENV, mark.to_string())
        .env(ROLE_ENV, ProcessRole::Helper.as_str())
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .current_dir("/")
        .process_group(0)
        .spawn()?;
    Ok(Started {
        stream,
        process: Some(process),
    })
}
