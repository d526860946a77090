//! A small QMP client: one connection per command, everything within a deadline.
//!
//! ```text
//!   connect ──► greeting ──► qmp_capabilities ──► command ──► answer with our id
//!      └────────────┴── deadline, or an overlong line: the connection is dropped ──┘
//! ```
//!
//! QEMU serves one QMP client at a time; a second connection waits in the backlog. That is
//! why connections are short and why each has a deadline: a stopped QEMU answers nobody.

use std::io;
use std::time::Duration;

use camino::Utf8Path;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::Instant;

use super::args::QMP_SOCKET;

/// Longest line that is taken from QEMU, in bytes. Answers to our commands are below 4 KiB.
const LINE_MAX: usize = 1 << 20;

/// Why a command was not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum QmpError {
    /// Nobody listens, or the connection broke.
    #[error("its control socket cannot be used")]
    Io(#[source] io::Error),
    /// No answer in time.
    #[error("no answer within {} ms", .0.as_millis())]
    Deadline(Duration),
    /// QEMU said something that is not QMP.
    #[error("it does not speak QMP: {0}")]
    Protocol(String),
    /// QEMU answered with an error.
    #[error("QEMU answered: {0}")]
    Refused(String),
}

impl QmpError {
    /// Whether the other side hung up or was not there.
    pub(super) const fn is_disconnect(&self) -> bool {
        matches!(self, Self::Io(_))
    }
}

#[derive(Debug, Deserialize)]
struct Message {
    #[serde(rename = "QMP")]
    greeting: Option<Value>,
    #[serde(rename = "return")]
    answer: Option<Value>,
    error: Option<Refusal>,
    id: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Refusal {
    desc: String,
}

/// Connects, does one command and hangs up.
pub(super) async fn execute(
    dir: &Utf8Path,
    command: &str,
    deadline: Duration,
) -> Result<Value, QmpError> {
    execute_with(dir, command, None, deadline).await
}

/// The same with arguments.
pub(super) async fn execute_with(
    dir: &Utf8Path,
    command: &str,
    arguments: Option<Value>,
    deadline: Duration,
) -> Result<Value, QmpError> {
    let work = async {
        let mut client = Client::connect(dir).await?;
        client.command_with(command, arguments).await
    };
    tokio::time::timeout(deadline, work)
        .await
        .map_err(|_| QmpError::Deadline(deadline))?
}

/// One connection that has agreed on capabilities.
#[derive(Debug)]
pub(super) struct Client {
    stream: UnixStream,
    buffer: Vec<u8>,
    next_id: u64,
    /// When the greeting came: QEMU is ready.
    pub(super) greeted_at: Instant,
}

impl Client {
    /// Connects, waits for the greeting and leaves the negotiation mode. No deadline of
    /// its own: the caller has one.
    pub(super) async fn connect(dir: &Utf8Path) -> Result<Self, QmpError> {
        let stream = hearth_host::unixsock::connect(dir.as_std_path(), QMP_SOCKET)
            .await
            .map_err(QmpError::Io)?;
        let mut client = Self {
            stream,
            buffer: Vec::new(),
            next_id: 1,
            greeted_at: Instant::now(),
        };
        if client.message().await?.greeting.is_none() {
            return Err(QmpError::Protocol("no greeting".to_owned()));
        }
        client.greeted_at = Instant::now();
        client.command("qmp_capabilities").await?;
        Ok(client)
    }

    /// Does one command and returns its answer. Events are passed over.
    pub(super) async fn command(&mut self, command: &str) -> Result<Value, QmpError> {
        self.command_with(command, None).await
    }

    async fn command_with(
        &mut self,
        command: &str,
        arguments: Option<Value>,
    ) -> Result<Value, QmpError> {
        let id = json!(self.next_id);
        self.next_id += 1;
        let mut request = json!({"execute": command, "id": id});
        if let Some(arguments) = arguments {
            request["arguments"] = arguments;
        }
        let mut line = request.to_string();
        line.push('\n');
        self.stream
            .write_all(line.as_bytes())
            .await
            .map_err(QmpError::Io)?;
        loop {
            let message = self.message().await?;
            if message.id.as_ref() != Some(&id) {
                continue;
            }
            return match (message.answer, message.error) {
                (Some(answer), None) => Ok(answer),
                (_, Some(refusal)) => Err(QmpError::Refused(refusal.desc)),
                (None, None) => Err(QmpError::Protocol("an answer without content".to_owned())),
            };
        }
    }

    async fn message(&mut self) -> Result<Message, QmpError> {
        let mut searched = 0;
        loop {
            if let Some(at) = self.buffer[searched..].iter().position(|&b| b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=searched + at).collect();
                return serde_json::from_slice(&line)
                    .map_err(|error| QmpError::Protocol(error.to_string()));
            }
            searched = self.buffer.len();
            if searched > LINE_MAX {
                return Err(QmpError::Protocol(format!(
                    "a line longer than {LINE_MAX} bytes"
                )));
            }
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) => return Err(QmpError::Io(io::ErrorKind::UnexpectedEof.into())),
                Ok(_) => {}
                Err(error) => return Err(QmpError::Io(error)),
            }
        }
    }
}
