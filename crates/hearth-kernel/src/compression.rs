//! Expanding kernels, modules and packages, each with a cap on what comes out.
//!
//! Formats are told apart by their magic bytes. Kernel payloads carry four more bytes after
//! the compressed stream (the expanded size), so a stream's end is where its own format
//! says, and what follows is not looked at here.

use std::io::Read;

use crate::format::{FormatError, slice_at, u32_at};

/// A compression that can be met in a kernel, a module or a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// RFC 1952.
    Gzip,
    /// The .xz container.
    Xz,
    /// RFC 8878.
    Zstd,
    /// The legacy frame of the `lz4 -l` command, which Linux uses.
    Lz4Legacy,
}

/// `lz4 -l` frames start with it (little endian on disk).
const LZ4_LEGACY_MAGIC: u32 = 0x184c_2102;
/// A legacy block expands to at most this much (lz4's `LEGACY_BLOCKSIZE`).
const LZ4_LEGACY_BLOCK: usize = 8 << 20;
/// Memory that an xz decoder may take. The kernel's build uses a 128 MiB dictionary at most.
const XZ_MEMORY: u64 = 256 << 20;

const KNOWN: [(&[u8], Compression); 4] = [
    (&[0x1f, 0x8b], Compression::Gzip),
    (&[0xfd, b'7', b'z', b'X', b'Z', 0], Compression::Xz),
    (&[0x28, 0xb5, 0x2f, 0xfd], Compression::Zstd),
    (&LZ4_LEGACY_MAGIC.to_le_bytes(), Compression::Lz4Legacy),
];

/// What the kernel's build can also use, refused by name.
const REFUSED: [(&[u8], &str); 4] = [
    (b"BZh", "bzip2"),
    (&[0x5d, 0, 0], "lzma"),
    (&[0x89, b'L', b'Z', b'O'], "lzo"),
    (&[0x04, 0x22, 0x4d, 0x18], "lz4 (frame format)"),
];

impl Compression {
    /// The format's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
            Self::Lz4Legacy => "lz4",
        }
    }

    /// Tells the compression by the first bytes; `None` for data that is not compressed.
    ///
    /// # Errors
    /// A compression that is recognised and not supported.
    pub fn detect(bytes: &[u8], what: &'static str) -> Result<Option<Self>, FormatError> {
        if let Some((_, format)) = REFUSED.iter().find(|(magic, _)| bytes.starts_with(magic)) {
            return Err(FormatError::Unsupported { what, format });
        }
        Ok(KNOWN
            .iter()
            .find(|(magic, _)| bytes.starts_with(magic))
            .map(|(_, compression)| *compression))
    }
}

/// Expands `bytes` to at most `limit` bytes. Data after the end of the stream is ignored.
///
/// # Errors
/// Damaged data, or more than `limit` bytes of output.
pub fn expand(
    compression: Compression,
    bytes: &[u8],
    limit: u64,
    what: &'static str,
) -> Result<Vec<u8>, FormatError> {
    if compression == Compression::Lz4Legacy {
        return expand_lz4_legacy(bytes, limit, what);
    }
    let mut out = Vec::new();
    reader(compression, bytes, what)?
        .take(limit.saturating_add(1))
        .read_to_end(&mut out)
        .map_err(|source| FormatError::Expand {
            what,
            format: compression.name(),
            source,
        })?;
    if out.len() as u64 > limit {
        return Err(FormatError::TooBig { what, limit });
    }
    Ok(out)
}

/// A streaming reader over one compressed stream; the caller caps what it reads.
///
/// # Errors
/// Formats that cannot be streamed (lz4 legacy) and decoders that cannot be set up.
pub fn reader<'a>(
    compression: Compression,
    input: impl Read + 'a,
    what: &'static str,
) -> Result<Box<dyn Read + 'a>, FormatError> {
    let failed = |source| FormatError::Expand {
        what,
        format: compression.name(),
        source,
    };
    Ok(match compression {
        Compression::Gzip => Box::new(flate2::read::GzDecoder::new(input)),
        Compression::Xz => {
            let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, 0)
                .map_err(|error| failed(error.into()))?;
            Box::new(liblzma::read::XzDecoder::new_stream(input, stream))
        }
        Compression::Zstd => Box::new(
            zstd::stream::read::Decoder::new(input)
                .map_err(failed)?
                .single_frame(),
        ),
        Compression::Lz4Legacy => {
            return Err(FormatError::Unsupported {
                what,
                format: "lz4 (legacy frame)",
            });
        }
    })
}

fn expand_lz4_legacy(bytes: &[u8], limit: u64, what: &'static str) -> Result<Vec<u8>, FormatError> {
    let mut out = Vec::new();
    let mut block = vec![0; LZ4_LEGACY_BLOCK];
    let mut at = 0;
    while at < bytes.len() {
        let word = u32_at(bytes, at, what)?;
        at += 4;
        if word == LZ4_LEGACY_MAGIC {
            continue;
        }
        // The kernel's build appends the expanded size: the last word is no block.
        if at == bytes.len() {
            break;
        }
        let length = usize::try_from(word).map_err(|_| FormatError::Truncated { what })?;
        let data = slice_at(bytes, at, length, what)?;
        let written = lz4_flex::block::decompress_into(data, &mut block).map_err(|error| {
            FormatError::Expand {
                what,
                format: "lz4",
                source: std::io::Error::other(error),
            }
        })?;
        if out.len() as u64 + written as u64 > limit {
            return Err(FormatError::TooBig { what, limit });
        }
        out.extend_from_slice(&block[..written]);
        at += length;
    }
    Ok(out)
}

#[cfg(test)]
mod tests;
