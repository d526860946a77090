//! What a log holds at one moment: rotated files and the newest, read piece by piece.
//!
//! The files are open and their lengths are taken at that moment, so rotation and growth
//! meanwhile change nothing. No more than one piece is in memory at a time.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::sync::Arc;

use bytes::Bytes;
use camino::{Utf8Path, Utf8PathBuf};
use futures::Stream;

use super::{CHUNK, open};

/// The most rotated files that are looked for.
const ROTATED: u32 = 9;

/// The log as it was when it was opened.
#[derive(Debug)]
pub(super) struct Present {
    /// Oldest first.
    files: Vec<Piece>,
    /// Where to begin: a file and the place in it.
    start: (usize, u64),
}

#[derive(Debug, Clone)]
struct Piece {
    file: Arc<File>,
    length: u64,
}

impl Present {
    /// Opens a log, or its last lines, and says where its newest file ends.
    pub(super) fn open(
        path: &Utf8Path,
        tail: Option<u32>,
    ) -> io::Result<(Self, Option<(File, u64)>)> {
        // The newest comes first: if it is rotated away now, it is met again as a rotated
        // one and left out, instead of being missed.
        let newest = open(path)?;
        let mut files = Vec::new();
        let mut inodes = Vec::new();
        let rotated = (1..=ROTATED).map(|n| open(&Utf8PathBuf::from(format!("{path}.{n}"))));
        let first = newest.as_ref().map(File::try_clone).transpose()?;
        for file in std::iter::once(Ok(first)).chain(rotated) {
            let Some(file) = file? else { continue };
            let meta = file.metadata()?;
            if !inodes.contains(&meta.ino()) {
                inodes.push(meta.ino());
                files.push(Piece {
                    file: Arc::new(file),
                    length: meta.len(),
                });
            }
        }
        let end = files.first().map_or(0, |piece| piece.length);
        files.reverse();
        let start = match tail {
            Some(lines) => last_lines(&files, lines)?,
            None => (0, 0),
        };
        Ok((Self { files, start }, newest.map(|file| (file, end))))
    }

    /// Its bytes.
    pub(super) fn stream(self) -> impl Stream<Item = io::Result<Bytes>> + Send {
        futures::stream::try_unfold((self.files, self.start), async |(files, at)| {
            let read = tokio::task::spawn_blocking(move || {
                let (bytes, next) = next(&files, at)?;
                io::Result::Ok((!bytes.is_empty()).then_some((bytes, (files, next))))
            });
            read.await.map_err(io::Error::other)?
        })
    }
}

/// The bytes at a place, and the place behind them. None at the end of all.
fn next(
    files: &[Piece],
    (mut index, mut offset): (usize, u64),
) -> io::Result<(Bytes, (usize, u64))> {
    while let Some(piece) = files.get(index) {
        let length =
            CHUNK.min(usize::try_from(piece.length.saturating_sub(offset)).unwrap_or(CHUNK));
        let mut bytes = vec![0; length];
        // A file that was cut off meanwhile has less than it had.
        let length = piece.file.read_at(&mut bytes, offset)?;
        if length > 0 {
            bytes.truncate(length);
            return Ok((bytes.into(), (index, offset + length as u64)));
        }
        (index, offset) = (index + 1, 0);
    }
    Ok((Bytes::new(), (index, offset)))
}

/// Where the last `lines` lines begin. A newline at the very end ends the last of them.
fn last_lines(files: &[Piece], lines: u32) -> io::Result<(usize, u64)> {
    if lines == 0 {
        return Ok((files.len(), 0));
    }
    let mut left = lines;
    let mut very_end = true;
    let mut buffer = vec![0; CHUNK];
    for (index, piece) in files.iter().enumerate().rev() {
        let mut end = piece.length;
        while end > 0 {
            let begin = end.saturating_sub(CHUNK as u64);
            let length = usize::try_from(end - begin).unwrap_or(CHUNK);
            let chunk = &mut buffer[..length];
            piece.file.read_exact_at(chunk, begin)?;
            for (at, byte) in chunk.iter().enumerate().rev() {
                if *byte == b'\n' && !very_end {
                    left -= 1;
                    if left == 0 {
                        return Ok((index, begin + at as u64 + 1));
                    }
                }
                very_end = false;
            }
            end = begin;
        }
    }
    Ok((0, 0))
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt as _;

    use super::*;

    /// A log of these files, oldest first.
    fn log(files: &[&[u8]]) -> (tempfile::TempDir, Utf8PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(folder.path()).unwrap().join("log");
        for (age, bytes) in files.iter().rev().enumerate() {
            let name = match age {
                0 => path.clone(),
                age => format!("{path}.{age}").into(),
            };
            std::fs::write(name, bytes).unwrap();
        }
        (folder, path)
    }

    async fn pieces(path: &Utf8Path, tail: Option<u32>) -> Vec<Bytes> {
        let (present, _) = Present::open(path, tail).unwrap();
        present.stream().try_collect().await.unwrap()
    }

    async fn text(path: &Utf8Path, tail: u32) -> String {
        String::from_utf8(pieces(path, Some(tail)).await.concat()).unwrap()
    }

    #[tokio::test]
    async fn tail_counts_lines() {
        let (_folder, path) = log(&[b"one\ntwo\nthree\n"]);
        assert_eq!(text(&path, 0).await, "");
        assert_eq!(text(&path, 1).await, "three\n");
        assert_eq!(text(&path, 2).await, "two\nthree\n");
        assert_eq!(text(&path, 9).await, "one\ntwo\nthree\n");
        let (_folder, path) = log(&[b"a\nb"]);
        assert_eq!(text(&path, 1).await, "b");
    }

    #[tokio::test]
    async fn lines_go_over_rotations() {
        let (_folder, path) = log(&[b"one\ntw", b"o\n", b"", b"\nfour\n"]);
        for (tail, expected) in [
            (1, "four\n"),
            (2, "\nfour\n"),
            (3, "two\n\nfour\n"),
            (4, "one\ntwo\n\nfour\n"),
        ] {
            assert_eq!(text(&path, tail).await, expected, "{tail} lines");
        }
        let (_folder, path) = log(&[b"one\n", b""]);
        assert_eq!(text(&path, 1).await, "one\n");
        assert_eq!(pieces(&path.with_file_name("missing"), None).await, [""; 0]);
    }

    #[tokio::test]
    async fn a_large_log_comes_in_small_pieces() {
        let line = |n: usize| format!("{n:07} a line that is somewhat long\n");
        let old: String = (0..20_000).map(line).collect();
        let new: String = (20_000..50_000).map(line).collect();
        let (_folder, path) = log(&[old.as_bytes(), new.as_bytes()]);
        let all = pieces(&path, None).await;
        assert!(
            all.iter().all(|piece| piece.len() <= CHUNK),
            "a large piece"
        );
        assert!(all.concat() == (old + &new).into_bytes());
        // Beyond the first chunk from the end, and beyond the newest file.
        for tail in [1, 5_000, 30_000, 30_001, 49_999] {
            let expected: String = (50_000 - tail..50_000).map(line).collect();
            let tail = u32::try_from(tail).unwrap();
            assert!(text(&path, tail).await == expected, "{tail} lines");
        }
    }

    /// What is added while it is read belongs to the follower, and a log that grows as fast
    /// as it is read has an end.
    #[tokio::test]
    async fn it_is_the_log_of_one_moment() {
        let (_folder, path) = log(&[b"old\n", b"new\n"]);
        let (present, newest) = Present::open(&path, None).unwrap();
        let (_file, end) = newest.unwrap();
        assert_eq!(end, 4);
        std::fs::write(&path, b"new\nlater\n").unwrap();
        std::fs::rename(&path, format!("{path}.1")).unwrap();
        std::fs::write(&path, b"newest\n").unwrap();
        let read: Vec<Bytes> = present.stream().try_collect().await.unwrap();
        assert_eq!(read.concat(), b"old\nnew\n");
    }
}
