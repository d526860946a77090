//! A layer's bytes, inflated on a thread of their own.
//!
//! The thread reads, hashes and inflates; the unpacker writes. Between them is a short queue
//! of large buffers that are used again. Hanging up the queue ends the thread.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use crate::ImageError;
use crate::digest::HashingReader;

/// Bytes of one buffer of the queue: large against the cost of handing it over, small against
/// the processor's cache.
const CHUNK: usize = 256 << 10;
/// Buffers in the queue.
const QUEUE: usize = 8;
/// Bytes read at once from the source.
const READ: usize = 256 << 10;
/// Memory that an xz stream may ask for, in bytes; `xz -9` needs 65 MiB.
const XZ_MEMORY: u64 = 256 << 20;
/// Largest zstd window, as a power of two: 128 MiB, zstd's own default limit.
const ZSTD_WINDOW: u32 = 27;

/// How a stream is packed, told by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    Plain,
    Gzip,
    Xz,
    Zstd,
}

impl Packing {
    /// Guesses from the first six bytes or more.
    pub(crate) fn of(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            // A skippable frame, as pzstd and estargz-like tools put first.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::Plain,
        }
    }
}

/// Which bytes a digest is taken of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HashOf {
    Nothing,
    Packed,
    Unpacked,
}

/// The unpacked stream. Read it to its end, then ask [`Self::finish`] for the digest.
pub(crate) struct Inflated {
    chunks: Receiver<Vec<u8>>,
    spare: SyncSender<Vec<u8>>,
    chunk: Vec<u8>,
    position: usize,
    thread: Option<JoinHandle<io::Result<Option<String>>>>,
    digest: Option<String>,
    read: Arc<AtomicU64>,
}

impl Inflated {
    /// Starts the thread.
    pub(crate) fn start(
        source: impl Read + Send + 'static,
        hash: HashOf,
    ) -> Result<Self, ImageError> {
        let (sender, chunks) = sync_channel(QUEUE);
        let (spare, spares) = sync_channel(QUEUE + 2);
        let read = Arc::new(AtomicU64::new(0));
        let source = Counted {
            inner: source,
            read: Arc::clone(&read),
        };
        let thread = std::thread::Builder::new()
            .name("hearth-inflate".to_owned())
            .spawn(move || pump(source, hash, &sender, &spares))
            .map_err(|e| ImageError::Volume(Box::new(e)))?;
        Ok(Self {
            chunks,
            spare,
            chunk: Vec::new(),
            position: 0,
            thread: Some(thread),
            digest: None,
            read,
        })
    }

    /// Packed bytes read so far.
    pub(crate) fn packed_bytes(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// The digest, after the end has been read.
    pub(crate) fn finish(self) -> Option<String> {
        self.digest
    }

    /// The thread has hung up: it is done, or has failed.
    fn collect(&mut self) -> io::Result<()> {
        if let Some(thread) = self.thread.take() {
            self.digest = thread
                .join()
                .map_err(|_| io::Error::other("the inflating thread panicked"))??;
        }
        Ok(())
    }
}

impl Read for Inflated {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let n = available.len().min(buffer.len());
        buffer[..n].copy_from_slice(&available[..n]);
        self.consume(n);
        Ok(n)
    }
}

impl BufRead for Inflated {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.position == self.chunk.len() {
            self.position = 0;
            match self.chunks.recv() {
                Ok(chunk) => {
                    let used = std::mem::replace(&mut self.chunk, chunk);
                    // A full return queue only means that this buffer is freed.
                    drop(self.spare.try_send(used));
                }
                Err(_) => {
                    self.chunk.clear();
                    self.collect()?;
                }
            }
        }
        Ok(&self.chunk[self.position..])
    }

    fn consume(&mut self, amount: usize) {
        self.position += amount;
    }
}

struct Counted<R> {
    inner: R,
    read: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.read.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

fn pump(
    source: impl Read,
    hash: HashOf,
    sender: &SyncSender<Vec<u8>>,
    spares: &Receiver<Vec<u8>>,
) -> io::Result<Option<String>> {
    match hash {
        HashOf::Nothing => inflate(source, |r| forward(r, sender, spares)).map(|()| None),
        HashOf::Packed => {
            let mut source = HashingReader::new(source);
            inflate(&mut source, |r| forward(r, sender, spares))?;
            // Bytes after the packed stream's end belong to the digest too.
            io::copy(&mut source, &mut io::sink())?;
            Ok(Some(source.finish()))
        }
        HashOf::Unpacked => inflate(source, |r| {
            let mut hashed = HashingReader::new(r);
            forward(&mut hashed, sender, spares)?;
            Ok(Some(hashed.finish()))
        }),
    }
}

fn inflate<T>(
    source: impl Read,
    work: impl FnOnce(&mut dyn Read) -> io::Result<T>,
) -> io::Result<T> {
    let mut source = BufReader::with_capacity(READ, source);
    let mut head = [0_u8; 6];
    let mut have = 0;
    while have < head.len() {
        match source.read(&mut head[have..])? {
            0 => break,
            n => have += n,
        }
    }
    let packing = Packing::of(&head[..have]);
    let source = io::Cursor::new(head).take(have as u64).chain(source);
    match packing {
        Packing::Plain => work(&mut { source }),
        Packing::Gzip => work(&mut flate2::bufread::MultiGzDecoder::new(source)),
        Packing::Xz => {
            let stream = liblzma::stream::Stream::new_stream_decoder(
                XZ_MEMORY,
                liblzma::stream::CONCATENATED,
            )
            .map_err(io::Error::other)?;
            work(&mut liblzma::bufread::XzDecoder::new_stream(source, stream))
        }
        Packing::Zstd => {
            let mut decoder = zstd::Decoder::with_buffer(source)?;
            decoder.window_log_max(ZSTD_WINDOW)?;
            work(&mut decoder)
        }
    }
}

fn forward(
    reader: &mut dyn Read,
    sender: &SyncSender<Vec<u8>>,
    spares: &Receiver<Vec<u8>>,
) -> io::Result<()> {
    loop {
        let mut chunk = spares.try_recv().unwrap_or_default();
        chunk.resize(CHUNK, 0);
        let mut filled = 0;
        while filled < CHUNK {
            match reader.read(&mut chunk[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        chunk.truncate(filled);
        if filled == 0 {
            return Ok(());
        }
        sender
            .send(chunk)
            .map_err(|_| io::Error::other("nobody reads the inflated stream any more"))?;
    }
}
