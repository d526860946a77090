//! One download into a partial file: resumed where it broke off, hashed while it is written.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};

use bytes::Bytes;
use camino::Utf8Path;
use futures::StreamExt as _;
use hearth_s3::{Checker, Mismatch};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use crate::origin::Fetch;
use crate::progress::Reporter;
use crate::registry::{ATTEMPTS, pause};
use crate::{ImageError, digest};

/// Pieces of a download on their way to the disk.
const QUEUE: usize = 32;
/// Bytes between two reports of progress.
const REPORT: u64 = 1 << 20;

/// What is downloaded, and where to.
pub(crate) struct Download<'a> {
    pub(crate) fetch: Fetch<'a>,
    /// What it is, in errors and logs.
    pub(crate) what: &'a str,
    /// Its name in reports of progress.
    pub(crate) shown: &'a str,
    pub(crate) size: u64,
    pub(crate) partial: &'a Utf8Path,
    pub(crate) reporter: &'a Reporter,
    /// Checksums that the server has told.
    pub(crate) checker: Option<Checker>,
}

/// What came.
pub(crate) struct Downloaded {
    /// The digest of the whole file.
    pub(crate) digest: String,
    /// Whether a part of it is from an earlier time.
    pub(crate) resumed: bool,
    /// The checksums that were right, or the one that was not.
    pub(crate) checked: Result<Vec<&'static str>, Mismatch>,
}

/// Why an attempt ended.
pub(crate) enum Attempt {
    /// The same again may go better.
    Transient(io::Error),
    /// It never will.
    Fatal(ImageError),
}

impl Download<'_> {
    /// Brings the partial file to its full size.
    pub(crate) async fn run(&self) -> Result<Downloaded, ImageError> {
        let writer = Writer::open(self.partial, self.size, self.checker.clone())?;
        let start = writer.offset;
        let (sender, pieces) = mpsc::channel(QUEUE);
        let partial = self.partial.to_owned();
        let write = tokio::task::spawn_blocking(move || {
            writer
                .run(pieces)
                .map_err(ImageError::file("write", partial))
        });
        let fetched = self.fetch(start, sender).await;
        let (digest, checked) = write.await.map_err(|e| ImageError::Volume(Box::new(e)))??;
        fetched?;
        Ok(Downloaded {
            digest,
            resumed: start > 0,
            checked,
        })
    }

    async fn fetch(&self, mut offset: u64, sender: mpsc::Sender<Piece>) -> Result<(), ImageError> {
        let mut attempt = 0;
        while offset < self.size {
            let before = offset;
            let error = match self.attempt(&mut offset, &sender).await {
                Ok(()) if offset >= self.size => break,
                Ok(()) => io::ErrorKind::UnexpectedEof.into(),
                Err(Attempt::Fatal(error)) => return Err(error),
                Err(Attempt::Transient(error)) => error,
            };
            attempt = if offset > before { 1 } else { attempt + 1 };
            tracing::debug!(what = self.what, offset, attempt, %error, "download broke off");
            if attempt >= ATTEMPTS {
                return Err(ImageError::Download {
                    what: self.what.to_owned(),
                    attempts: attempt,
                    offset,
                    source: error,
                });
            }
            pause(attempt).await;
        }
        Ok(())
    }

    async fn attempt(&self, offset: &mut u64, sender: &mpsc::Sender<Piece>) -> Result<(), Attempt> {
        let mut answer = self.fetch.open(*offset).await?;
        // The writer has failed if it does not listen; its own error is the one that counts.
        let gone = |_| Attempt::Fatal(ImageError::Cancelled);
        if answer.offset != *offset {
            *offset = answer.offset;
            sender.send(Piece::Restart).await.map_err(gone)?;
        }
        let mut reported = 0;
        while let Some(piece) = answer.stream.next().await {
            let piece = piece.map_err(Attempt::Transient)?;
            *offset += piece.len() as u64;
            if *offset > self.size {
                return Err(Attempt::Fatal(ImageError::Limit {
                    what: self.what.to_owned(),
                    limit: self.size,
                    unit: "bytes, which is its size as told before",
                }));
            }
            sender.send(Piece::Data(piece)).await.map_err(gone)?;
            if *offset - reported >= REPORT || *offset == self.size {
                reported = *offset;
                self.reporter
                    .item(self.shown, "download", *offset, Some(self.size));
            }
        }
        Ok(())
    }
}

enum Piece {
    Data(Bytes),
    Restart,
}

/// The partial file and the hashes of what is in it.
struct Writer {
    file: File,
    hash: Sha256,
    checker: Option<Checker>,
    fresh: Option<Checker>,
    offset: u64,
}

impl Writer {
    fn open(path: &Utf8Path, size: u64, checker: Option<Checker>) -> Result<Self, ImageError> {
        let failed = || ImageError::file("open", path);
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(failed())?;
        let mut offset = file.metadata().map_err(failed())?.len();
        if offset > size {
            file.set_len(0).map_err(failed())?;
            offset = 0;
        }
        Ok(Self {
            file,
            hash: Sha256::new(),
            fresh: checker.clone(),
            checker,
            offset,
        })
    }

    fn update(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        if let Some(checker) = &mut self.checker {
            checker.update(bytes);
        }
    }

    /// Hashes what is there already, then writes and hashes what comes. The digest is of the
    /// whole file.
    fn run(mut self, mut pieces: mpsc::Receiver<Piece>) -> io::Result<Written> {
        let mut buffer = vec![0; 256 << 10];
        loop {
            let n = self.file.read(&mut buffer)?;
            if n == 0 {
                break;
            }
            self.update(&buffer[..n]);
        }
        while let Some(piece) = pieces.blocking_recv() {
            match piece {
                Piece::Data(bytes) => {
                    self.update(&bytes);
                    self.file.write_all(&bytes)?;
                }
                Piece::Restart => {
                    self.hash = Sha256::new();
                    self.checker.clone_from(&self.fresh);
                    self.file.set_len(0)?;
                    self.file.rewind()?;
                }
            }
        }
        let checked = self.checker.map_or(Ok(Vec::new()), Checker::finish);
        Ok((digest::text(self.hash), checked))
    }
}

/// A digest, and what the other checksums say.
type Written = (String, Result<Vec<&'static str>, Mismatch>);
