//! Names that people choose, and the names on the host that Hearth derives from ids.
//!
//! This file is the only place where names of host objects are formed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ids::{InstallationId, InvalidId, VmId};

/// The name of a VM: an RFC 1123 label, 1 to 63 characters of `a-z`, `0-9` and `-`,
/// beginning and ending with a letter or digit. It is the guest's host name, too.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, pattern = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", example = "web-1")]
pub struct VmName(String);

fn is_rfc1123_label(text: &str) -> bool {
    let edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(|&b| edge(b) || b == b'-')
        && bytes.first().copied().is_some_and(edge)
        && bytes.last().copied().is_some_and(edge)
}

impl VmName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for VmName {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        if is_rfc1123_label(&text) {
            Ok(Self(text))
        } else {
            Err(InvalidId {
                kind: "name",
                value: text,
                expected: "an RFC 1123 label: 1 to 63 characters of a-z, 0-9 and '-', with a letter or digit at both ends",
            })
        }
    }
}

impl FromStr for VmName {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        Self::try_from(text.to_owned())
    }
}

impl From<VmName> for String {
    fn from(name: VmName) -> Self {
        name.0
    }
}

impl fmt::Display for VmName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One `key=value` pair that a person hangs on a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// What the label is about: 1 to 63 of letters, digits, `-`, `_`, `.`, `/`.
    pub key: String,
    /// Free text, up to 255 bytes.
    pub value: String,
}

impl FromStr for Label {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        check_label(key, value).map(|()| Self {
            key: key.to_owned(),
            value: value.to_owned(),
        })
    }
}

/// Checks one label's key and value.
///
/// # Errors
/// Says the accepted form.
pub fn check_label(key: &str, value: &str) -> Result<(), InvalidId> {
    let key_ok = (1..=63).contains(&key.len())
        && key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b));
    if key_ok && value.len() <= 255 && !value.chars().any(char::is_control) {
        return Ok(());
    }
    Err(InvalidId {
        kind: "label",
        value: format!("{key}={value}"),
        expected: "key=value with a key of 1 to 63 letters, digits, '-', '_', '.' or '/', and a value of up to 255 bytes",
    })
}

/// The TAP of a VM: `ht` and the last twelve hexadecimal digits of its id.
///
/// 14 characters, within the kernel's `IFNAMSIZ - 1` = 15. The digits are the random part
/// of the UUIDv7 (48 bits), and the store's UNIQUE constraint refuses the improbable twin.
#[must_use]
pub fn tap_name(vm: VmId) -> String {
    format!("ht{}", vm.short())
}

/// Whether a name has the form that [`tap_name`] makes. It is no proof of anything.
#[must_use]
pub fn is_tap_name(name: &str) -> bool {
    let digits = name.strip_prefix("ht").unwrap_or_default();
    let hexadecimal = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    digits.len() == 12 && digits.bytes().all(hexadecimal)
}

/// The systemd unit of a VM's VMM.
#[must_use]
pub fn unit_name(vm: VmId) -> String {
    format!("hearth-vm-{vm}.service")
}

/// The systemd unit of an installation's name server.
#[must_use]
pub fn names_unit(installation: InstallationId) -> String {
    format!("hearth-names-{installation}.service")
}

/// The VM of a unit of this name; `None` for any other unit.
#[must_use]
pub fn vm_of_unit(unit: &str) -> Option<VmId> {
    let id = unit.strip_prefix("hearth-vm-")?.strip_suffix(".service")?;
    id.parse().ok().filter(|vm| unit_name(*vm) == unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_rfc1123_labels() {
        for good in ["a", "web-1", "0", &"x".repeat(63)] {
            assert!(good.parse::<VmName>().is_ok(), "{good:?} was refused");
        }
        for bad in [
            "",
            "-a",
            "a-",
            "A",
            "a.b",
            "a_b",
            &"x".repeat(64),
            "ä",
            "a b",
            "../a",
        ] {
            assert!(bad.parse::<VmName>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn units_are_read_back_and_others_are_not_of_a_vm() {
        let vm = VmId::new();
        assert_eq!(vm_of_unit(&unit_name(vm)), Some(vm));
        let upper = unit_name(vm).replace(&vm.to_string(), &vm.to_string().to_uppercase());
        for other in [
            "hearth-vm-.service",
            "hearthd.service",
            &names_unit(InstallationId::new()),
            &upper,
        ] {
            assert_eq!(vm_of_unit(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn tap_names_fit_the_kernel(bits in any::<u128>()) {
            let name = tap_name(VmId::from_uuid(uuid::Uuid::from_u128(bits)));
            prop_assert!(name.len() <= 15);
        }
    }
}
