//! The end of a stream's data that a reader holds, and the driver's end of it.
//!
//! What waits for a reader lies in one buffer, whatever the size of the frames it came in: a guest that sends
//! its bytes one by one takes no more of the host's memory than any other.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::mpsc;

use super::driver::Command;
use crate::frame::MAX_PAYLOAD;

/// The most that a reader gets at once, in bytes.
const PIECE: usize = MAX_PAYLOAD;

/// What has come for a reader and was not taken yet: never more than the guest's window.
#[derive(Debug, Default)]
struct Inflow {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    data: BytesMut,
    end: Option<End>,
    /// Nobody reads any more.
    unread: bool,
    waiting: Option<Waker>,
}

/// How a channel is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Said,
    Broken,
}

impl Inflow {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state();
        change(&mut state);
        if let Some(waker) = state.waiting.take() {
            waker.wake();
        }
    }
}

/// The driver's end. Dropped, the channel is broken unless it has ended.
#[derive(Debug)]
pub(super) struct Feed(Arc<Inflow>);

impl Feed {
    /// Hands data over; `false` if nobody reads them.
    pub(super) fn data(&self, data: &[u8]) -> bool {
        let mut read = false;
        self.0.change(|state| {
            read = !state.unread;
            if read {
                state.data.extend_from_slice(data);
            }
        });
        read
    }

    /// No more comes.
    pub(super) fn end(self) {
        self.0.change(|state| state.end = Some(End::Said));
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.0
            .change(|state| state.end = state.end.or(Some(End::Broken)));
    }
}

/// Data of one channel from the guest. Ends when the guest closes the channel; fails when the
/// connection or the stream breaks first, so that a cut is never taken for an end.
#[derive(Debug)]
pub struct StreamReader {
    stream: u32,
    channel: u8,
    inflow: Arc<Inflow>,
    commands: mpsc::UnboundedSender<Command>,
    current: Bytes,
}

impl StreamReader {
    /// A reader, and what feeds it.
    pub(super) fn new(
        stream: u32,
        channel: u8,
        commands: mpsc::UnboundedSender<Command>,
    ) -> (Self, Feed) {
        let inflow = Arc::new(Inflow::default());
        let reader = Self {
            stream,
            channel,
            inflow: Arc::clone(&inflow),
            commands,
            current: Bytes::new(),
        };
        (reader, Feed(inflow))
    }

    /// The next piece, `None` at the end.
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
        if !self.current.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let mut state = self.inflow.state();
        if !state.data.is_empty() {
            let piece = state.data.len().min(PIECE);
            self.current = state.data.split_to(piece).freeze();
            if state.data.is_empty() {
                // One that rests holds nothing.
                state.data = BytesMut::new();
            }
            return Poll::Ready(Ok(()));
        }
        match state.end {
            Some(End::Said) => Poll::Ready(Ok(())),
            Some(End::Broken) => Poll::Ready(Err(io::Error::new(
                io::ErrorKind::ConnectionReset,
                "the guest's stream broke before its end",
            ))),
            None => {
                state.waiting = Some(context.waker().clone());
                Poll::Pending
            }
        }
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
        let mut state = self.inflow.state();
        state.unread = true;
        let left = std::mem::take(&mut state.data);
        drop(state);
        self.consumed(self.current.len() + left.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mux::WINDOW;

    #[tokio::test]
    async fn bytes_that_come_one_by_one_take_no_more_room() {
        let (commands, _inbox) = mpsc::unbounded_channel();
        let (mut reader, feed) = StreamReader::new(1, 0, commands);
        for _ in 0..WINDOW {
            assert!(feed.data(&[7]));
        }
        let held = reader.inflow.state().data.capacity();
        assert!(held <= 2 * WINDOW, "{held} bytes");
        feed.end();
        let mut read = 0;
        while let Some(piece) = reader.next().await.unwrap() {
            assert!(piece.len() <= PIECE && piece.iter().all(|byte| *byte == 7));
            read += piece.len();
        }
        assert_eq!(read, WINDOW);
        assert_eq!(reader.inflow.state().data.capacity(), 0);
    }

    #[tokio::test]
    async fn what_came_before_a_cut_is_read_and_nobody_feeds_who_is_gone() {
        let (commands, mut inbox) = mpsc::unbounded_channel();
        let (mut reader, feed) = StreamReader::new(1, 0, commands);
        assert!(feed.data(b"said"));
        drop(feed);
        assert_eq!(reader.next().await.unwrap().unwrap(), &b"said"[..]);
        let cut = reader.next().await.unwrap_err();
        assert_eq!(cut.kind(), io::ErrorKind::ConnectionReset);
        drop(reader);
        let (commands, mut unread) = mpsc::unbounded_channel();
        let (reader, feed) = StreamReader::new(1, 0, commands);
        assert!(feed.data(b"unread"));
        drop(reader);
        assert!(!feed.data(b"more"));
        let granted = |command| matches!(command, Ok(Command::Grant { bytes, .. }) if bytes > 3);
        assert!(granted(inbox.try_recv()) && granted(unread.try_recv()));
    }
}
