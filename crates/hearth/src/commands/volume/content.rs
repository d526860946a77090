//! What is on a volume, from and to a file of this machine. The daemon opens no file of the user's.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};

use bytes::Bytes;
use camino::{Utf8Path, Utf8PathBuf};
use futures::{Stream, TryStreamExt as _};
use tokio::sync::mpsc;

use crate::cli::Context;
use crate::commands::cp::pipe;
use crate::exit_codes;
use crate::failure::{Failure, Outcome};
use crate::stdio::{self, RawOutput};

/// Bytes read at once.
const CHUNK: usize = 256 << 10;
/// What is zero in pieces of this size is a hole: a block of most file systems.
const PIECE: usize = 4096;

/// The bytes of a file, or of standard input.
pub(super) fn source(
    path: &Utf8Path,
) -> Result<impl Stream<Item = io::Result<Bytes>> + Send + use<>, Failure> {
    if path == "-" {
        return Ok(pipe::stream(stdio::stdin()));
    }
    let file = File::open(path).map_err(|error| failed("read", path, &error))?;
    let (sender, receiver) = mpsc::channel(4);
    tokio::task::spawn_blocking(move || send(file, &sender));
    Ok(pipe::stream(receiver))
}

fn send(mut file: File, sender: &mpsc::Sender<io::Result<Bytes>>) {
    let mut buffer = vec![0; CHUNK];
    loop {
        let part = match file.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => Ok(Bytes::copy_from_slice(&buffer[..length])),
            Err(error) => Err(error),
        };
        let failed = part.is_err();
        if sender.blocking_send(part).is_err() || failed {
            return;
        }
    }
}

fn failed(what: &str, path: &Utf8Path, error: &io::Error) -> Failure {
    let code = match error.kind() {
        io::ErrorKind::NotFound => exit_codes::NOT_FOUND,
        _ => exit_codes::FAILURE,
    };
    Failure::because(code, format!("Cannot {what} {path}"), error)
}

/// A file that goes again unless it became whole.
struct Draft {
    path: Utf8PathBuf,
    whole: bool,
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.whole {
            // It is of no use, and was not there before.
            drop(std::fs::remove_file(&self.path));
        }
    }
}

pub(super) async fn export(context: &Context, volume: &str, path: &Utf8Path) -> Outcome {
    let mut content = context.client.export_volume(volume).await?;
    if path == "-" {
        let mut output = RawOutput::new();
        while let Some(bytes) = content.try_next().await? {
            output.stdout(&bytes).await?;
        }
        return Ok(exit_codes::OK);
    }
    let file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    let mut file = file.map_err(|error| {
        let told = failed("make", path, &error);
        match error.kind() {
            io::ErrorKind::AlreadyExists => {
                told.hint("nothing is written over; remove it, or name another file")
            }
            _ => told,
        }
    })?;
    let mut draft = Draft {
        path: path.to_owned(),
        whole: false,
    };
    let mut at = 0;
    while let Some(bytes) = content.try_next().await? {
        let count = bytes.len() as u64;
        let written = tokio::task::spawn_blocking(move || {
            write_data(&file, &bytes, at)?;
            io::Result::Ok(file)
        });
        let written = written.await.map_err(io::Error::other).flatten();
        file = written.map_err(|error| failed("write", path, &error))?;
        at += count;
    }
    let sealed = tokio::task::spawn_blocking(move || {
        file.set_len(at)?;
        file.sync_all()
    });
    let sealed = sealed.await.map_err(io::Error::other).flatten();
    sealed.map_err(|error| failed("write", path, &error))?;
    draft.whole = true;
    context.out.line(path)?;
    Ok(exit_codes::OK)
}

/// Writes what is not zero.
fn write_data(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    for (number, piece) in bytes.chunks(PIECE).enumerate() {
        if piece.iter().any(|byte| *byte != 0) {
            file.write_all_at(piece, at + (number * PIECE) as u64)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn zeros_become_holes() {
        let file = tempfile::tempfile().unwrap();
        let mut bytes = vec![0; 1 << 20];
        bytes[500_000..500_003].copy_from_slice(b"abc");
        write_data(&file, &bytes, 1 << 20).unwrap();
        file.set_len(2 << 20).unwrap();
        let mut read = [0; 3];
        file.read_exact_at(&mut read, (1 << 20) + 500_000).unwrap();
        assert_eq!(&read, b"abc");
        assert!(file.metadata().unwrap().blocks() * 512 < 1 << 16);
    }
}
