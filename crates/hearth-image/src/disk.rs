//! Raw disk images: one ext4 file system from the first byte to the last.
//!
//! The host reads a few numbers of the superblock and copies; it never mounts what somebody
//! else has written.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering};

use camino::Utf8Path;
use sha2::{Digest as _, Sha256};

use crate::{ImageError, Limits, digest};

const CHUNK: usize = 1 << 20;
/// Where ext4 has its superblock, and its magic number in it.
const SUPERBLOCK: usize = 1024;
const MAGIC: usize = SUPERBLOCK + 0x38;

/// Checks that the file is one ext4 file system without a partition table.
pub(crate) fn check(path: &Utf8Path, file: &File, limits: &Limits) -> Result<u64, ImageError> {
    let refuse = |why: &str| ImageError::unsupported(path.as_str(), why);
    let size = file
        .metadata()
        .map_err(ImageError::file("read", path))?
        .len();
    let mut head = [0_u8; 4096];
    file.read_exact_at(&mut head, 0)
        .map_err(|_| refuse("it is too small for a file system"))?;
    if let Some(why) = foreign(&head) {
        return Err(refuse(why));
    }
    let number = |at: usize| {
        let at = SUPERBLOCK + at;
        u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]])
    };
    let shift = number(0x18);
    // The high half of the count of blocks exists with the 64bit feature (0x80 at 0x60) only.
    let high = if number(0x60) & 0x80 == 0 {
        0
    } else {
        number(0x150)
    };
    let blocks = u64::from(number(0x4)) | u64::from(high) << 32;
    let bytes = (shift <= 6)
        .then(|| blocks.checked_mul(1024 << shift))
        .flatten()
        .ok_or_else(|| refuse("its superblock is damaged"))?;
    if bytes > size {
        return Err(refuse(
            "the file is shorter than its file system; it was cut off",
        ));
    }
    if size > limits.bytes {
        return Err(ImageError::Limit {
            what: path.to_string(),
            limit: limits.bytes,
            unit: "bytes",
        });
    }
    Ok(size)
}

/// Why a file that starts like this is not taken.
fn foreign(head: &[u8; 4096]) -> Option<&'static str> {
    if head.starts_with(b"QFI\xfb") {
        return Some("it is a qcow2 image; convert it with qemu-img convert -O raw");
    }
    if head.starts_with(b"XFSB") || head.starts_with(b"hsqs") {
        return Some("its file system is not ext4");
    }
    let partitions = head[446..510]
        .chunks(16)
        .any(|entry| entry[4] != 0 && entry[12..16] != [0; 4]);
    if &head[512..520] == b"EFI PART" || (head[510..512] == [0x55, 0xaa] && partitions) {
        return Some(
            "it has a partition table; give the root partition alone, as an ext4 file system",
        );
    }
    if head[MAGIC..MAGIC + 2] != [0x53, 0xef] {
        return Some("it is not an ext4 file system");
    }
    None
}

/// Copies with holes where there are zeros, and returns the digest of the whole.
pub(crate) fn copy(
    from: &mut File,
    to: &Utf8Path,
    size: u64,
    cancelled: &AtomicBool,
    mut report: impl FnMut(u64),
) -> Result<String, ImageError> {
    let failed = || ImageError::file("write", to);
    let mut target = File::options()
        .write(true)
        .create_new(true)
        .open(to)
        .map_err(failed())?;
    target.set_len(size).map_err(failed())?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    let mut done = 0;
    from.rewind().map_err(failed())?;
    while done < size {
        if cancelled.load(Ordering::Relaxed) {
            return Err(ImageError::Cancelled);
        }
        let want = usize::try_from(size - done).unwrap_or(CHUNK).min(CHUNK);
        let n = from.read(&mut buffer[..want]).map_err(failed())?;
        if n == 0 {
            return Err(failed()(io::ErrorKind::UnexpectedEof.into()));
        }
        hash.update(&buffer[..n]);
        if buffer[..n].iter().any(|byte| *byte != 0) {
            target.seek(SeekFrom::Start(done)).map_err(failed())?;
            target.write_all(&buffer[..n]).map_err(failed())?;
        }
        done += n as u64;
        report(done);
    }
    target.sync_all().map_err(failed())?;
    Ok(digest::text(hash))
}
