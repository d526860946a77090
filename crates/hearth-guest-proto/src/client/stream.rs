//! The two ends of a stream's data that callers hold.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;

use super::driver::Command;
use crate::mux::WINDOW;

/// What one piece of a writer's data is at most.
const PIECE: usize = 32 * 1024;

/// Data of one channel from the guest. Ends when the guest closes the channel; fails when the
/// connection or the stream breaks first, so that a cut is never taken for an end.
#[derive(Debug)]
pub struct StreamReader {
    stream: u32,
    channel: u8,
    incoming: mpsc::UnboundedReceiver<Incoming>,
    commands: mpsc::UnboundedSender<Command>,
    current: Bytes,
    ended: bool,
}

/// What the driver hands to a reader.
#[derive(Debug)]
pub(super) enum Incoming {
    Data(Bytes),
    End,
}

impl StreamReader {
    pub(super) fn new(
        stream: u32,
        channel: u8,
        incoming: mpsc::UnboundedReceiver<Incoming>,
        commands: mpsc::UnboundedSender<Command>,
    ) -> Self {
        Self {
            stream,
            channel,
            incoming,
            commands,
            current: Bytes::new(),
            ended: false,
        }
    }

    /// The next piece as it came in, `None` at the end.
    ///
    /// # Errors
    /// When the stream broke before its end.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        std::future::poll_fn(|context| self.poll_piece(context)).await?;
        let piece = std::mem::take(&mut self.current);
        self.consumed(piece.len());
        Ok((!piece.is_empty()).then_some(piece))
    }

    /// Makes `current` non-empty, or finds the end.
    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.current.is_empty() && !self.ended {
            match ready!(self.incoming.poll_recv(context)) {
                Some(Incoming::Data(data)) => self.current = data,
                Some(Incoming::End) => self.ended = true,
                None => {
                    return Poll::Ready(Err(io::Error::new(
                        io::ErrorKind::ConnectionReset,
                        "the guest's stream broke before its end",
                    )));
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    fn consumed(&self, bytes: usize) {
        if bytes > 0 {
            let (stream, channel) = (self.stream, self.channel);
            // No driver, no sender to grant anything to.
            let _sent = self.commands.send(Command::Grant {
                stream,
                channel,
                bytes,
            });
        }
    }
}

impl AsyncRead for StreamReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_piece(context))?;
        let count = self.current.len().min(buffer.remaining());
        buffer.put_slice(&self.current[..count]);
        self.current.advance(count);
        self.consumed(count);
        Poll::Ready(Ok(()))
    }
}

impl Drop for StreamReader {
    /// Data that nobody will read count as read, or the program stalls.
    fn drop(&mut self) {
        self.incoming.close();
        let mut bytes = self.current.len();
        while let Ok(Incoming::Data(data)) = self.incoming.try_recv() {
            bytes += data.len();
        }
        self.consumed(bytes);
    }
}

/// How much a writer may send, shared with the driver.
#[derive(Debug)]
pub(super) struct SendCredit {
    state: Mutex<CreditState>,
}

#[derive(Debug)]
struct CreditState {
    bytes: usize,
    closed: bool,
    waiting: Option<Waker>,
}

impl SendCredit {
    pub(super) fn new() -> Arc<Self> {
        let state = CreditState {
            bytes: WINDOW,
            closed: false,
            waiting: None,
        };
        Arc::new(Self {
            state: Mutex::new(state),
        })
    }

    pub(super) fn add(&self, bytes: usize) {
        self.change(|state| state.bytes += bytes);
    }

    pub(super) fn close(&self) {
        self.change(|state| state.closed = true);
    }

    fn change(&self, change: impl FnOnce(&mut CreditState)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        if let Some(waker) = state.waiting.take() {
            waker.wake();
        }
    }

    fn poll_take(&self, context: &mut Context<'_>, wanted: usize) -> Poll<io::Result<usize>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return Poll::Ready(Err(broken()));
        }
        if state.bytes == 0 {
            state.waiting = Some(context.waker().clone());
            return Poll::Pending;
        }
        let taken = wanted.min(state.bytes).min(PIECE);
        state.bytes -= taken;
        Poll::Ready(Ok(taken))
    }
}

fn broken() -> io::Error {
    io::Error::new(
        io::ErrorKind::BrokenPipe,
        "the guest's stream takes no more data",
    )
}

/// A program's stdin. `shutdown` (or dropping it) is the end of the input.
#[derive(Debug)]
pub struct StreamWriter {
    stream: u32,
    credit: Arc<SendCredit>,
    commands: mpsc::UnboundedSender<Command>,
}

impl StreamWriter {
    pub(super) fn new(
        stream: u32,
        credit: Arc<SendCredit>,
        commands: mpsc::UnboundedSender<Command>,
    ) -> Self {
        Self {
            stream,
            credit,
            commands,
        }
    }
}

impl AsyncWrite for StreamWriter {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let taken = ready!(self.credit.poll_take(context, data.len()))?;
        let data = Bytes::copy_from_slice(&data[..taken]);
        let command = Command::Data {
            stream: self.stream,
            data,
        };
        Poll::Ready(
            self.commands
                .send(command)
                .map(|()| taken)
                .map_err(|_| broken()),
        )
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.credit.close();
        let _sent = self.commands.send(Command::EndData {
            stream: self.stream,
        });
        Poll::Ready(Ok(()))
    }
}

impl Drop for StreamWriter {
    fn drop(&mut self) {
        let _sent = self.commands.send(Command::EndData {
            stream: self.stream,
        });
    }
}
