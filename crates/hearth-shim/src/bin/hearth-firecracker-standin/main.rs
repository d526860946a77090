//! A tiny process that takes Firecracker's arguments and speaks its API like a Firecracker
//! whose guest idles: for tests of scale and of everything around a VMM but the guest.
//!
//! - What a real one refuses before or after the start, or in a body, is refused with the
//!   same status and form (`tests/firecracker_api.rs` asks both).
//! - `SendCtrlAltDel` brings a guest report (exit code 0) to the host's socket and ends it.
//! - The serial console says one line at the start and echoes its input.
//! - Without a disk the guest panics at the start, and goes down when its kernel's arguments
//!   say so: what a probe of KVM waits for.
//! - vsock: port 1024 echoes, on no other somebody listens.
//! - A kernel that is no ELF file is refused at the start.
//!
//! | module | holds |
//! | --- | --- |
//! | `http` | requests and answers as bytes |
//! | `machine` | the state of the VM, and what each request does to it |
//! | `bodies` | what may stand in a request |
//! | `vsock` | the sockets of the guest's vsock device |

mod bodies;
mod http;
mod machine;
mod vsock;

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::ExitCode;

use machine::{Machine, Outcome};
use rustix::event::{PollFd, PollFlags};
use vsock::Vsock;

/// The version it says it has: one that the driver supports.
const VERSION: &str = "1.99.0-standin";
/// Connections that its server takes at once, as the real one's.
const CONNECTIONS_MAX: usize = 10;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            drop(writeln!(
                io::stderr(),
                "hearth-firecracker-standin: {error}"
            ));
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    if args.iter().any(|arg| arg == "--version") {
        return writeln!(io::stdout(), "Firecracker v{VERSION}");
    }
    let value = |name: &str| {
        let at = args.iter().position(|arg| arg == name)?;
        args.get(at + 1).cloned()
    };
    let socket = value("--api-sock").unwrap_or_else(|| "/run/firecracker.socket".to_owned());
    let id = value("--id").unwrap_or_else(|| "anonymous-instance".to_owned());
    if id.len() > 64 || !id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Err(io::Error::other(format!("invalid instance ID: {id:?}")));
    }
    let mut process = Process {
        listener: UnixListener::bind(socket)?,
        connections: Vec::new(),
        machine: Machine::new(id),
        vsock: None,
        console_open: true,
    };
    while process.round()? {}
    Ok(())
}

struct Process {
    listener: UnixListener,
    connections: Vec<Connection>,
    machine: Machine,
    vsock: Option<Vsock>,
    console_open: bool,
}

struct Connection {
    stream: UnixStream,
    received: Vec<u8>,
}

/// What a polled descriptor belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Token {
    Api,
    Console,
    Connection(usize),
    Vsock(usize),
}

impl Process {
    /// Handles what is ready. `false` when the machine is off.
    fn round(&mut self) -> io::Result<bool> {
        // The last first: handling one may remove it.
        for token in self.wait()?.into_iter().rev() {
            match token {
                Token::Connection(at) => {
                    if !self.serve(at) {
                        self.connections.remove(at);
                        self.machine.hung_up();
                    }
                }
                Token::Vsock(at) => {
                    if let Some(vsock) = &mut self.vsock {
                        vsock.handle(at);
                    }
                }
                Token::Console => self.console_open = echo_console(),
                Token::Api => self.accept()?,
            }
            if self.machine.is_off() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn wait(&self) -> io::Result<Vec<Token>> {
        let stdin = io::stdin();
        let mut all: Vec<(Token, BorrowedFd<'_>)> = vec![(Token::Api, self.listener.as_fd())];
        // Nobody reads the serial line of a machine that is not started.
        if self.console_open && self.machine.is_started() {
            all.push((Token::Console, stdin.as_fd()));
        }
        let streams = self.connections.iter().enumerate();
        all.extend(streams.map(|(at, one)| (Token::Connection(at), one.stream.as_fd())));
        if let Some(vsock) = &self.vsock {
            let fds = vsock.polled().enumerate();
            all.extend(fds.map(|(at, fd)| (Token::Vsock(at), fd)));
        }
        let mut polled: Vec<PollFd<'_>> = all
            .iter()
            .map(|(_, fd)| PollFd::from_borrowed_fd(*fd, PollFlags::IN))
            .collect();
        match rustix::event::poll(&mut polled, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        }
        let ready = all
            .iter()
            .zip(&polled)
            .filter(|(_, polled)| !polled.revents().is_empty());
        Ok(ready.map(|((token, _), _)| *token).collect())
    }

    fn accept(&mut self) -> io::Result<()> {
        let mut stream = self.listener.accept()?.0;
        if self.connections.len() < CONNECTIONS_MAX {
            self.connections.push(Connection {
                stream,
                received: Vec::new(),
            });
        } else {
            let full = http::fault(503, "Too many open connections");
            drop(stream.write_all(&full));
        }
        Ok(())
    }

    /// Reads from a connection and answers its requests. `false` when it is over.
    fn serve(&mut self, at: usize) -> bool {
        let Some(connection) = self.connections.get_mut(at) else {
            return true;
        };
        let mut buffer = [0; 4096];
        match connection.stream.read(&mut buffer) {
            Ok(0) | Err(_) => return false,
            Ok(count) => connection.received.extend_from_slice(&buffer[..count]),
        }
        loop {
            let Some(connection) = self.connections.get_mut(at) else {
                return true;
            };
            let answer = match http::take_request(&mut connection.received) {
                Ok(None) => return true,
                Ok(Some(request)) => {
                    let outcome = self.machine.handle(&request);
                    self.answer(outcome)
                }
                Err(why) => {
                    drop(connection.stream.write_all(&http::fault(400, &why)));
                    return false;
                }
            };
            let Some(connection) = self.connections.get_mut(at) else {
                return true;
            };
            if connection.stream.write_all(&answer).is_err() {
                return false;
            }
            if self.machine.is_off() {
                return true;
            }
        }
    }

    fn answer(&mut self, outcome: Outcome) -> Vec<u8> {
        match outcome {
            Outcome::Done => http::done(),
            Outcome::Says(value) => http::says(&value),
            Outcome::Refused(why) => http::fault(400, &why),
            Outcome::Vsock(path) => match Vsock::listen(path) {
                Ok(vsock) => {
                    self.vsock = Some(vsock);
                    http::done()
                }
                Err(error) => {
                    let why = format!(
                        "Vsock config error: Cannot create backend for vsock device: Error binding to the host-side Unix socket: {error}"
                    );
                    http::fault(400, &why)
                }
            },
            Outcome::Started => {
                drop(writeln!(io::stdout(), "standin: started"));
                http::done()
            }
            Outcome::Panicked => {
                let line = "standin: Kernel panic - not syncing: there is no root file system";
                drop(writeln!(io::stdout(), "{line}"));
                http::done()
            }
            Outcome::Off => {
                if let Some(vsock) = &self.vsock {
                    vsock.report();
                }
                http::done()
            }
        }
    }
}

fn echo_console() -> bool {
    let mut buffer = [0; 1024];
    match rustix::io::read(io::stdin(), &mut buffer) {
        Ok(0) | Err(_) => false,
        Ok(count) => rustix::io::write(io::stdout(), &buffer[..count]).is_ok(),
    }
}
