//! The host's side of the channel, on tokio.
//!
//! [`AgentClient::connect`] shakes hands and starts one background task that owns the
//! connection ([`driver`]); everything else talks to that task. The client is cheap to clone;
//! when the last clone and the last stream are gone the task ends and the connection closes.
//!
//! Readers may be as slow as they like: each stream has its own credit, so a reader that
//! stops stalls its own program alone, and at most [`crate::mux::WINDOW`] bytes per channel wait here.

mod budget;
mod copy;
mod driver;
mod error;
mod exec;
mod reader;
mod stream;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot, watch};

pub use self::copy::{CopyIn, CopyOut};
use self::driver::{Command, Driver, StreamHandles};
pub use self::error::ClientError;
pub use self::exec::{ExecControl, ExecSession};
pub use self::reader::StreamReader;
pub use self::stream::StreamWriter;
use crate::message::{
    ExecRequest, GuestInfo, GuestMetrics, GuestReport, GuestStat, HelloAck, Pong, Request,
    Response, ShutdownKind, StreamReply,
};

/// Who must be at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedGuest {
    /// The VM's id.
    pub vm_id: String,
    /// The nonce of this start of it.
    pub boot_nonce: String,
}

/// A connection to one guest's agent.
#[derive(Debug, Clone)]
pub struct AgentClient {
    commands: mpsc::UnboundedSender<Command>,
    closed: watch::Receiver<Option<String>>,
    report: watch::Receiver<Option<GuestReport>>,
    hello: HelloAck,
}

impl AgentClient {
    /// Shakes hands with the guest behind `stream` within `deadline`.
    ///
    /// The hello is repeated until it is answered, so the guest may still be booting.
    ///
    /// # Errors
    /// [`ClientError::Deadline`] when nobody answers, [`ClientError::WrongGuest`] when
    /// somebody else does, [`ClientError::Closed`] when the connection ends.
    pub async fn connect<S>(
        stream: S,
        expected: ExpectedGuest,
        deadline: Duration,
    ) -> Result<Self, ClientError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (commands, inbox) = mpsc::unbounded_channel();
        let (closed_tx, closed) = watch::channel(None);
        let (report_tx, report) = watch::channel(None);
        let (ack_tx, ack) = oneshot::channel();
        let driver = Driver::new(stream, inbox, ack_tx, report_tx)?;
        let task = tokio::spawn(driver.run(closed_tx));
        let outcome = tokio::time::timeout(deadline, ack).await;
        let hello = match outcome {
            Ok(Ok(hello)) => hello,
            Ok(Err(_)) => return Err(closed_error(&closed)),
            Err(_) => {
                task.abort();
                return Err(ClientError::Deadline {
                    what: "the handshake",
                    after: deadline,
                });
            }
        };
        let found = ExpectedGuest {
            vm_id: hello.vm_id.clone(),
            boot_nonce: hello.boot_nonce.clone(),
        };
        if found != expected {
            task.abort();
            return Err(ClientError::WrongGuest { expected, found });
        }
        Ok(Self {
            commands,
            closed,
            report,
            hello,
        })
    }

    /// What the guest said of itself in the handshake.
    #[must_use]
    pub fn hello(&self) -> &HelloAck {
        &self.hello
    }

    /// The connection is still there, as far as anybody knows.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.closed.borrow().is_none()
    }

    /// What the guest did, if the connection was ended because of it: it sent garbage, or flooded the channel.
    /// Another connection is worth no haste.
    #[must_use]
    pub fn misbehaved(&self) -> Option<&'static str> {
        driver::misbehaviour(self.closed.borrow().as_deref()?)
    }

    /// Waits until the connection is over, and says why.
    pub async fn closed(&self) -> String {
        let mut closed = self.closed.clone();
        match closed.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => "the connection's task has ended".to_owned(),
        }
    }

    /// What the guest has told of its workload's end on this connection, when it has. Watch it
    /// for a quick notice; the durable one is the report port.
    #[must_use]
    pub fn report(&self) -> watch::Receiver<Option<GuestReport>> {
        self.report.clone()
    }

    /// Asks for a sign of life that only this boot of this VM can give.
    ///
    /// # Errors
    /// [`ClientError::Deadline`] when it does not come in time.
    pub async fn ping(&self, nonce: u64, deadline: Duration) -> Result<Pong, ClientError> {
        let (reply, pong) = oneshot::channel();
        self.send(Command::Ping { nonce, reply })?;
        let pong = within("a ping", deadline, async {
            pong.await.map_err(|_| self.gone())
        })
        .await?;
        if pong.vm_id != self.hello.vm_id || pong.boot_nonce != self.hello.boot_nonce {
            return Err(ClientError::Protocol {
                what: "the pong names another guest",
            });
        }
        Ok(pong)
    }

    /// Runs a program. Returns once it runs.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the guest's reason when it could not be started.
    pub async fn exec(&self, request: ExecRequest) -> Result<ExecSession, ClientError> {
        let stdin = request.stdin;
        let handles = self.open(&Request::Exec(request)).await?;
        ExecSession::start(self.clone(), handles, stdin).await
    }

    /// Unpacks `tar` into the folder `path` of the guest, which must exist.
    ///
    /// # Errors
    /// When the guest refuses, reading `tar` fails, or unpacking does.
    pub async fn copy_in<R>(&self, path: &str, tar: R) -> Result<u64, ClientError>
    where
        R: AsyncRead + Unpin,
    {
        let mut copy = self.start_copy_in(path).await?;
        copy.send_all(tar).await?;
        copy.finish().await
    }

    /// Like [`AgentClient::copy_in`], for a caller who has the tar stream in pieces.
    ///
    /// # Errors
    /// When the guest refuses.
    pub async fn start_copy_in(&self, path: &str) -> Result<CopyIn, ClientError> {
        let handles = self
            .open(&Request::CopyIn {
                path: path.to_owned(),
            })
            .await?;
        Ok(CopyIn::new(
            ExecSession::start(self.clone(), handles, true).await?,
        ))
    }

    /// The file or folder `path` of the guest, as a tar stream.
    ///
    /// # Errors
    /// When the guest refuses; later ones come from reading.
    pub async fn copy_out(&self, path: &str) -> Result<CopyOut, ClientError> {
        let handles = self
            .open(&Request::CopyOut {
                path: path.to_owned(),
            })
            .await?;
        CopyOut::new(ExecSession::start(self.clone(), handles, false).await?)
    }

    /// What is at a path of the guest.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with `not_found` when there is nothing.
    pub async fn stat(&self, path: &str) -> Result<GuestStat, ClientError> {
        match self
            .call(&Request::Stat {
                path: path.to_owned(),
            })
            .await?
        {
            Response::Stat(stat) => Ok(stat),
            _ => Err(ClientError::Protocol {
                what: "the answer to stat is none",
            }),
        }
    }

    /// Asks the guest to go down; returns when it has agreed, not when it is down. The
    /// workload is killed after `timeout`.
    ///
    /// # Errors
    /// When the guest refuses or the connection ends first.
    pub async fn shutdown(&self, timeout: Duration, kind: ShutdownKind) -> Result<(), ClientError> {
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        self.call(&Request::Shutdown { timeout_ms, kind })
            .await
            .map(drop)
    }

    /// How the guest is doing.
    ///
    /// # Errors
    /// When the guest refuses or the connection ends.
    pub async fn metrics(&self) -> Result<GuestMetrics, ClientError> {
        match self.call(&Request::Metrics).await? {
            Response::Metrics(metrics) => Ok(metrics),
            _ => Err(ClientError::Protocol {
                what: "the answer to metrics is none",
            }),
        }
    }

    /// About the guest.
    ///
    /// # Errors
    /// When the guest refuses or the connection ends.
    pub async fn info(&self) -> Result<GuestInfo, ClientError> {
        match self.call(&Request::Info).await? {
            Response::Info(info) => Ok(info),
            _ => Err(ClientError::Protocol {
                what: "the answer to info is none",
            }),
        }
    }

    /// Has the file system of a volume fill its disk, and tells how large the guest knows the disk to
    /// be, in bytes.
    ///
    /// # Errors
    /// When there is no such volume, or its file system cannot grow.
    pub async fn grow_volume(&self, mount: &str) -> Result<u64, ClientError> {
        let mount = mount.to_owned();
        match self.call(&Request::GrowVolume { mount }).await? {
            Response::Disk(disk) => Ok(disk.bytes),
            _ => Err(ClientError::Protocol {
                what: "the answer to grow_volume is none",
            }),
        }
    }

    /// Stops all writes to the guest's disks, for `max` at the longest.
    ///
    /// # Errors
    /// When a file system cannot be frozen: then none is.
    pub async fn freeze(&self, max: Duration) -> Result<(), ClientError> {
        let max_ms = u64::try_from(max.as_millis()).unwrap_or(u64::MAX);
        self.call(&Request::Freeze { max_ms }).await.map(drop)
    }

    /// Lets writes go on.
    ///
    /// # Errors
    /// When the guest was not frozen (any more): a snapshot taken meanwhile is not consistent.
    pub async fn thaw(&self) -> Result<(), ClientError> {
        self.call(&Request::Thaw).await.map(drop)
    }

    /// Sets the guest's clock.
    ///
    /// # Errors
    /// When the guest refuses or the connection ends.
    pub async fn set_clock(&self, wall_clock_ms: u64) -> Result<(), ClientError> {
        self.call(&Request::SetClock { wall_clock_ms })
            .await
            .map(drop)
    }

    async fn call(&self, request: &Request) -> Result<Response, ClientError> {
        let mut handles = self.open(request).await?;
        match handles.next_reply().await? {
            StreamReply::Done { response } => Ok(response),
            _ => Err(ClientError::Protocol {
                what: "a request was answered as a program",
            }),
        }
    }

    async fn open(&self, request: &Request) -> Result<StreamHandles, ClientError> {
        let payload =
            serde_json::to_vec(request).map_err(|source| ClientError::Encode { source })?;
        let (reply, opened) = oneshot::channel();
        self.send(Command::Open {
            payload,
            reply,
            commands: self.commands.clone(),
        })?;
        opened.await.map_err(|_| self.gone())?
    }

    fn send(&self, command: Command) -> Result<(), ClientError> {
        self.commands.send(command).map_err(|_| self.gone())
    }

    fn gone(&self) -> ClientError {
        closed_error(&self.closed)
    }
}

fn closed_error(closed: &watch::Receiver<Option<String>>) -> ClientError {
    let reason = closed.borrow().clone();
    ClientError::Closed {
        reason: reason.unwrap_or_else(|| "its task has ended".to_owned()),
    }
}

async fn within<T>(
    what: &'static str,
    deadline: Duration,
    work: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, ClientError> {
    match tokio::time::timeout(deadline, work).await {
        Ok(outcome) => outcome,
        Err(_) => Err(ClientError::Deadline {
            what,
            after: deadline,
        }),
    }
}

/// `K=V` lines as a map; later ones win.
#[must_use]
pub fn env_map(env: &[String]) -> BTreeMap<String, String> {
    env.iter()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}
