//! Copying a volume's file: shared blocks where the file system can, else only the parts
//! that hold data.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::fs::SeekFrom;
use rustix::io::Errno;

/// Bytes moved at once where the kernel cannot copy between the two files.
const CHUNK: usize = 1 << 20;
/// Size of the units of `st_blocks`, whatever the file system's blocks are (stat(2)).
const STAT_BLOCK: u64 = 512;

/// Makes `to` share all blocks of `from`. `false` when the file system cannot.
///
/// # Errors
/// Anything else than "cannot".
pub(crate) fn reflink(from: &File, to: &File) -> io::Result<bool> {
    match rustix::fs::ioctl_ficlone(to, from) {
        Ok(()) => Ok(true),
        // Not this file system, not between these two, or not known to this kernel.
        Err(Errno::OPNOTSUPP | Errno::XDEV | Errno::INVAL | Errno::NOTTY | Errno::NOSYS) => {
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

/// Bytes that a file takes on its disk.
pub(crate) fn allocated(file: &File) -> io::Result<u64> {
    Ok(file.metadata()?.blocks().saturating_mul(STAT_BLOCK))
}

/// Copies what `from` holds to the empty file `to`; holes stay holes.
pub(crate) fn sparse(from: &File, to: &File) -> io::Result<()> {
    let length = from.metadata()?.len();
    to.set_len(length)?;
    parts(from, length, |start, end| range(from, to, start, end))
}

/// Copies what `from` holds to the block device `to`, which is large enough; what is a hole there
/// is not written here. Durable when it returns.
///
/// # Errors
/// Of reading and writing.
pub fn sparse_onto(from: &File, to: &File) -> io::Result<()> {
    let length = from.metadata()?.len();
    parts(from, length, |start, end| plain(from, to, start, end))?;
    to.sync_all()
}

/// Calls for each part of a file that is no hole. Of a device, which does not tell, all is one part.
pub(crate) fn parts(
    from: &File,
    length: u64,
    mut each: impl FnMut(u64, u64) -> io::Result<()>,
) -> io::Result<()> {
    let mut at = 0;
    while at < length {
        let start = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(start) => start,
            // Nothing but a hole up to the end.
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL) if at == 0 => return each(0, length),
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(from, SeekFrom::Hole(start))?.min(length);
        each(start, end)?;
        at = end;
    }
    Ok(())
}

fn range(from: &File, to: &File, start: u64, end: u64) -> io::Result<()> {
    let (mut source, mut target) = (start, start);
    while source < end {
        let want = usize::try_from(end - source).unwrap_or(usize::MAX);
        match rustix::fs::copy_file_range(from, Some(&mut source), to, Some(&mut target), want) {
            // The source has become shorter under our hands.
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => {
                return plain(from, to, source, end);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Reads and writes, for pairs of file systems that `copy_file_range` refuses.
fn plain(from: &File, to: &File, start: u64, end: u64) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut at = start;
    while at < end {
        let want = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
        let count = from.read_at(&mut buffer[..want], at)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        to.write_all_at(&buffer[..count], at)?;
        at += count as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(length: usize) -> Vec<u8> {
        (0..length)
            .map(|at| u8::try_from(at % 251).unwrap())
            .collect()
    }

    #[test]
    fn holes_stay_holes_and_data_is_the_same() {
        let from = tempfile::tempfile().unwrap();
        let data = pattern(100_000);
        from.set_len(64 << 20).unwrap();
        from.write_all_at(&data, 3 << 20).unwrap();
        from.write_all_at(&data, 40 << 20).unwrap();
        let to = tempfile::tempfile().unwrap();
        sparse(&from, &to).unwrap();
        assert_eq!(to.metadata().unwrap().len(), 64 << 20);
        let mut read = vec![0; data.len()];
        for at in [3 << 20, 40 << 20] {
            to.read_exact_at(&mut read, at).unwrap();
            assert_eq!(read, data);
        }
        to.read_exact_at(&mut read, 20 << 20).unwrap();
        assert!(read.iter().all(|byte| *byte == 0));
        assert!(allocated(&to).unwrap() < 2 << 20);
    }

    #[test]
    fn the_plain_way_copies_the_same_bytes() {
        let from = tempfile::tempfile().unwrap();
        let data = pattern(2 * CHUNK + 17);
        from.write_all_at(&data, 0).unwrap();
        let to = tempfile::tempfile().unwrap();
        plain(&from, &to, 5, data.len() as u64).unwrap();
        let mut read = vec![0; data.len()];
        to.read_exact_at(&mut read, 0).unwrap();
        assert_eq!(read[5..], data[5..]);
        assert_eq!(read[..5], [0; 5]);
        assert!(plain(&from, &to, 0, data.len() as u64 + 1).is_err());
    }

    #[test]
    fn a_copy_onto_something_writes_no_holes_and_does_not_resize_it() {
        let from = tempfile::tempfile().unwrap();
        from.set_len(8 << 20).unwrap();
        from.write_all_at(&pattern(5000), 5 << 20).unwrap();
        let to = tempfile::tempfile().unwrap();
        to.set_len(16 << 20).unwrap();
        to.write_all_at(b"there before", 100).unwrap();
        sparse_onto(&from, &to).unwrap();
        assert_eq!(to.metadata().unwrap().len(), 16 << 20);
        let mut read = vec![0; 5000];
        to.read_exact_at(&mut read, 5 << 20).unwrap();
        assert_eq!(read, pattern(5000));
        to.read_exact_at(&mut read[..5], 100).unwrap();
        assert_eq!(&read[..5], b"there");
    }

    #[test]
    fn all_hole_and_empty_files() {
        for length in [0, 1 << 20] {
            let from = tempfile::tempfile().unwrap();
            from.set_len(length).unwrap();
            let to = tempfile::tempfile().unwrap();
            sparse(&from, &to).unwrap();
            assert_eq!(to.metadata().unwrap().len(), length);
            assert_eq!(allocated(&to).unwrap(), 0);
        }
    }
}
