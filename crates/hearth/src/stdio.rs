//! Standard input and output as streams of bytes, and the signals that people send.

use std::io;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::failure::Failure;

/// Bytes read at once: what one message to the guest carries at most.
const CHUNK: usize = 32 << 10;

/// The chunks of standard input; the channel closes at its end.
pub(crate) fn stdin() -> mpsc::Receiver<io::Result<Bytes>> {
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(async move {
        let mut stdin = tokio::io::stdin();
        let mut buffer = vec![0; CHUNK];
        loop {
            let chunk = match stdin.read(&mut buffer).await {
                Ok(0) => return,
                Ok(length) => Ok(Bytes::copy_from_slice(&buffer[..length])),
                Err(error) => Err(error),
            };
            let failed = chunk.is_err();
            if sender.send(chunk).await.is_err() || failed {
                return;
            }
        }
    });
    receiver
}

/// Standard output and standard error for raw bytes, flushed with each write.
#[derive(Debug)]
pub(crate) struct RawOutput {
    stdout: tokio::io::Stdout,
    stderr: tokio::io::Stderr,
}

impl RawOutput {
    pub(crate) fn new() -> Self {
        Self {
            stdout: tokio::io::stdout(),
            stderr: tokio::io::stderr(),
        }
    }

    pub(crate) async fn stdout(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let written = async {
            self.stdout.write_all(bytes).await?;
            self.stdout.flush().await
        };
        written.await.map_err(|e| Failure::output(&e))
    }

    pub(crate) async fn stderr(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let written = async {
            self.stderr.write_all(bytes).await?;
            self.stderr.flush().await
        };
        written.await.map_err(|e| Failure::output(&e))
    }
}

/// The signals that end a program, caught.
#[derive(Debug)]
pub(crate) struct Signals {
    caught: Vec<(i32, Signal)>,
}

impl Signals {
    /// Catches those that people and service managers end a program with.
    pub(crate) fn ending() -> Result<Self, Failure> {
        Self::catch(&[
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
            SignalKind::quit(),
        ])
    }

    /// Catches all that make sense to pass on to a program in a guest.
    pub(crate) fn forwardable() -> Result<Self, Failure> {
        Self::catch(&[
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
            SignalKind::quit(),
            SignalKind::user_defined1(),
            SignalKind::user_defined2(),
        ])
    }

    fn catch(kinds: &[SignalKind]) -> Result<Self, Failure> {
        let caught = kinds
            .iter()
            .map(|kind| Ok((kind.as_raw_value(), signal(*kind)?)))
            .collect::<io::Result<_>>();
        let caught = caught.map_err(|e| {
            Failure::because(crate::exit_codes::FAILURE, "Cannot catch signals", &e)
        })?;
        Ok(Self { caught })
    }

    /// The number of the next signal.
    pub(crate) async fn next(&mut self) -> i32 {
        let waits = self.caught.iter_mut().map(|(number, signal)| {
            Box::pin(async move {
                signal.recv().await;
                *number
            })
        });
        futures::future::select_all(waits).await.0
    }
}

/// The exit code of a program that a signal ended.
pub(crate) fn code_of_signal(number: i32) -> u8 {
    u8::try_from(number).unwrap_or(0).saturating_add(128)
}
