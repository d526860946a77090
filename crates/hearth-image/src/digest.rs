//! SHA-256 over what passes by.

use std::io::{self, Read};

use sha2::{Digest, Sha256};

use crate::ImageError;

/// `sha256:…` of bytes.
pub(crate) fn of(bytes: &[u8]) -> String {
    text(Sha256::new_with_prefix(bytes))
}

/// `sha256:…` of a finished hash.
pub(crate) fn text(hash: Sha256) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(71);
    text.push_str("sha256:");
    for byte in hash.finalize() {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from(DIGITS[usize::from(digit)]));
        }
    }
    text
}

/// The hexadecimal digits of a well-formed `sha256:` digest.
pub(crate) fn hex(digest: &str) -> Result<&str, ImageError> {
    digest
        .strip_prefix("sha256:")
        .filter(|hex| {
            hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        })
        .ok_or_else(|| {
            ImageError::unsupported(
                format!("digest {digest:?}"),
                "only sha256 with 64 lower-case hexadecimal digits is accepted",
            )
        })
}

/// Checks a digest that was computed against the one that was promised.
pub(crate) fn check(what: &str, expected: &str, actual: String) -> Result<(), ImageError> {
    if actual == expected {
        return Ok(());
    }
    Err(ImageError::Digest {
        what: what.to_owned(),
        expected: expected.to_owned(),
        actual,
    })
}

/// A reader that hashes what is read through it.
pub(crate) struct HashingReader<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> HashingReader<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self {
            inner,
            hash: Sha256::new(),
        }
    }

    pub(crate) fn finish(self) -> String {
        text(self.hash)
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hash.update(&buffer[..n]);
        Ok(n)
    }
}
