//! Files in and out of the guest, as tar streams.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};

use super::reader::StreamReader;
use super::{ClientError, ExecSession};
use crate::message::ExitStatus;

/// What is kept of the guest's words when a copy fails.
const MAX_WORDS: u64 = 4096;

/// A tar stream on its way into the guest.
#[derive(Debug)]
pub struct CopyIn {
    session: ExecSession,
    sent: u64,
}

impl CopyIn {
    pub(super) fn new(mut session: ExecSession) -> Self {
        session.stdout = None;
        Self { session, sent: 0 }
    }

    /// Sends a piece of the tar stream. A guest that has stopped reading is no error here:
    /// [`CopyIn::finish`] says why it did.
    ///
    /// # Errors
    /// None at present; the connection's end shows in [`CopyIn::finish`].
    pub async fn send(&mut self, piece: &[u8]) -> Result<(), ClientError> {
        if let Some(stdin) = &mut self.session.stdin {
            if stdin.write_all(piece).await.is_err() {
                self.session.stdin = None;
            } else {
                self.sent += piece.len() as u64;
            }
        }
        Ok(())
    }

    /// Sends all of a tar stream, until the guest has stopped reading.
    ///
    /// # Errors
    /// [`ClientError::Source`] when reading it fails.
    pub async fn send_all<R: AsyncRead + Unpin>(&mut self, mut tar: R) -> Result<(), ClientError> {
        let mut buffer = vec![0; 32 * 1024];
        loop {
            let count = tar
                .read(&mut buffer)
                .await
                .map_err(|source| ClientError::Source { source })?;
            if count == 0 || self.session.stdin.is_none() {
                return Ok(());
            }
            self.send(&buffer[..count]).await?;
        }
    }

    /// The stream is complete. Says how many bytes went over once the guest has unpacked all.
    ///
    /// # Errors
    /// [`ClientError::Copy`] with the guest's words when it could not.
    pub async fn finish(mut self) -> Result<u64, ClientError> {
        if let Some(mut stdin) = self.session.stdin.take() {
            let _ended = stdin.shutdown().await;
        }
        finish(self.session).await.map(|()| self.sent)
    }
}

async fn finish(mut session: ExecSession) -> Result<(), ClientError> {
    let mut words = Vec::new();
    if let Some(stderr) = session.stderr.take() {
        // What was read counts; the exit says whether the stream broke.
        let _read = stderr.take(MAX_WORDS).read_to_end(&mut words).await;
    }
    match session.wait().await? {
        ExitStatus::Code(0) => Ok(()),
        status => {
            let mut message = String::from_utf8_lossy(&words).trim().to_owned();
            if message.is_empty() {
                message = format!("its copy process ended with status {}", status.shell_code());
            }
            Err(ClientError::Copy { message })
        }
    }
}

type Finish = Pin<Box<dyn Future<Output = Result<(), ClientError>> + Send>>;

/// A tar stream from the guest. Its end is reported only when the guest said that all is well;
/// else reading fails, so a cut is never taken for an end.
pub struct CopyOut {
    tar: StreamReader,
    session: Option<ExecSession>,
    finish: Option<Finish>,
}

impl std::fmt::Debug for CopyOut {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("CopyOut")
            .field("tar", &self.tar)
            .finish_non_exhaustive()
    }
}

impl CopyOut {
    pub(super) fn new(mut session: ExecSession) -> Result<Self, ClientError> {
        let tar = session.stdout.take().ok_or(ClientError::Protocol {
            what: "a copy without a stream",
        })?;
        Ok(Self {
            tar,
            session: Some(session),
            finish: None,
        })
    }
}

impl AsyncRead for CopyOut {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.session.is_some() {
            let before = buffer.filled().len();
            ready!(Pin::new(&mut self.tar).poll_read(context, buffer))?;
            if buffer.filled().len() > before || buffer.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
        }
        if let Some(session) = self.session.take() {
            self.finish = Some(Box::pin(finish(session)));
        }
        let Some(waiting) = &mut self.finish else {
            return Poll::Ready(Ok(()));
        };
        let outcome = ready!(waiting.as_mut().poll(context));
        self.finish = None;
        Poll::Ready(outcome.map_err(io::Error::other))
    }
}
