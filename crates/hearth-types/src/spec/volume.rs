//! Data volumes.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::is_false;
use crate::ids::InvalidId;
use crate::names::VmName;
use crate::units::Bytes;

/// One data volume: an ext4 file system that belongs to the VM.
/// As text: `NAME:MOUNT:SIZE[:ro]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VolumeSpec {
    /// The volume's name, unique in the VM (an RFC 1123 label of at most 20 characters:
    /// virtio-blk serials end there).
    pub name: VmName,
    /// Where the guest mounts it: an absolute path.
    pub mount: String,
    /// Its size.
    pub size: Bytes,
    /// Mounted read-only.
    #[serde(default, skip_serializing_if = "is_false")]
    pub read_only: bool,
}

impl FromStr for VolumeSpec {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let invalid = || InvalidId {
            kind: "volume",
            value: text.to_owned(),
            expected: "NAME:MOUNT:SIZE[:ro] such as data:/srv/data:1GiB",
        };
        let mut parts = text.split(':');
        let mut next = || parts.next().filter(|p| !p.is_empty()).ok_or_else(invalid);
        let name = next()?.parse().map_err(|_| invalid())?;
        let mount = next()?.to_owned();
        let size = next()?.parse().map_err(|_| invalid())?;
        let read_only = match (parts.next(), parts.next()) {
            (None, _) => false,
            (Some("ro"), None) => true,
            _ => return Err(invalid()),
        };
        Ok(Self {
            name,
            mount,
            size,
            read_only,
        })
    }
}
