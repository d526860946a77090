//! Identifiers: each kind of object has its own type, so that they cannot be mixed up.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

#[cfg(feature = "seeded-ids")]
pub mod seeded;

/// An identifier that does not have the form its kind asks for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {value:?} is not valid: expected {expected}")]
pub struct InvalidId {
    /// What kind of identifier was expected, in words.
    pub kind: &'static str,
    /// The text that was given.
    pub value: String,
    /// The accepted form.
    pub expected: &'static str,
}

#[cfg(not(feature = "seeded-ids"))]
fn fresh() -> Uuid {
    Uuid::now_v7()
}

#[cfg(feature = "seeded-ids")]
fn fresh() -> Uuid {
    seeded::next().unwrap_or_else(Uuid::now_v7)
}

macro_rules! uuid_id {
    ($(#[$meta:meta])* $name:ident, $kind:literal) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
        #[serde(transparent)]
        #[schema(value_type = String, format = Uuid)]
        pub struct $name(Uuid);

        impl $name {
            /// A new identifier: a UUIDv7, so identifiers sort by the time they were made.
            #[must_use]
            #[expect(clippy::new_without_default, reason = "a default identifier would hide that each call differs")]
            pub fn new() -> Self {
                Self(fresh())
            }

            /// Wraps a UUID that is already known to name an object of this kind.
            #[must_use]
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The bare UUID.
            #[must_use]
            pub const fn as_uuid(&self) -> &Uuid {
                &self.0
            }

            /// The last twelve hexadecimal digits: the random part, short enough for a
            /// table. (The first digits of a UUIDv7 are a clock and often the same.)
            #[must_use]
            pub fn short(&self) -> String {
                let text = self.0.simple().to_string();
                text[20..].to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Uuid::try_parse(text).map(Self).map_err(|_| InvalidId {
                    kind: $kind,
                    value: text.to_owned(),
                    expected: "a UUID such as 01930b5e-7c1f-7a3e-9d55-5f0c8a6e2b11",
                })
            }
        }
    };
}

uuid_id!(
    /// Names one VM for its whole life; never used again.
    VmId,
    "VM id"
);
uuid_id!(
    /// Names one installation of Hearth (one database). Part of every owner mark.
    InstallationId,
    "installation id"
);
uuid_id!(
    /// Names one snapshot of a VM's disks; never used again.
    SnapshotId,
    "snapshot id"
);
uuid_id!(
    /// Names one data volume of its own; never used again.
    VolumeId,
    "volume id"
);
uuid_id!(
    /// Names one journal entry: an effect on the host that was intended.
    IntentId,
    "intent id"
);

/// The position of an event in the log of its installation: 1, 2, 3 … without gaps.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    Serialize,
    Deserialize,
    ToSchema,
)]
#[serde(transparent)]
pub struct EventSeq(pub u64);

/// Names one image by its content: `sha256:` and 64 hexadecimal digits.
///
/// For images from a registry this is the digest of the platform's manifest; for imported
/// files it is the digest of the file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String)]
pub struct ImageId(String);

impl ImageId {
    /// The 64 hexadecimal digits.
    #[must_use]
    pub fn hex(&self) -> &str {
        &self.0["sha256:".len()..]
    }

    /// The whole text, `sha256:…`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first twelve hexadecimal digits, for tables.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.hex()[..12]
    }
}

impl TryFrom<String> for ImageId {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        let valid = text.strip_prefix("sha256:").is_some_and(|hex| {
            hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        });
        if valid {
            Ok(Self(text))
        } else {
            Err(InvalidId {
                kind: "image id",
                value: text,
                expected: "sha256: and 64 lower-case hexadecimal digits",
            })
        }
    }
}

impl From<ImageId> for String {
    fn from(id: ImageId) -> Self {
        id.0
    }
}

impl FromStr for ImageId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        Self::try_from(text.to_owned())
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_ids_are_checked() {
        let good = format!("sha256:{}", "a".repeat(64));
        assert_eq!(good.parse::<ImageId>().unwrap().short(), "aaaaaaaaaaaa");
        for bad in [
            "",
            "sha256:",
            "sha256:abc",
            &good.to_uppercase(),
            &good[7..],
        ] {
            assert!(bad.parse::<ImageId>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn short_ids_take_the_random_part() {
        let id: VmId = "01930b5e-7c1f-7a3e-9d55-5f0c8a6e2b11".parse().unwrap();
        assert_eq!(id.short(), "5f0c8a6e2b11");
    }

    #[test]
    fn ids_sort_by_time() {
        let (first, second) = (VmId::new(), VmId::new());
        assert!(first < second);
    }
}
