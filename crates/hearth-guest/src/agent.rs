//! The agent: one loop over the channel, the programs' pipes and the clock.
//!
//! Nothing here waits for one of them alone, and nothing is taken in that there is no room
//! for: output is read from a program only when its reader on the host has granted credit and
//! the channel is not congested; input is bounded by the window this side grants.
//!
//! When the host vanishes or begins a new session, all its streams are over. Copies are
//! killed; a program with stdin or a terminal from the host is hung up on (SIGHUP, and SIGKILL
//! after a while); any other runs on with its output discarded.

mod exec;
mod freeze;
mod requests;
mod session;
mod system;
mod transport;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use hearth_guest_proto::AGENT_PORT;
use hearth_guest_proto::config::GuestConfig;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::error::{Context, Failure};
use crate::uevent;
use session::Session;
use transport::Transport;

/// How long the agent's port may take to appear.
const PORT_PATIENCE: Duration = Duration::from_secs(60);

/// Serves the host. `agent` alone: started by PID 1, which sends the configuration on stdin.
/// `agent --config FILE --listen SOCKET`: for tests, without any power over the machine.
pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [] => serve_guest(),
        ["--config", config, "--listen", socket] => {
            let text = fs::read(config).context("read", config)?;
            let config = serde_json::from_slice(&text).context("understand", config)?;
            let transport = Transport::listen_unix(socket).context("listen on", socket)?;
            Agent::new(Session::new(config, None, false), transport, None).serve()
        }
        _ => Err(Failure::new("start", "the agent", "unknown arguments")),
    }
}

fn serve_guest() -> Result<(), Failure> {
    let stdin =
        rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3).context("take", "stdin")?;
    let supervisor = UnixStream::from(stdin);
    let mut lines = BufReader::new(supervisor.try_clone().context("take", "stdin")?);
    let mut line = String::new();
    lines
        .read_line(&mut line)
        .context("read", "the configuration from PID 1")?;
    let config: GuestConfig =
        serde_json::from_str(&line).context("understand", "the configuration from PID 1")?;
    crate::machine::learn(&config);
    let transport = transport(&config)?;
    let writer = supervisor.try_clone().context("take", "stdin")?;
    Agent::new(
        Session::new(config, Some(writer), true),
        transport,
        Some(lines),
    )
    .serve()
}

/// The channel to the host, which is a vsock port or a virtio-serial port.
fn transport(config: &GuestConfig) -> Result<Transport, Failure> {
    if let Some(ports) = config.vsock {
        let port = ports.agent_port;
        return Transport::listen_vsock(port).context("listen on vsock port", port);
    }
    let port = uevent::wait_for("the agent's port", PORT_PATIENCE, || {
        uevent::find_port(AGENT_PORT)
    })?;
    Transport::open_port(&port).context("open", port.display())
}

/// What a polled descriptor belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Wire,
    Supervisor,
    Exit(usize),
    Stdin(usize),
    Output(usize, usize),
}

struct Agent {
    session: Session,
    transport: Transport,
    supervisor: Option<BufReader<UnixStream>>,
}

impl Agent {
    fn new(
        session: Session,
        transport: Transport,
        supervisor: Option<BufReader<UnixStream>>,
    ) -> Self {
        Self {
            session,
            transport,
            supervisor,
        }
    }

    fn serve(mut self) -> Result<(), Failure> {
        loop {
            let ready = self.wait()?;
            for (token, flags) in ready {
                match token {
                    Token::Wire => self.wire(flags)?,
                    Token::Supervisor => self.listen_to_supervisor(),
                    Token::Exit(index) => self.session.reap(index),
                    Token::Stdin(index) => self.session.feed(index),
                    Token::Output(index, channel) => self.session.drain(index, channel),
                }
            }
            self.session.settle(Instant::now());
        }
    }

    fn wire(&mut self, flags: PollFlags) -> Result<(), Failure> {
        if !self
            .transport
            .pump(&mut self.session.mux, flags)
            .context("use", "the channel")?
        {
            self.session.host_is_gone();
        }
        self.session.handle_events();
        // Answers go out at once when there is room, without another turn of the loop.
        self.transport.flush(&mut self.session.mux);
        Ok(())
    }

    fn listen_to_supervisor(&mut self) {
        let Some(lines) = &mut self.supervisor else {
            return;
        };
        let mut line = String::new();
        match lines.read_line(&mut line) {
            Ok(count) if count > 0 => self.session.tell_host(line.trim()),
            _ => self.supervisor = None,
        }
    }

    fn wait(&self) -> Result<Vec<(Token, PollFlags)>, Failure> {
        let mut tokens = Vec::new();
        let mut polled = Vec::new();
        let (wire, interest) = self.transport.interest(&self.session.mux);
        tokens.push(Token::Wire);
        polled.push(PollFd::from_borrowed_fd(wire, interest));
        if let Some(supervisor) = &self.supervisor {
            tokens.push(Token::Supervisor);
            polled.push(PollFd::from_borrowed_fd(
                supervisor.get_ref().as_fd(),
                PollFlags::IN,
            ));
        }
        self.session.interest(&mut tokens, &mut polled);
        let timeout = self.session.next_deadline().map(|deadline| {
            deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(1)
        });
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        match poll(&mut polled, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Failure::new("wait for", "events", error)),
        }
        Ok(tokens
            .into_iter()
            .zip(polled)
            .map(|(token, polled)| (token, polled.revents()))
            .filter(|(_, flags)| !flags.is_empty())
            .collect())
    }
}
