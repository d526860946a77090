//! What the kernel says of its devices.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A block device by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Device {
    /// Its major number.
    pub major: u32,
    /// Its minor number.
    pub minor: u32,
}

impl Device {
    /// The kernel's 64-bit form: the minor number's low byte, the major number, the rest.
    pub(crate) fn decode(dev: u64) -> Self {
        // The upper half is not used: `huge_encode_dev` is `new_encode_dev`.
        let dev = u32::try_from(dev & 0xffff_ffff).unwrap_or_default();
        Self {
            major: (dev >> 8) & 0xfff,
            minor: (dev & 0xff) | ((dev >> 12) & 0xf_ff00),
        }
    }

    /// Its node. The kernel makes it in devtmpfs, so nobody has to wait for udev.
    #[must_use]
    pub fn node(self) -> PathBuf {
        PathBuf::from(format!("/dev/dm-{}", self.minor))
    }
}

/// As tables name devices.
impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// One device of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its number.
    pub device: Device,
    /// Its name.
    pub name: String,
}

/// A type of target that the kernel has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetVersion {
    /// Its name: `thin-pool`.
    pub kind: String,
    /// Its version.
    pub version: [u32; 3],
}

/// One line of a table, or of a status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Where it begins, in sectors of 512 bytes.
    pub start: u64,
    /// How long it is, in sectors.
    pub length: u64,
    /// The target's type.
    pub kind: String,
    /// What the target is told, or says.
    pub params: String,
}

/// What the kernel says about a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// Its number.
    pub device: Device,
    /// Its name.
    pub name: String,
    /// Its uuid; empty if it has none.
    pub uuid: String,
    /// How often it is open.
    pub open: u32,
    /// Counts its events (a pool's changes of mode, low water).
    pub event: u32,
    /// Its requests wait.
    pub suspended: bool,
    /// It has a table in use.
    pub active: bool,
    /// It has a table that the next resume takes.
    pub inactive: bool,
    /// It cannot be written to.
    pub read_only: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_are_the_kernels() {
        // As `new_encode_dev` writes them: (minor & 0xff) | (major << 8) | ((minor & ~0xff) << 12).
        for (major, minor) in [
            (253, 0),
            (253, 255),
            (253, 256),
            (254, 0xf_ffff),
            (0xfff, 1),
        ] {
            let encoded = (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12);
            let device = Device::decode(u64::from(encoded));
            assert_eq!((device.major, device.minor), (major, minor));
        }
        let device = Device {
            major: 253,
            minor: 7,
        };
        assert_eq!(device.to_string(), "253:7");
        assert_eq!(device.node().to_str(), Some("/dev/dm-7"));
    }
}
