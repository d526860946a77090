//! `s3://bucket/key`.

use std::fmt;
use std::str::FromStr;

use crate::S3Error;

/// What such names begin with.
const SCHEME: &str = "s3://";
/// Lengths of a bucket's name (S3's rules for general purpose buckets; old ones had up to 255).
const BUCKET: std::ops::RangeInclusive<usize> = 3..=255;
/// Longest key in bytes (S3's limit).
const KEY_MAX: usize = 1024;

/// An object, or with a slash at its end all objects below it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Location {
    bucket: String,
    key: String,
}

impl Location {
    /// Whether a text is meant as one, right or wrong.
    #[must_use]
    pub fn is_meant(text: &str) -> bool {
        text.get(..SCHEME.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(SCHEME))
    }

    /// The bucket's name.
    #[must_use]
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// The object's key; it ends in a slash if a folder is meant.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Whether it is written as a folder.
    #[must_use]
    pub fn is_folder(&self) -> bool {
        self.key.ends_with('/')
    }

    /// An object below this one, taken as a folder.
    #[must_use]
    pub fn below(&self, name: &str) -> Self {
        Self {
            bucket: self.bucket.clone(),
            key: format!("{}/{name}", self.key.trim_end_matches('/')),
        }
    }

    /// The last part of the key.
    #[must_use]
    pub fn name(&self) -> &str {
        let key = self.key.trim_end_matches('/');
        key.rsplit_once('/').map_or(key, |(_, name)| name)
    }
}

impl FromStr for Location {
    type Err = S3Error;

    fn from_str(text: &str) -> Result<Self, S3Error> {
        let refused = |why| S3Error::Location {
            text: text.to_owned(),
            why,
        };
        if !Self::is_meant(text) {
            return Err(refused("it does not begin with s3://"));
        }
        let rest = &text[SCHEME.len()..];
        let (bucket, key) = rest
            .split_once('/')
            .ok_or_else(|| refused("it has no key after the bucket"))?;
        if !is_bucket(bucket) {
            return Err(refused(
                "a bucket has 3 to 255 letters, digits, '.', '-' or '_'; credentials and ports have no place here",
            ));
        }
        let parts = key.strip_suffix('/').unwrap_or(key);
        if parts.is_empty() || key.len() > KEY_MAX {
            return Err(refused("a key has 1 to 1024 bytes"));
        }
        if key.chars().any(char::is_control) {
            return Err(refused("its key holds control characters"));
        }
        // What would be another key after the path was made tidy on the way.
        if parts.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(refused("its key has an empty part, '.' or '..'"));
        }
        Ok(Self {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
        })
    }
}

fn is_bucket(text: &str) -> bool {
    BUCKET.contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.bucket, self.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_and_written() {
        for (text, bucket, key, folder) in [
            ("s3://images/node/5.tar", "images", "node/5.tar", false),
            ("s3://my.bucket-1/a b/ü?#", "my.bucket-1", "a b/ü?#", false),
            ("s3://images/layout/", "images", "layout/", true),
        ] {
            let location: Location = text.parse().unwrap();
            assert_eq!(location.bucket(), bucket);
            assert_eq!(location.key(), key);
            assert_eq!(location.is_folder(), folder);
            assert_eq!(location.to_string(), text);
        }
        let upper: Location = "S3://images/x".parse().unwrap();
        assert_eq!(upper.to_string(), "s3://images/x");
        let folder: Location = "s3://images/a/layout/".parse().unwrap();
        assert_eq!(folder.below("index.json").key(), "a/layout/index.json");
        assert_eq!(folder.name(), "layout");
    }

    #[test]
    fn refused() {
        let long = format!("s3://bucket/{}", "k".repeat(1025));
        for bad in [
            "bucket/key",
            "s3:bucket/key",
            "s3://bucket",
            "s3://bucket/",
            "s3:///key",
            "s3://ab/key",
            "s3://key:secret@bucket/key",
            "s3://-bucket/key",
            "s3://bucket/a//b",
            "s3://bucket/../b",
            "s3://bucket/a/./b",
            "s3://bucket/a\nb",
            long.as_str(),
        ] {
            assert!(bad.parse::<Location>().is_err(), "{bad:?} was accepted");
        }
    }
}
