//! What is known of an image and of a kernel.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ids::{ImageId, SnapshotId, VmId};
use crate::names::VmName;
use crate::snapshot::{Consistency, Snapshot};
use crate::units::Span;

/// The part of an OCI image's configuration that Hearth honours.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ImageConfig {
    /// Default entrypoint.
    pub entrypoint: Vec<String>,
    /// Default command (arguments of the entrypoint).
    pub cmd: Vec<String>,
    /// `KEY=value`, in order.
    pub env: Vec<String>,
    /// `user[:group]`.
    pub user: Option<String>,
    /// Working folder.
    pub workdir: Option<String>,
    /// Ports the image says it serves, such as `80/tcp`.
    pub exposed_ports: Vec<String>,
    /// The signal that asks the entrypoint to end, such as `SIGTERM`.
    pub stop_signal: Option<String>,
    /// The image's labels.
    pub labels: BTreeMap<String, String>,
    /// How the image wants its health to be checked; none in what was imported by a Hearth that
    /// did not read it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<ImageHealthcheck>,
}

/// An image's `HEALTHCHECK`, which docker writes into the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageHealthcheck {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Time between two checks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Span>,
    /// How long an answer may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// How long failures do not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_period: Option<Span>,
    /// Failures in a row that make it unhealthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
}

/// One image, ready for use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageRecord {
    /// Content identity.
    pub id: ImageId,
    /// The references that lead to it, in full form (`docker.io/library/debian:12`).
    pub references: Vec<String>,
    /// Where it came from: `registry`, `oci-layout`, `docker-archive`, `rootfs-tar`, `disk`, `snapshot`.
    pub source: String,
    /// `amd64`, `arm64` …
    pub architecture: String,
    /// The image's own time of making, if it says one.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub created: Option<Timestamp>,
    /// When Hearth made the volume.
    #[schema(value_type = String, format = DateTime)]
    pub imported_at: Timestamp,
    /// Size of the root volume's file system, in bytes.
    pub volume_bytes: u64,
    /// Bytes that the root volume takes on the host's disk.
    pub disk_bytes: u64,
    /// Number of layers.
    pub layers: usize,
    /// What the image asks to be run with.
    pub config: ImageConfig,
    /// Which snapshot it was made from, if it was made from one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<ImageOrigin>,
    /// Chain ids of its layers in the thin pool, the lowest first; none where it was unpacked whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chain: Vec<String>,
}

/// The snapshot that an image was made from. The image needs none of what is named here: all of it
/// may be gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageOrigin {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// What it was called.
    pub snapshot_name: VmName,
    /// The VM whose root disk it is.
    pub vm: VmId,
    /// What that VM was called.
    pub vm_name: VmName,
    /// The image that this disk was made of.
    pub image: ImageId,
    /// The kernel of that VM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// What was done so that the disk is whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistency: Option<Consistency>,
    /// When the snapshot was made.
    #[schema(value_type = String, format = DateTime)]
    pub taken_at: Timestamp,
}

impl From<&Snapshot> for ImageOrigin {
    fn from(snapshot: &Snapshot) -> Self {
        Self {
            snapshot: snapshot.id,
            snapshot_name: snapshot.name.clone(),
            vm: snapshot.vm,
            vm_name: snapshot.vm_name.clone(),
            image: snapshot.image.clone(),
            kernel: snapshot.kernel.clone(),
            consistency: snapshot.consistency,
            taken_at: snapshot.created_at,
        }
    }
}

/// One kernel, ready for use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KernelRecord {
    /// Its name, such as `6.1.0-39-cloud-amd64`.
    pub name: String,
    /// The kernel's own version string.
    pub version: String,
    /// SHA-256 of the file that was imported.
    pub digest: String,
    /// Whether VMs that name no kernel use it.
    pub default: bool,
    /// Whether a bzImage is kept (QEMU).
    pub has_bzimage: bool,
    /// Whether an ELF is kept (Firecracker, Cloud Hypervisor).
    pub has_elf: bool,
    /// The modules in its initramfs, in load order.
    pub modules: Vec<String>,
    /// Size of the base initramfs in bytes.
    pub initramfs_bytes: u64,
    /// When it was imported.
    #[schema(value_type = String, format = DateTime)]
    pub imported_at: Timestamp,
}
