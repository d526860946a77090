//! Bridges between tar's blocking readers and writers and the client's streams.

use std::io::{self, Read, Write};

use bytes::{Bytes, BytesMut};
use futures::Stream;
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// Chunks on their way at once: enough to keep both sides busy.
const DEPTH: usize = 8;
/// Size of the chunks that are sent.
const CHUNK: usize = 64 << 10;

/// A blocking reader of what is sent.
pub(super) fn reader() -> (Sender<io::Result<Bytes>>, ChunkReader) {
    let (sender, receiver) = channel(DEPTH);
    let reader = ChunkReader {
        receiver,
        current: Bytes::new(),
    };
    (sender, reader)
}

/// A blocking writer of what is received. The stream ends well only after `finish`.
pub(super) fn writer() -> (ChunkWriter, Receiver<io::Result<Bytes>>) {
    let (sender, receiver) = channel(DEPTH);
    let writer = ChunkWriter {
        sender,
        buffer: BytesMut::with_capacity(CHUNK),
    };
    (writer, receiver)
}

/// What a channel receives, as a stream.
pub(crate) fn stream(
    receiver: Receiver<io::Result<Bytes>>,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    futures::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|chunk| (chunk, receiver))
    })
}

/// See [`reader`].
#[derive(Debug)]
pub(super) struct ChunkReader {
    receiver: Receiver<io::Result<Bytes>>,
    current: Bytes,
}

impl Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.receiver.blocking_recv() {
                Some(chunk) => self.current = chunk?,
                None => return Ok(0),
            }
        }
        let length = self.current.len().min(buffer.len());
        buffer[..length].copy_from_slice(&self.current.split_to(length));
        Ok(length)
    }
}

/// See [`writer`].
#[derive(Debug)]
pub(super) struct ChunkWriter {
    sender: Sender<io::Result<Bytes>>,
    buffer: BytesMut,
}

impl ChunkWriter {
    /// Tells the other side that there will be no whole stream.
    pub(super) fn fail(&self) {
        let told = io::Error::other("the source could not be read");
        // A receiver that has gone needs no telling.
        drop(self.sender.blocking_send(Err(told)));
    }
}

impl Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = self.buffer.split().freeze();
        self.sender
            .blocking_send(Ok(chunk))
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
