//! Console and exec: WebSockets on an upgraded connection.
//!
//! Each gives a writer and a reader that can be used from different tasks. Pings are
//! answered by the reader; it must be polled for the connection to stay alive.

use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use hyper::StatusCode;
use hyper::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use hearth_types::api::{ExecControl, ExecRequest, WindowSize};

use crate::request::{Call, decode, failure};
use crate::{Client, ClientError};

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// The largest message taken; the daemon sends at most 64 KiB of data in one.
const MAX_MESSAGE: usize = 4 << 20;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;

impl Client {
    /// Opens a VM's serial console.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn console(&self, reference: &str) -> Result<ConsoleSocket, ClientError> {
        let (name, socket) = self.upgrade(&["v1", "vms", reference, "console"]).await?;
        let (sink, stream) = socket.split();
        Ok(ConsoleSocket {
            writer: ConsoleWriter {
                name: name.clone(),
                sink,
            },
            reader: ConsoleReader { name, stream },
        })
    }

    /// Runs a command in a guest.
    ///
    /// # Errors
    /// See [`ClientError`]. A command that cannot be run is told by the session's reader.
    pub async fn exec(
        &self,
        reference: &str,
        request: &ExecRequest,
    ) -> Result<ExecSession, ClientError> {
        let (name, socket) = self.upgrade(&["v1", "vms", reference, "exec"]).await?;
        let (mut sink, stream) = socket.split();
        let text = to_json(&name, request)?;
        sink.send(Message::text(text))
            .await
            .map_err(|e| ClientError::broken(&name, e))?;
        Ok(ExecSession {
            writer: ExecWriter {
                name: name.clone(),
                sink,
            },
            reader: ExecReader { name, stream },
        })
    }

    async fn upgrade(&self, segments: &[&str]) -> Result<(String, Socket), ClientError> {
        let key = generate_key();
        let call = Call::get(segments)
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, "websocket")
            .header(SEC_WEBSOCKET_VERSION, "13")
            .header(SEC_WEBSOCKET_KEY, key.clone());
        let name = call.name();
        let answer = self.send_raw(call).await?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(failure(&name, answer).await);
        }
        let accepted = answer
            .headers()
            .get(SEC_WEBSOCKET_ACCEPT)
            .is_some_and(|value| value.as_bytes() == derive_accept_key(key.as_bytes()).as_bytes());
        if !accepted {
            return Err(ClientError::protocol(&name, "it is no WebSocket"));
        }
        let upgraded = hyper::upgrade::on(answer)
            .await
            .map_err(|e| ClientError::broken(&name, e))?;
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE));
        let io = TokioIo::new(upgraded);
        let socket = WebSocketStream::from_raw_socket(io, Role::Client, Some(config)).await;
        Ok((name, socket))
    }
}

fn to_json<T: serde::Serialize>(name: &str, value: &T) -> Result<String, ClientError> {
    serde_json::to_string(value)
        .map_err(|e| ClientError::protocol(name, format!("cannot write the message: {e}")))
}

/// The next message, or `None` when the other side has closed in an orderly way.
async fn next(
    name: &str,
    stream: &mut SplitStream<Socket>,
) -> Result<Option<Message>, ClientError> {
    loop {
        match stream.next().await {
            None | Some(Ok(Message::Close(_)) | Err(WsError::ConnectionClosed)) => return Ok(None),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(message)) => return Ok(Some(message)),
            Some(Err(error)) => return Err(ClientError::broken(name, error)),
        }
    }
}

/// An open console.
#[derive(Debug)]
pub struct ConsoleSocket {
    /// To the guest.
    pub writer: ConsoleWriter,
    /// From the guest.
    pub reader: ConsoleReader,
}

/// Keystrokes for a guest's console.
#[derive(Debug)]
pub struct ConsoleWriter {
    name: String,
    sink: SplitSink<Socket, Message>,
}

impl ConsoleWriter {
    /// Sends bytes.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn send(&mut self, bytes: Bytes) -> Result<(), ClientError> {
        let sent = self.sink.send(Message::Binary(bytes)).await;
        sent.map_err(|e| ClientError::broken(&self.name, e))
    }

    /// Says good-bye.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn close(&mut self) -> Result<(), ClientError> {
        let closed = self.sink.close().await;
        closed.map_err(|e| ClientError::broken(&self.name, e))
    }
}

/// What a guest writes on its console.
#[derive(Debug)]
pub struct ConsoleReader {
    name: String,
    stream: SplitStream<Socket>,
}

impl ConsoleReader {
    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        Ok(next(&self.name, &mut self.stream)
            .await?
            .map(Message::into_data))
    }
}

/// A command that runs in a guest.
#[derive(Debug)]
pub struct ExecSession {
    /// To the command.
    pub writer: ExecWriter,
    /// From the command.
    pub reader: ExecReader,
}

/// Standard input, window sizes and signals for a command.
#[derive(Debug)]
pub struct ExecWriter {
    name: String,
    sink: SplitSink<Socket, Message>,
}

impl ExecWriter {
    /// Sends bytes to standard input; nothing is sent for no bytes.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn stdin(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let mut message = Vec::with_capacity(bytes.len() + 1);
        message.push(STDIN);
        message.extend_from_slice(bytes);
        self.send(Message::binary(message)).await
    }

    /// Closes standard input; the command goes on.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn close_stdin(&mut self) -> Result<(), ClientError> {
        self.send(Message::binary(vec![STDIN])).await
    }

    /// Tells the size of the terminal.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn resize(&mut self, size: WindowSize) -> Result<(), ClientError> {
        self.control(&ExecControl::Resize(size)).await
    }

    /// Sends a signal to the command.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn signal(&mut self, signal: i32) -> Result<(), ClientError> {
        self.control(&ExecControl::Signal { signal }).await
    }

    async fn control(&mut self, control: &ExecControl) -> Result<(), ClientError> {
        let text = to_json(&self.name, control)?;
        self.send(Message::text(text)).await
    }

    async fn send(&mut self, message: Message) -> Result<(), ClientError> {
        let sent = self.sink.send(message).await;
        sent.map_err(|e| ClientError::broken(&self.name, e))
    }
}

/// What comes from a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecOutput {
    /// Standard output, and all output of a command with a terminal.
    Stdout(Bytes),
    /// Standard error.
    Stderr(Bytes),
    /// It has ended with this status; 128 + signal when a signal ended it. The last item.
    Exit(i32),
}

/// Output and end of a command.
#[derive(Debug)]
pub struct ExecReader {
    name: String,
    stream: SplitStream<Socket>,
}

impl ExecReader {
    /// The next output, or the end.
    ///
    /// # Errors
    /// `Problem` when the command could not be run; `Broken` when the connection ended
    /// before the command did.
    pub async fn next(&mut self) -> Result<ExecOutput, ClientError> {
        loop {
            let Some(message) = next(&self.name, &mut self.stream).await? else {
                let early = "it ended before the command did";
                return Err(ClientError::broken(&self.name, early));
            };
            match message {
                Message::Text(text) => match decode(&self.name, text.as_bytes())? {
                    ExecControl::Exit { code } => return Ok(ExecOutput::Exit(code)),
                    ExecControl::Error { problem } => return Err(problem.into()),
                    ExecControl::Resize(_) | ExecControl::Signal { .. } => {
                        return Err(ClientError::protocol(
                            &self.name,
                            "it sent a client's message",
                        ));
                    }
                },
                Message::Binary(mut bytes) if !bytes.is_empty() => {
                    let stream = bytes.split_to(1)[0];
                    match stream {
                        // An empty rest closes the stream; the end is what counts here.
                        _ if bytes.is_empty() => {}
                        STDOUT => return Ok(ExecOutput::Stdout(bytes)),
                        STDERR => return Ok(ExecOutput::Stderr(bytes)),
                        other => {
                            let detail = format!("it sent data for stream {other}");
                            return Err(ClientError::protocol(&self.name, detail));
                        }
                    }
                }
                _ => {
                    return Err(ClientError::protocol(
                        &self.name,
                        "it sent an empty message",
                    ));
                }
            }
        }
    }
}
