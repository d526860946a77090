//! Blobs: downloaded once, resumed where they broke off, verified before they get their name.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, Write as _};

use bytes::Bytes;
use camino::{Utf8Path, Utf8PathBuf};
use futures::StreamExt as _;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use crate::manifest::Descriptor;
use crate::progress::Reporter;
use crate::registry::{ATTEMPTS, Registry, pause, transient};
use crate::{ImageError, ImageStore, digest};

/// Pieces of a download on their way to the disk.
const QUEUE: usize = 32;
/// Bytes between two reports of progress.
const REPORT: u64 = 1 << 20;

/// An open blob.
pub(crate) struct Blob {
    pub(crate) file: File,
    /// Whether its digest was computed just now. One from an earlier time is verified again
    /// by whoever reads it.
    pub(crate) verified: bool,
}

/// Characters of a digest that people see.
pub(crate) fn short(digest: &str) -> String {
    digest
        .strip_prefix("sha256:")
        .unwrap_or(digest)
        .chars()
        .take(12)
        .collect()
}

/// Opens a blob, downloading it first if it is not here.
pub(crate) async fn ensure(
    store: &ImageStore,
    registry: &Registry,
    blob: &Descriptor,
    reporter: &Reporter,
) -> Result<Blob, ImageError> {
    let path = store.inner.blob_path(&blob.digest)?;
    let _turn = store.turn(&blob.digest).await;
    let shown = short(&blob.digest);
    if let Ok(file) = File::open(&path)
        && file.metadata().is_ok_and(|meta| meta.len() == blob.size)
    {
        reporter.item(&shown, "cached", blob.size, Some(blob.size));
        return Ok(Blob {
            file,
            verified: false,
        });
    }
    let partial = Utf8PathBuf::from(format!("{path}.partial"));
    let download = Download {
        registry,
        blob,
        partial: &partial,
        reporter,
    };
    if let Err(error) = download.run().await {
        let resumed = matches!(&error, Failure::Wrong { resumed: true, .. });
        let error = error.into();
        if !resumed {
            return Err(error);
        }
        // What an earlier time had left may have been at fault: once more from the start.
        tracing::warn!(digest = %blob.digest, "resumed download has a wrong digest, starting again");
        download.run().await?;
    }
    fs::rename(&partial, &path).map_err(ImageError::file("create", &path))?;
    Ok(Blob {
        file: File::open(&path).map_err(ImageError::file("open", &path))?,
        verified: true,
    })
}

/// The bytes of a small blob, verified.
pub(crate) async fn document(
    store: &ImageStore,
    registry: &Registry,
    blob: &Descriptor,
) -> Result<Vec<u8>, ImageError> {
    let mut open = ensure(store, registry, blob, &Reporter::silent()).await?;
    let mut bytes = Vec::new();
    open.file.read_to_end(&mut bytes).map_err(ImageError::file(
        "read",
        store.inner.blob_path(&blob.digest)?,
    ))?;
    if let Err(error) = digest::check("a kept blob", &blob.digest, digest::of(&bytes)) {
        // Damaged on the disk: the next try downloads it again.
        drop(fs::remove_file(store.inner.blob_path(&blob.digest)?));
        return Err(error);
    }
    Ok(bytes)
}

/// Removes a kept blob whose bytes have another digest than its name; whether it did.
pub(crate) fn remove_if_damaged(path: &Utf8Path, digest: &str) -> Result<bool, ImageError> {
    let Ok(file) = File::open(path) else {
        return Ok(false);
    };
    let mut reader = digest::HashingReader::new(file);
    io::copy(&mut reader, &mut io::sink()).map_err(ImageError::file("read", path))?;
    if reader.finish() == digest {
        return Ok(false);
    }
    fs::remove_file(path).map_err(ImageError::file("remove", path))?;
    Ok(true)
}

enum Failure {
    Wrong { error: ImageError, resumed: bool },
    Other(ImageError),
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        Self::Other(error)
    }
}

impl From<Failure> for ImageError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Wrong { error, .. } | Failure::Other(error) => error,
        }
    }
}

struct Download<'a> {
    registry: &'a Registry,
    blob: &'a Descriptor,
    partial: &'a Utf8Path,
    reporter: &'a Reporter,
}

impl Download<'_> {
    /// Brings the partial file to its full size and checks its digest. A wrong one is removed.
    async fn run(&self) -> Result<(), Failure> {
        let writer = Writer::open(self.partial, self.blob.size)?;
        let start = writer.offset;
        let (sender, pieces) = mpsc::channel(QUEUE);
        let partial = self.partial.to_owned();
        let write = tokio::task::spawn_blocking(move || {
            writer
                .run(pieces)
                .map_err(ImageError::file("write", partial))
        });
        let fetched = self.fetch(start, sender).await;
        let actual = write.await.map_err(|e| ImageError::Volume(Box::new(e)))??;
        fetched?;
        let check = digest::check(
            &format!("blob from {}", self.registry_name()),
            &self.blob.digest,
            actual,
        );
        check.map_err(|error| {
            drop(fs::remove_file(self.partial));
            Failure::Wrong {
                error,
                resumed: start > 0,
            }
        })
    }

    fn registry_name(&self) -> &'static str {
        "the registry"
    }

    async fn fetch(&self, mut offset: u64, sender: mpsc::Sender<Piece>) -> Result<(), ImageError> {
        let mut attempt = 0;
        while offset < self.blob.size {
            let before = offset;
            let error = match self.attempt(&mut offset, &sender).await {
                Ok(()) if offset >= self.blob.size => break,
                Ok(()) => io::ErrorKind::UnexpectedEof.into(),
                Err(Attempt::Fatal(error)) => return Err(error),
                Err(Attempt::Transient(error)) => error,
            };
            attempt = if offset > before { 1 } else { attempt + 1 };
            tracing::debug!(digest = %self.blob.digest, offset, attempt, %error, "download broke off");
            if attempt >= ATTEMPTS {
                return Err(ImageError::Download {
                    digest: self.blob.digest.clone(),
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
        let mut answer = match self.registry.blob(self.blob, *offset).await {
            Ok(answer) => answer,
            Err(error) if transient(&error) => {
                return Err(Attempt::Transient(io::Error::other(error)));
            }
            Err(error) => {
                let what = self.blob.digest.clone();
                let error = self.registry.failed("download", what, error).await;
                return Err(Attempt::Fatal(error));
            }
        };
        // The writer has failed if it does not listen; its own error is the one that counts.
        let gone = |_| Attempt::Fatal(ImageError::Cancelled);
        if answer.offset != *offset {
            *offset = answer.offset;
            sender.send(Piece::Restart).await.map_err(gone)?;
        }
        let shown = short(&self.blob.digest);
        let mut reported = 0;
        while let Some(piece) = answer.stream.next().await {
            let piece = piece.map_err(Attempt::Transient)?;
            *offset += piece.len() as u64;
            if *offset > self.blob.size {
                return Err(Attempt::Fatal(ImageError::Limit {
                    what: self.blob.digest.clone(),
                    limit: self.blob.size,
                    unit: "bytes, as its manifest says",
                }));
            }
            sender.send(Piece::Data(piece)).await.map_err(gone)?;
            if *offset - reported >= REPORT || *offset == self.blob.size {
                reported = *offset;
                self.reporter
                    .item(&shown, "download", *offset, Some(self.blob.size));
            }
        }
        Ok(())
    }
}

enum Attempt {
    Transient(io::Error),
    Fatal(ImageError),
}

enum Piece {
    Data(Bytes),
    Restart,
}

/// The partial file and the hash of what is in it.
struct Writer {
    file: File,
    hash: Sha256,
    offset: u64,
}

impl Writer {
    fn open(path: &Utf8Path, size: u64) -> Result<Self, ImageError> {
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
            offset,
        })
    }

    /// Hashes what is there already, then writes and hashes what comes. The digest is of the
    /// whole file.
    fn run(mut self, mut pieces: mpsc::Receiver<Piece>) -> io::Result<String> {
        let mut buffer = vec![0; 256 << 10];
        loop {
            let n = self.file.read(&mut buffer)?;
            if n == 0 {
                break;
            }
            self.hash.update(&buffer[..n]);
        }
        while let Some(piece) = pieces.blocking_recv() {
            match piece {
                Piece::Data(bytes) => {
                    self.hash.update(&bytes);
                    self.file.write_all(&bytes)?;
                }
                Piece::Restart => {
                    self.hash = Sha256::new();
                    self.file.set_len(0)?;
                    self.file.rewind()?;
                }
            }
        }
        Ok(digest::text(self.hash))
    }
}
