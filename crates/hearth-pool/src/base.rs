//! A block device of the pool's own, for its data: instead of a file.
//!
//! ```text
//!  0        4 KiB     1 MiB                                            end - 1 MiB      end
//!  ├─ header ┼─ zeros ─┼─ data ═ hearth-INSTALLATION-pool-data (linear) ─┼──── zeros ────┤
//! ```
//! Nothing that a guest writes comes to the ends of the device, where everybody looks for file systems, partitions
//! and members of arrays. The header proves that the device is ours, whatever its name is by now; it is
//! written before the pool is made, and taken away with it. How large the pool is stands in its record.

mod signs;

use camino::Utf8PathBuf;
use hearth_types::units::MIB;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::ground::Place;
pub(crate) use signs::holds;

/// What is kept free of data at either end, in bytes.
pub(crate) const MARGIN: u64 = MIB;
/// The header, in bytes: what any disk writes at once.
pub(crate) const HEADER: usize = 4096;
/// What a header begins with, whosever it is.
pub(crate) const MAGIC: &[u8] = b"HEARTH-POOL ";

/// The device that a pool's data is on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Base {
    /// A name of it that is the same after a reboot, if it has one.
    pub device: Utf8PathBuf,
    /// Its name as it was given.
    pub given: Utf8PathBuf,
    /// LVM's name of it, `group/volume`, if it is a logical volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<String>,
    /// In its header, and in that of no other device.
    pub id: Uuid,
}

/// A device that the pool's data may be on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// As [`Base::device`].
    pub device: Utf8PathBuf,
    /// As [`Base::volume`].
    pub volume: Option<String>,
    /// How much data it has room for, in bytes.
    pub room: u64,
}

impl Base {
    /// A device that was looked at and is to be the pool's.
    #[must_use]
    pub fn new(candidate: Candidate, given: Utf8PathBuf) -> Self {
        Self {
            device: candidate.device,
            given,
            volume: candidate.volume,
            id: Uuid::now_v7(),
        }
    }

    /// What its header says: it is this installation's, of this one set-up.
    pub(crate) fn header(&self, place: &Place) -> Vec<u8> {
        let text = format!(
            "HEARTH-POOL 1\npool {}\nid {}\nThe data of a thin pool begins a MiB from here: hearth pool status\n",
            place.uuid, self.id
        );
        let mut header = text.into_bytes();
        header.resize(HEADER, 0);
        header
    }

    /// Whether this is what its first bytes are, and nothing else is at its ends.
    pub(crate) fn is_alone_on(&self, place: &Place, first: &[u8], last: &[u8]) -> bool {
        let header = self.header(place);
        first.strip_prefix(header.as_slice()).is_some_and(empty) && empty(last)
    }
}

/// How much data a device of so many bytes has room for.
pub(crate) const fn room(bytes: u64) -> u64 {
    bytes.saturating_sub(2 * MARGIN)
}

/// All of it is zero.
fn empty(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// Why a device is not the pool's, or cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unfit {
    /// There is none of this name, or it is no block device that keeps what is written to it.
    NoDevice,
    /// Something is on it.
    Holds,
    /// Somebody uses it.
    InUse,
    /// It cannot be written to.
    ReadOnly,
    /// It is too small.
    Small,
    /// The daemon may not open it.
    Forbidden,
    /// A size was asked for with it.
    Whole,
    /// The pool is on another one, or on a file.
    Elsewhere,
    /// The pool's own is not there.
    Missing,
    /// What is there by its name has not the pool's header, or two have it.
    Lost,
}

impl Unfit {
    /// What to do next.
    #[must_use]
    pub const fn hint(self) -> &'static str {
        match self {
            Self::NoDevice => {
                "name a disk, a partition or a logical volume below /dev that nobody uses (lsblk)"
            }
            Self::Holds => {
                "nothing was written. Is what is on it of no use any more: hearth pool setup --device DEVICE --force"
            }
            Self::InUse => {
                "nothing was written, and --force changes nothing here: take off what uses it (lsblk, findmnt, swapon), or name \
                 another one"
            }
            Self::ReadOnly => "make it writable (blockdev --setrw), or name another one",
            Self::Small => "66 MiB are the least; make it larger, or name another one",
            Self::Forbidden => {
                "hearthd's unit may open logical volumes and loop devices; for another device: systemctl edit hearthd, \
                 [Service], DeviceAllow=DEVICE rw, and restart it"
            }
            Self::Whole => "a device is taken whole: leave the size out",
            Self::Elsewhere => "a pool stays where it was made: destroy it first, or go on with it",
            Self::Missing => {
                "attach it, or activate its volume group (vgchange --activate y): the pool is put together by itself then, \
                 and nothing is made anew meanwhile"
            }
            Self::Lost => {
                "nothing was touched. Attach the right device, then: hearth pool check; or give the pool up: hearth pool \
                 destroy --force"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use hearth_types::InstallationId;

    use super::*;

    fn base() -> Base {
        let candidate = Candidate {
            device: "/dev/disk/by-id/one".into(),
            volume: None,
            room: 0,
        };
        Base::new(candidate, "/dev/sdq".into())
    }

    #[test]
    fn a_header_is_that_of_one_set_up_of_one_installation() {
        let place = |installation| Place::new("/pool".into(), installation);
        let (ours, theirs) = (place(InstallationId::new()), place(InstallationId::new()));
        let (one, other) = (base(), base());
        let header = one.header(&ours);
        assert_eq!(header.len(), HEADER);
        assert!(header.starts_with(MAGIC));
        assert_ne!(header, one.header(&theirs));
        assert_ne!(header, other.header(&ours));

        let mut first = header;
        first.resize(1 << 20, 0);
        let mut last = vec![0; 1 << 20];
        assert!(one.is_alone_on(&ours, &first, &last));
        assert!(!one.is_alone_on(&theirs, &first, &last));
        assert!(!one.is_alone_on(&ours, &[], &last));
        last[7] = 1;
        assert!(!one.is_alone_on(&ours, &first, &last));
        last[7] = 0;
        first[HEADER] = 1;
        assert!(!one.is_alone_on(&ours, &first, &last));
    }

    #[test]
    fn a_device_has_room_for_data_between_its_ends() {
        assert_eq!(room(0), 0);
        assert_eq!(room(MIB), 0);
        assert_eq!(room(66 * MIB), 64 * MIB);
    }
}
