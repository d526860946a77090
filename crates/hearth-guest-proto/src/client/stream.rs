//! The end of a stream's data that a writer holds.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use tokio::sync::mpsc;

use super::driver::Command;
use crate::mux::WINDOW;

/// What one piece of a writer's data is at most.
const PIECE: usize = 32 * 1024;

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
