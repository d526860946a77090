//! Copies of volumes that are compared with what they were made of before anybody relies on them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use crate::copy::parts;

/// Bytes that are read, compared and written at once.
const CHUNK: usize = 1 << 20;
/// What is zero in pieces of this size is not written: a block of most file systems.
const PIECE: usize = 4096;

/// Copies the first `length` bytes of `from` to `to`, which reads as zeros before; what is zero is not
/// written. Then both are read and compared. Durable when it returns.
///
/// # Errors
/// Of reading and writing; [`io::ErrorKind::InvalidData`] when the copy differs.
pub fn copy_verified(from: &File, to: &File, length: u64) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    chunks(from, length, |at, want| {
        let bytes = &mut buffer[..want];
        from.read_exact_at(bytes, at)?;
        write_data(to, bytes, at)
    })?;
    to.sync_all()?;
    let mut copied = vec![0; CHUNK];
    chunks(from, length, |at, want| {
        from.read_exact_at(&mut buffer[..want], at)?;
        to.read_exact_at(&mut copied[..want], at)?;
        if buffer[..want] == copied[..want] {
            return Ok(());
        }
        let words = format!("the copy differs from its source within {want} bytes at {at}");
        Err(io::Error::new(io::ErrorKind::InvalidData, words))
    })
}

/// Writes the pieces of `bytes` that are not zero.
///
/// # Errors
/// Of writing.
pub fn write_data(to: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    let (mut start, mut end) = (0, 0);
    for piece in bytes.chunks(PIECE) {
        if piece.iter().any(|byte| *byte != 0) {
            end += piece.len();
            continue;
        }
        to.write_all_at(&bytes[start..end], at + start as u64)?;
        end += piece.len();
        start = end;
    }
    to.write_all_at(&bytes[start..end], at + start as u64)
}

/// What is no hole, in pieces.
fn chunks(
    from: &File,
    length: u64,
    mut each: impl FnMut(u64, usize) -> io::Result<()>,
) -> io::Result<()> {
    parts(from, length, |start, end| {
        let mut at = start;
        while at < end {
            let want = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
            each(at, want)?;
            at += want as u64;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn a_copy_is_the_same_and_zeros_take_no_room() {
        let (from, to) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let length = 3 * CHUNK as u64 + 100;
        from.set_len(length).unwrap();
        from.write_all_at(b"begin", 0).unwrap();
        from.write_all_at(b"across a chunk", CHUNK as u64 - 5)
            .unwrap();
        from.write_all_at(b"end", length - 3).unwrap();
        from.write_all_at(&[0; 1 << 16], 1 << 19).unwrap();
        to.set_len(length).unwrap();
        copy_verified(&from, &to, length).unwrap();
        assert!(to.metadata().unwrap().blocks() * 512 < 1 << 16);
    }

    #[test]
    fn what_reads_otherwise_than_it_was_written_is_found() {
        let (from, to) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        from.set_len(1 << 20).unwrap();
        to.set_len(1 << 20).unwrap();
        // A zero is not written, so what was there before shows.
        from.write_all_at(&[0; 1 << 16], 1 << 16).unwrap();
        to.write_all_at(b"left", 70_000).unwrap();
        let error = copy_verified(&from, &to, 1 << 20).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
