//! One running program and its pipes or terminal.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Stdio;
use std::time::Instant;

use bytes::{Buf, Bytes};
use hearth_guest_proto::message::{ErrorCode, ExitStatus, TtySize};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, kill_process_group, pidfd_open, waitpid,
};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use crate::spawn::{Files, Launch, Refusal, spawn};

/// After the program's end this much more of its output is taken: a pipe's largest size.
/// What its own children write later has no reader any more.
const REST: usize = 1024 * 1024;

/// What the program's stdin and the host's input have to do with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It hears from the host: without the host it has no reason to live.
    Interactive,
    /// It runs on unheard.
    Plain,
    /// A copy: half of one is worth nothing.
    Copy,
}

#[derive(Debug)]
pub(super) struct Exec {
    /// The host's stream; none once the host has gone.
    pub(super) stream: Option<u32>,
    pub(super) kind: Kind,
    pub(super) pid: Pid,
    pub(super) pidfd: OwnedFd,
    pub(super) stdin: Option<OwnedFd>,
    pub(super) input: VecDeque<Bytes>,
    pub(super) input_ended: bool,
    pub(super) outputs: [Option<OwnedFd>; 2],
    pub(super) terminal: bool,
    pub(super) exited: Option<ExitStatus>,
    pub(super) rest: [usize; 2],
    pub(super) kill_at: Option<Instant>,
}

impl Exec {
    /// Starts a program for a stream.
    pub(super) fn start(
        stream: u32,
        kind: Kind,
        launch: &Launch,
        stdin: bool,
        size: Option<TtySize>,
    ) -> Result<Self, Refusal> {
        let (files, ends) = match size {
            Some(size) => terminal(size),
            None => pipes(stdin),
        }
        .map_err(|error| {
            Refusal::new(ErrorCode::Failed, format!("cannot make its pipes: {error}"))
        })?;
        let child = spawn(launch, files)?;
        let failed = |error: Errno| {
            Refusal::new(
                ErrorCode::Failed,
                format!("cannot hold the process: {error}"),
            )
        };
        let pid = Pid::from_child(&child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(failed)?;
        Ok(Self {
            stream: Some(stream),
            kind,
            pid,
            pidfd,
            stdin: ends.stdin,
            input: VecDeque::new(),
            input_ended: false,
            outputs: ends.outputs,
            terminal: size.is_some(),
            exited: None,
            rest: [REST; 2],
            kill_at: None,
        })
    }

    /// Collects the exit status, if it has ended.
    pub(super) fn reap(&mut self) {
        if self.exited.is_some() {
            return;
        }
        self.exited = match waitpid(Some(self.pid), WaitOptions::NOHANG) {
            Ok(None) | Err(Errno::INTR) => None,
            Ok(Some((_, status))) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Some(ExitStatus::Code(code)),
                (None, Some(signal)) => Some(ExitStatus::Signal(signal)),
                (None, None) => None,
            },
            // Nobody else waits for it; if somebody did, how it ended is lost.
            Err(_) => Some(ExitStatus::Code(255)),
        };
        if self.exited.is_some() {
            self.input.clear();
            if !self.terminal {
                self.stdin = None;
            }
        }
    }

    /// Nothing is left to do or to tell.
    pub(super) fn finished(&self) -> bool {
        self.exited.is_some() && self.outputs.iter().all(Option::is_none)
    }

    pub(super) fn signal(&self, signal: Signal) {
        if self.exited.is_none() {
            // It may have ended just now.
            let _sent = kill_process_group(self.pid, signal);
        }
    }

    pub(super) fn resize(&self, size: TtySize) {
        if let Some(master) = self.stdin.as_ref().filter(|_| self.terminal) {
            let _set = rustix::termios::tcsetwinsize(master, winsize(size));
        }
    }

    /// Writes waiting input; says how many bytes were done with.
    pub(super) fn feed(&mut self) -> usize {
        let mut done = 0;
        while let Some(piece) = self.input.front_mut() {
            let Some(stdin) = &self.stdin else {
                done += piece.len();
                self.input.pop_front();
                continue;
            };
            match rustix::io::write(stdin, piece) {
                Ok(count) => {
                    done += count;
                    piece.advance(count);
                    if piece.is_empty() {
                        self.input.pop_front();
                    }
                }
                Err(Errno::AGAIN) => return done,
                Err(Errno::INTR) => {}
                // Nobody reads it any more: the rest counts as done.
                Err(_) => self.stdin = None,
            }
        }
        if self.input_ended && !self.terminal {
            self.stdin = None;
        }
        done
    }

    /// The host sends no more. A terminal's program sees that as a ^D.
    pub(super) fn end_input(&mut self) {
        if !self.input_ended && self.terminal {
            self.input.push_back(Bytes::from_static(&[4]));
        }
        self.input_ended = true;
    }

    /// Reads output into `buffer`. `None`: nothing now, or never again (the output is closed
    /// then).
    pub(super) fn read(&mut self, channel: usize, buffer: &mut [u8]) -> Option<usize> {
        let output = self.outputs[channel].as_ref()?;
        let outcome = rustix::io::read(output, &mut *buffer);
        let over = match outcome {
            Ok(count) if count > 0 => {
                if self.exited.is_some() {
                    self.rest[channel] = self.rest[channel].saturating_sub(count);
                }
                if self.exited.is_some() && self.rest[channel] == 0 {
                    self.outputs[channel] = None;
                }
                return Some(count);
            }
            Err(Errno::INTR) => false,
            // All that an ended program wrote has been read.
            Err(Errno::AGAIN) => self.exited.is_some(),
            // A terminal without programs says EIO.
            _ => true,
        };
        if over {
            self.outputs[channel] = None;
        }
        None
    }
}

struct Ends {
    stdin: Option<OwnedFd>,
    outputs: [Option<OwnedFd>; 2],
}

fn pipes(stdin: bool) -> std::io::Result<(Files, Ends)> {
    let (stdout_ours, stdout) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let (stderr_ours, stderr) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let (theirs, ours) = if stdin {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        nonblocking(&write)?;
        (Stdio::from(read), Some(write))
    } else {
        (Stdio::null(), None)
    };
    nonblocking(&stdout_ours)?;
    nonblocking(&stderr_ours)?;
    let files = Files {
        stdin: theirs,
        stdout: stdout.into(),
        stderr: stderr.into(),
    };
    Ok((
        files,
        Ends {
            stdin: ours,
            outputs: [Some(stdout_ours), Some(stderr_ours)],
        },
    ))
}

fn terminal(size: TtySize) -> std::io::Result<(Files, Ends)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = rustix::pty::openpt(flags)?;
    rustix::pty::unlockpt(&master)?;
    let slave = File::from(rustix::pty::ioctl_tiocgptpeer(&master, flags)?);
    rustix::termios::tcsetwinsize(&master, winsize(size))?;
    nonblocking(&master)?;
    let files = Files {
        stdin: slave.try_clone()?.into(),
        stdout: slave.try_clone()?.into(),
        stderr: slave.into(),
    };
    Ok((
        files,
        Ends {
            stdin: Some(master.try_clone()?),
            outputs: [Some(master), None],
        },
    ))
}

fn winsize(size: TtySize) -> Winsize {
    Winsize {
        ws_row: size.rows,
        ws_col: size.cols,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

fn nonblocking(fd: impl AsFd) -> std::io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(&fd)? | OFlags::NONBLOCK;
    Ok(rustix::fs::fcntl_setfl(&fd, flags)?)
}
