//! Quantities with their unit in the type.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A number of bytes. As text: a whole number and a binary unit, `512MiB`, `2GiB`;
/// docker's one-letter forms (`512m`, `2g`) mean the same.
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
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, example = "512MiB")]
pub struct Bytes(pub u64);

/// One KiB in bytes.
pub const KIB: u64 = 1 << 10;
/// One MiB in bytes.
pub const MIB: u64 = 1 << 20;
/// One GiB in bytes.
pub const GIB: u64 = 1 << 30;
/// One TiB in bytes.
pub const TIB: u64 = 1 << 40;

/// A quantity that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is not a {what}: expected {expected}")]
pub struct InvalidQuantity {
    /// What was expected, in words.
    pub what: &'static str,
    /// The text that was given.
    pub value: String,
    /// The accepted form.
    pub expected: &'static str,
}

const SIZE_FORM: &str =
    "a whole number with a unit: KiB, MiB, GiB or TiB (k, m, g, t for short), such as 512MiB";

impl Bytes {
    /// `count` MiB.
    #[must_use]
    pub const fn mib(count: u64) -> Self {
        Self(count * MIB)
    }

    /// `count` GiB.
    #[must_use]
    pub const fn gib(count: u64) -> Self {
        Self(count * GIB)
    }

    /// Whole MiB, rounded up: what VMMs take as memory size.
    #[must_use]
    pub const fn as_mib_ceil(self) -> u64 {
        self.0.div_ceil(MIB)
    }

    /// For people: `1.5 GiB`, three significant digits at most.
    #[must_use]
    pub fn human(self) -> String {
        #[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
        let scaled = |unit: u64| self.0 as f64 / unit as f64;
        let (value, unit) = match self.0 {
            n if n >= TIB => (scaled(TIB), "TiB"),
            n if n >= GIB => (scaled(GIB), "GiB"),
            n if n >= MIB => (scaled(MIB), "MiB"),
            n if n >= KIB => (scaled(KIB), "KiB"),
            n => return format!("{n} B"),
        };
        if value >= 100.0 || value.fract() < 0.05 {
            format!("{value:.0} {unit}")
        } else {
            format!("{value:.1} {unit}")
        }
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, name) in [(TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")] {
            if self.0 != 0 && self.0.is_multiple_of(unit) {
                return write!(f, "{}{name}", self.0 / unit);
            }
        }
        write!(f, "{}B", self.0)
    }
}

impl FromStr for Bytes {
    type Err = InvalidQuantity;

    fn from_str(text: &str) -> Result<Self, InvalidQuantity> {
        let invalid = || InvalidQuantity {
            what: "size",
            value: text.to_owned(),
            expected: SIZE_FORM,
        };
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = text[..digits].parse().map_err(|_| invalid())?;
        let unit = match text[digits..].trim_start().to_ascii_lowercase().as_str() {
            "b" => 1,
            "k" | "kib" => KIB,
            "m" | "mib" => MIB,
            "g" | "gib" => GIB,
            "t" | "tib" => TIB,
            _ => return Err(invalid()),
        };
        number.checked_mul(unit).map(Self).ok_or_else(invalid)
    }
}

impl TryFrom<String> for Bytes {
    type Error = InvalidQuantity;

    fn try_from(text: String) -> Result<Self, InvalidQuantity> {
        text.parse()
    }
}

impl From<Bytes> for String {
    fn from(bytes: Bytes) -> Self {
        bytes.to_string()
    }
}

/// A length of time in whole milliseconds. As text: `10s`, `500ms`, `2m`, `1h`.
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
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, example = "10s")]
pub struct Span(u64);

impl Span {
    /// `count` seconds.
    #[must_use]
    pub const fn secs(count: u64) -> Self {
        Self(count * 1000)
    }

    /// `count` milliseconds.
    #[must_use]
    pub const fn millis(count: u64) -> Self {
        Self(count)
    }

    /// The same length as the standard library's type.
    #[must_use]
    pub const fn as_duration(self) -> Duration {
        Duration::from_millis(self.0)
    }

    /// The whole milliseconds.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("0s"),
            n if n.is_multiple_of(3_600_000) => write!(f, "{}h", n / 3_600_000),
            n if n.is_multiple_of(60_000) => write!(f, "{}m", n / 60_000),
            n if n.is_multiple_of(1000) => write!(f, "{}s", n / 1000),
            n => write!(f, "{n}ms"),
        }
    }
}

impl FromStr for Span {
    type Err = InvalidQuantity;

    fn from_str(text: &str) -> Result<Self, InvalidQuantity> {
        let invalid = || InvalidQuantity {
            what: "duration",
            value: text.to_owned(),
            expected: "a whole number with a unit: ms, s, m or h, such as 10s",
        };
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = text[..digits].parse().map_err(|_| invalid())?;
        let unit = match &text[digits..] {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(invalid()),
        };
        // A day-long unit is not offered: nobody waits 50 years, and the bound keeps sums safe.
        number
            .checked_mul(unit)
            .filter(|ms| *ms <= i64::MAX.unsigned_abs() / 4)
            .map(Self)
            .ok_or_else(invalid)
    }
}

impl TryFrom<String> for Span {
    type Error = InvalidQuantity;

    fn try_from(text: String) -> Result<Self, InvalidQuantity> {
        text.parse()
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_read_like_docker_and_like_iec() {
        for (text, bytes) in [
            ("512m", 512 * MIB),
            ("512MiB", 512 * MIB),
            ("2g", 2 * GIB),
            ("1 TiB", TIB),
            ("7b", 7),
        ] {
            assert_eq!(text.parse::<Bytes>().unwrap(), Bytes(bytes));
        }
        for bad in ["", "512", "1.5g", "-1m", "12MB", "m", "99999999999t"] {
            assert!(bad.parse::<Bytes>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn people_see_three_digits() {
        assert_eq!(Bytes(1536 * MIB).human(), "1.5 GiB");
        assert_eq!(Bytes(512 * MIB).human(), "512 MiB");
        assert_eq!(Bytes(3).human(), "3 B");
    }

    proptest! {
        #[test]
        fn sizes_survive_the_way_through_text(n in any::<u64>()) {
            prop_assert_eq!(Bytes(n).to_string().parse::<Bytes>().unwrap(), Bytes(n));
        }

        #[test]
        fn spans_survive_the_way_through_text(n in 0u64..1 << 50) {
            prop_assert_eq!(Span(n).to_string().parse::<Span>().unwrap(), Span(n));
        }
    }
}
