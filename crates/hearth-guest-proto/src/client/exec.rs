//! A program that runs in the guest, from the host's side.

use tokio::sync::mpsc;

use super::driver::{Command, StreamHandles};
use super::reader::StreamReader;
use super::stream::StreamWriter;
use super::{AgentClient, ClientError};
use crate::message::{ExitStatus, StreamControl, StreamReply, TtySize};

/// A running program. Its parts can be taken out and used in tasks of their own.
///
/// Dropping the session gives the stream up: the guest then hangs up on a program that has a
/// terminal or stdin from here (SIGHUP, then SIGKILL) and lets others run on unheard.
///
/// Output that nobody takes holds the program up, as a pipe does: read or drop each reader.
#[derive(Debug)]
pub struct ExecSession {
    /// The program's stdin, when it was asked for. Dropping it ends the input.
    pub stdin: Option<StreamWriter>,
    /// The program's stdout, or its terminal's output.
    pub stdout: Option<StreamReader>,
    /// The program's stderr; empty with a terminal.
    pub stderr: Option<StreamReader>,
    pid: i32,
    handles: StreamHandles,
    // Keeps the connection for as long as the session lives.
    _client: AgentClient,
}

impl ExecSession {
    pub(super) async fn start(
        client: AgentClient,
        mut handles: StreamHandles,
        stdin: bool,
    ) -> Result<Self, ClientError> {
        let StreamReply::Started { pid } = handles.next_reply().await? else {
            return Err(ClientError::Protocol {
                what: "a program was answered as a request",
            });
        };
        let writer = StreamWriter::new(
            handles.stream,
            handles.credit.clone(),
            handles.commands.clone(),
        );
        Ok(Self {
            stdin: stdin.then_some(writer),
            stdout: handles.stdout.take(),
            stderr: handles.stderr.take(),
            pid,
            handles,
            _client: client,
        })
    }

    /// The program's process id in the guest.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// A handle for window sizes and signals.
    #[must_use]
    pub fn control(&self) -> ExecControl {
        ExecControl {
            stream: self.handles.stream,
            commands: self.handles.commands.clone(),
        }
    }

    /// The terminal has another size now.
    ///
    /// # Errors
    /// When the connection is over.
    pub fn resize(&self, size: TtySize) -> Result<(), ClientError> {
        self.control().resize(size)
    }

    /// Sends a signal to the program's process group.
    ///
    /// # Errors
    /// When the connection is over.
    pub fn signal(&self, signal: i32) -> Result<(), ClientError> {
        self.control().signal(signal)
    }

    /// Waits for the program's end. All its output has arrived then. May be cancelled and
    /// called again before it has answered.
    ///
    /// # Errors
    /// When the connection or the stream broke first: how the program ended is unknown then.
    pub async fn wait(&mut self) -> Result<ExitStatus, ClientError> {
        match self.handles.next_reply().await? {
            StreamReply::Exit { status } => Ok(status),
            _ => Err(ClientError::Protocol {
                what: "a program's exit is none",
            }),
        }
    }
}

/// Window sizes and signals for a running program.
#[derive(Debug, Clone)]
pub struct ExecControl {
    stream: u32,
    commands: mpsc::UnboundedSender<Command>,
}

impl ExecControl {
    /// The terminal has another size now.
    ///
    /// # Errors
    /// When the connection is over.
    pub fn resize(&self, size: TtySize) -> Result<(), ClientError> {
        self.send(&StreamControl::Resize(size))
    }

    /// Sends a signal to the program's process group.
    ///
    /// # Errors
    /// When the connection is over.
    pub fn signal(&self, signal: i32) -> Result<(), ClientError> {
        self.send(&StreamControl::Signal { signal })
    }

    fn send(&self, control: &StreamControl) -> Result<(), ClientError> {
        let payload =
            serde_json::to_vec(control).map_err(|source| ClientError::Encode { source })?;
        self.commands
            .send(Command::Control {
                stream: self.stream,
                payload,
            })
            .map_err(|_| ClientError::Closed {
                reason: "its task has ended".to_owned(),
            })
    }
}
