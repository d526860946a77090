//! What a user asks for: the specification of one VM.

pub mod bootstrap;
mod check;
pub mod dump;
pub mod health;
mod network;
mod partial;
mod restart;
mod volume;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::names::VmName;
use crate::resources::Resources;
use crate::units::{Bytes, MIB, Span};

pub(crate) use check::{check_guest_path, mount_place};

pub use bootstrap::{BootstrapPolicy, BreakerSpec};
pub use dump::CrashDump;
pub use health::HealthSpec;
pub use network::{NetworkMode, NetworkSpec, PortSpec};
pub use partial::PartialSpec;
pub use restart::RestartPolicy;
pub use volume::VolumeSpec;

/// The most vCPUs one VM may ask for: QEMU's `microvm` machine stops at 288, and no host
/// that Hearth is meant for has more.
pub const MAX_VCPUS: u32 = 288;
/// The least memory a Linux guest with an initramfs gets by with.
pub const MIN_MEMORY: Bytes = Bytes(64 * MIB);
/// The most memory one VM may ask for (16 TiB): above it QEMU's address space ends.
pub const MAX_MEMORY: Bytes = Bytes(16 << 40);
/// The smallest root disk.
pub const MIN_DISK: Bytes = Bytes(16 * MIB);
/// The largest disk: ext4 with 4 KiB blocks ends at 16 TiB without `64bit` surprises.
pub const MAX_DISK: Bytes = Bytes(16 << 40);

/// Everything that a user may say about a VM. Absent fields take the defaults shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VmSpec {
    /// The VM's name, unique in the installation, and the guest's host name.
    pub name: VmName,
    /// The image: a reference (`debian:12`, `localhost:5000/demo:1`) or an image id or its prefix.
    pub image: String,
    /// The kernel's name as `hearth kernel ls` shows it; the default kernel when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// Number of virtual CPUs.
    #[serde(default = "default_vcpus")]
    pub vcpus: u32,
    /// Guest memory.
    #[serde(default = "default_memory")]
    pub memory: Bytes,
    /// Size of the root disk; at least the image's size when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<Bytes>,
    /// Environment of the entrypoint, over the image's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Replaces the image's entrypoint; an empty list clears it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// Replaces the image's command (the entrypoint's arguments).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// `user[:group]`, names or numbers, looked up in the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Working folder of the entrypoint: an absolute path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// Who runs as the image's first program.
    #[serde(default)]
    pub init: InitMode,
    /// How the VM is connected.
    #[serde(default)]
    pub network: NetworkSpec,
    /// Ports of the host that lead to the guest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortSpec>,
    /// Data volumes beside the root disk.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<VolumeSpec>,
    /// Free labels, for selection.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// What happens when the VM ends by itself.
    #[serde(default)]
    pub restart: RestartPolicy,
    /// How long a clean stop may take before the VMM is ended: see `docs/architecture.md`.
    #[serde(default = "default_stop_timeout")]
    pub stop_timeout: Span,
    /// Which VMM runs it.
    #[serde(default)]
    pub driver: DriverChoice,
    /// Which machine model QEMU shows to the guest.
    #[serde(default)]
    pub machine: Machine,
    /// Its share of the host.
    #[serde(default, skip_serializing_if = "Resources::is_default")]
    pub resources: Resources,
    /// How its health is judged, and what follows.
    #[serde(default, skip_serializing_if = "HealthSpec::is_default")]
    pub health: HealthSpec,
    /// What happens to it after a reboot of the host; as the daemon's configuration says when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<BootstrapPolicy>,
    /// Names of VMs that an automatic start of this one waits for, for a while: until they run, and
    /// are healthy if they have checks. Who does not come by itself is not waited for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 32)]
    pub after: Vec<VmName>,
    /// When its circuit breaker opens, and for how long.
    #[serde(default, skip_serializing_if = "BreakerSpec::is_default")]
    pub breaker: BreakerSpec,
    /// What is kept of it when it crashes.
    #[serde(default, skip_serializing_if = "CrashDump::is_default")]
    pub crash_dump: CrashDump,
    /// Remove the VM as soon as it has ended (`--rm`).
    #[serde(default, skip_serializing_if = "is_false")]
    pub auto_remove: bool,
    /// The template that it was made from. What it got from it is in the other fields: this is a note,
    /// and nothing follows from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<VmName>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
pub(crate) const fn is_false(value: &bool) -> bool {
    !*value
}

const fn default_vcpus() -> u32 {
    1
}

const fn default_memory() -> Bytes {
    Bytes::mib(256)
}

const fn default_stop_timeout() -> Span {
    Span::secs(10)
}

/// Which program is the guest's first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum InitMode {
    /// Hearth's agent is PID 1 and runs the entrypoint as its child.
    #[default]
    Hearth,
    /// The image's own init (`/sbin/init`, systemd included) is PID 1; the agent runs beside it.
    Image,
}

/// Which VMM runs a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DriverChoice {
    /// The best one that this host has.
    #[default]
    Auto,
    /// QEMU.
    Qemu,
    /// Firecracker, which runs on KVM only.
    Firecracker,
}

/// Which machine model QEMU shows to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Machine {
    /// Virtio-mmio only, no PCI, no firmware tables beyond ACPI's least.
    #[default]
    Microvm,
    /// A PCI Express chipset.
    Q35,
}

/// One thing wrong with a specification: where, what, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize, ToSchema)]
#[error("{path}: {message}")]
pub struct FieldError {
    /// The field's path, such as `ports[1].host_port`.
    pub path: String,
    /// What is wrong and the accepted form.
    pub message: String,
}

impl FieldError {
    /// An error at `path`.
    #[must_use]
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            message: message.into(),
        }
    }
}

impl VmSpec {
    /// A specification with every default, for this name and image.
    #[must_use]
    pub fn new(name: VmName, image: impl Into<String>) -> Self {
        Self {
            name,
            image: image.into(),
            kernel: None,
            vcpus: default_vcpus(),
            memory: default_memory(),
            disk: None,
            env: BTreeMap::new(),
            entrypoint: None,
            command: None,
            user: None,
            workdir: None,
            init: InitMode::default(),
            network: NetworkSpec::default(),
            ports: Vec::new(),
            volumes: Vec::new(),
            labels: BTreeMap::new(),
            restart: RestartPolicy::default(),
            stop_timeout: default_stop_timeout(),
            driver: DriverChoice::default(),
            machine: Machine::default(),
            resources: Resources::default(),
            health: HealthSpec::default(),
            bootstrap: None,
            after: Vec::new(),
            breaker: BreakerSpec::default(),
            crash_dump: CrashDump::default(),
            auto_remove: false,
            template: None,
        }
    }
}

#[cfg(test)]
mod tests;
