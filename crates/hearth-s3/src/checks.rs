//! Checksums that a server keeps of an object, and their comparison with what came.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use crc_fast::CrcAlgorithm;
use http::HeaderMap;
use md5::{Digest as _, Md5};
use sha2::Sha256;

/// What is known of an object's bytes. Only checksums of the whole: those of an object that was
/// put together from parts are sums of sums.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checksums {
    sha256: Option<Vec<u8>>,
    crc64nvme: Option<Vec<u8>>,
    crc32c: Option<Vec<u8>>,
    crc32: Option<Vec<u8>>,
    /// The ETag of an object that came in one piece and is not encrypted with a key of somebody's.
    md5: Option<Vec<u8>>,
}

impl Checksums {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let whole = text("x-amz-checksum-type").is_none_or(|kind| kind == "FULL_OBJECT");
        let sum = |name: &str, length: usize| {
            let value = text(name).filter(|_| whole)?;
            let bytes = BASE64_STANDARD.decode(value).ok()?;
            (bytes.len() == length).then_some(bytes)
        };
        let foreign_key = text("x-amz-server-side-encryption").is_some_and(|how| how != "AES256")
            || headers.contains_key("x-amz-server-side-encryption-customer-algorithm");
        Self {
            sha256: sum("x-amz-checksum-sha256", 32),
            crc64nvme: sum("x-amz-checksum-crc64nvme", 8),
            crc32c: sum("x-amz-checksum-crc32c", 4),
            crc32: sum("x-amz-checksum-crc32", 4),
            md5: text("etag").filter(|_| !foreign_key).and_then(md5_of),
        }
    }

    /// The SHA-256 as `sha256:…`, if the server has it.
    #[must_use]
    pub fn digest(&self) -> Option<String> {
        Some(format!("sha256:{}", hex(self.sha256.as_deref()?)))
    }

    /// What compares them with the bytes. An ETag is only by habit a checksum: it is looked at
    /// when there is nothing better, neither here nor (`known`) with the asker.
    #[must_use]
    pub fn checker(&self, known: bool) -> Checker {
        let crc = |algorithm| crc_fast::Digest::new(algorithm);
        let only_md5 = !known
            && self.sha256.is_none()
            && self.crc64nvme.is_none()
            && self.crc32c.is_none()
            && self.crc32.is_none();
        Checker {
            crcs: [
                ("CRC-64/NVME", &self.crc64nvme, CrcAlgorithm::Crc64Nvme),
                ("CRC-32C", &self.crc32c, CrcAlgorithm::Crc32Iscsi),
                ("CRC-32", &self.crc32, CrcAlgorithm::Crc32IsoHdlc),
            ]
            .into_iter()
            .filter_map(|(name, sum, algorithm)| Some((name, sum.clone()?, crc(algorithm))))
            .collect(),
            sha256: self.sha256.clone().map(|sum| (sum, Sha256::new())),
            md5: self
                .md5
                .clone()
                .filter(|_| only_md5)
                .map(|sum| (sum, Md5::new())),
        }
    }
}

/// Takes bytes in their order and compares at the end.
#[derive(Clone)]
pub struct Checker {
    crcs: Vec<(&'static str, Vec<u8>, crc_fast::Digest)>,
    sha256: Option<(Vec<u8>, Sha256)>,
    md5: Option<(Vec<u8>, Md5)>,
}

impl std::fmt::Debug for Checker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checker").finish_non_exhaustive()
    }
}

/// The bytes are not those that the server has the checksum of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("its {name} is {actual}, the server says {expected}")]
pub struct Mismatch {
    /// Which checksum.
    pub name: &'static str,
    /// What the server says, in hexadecimal digits.
    pub expected: String,
    /// What came.
    pub actual: String,
}

impl Checker {
    /// The next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        for (_, _, crc) in &mut self.crcs {
            crc.update(bytes);
        }
        if let Some((_, hash)) = &mut self.sha256 {
            hash.update(bytes);
        }
        if let Some((_, hash)) = &mut self.md5 {
            hash.update(bytes);
        }
    }

    /// The names of the checksums that were right.
    ///
    /// # Errors
    /// When one is not.
    pub fn finish(self) -> Result<Vec<&'static str>, Mismatch> {
        let mut sums = Vec::new();
        for (name, expected, crc) in self.crcs {
            let bytes = crc.finalize().to_be_bytes();
            let actual = bytes[bytes.len() - expected.len()..].to_vec();
            sums.push((name, expected, actual));
        }
        if let Some((expected, hash)) = self.sha256 {
            sums.push(("SHA-256", expected, hash.finalize().to_vec()));
        }
        if let Some((expected, hash)) = self.md5 {
            sums.push(("MD5 (ETag)", expected, hash.finalize().to_vec()));
        }
        let mut right = Vec::new();
        for (name, expected, actual) in sums {
            if expected != actual {
                return Err(Mismatch {
                    name,
                    expected: hex(&expected),
                    actual: hex(&actual),
                });
            }
            right.push(name);
        }
        Ok(right)
    }
}

/// The MD5 that an ETag is when an object came in one piece. `…-2` is one of parts.
fn md5_of(etag: &str) -> Option<Vec<u8>> {
    let digits = etag.strip_prefix('"')?.strip_suffix('"')?;
    if digits.len() != 32 {
        return None;
    }
    let byte = |at: usize| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok();
    (0..32).step_by(2).map(byte).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                let name = http::HeaderName::from_static(name);
                (name, http::HeaderValue::from_static(value))
            })
            .collect()
    }

    /// The check values of the catalogue: CRC of "123456789" by each algorithm.
    const SUMS: [(&str, &str); 5] = [
        ("x-amz-checksum-crc32", "y/Q5Jg=="),
        ("x-amz-checksum-crc32c", "4waSgw=="),
        ("x-amz-checksum-crc64nvme", "rosUhgp5mIg="),
        (
            "x-amz-checksum-sha256",
            "FeKw02SYgcjhoygBWlkUPz48rvbt41rBvpJjlHmKnqI=",
        ),
        ("etag", "\"25f9e794323b453885f5181f1b624d0b\""),
    ];

    fn check(headers: &HeaderMap, bytes: &[u8]) -> Result<Vec<&'static str>, Mismatch> {
        let mut checker = Checksums::of(headers).checker(false);
        for piece in bytes.chunks(4) {
            checker.update(piece);
        }
        checker.finish()
    }

    #[test]
    fn known_values() {
        for pair in SUMS {
            if pair.0 == "x-amz-checksum-sha256" {
                continue;
            }
            let headers = headers(&[pair]);
            let right = check(&headers, b"123456789").unwrap();
            assert_eq!(right.len(), 1, "{pair:?}");
            assert!(check(&headers, b"123456780").is_err(), "{pair:?}");
        }
        let empty = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
        let headers = headers(&[("x-amz-checksum-sha256", empty)]);
        assert_eq!(check(&headers, b"").unwrap(), ["SHA-256"]);
        assert!(check(&headers, b"x").is_err());
        let digest = Checksums::of(&headers).digest().unwrap();
        assert!(digest.starts_with("sha256:e3b0c442"), "{digest}");
    }

    /// What is no checksum of the whole is not compared.
    #[test]
    fn what_does_not_count() {
        for pairs in [
            [
                ("etag", "\"25f9e794323b453885f5181f1b624d0b-2\""),
                ("a", ""),
            ],
            [
                ("etag", "\"25f9e794323b453885f5181f1b624d0b\""),
                ("x-amz-server-side-encryption", "aws:kms"),
            ],
            [
                ("x-amz-checksum-crc32", "y/Q5Jg=="),
                ("x-amz-checksum-type", "COMPOSITE"),
            ],
            [("x-amz-checksum-crc32", "y/Q5Jg==-3"), ("a", "")],
        ] {
            assert_eq!(check(&headers(&pairs), b"other").unwrap(), [""; 0]);
        }
        // A real checksum comes before the ETag.
        let both = headers(&[SUMS[0], ("etag", "\"00000000000000000000000000000000\"")]);
        assert_eq!(check(&both, b"123456789").unwrap(), ["CRC-32"]);
        let etag = headers(&[("etag", "\"00000000000000000000000000000000\"")]);
        assert!(check(&etag, b"123456789").is_err());
        let known = Checksums::of(&etag).checker(true);
        assert_eq!(known.finish().unwrap(), [""; 0]);
    }
}
