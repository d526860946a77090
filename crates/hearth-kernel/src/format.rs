//! What can be wrong with a file that claims to be a kernel, a module or a package, and
//! checked reads of little-endian numbers.

/// A file that is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// The data ends inside a structure.
    #[error("the {what} is cut off")]
    Truncated {
        /// Which structure.
        what: &'static str,
    },
    /// A field has a value that cannot be.
    #[error("the {what} is damaged: {detail}")]
    Damaged {
        /// Which structure.
        what: &'static str,
        /// What is wrong with it.
        detail: String,
    },
    /// A known format that Hearth does not read.
    #[error(
        "the {what} is compressed with {format}, which is not supported; gzip, xz, zstd and lz4 are"
    )]
    Unsupported {
        /// Which structure.
        what: &'static str,
        /// The format's name.
        format: &'static str,
    },
    /// More data than any real file of this kind has.
    #[error("the {what} is bigger than the limit of {limit} bytes")]
    TooBig {
        /// Which structure.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The compressed data cannot be expanded.
    #[error("the {format} data of the {what} cannot be expanded")]
    Expand {
        /// Which structure.
        what: &'static str,
        /// The compression's name.
        format: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl FormatError {
    /// A damaged structure, with a sentence that says how.
    pub(crate) fn damaged(what: &'static str, detail: impl Into<String>) -> Self {
        Self::Damaged {
            what,
            detail: detail.into(),
        }
    }
}

/// `N` bytes at `offset`.
pub(crate) fn array_at<const N: usize>(
    bytes: &[u8],
    offset: usize,
    what: &'static str,
) -> Result<[u8; N], FormatError> {
    slice_at(bytes, offset, N, what)?
        .try_into()
        .map_err(|_| FormatError::Truncated { what })
}

/// `length` bytes at `offset`.
pub(crate) fn slice_at<'a>(
    bytes: &'a [u8],
    offset: usize,
    length: usize,
    what: &'static str,
) -> Result<&'a [u8], FormatError> {
    offset
        .checked_add(length)
        .and_then(|end| bytes.get(offset..end))
        .ok_or(FormatError::Truncated { what })
}

/// A little-endian 16-bit number at `offset`.
pub(crate) fn u16_at(bytes: &[u8], offset: usize, what: &'static str) -> Result<u16, FormatError> {
    array_at(bytes, offset, what).map(u16::from_le_bytes)
}

/// A little-endian 32-bit number at `offset`.
pub(crate) fn u32_at(bytes: &[u8], offset: usize, what: &'static str) -> Result<u32, FormatError> {
    array_at(bytes, offset, what).map(u32::from_le_bytes)
}

/// A little-endian 64-bit number at `offset`, as an index into memory.
pub(crate) fn index64_at(
    bytes: &[u8],
    offset: usize,
    what: &'static str,
) -> Result<usize, FormatError> {
    let value = array_at(bytes, offset, what).map(u64::from_le_bytes)?;
    usize::try_from(value).map_err(|_| FormatError::Truncated { what })
}
