//! What a user asks for: the specification of one VM.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ids::InvalidId;
use crate::names::{VmName, check_label};
use crate::net::Protocol;
use crate::resources::Resources;
use crate::units::{Bytes, MIB, Span};

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
    /// Remove the VM as soon as it has ended (`--rm`).
    #[serde(default, skip_serializing_if = "is_false")]
    pub auto_remove: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_false(value: &bool) -> bool {
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

/// How a VM is connected.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkSpec {
    /// The kind of connection.
    #[serde(default)]
    pub mode: NetworkMode,
    /// A fixed address in the installation's subnet; leased when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = Ipv4)]
    pub address: Option<Ipv4Addr>,
}

/// Kinds of connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// A TAP on the installation's bridge, with NAT to the outside.
    #[default]
    Bridge,
    /// No network device at all.
    None,
}

/// One published port. As text: `[HOST_IP:]HOST_PORT:GUEST_PORT[/tcp|udp]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PortSpec {
    /// Host address to listen on; all of the host's when absent.
    #[serde(default = "unspecified")]
    #[schema(value_type = String, format = Ipv4)]
    pub host_ip: Ipv4Addr,
    /// Port on the host, 1 to 65535.
    pub host_port: u16,
    /// Port in the guest, 1 to 65535.
    pub guest_port: u16,
    /// Transport protocol.
    #[serde(default)]
    pub protocol: Protocol,
}

const fn unspecified() -> Ipv4Addr {
    Ipv4Addr::UNSPECIFIED
}

impl FromStr for PortSpec {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let invalid = || InvalidId {
            kind: "port",
            value: text.to_owned(),
            expected: "[HOST_IP:]HOST_PORT:GUEST_PORT[/tcp|udp] such as 8080:80 or 127.0.0.1:53:53/udp",
        };
        let (body, protocol) = match text.rsplit_once('/') {
            None => (text, Protocol::Tcp),
            Some((body, "tcp")) => (body, Protocol::Tcp),
            Some((body, "udp")) => (body, Protocol::Udp),
            Some(_) => return Err(invalid()),
        };
        let port = |text: &str| {
            text.parse::<u16>()
                .ok()
                .filter(|p| *p != 0)
                .ok_or_else(invalid)
        };
        let mut parts = body.rsplitn(3, ':');
        let guest_port = port(parts.next().unwrap_or_default())?;
        let host_port = port(parts.next().ok_or_else(invalid)?)?;
        let host_ip = match parts.next() {
            None => Ipv4Addr::UNSPECIFIED,
            Some(ip) => ip.parse().map_err(|_| invalid())?,
        };
        Ok(Self {
            host_ip,
            host_port,
            guest_port,
            protocol,
        })
    }
}

impl fmt::Display for PortSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}:{}/{}",
            self.host_ip, self.host_port, self.guest_port, self.protocol
        )
    }
}

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

/// What happens when a VM ends by itself (never when its user stopped it).
/// As text: `no`, `on-failure`, `on-failure:N`, `always`, `unless-stopped`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum RestartPolicy {
    /// It stays ended.
    #[default]
    No,
    /// Started again after a failure (exit status not 0, signal, crash of the VMM), at
    /// most so many times in a row when a number is given.
    OnFailure(Option<u32>),
    /// Always started again, and after a reboot of the host even if the user had stopped it.
    Always,
    /// Always started again, except when the user had stopped it.
    UnlessStopped,
}

impl utoipa::PartialSchema for RestartPolicy {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .pattern(Some(
                "^(no|on-failure(:[1-9][0-9]*)?|always|unless-stopped)$",
            ))
            .into()
    }
}

impl ToSchema for RestartPolicy {}

impl fmt::Display for RestartPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::No => f.write_str("no"),
            Self::OnFailure(None) => f.write_str("on-failure"),
            Self::OnFailure(Some(times)) => write!(f, "on-failure:{times}"),
            Self::Always => f.write_str("always"),
            Self::UnlessStopped => f.write_str("unless-stopped"),
        }
    }
}

impl FromStr for RestartPolicy {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let invalid = || InvalidId {
            kind: "restart policy",
            value: text.to_owned(),
            expected: "no, on-failure, on-failure:N, always or unless-stopped",
        };
        match text {
            "no" => Ok(Self::No),
            "on-failure" => Ok(Self::OnFailure(None)),
            "always" => Ok(Self::Always),
            "unless-stopped" => Ok(Self::UnlessStopped),
            _ => {
                let times = text.strip_prefix("on-failure:").ok_or_else(invalid)?;
                let times: u32 = times.parse().map_err(|_| invalid())?;
                if times == 0 {
                    Err(invalid())
                } else {
                    Ok(Self::OnFailure(Some(times)))
                }
            }
        }
    }
}

impl TryFrom<String> for RestartPolicy {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<RestartPolicy> for String {
    fn from(policy: RestartPolicy) -> Self {
        policy.to_string()
    }
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
            auto_remove: false,
        }
    }

    /// Checks every value; the list is empty when the specification can be used.
    #[must_use]
    pub fn check(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        self.check_sizes(&mut errors);
        self.check_process(&mut errors);
        self.check_network(&mut errors);
        self.check_volumes(&mut errors);
        if self.driver == DriverChoice::Firecracker && self.machine != Machine::Microvm {
            errors.push(FieldError::new(
                "machine",
                "Firecracker has one machine model only; leave it out or choose the driver qemu",
            ));
        }
        self.resources.check(&mut errors);
        for (key, value) in &self.labels {
            if let Err(error) = check_label(key, value) {
                errors.push(FieldError::new(format!("labels.{key}"), error.to_string()));
            }
        }
        if self.auto_remove && self.restart != RestartPolicy::No {
            errors.push(FieldError::new("auto_remove", format!("cannot go with restart policy {}: a VM that is removed when it ends cannot be restarted", self.restart)));
        }
        errors
    }

    fn check_sizes(&self, errors: &mut Vec<FieldError>) {
        let mut check = |path: &str, ok: bool, message: String| {
            if !ok {
                errors.push(FieldError::new(path, message));
            }
        };
        check(
            "image",
            !self.image.trim().is_empty(),
            "must name an image, such as debian:12".to_owned(),
        );
        check(
            "vcpus",
            (1..=MAX_VCPUS).contains(&self.vcpus),
            format!("is {}, must be 1 to {MAX_VCPUS}", self.vcpus),
        );
        check(
            "memory",
            (MIN_MEMORY..=MAX_MEMORY).contains(&self.memory),
            format!("is {}, must be {MIN_MEMORY} to {MAX_MEMORY}", self.memory),
        );
        if let Some(disk) = self.disk {
            check(
                "disk",
                (MIN_DISK..=MAX_DISK).contains(&disk),
                format!("is {disk}, must be {MIN_DISK} to {MAX_DISK}"),
            );
        }
        check(
            "stop_timeout",
            self.stop_timeout <= Span::secs(3600),
            format!("is {}, must be at most 1h", self.stop_timeout),
        );
    }

    fn check_process(&self, errors: &mut Vec<FieldError>) {
        for (key, value) in &self.env {
            if key.is_empty() || key.contains(['=', '\0']) || value.contains('\0') {
                errors.push(FieldError::new(
                    format!("env.{key}"),
                    "must have a name without '=' and no NUL character",
                ));
            }
        }
        for (path, list) in [("entrypoint", &self.entrypoint), ("command", &self.command)] {
            for (index, word) in list.iter().flatten().enumerate() {
                if word.contains('\0') {
                    errors.push(FieldError::new(
                        format!("{path}[{index}]"),
                        "must not contain a NUL character",
                    ));
                }
            }
        }
        if let Some(dir) = &self.workdir {
            check_guest_path("workdir", dir, errors);
        }
        if self
            .user
            .as_ref()
            .is_some_and(|u| u.is_empty() || u.contains(['\0', '\n', ' ']))
        {
            errors.push(FieldError::new(
                "user",
                "must be user or user:group, names or numbers",
            ));
        }
    }

    fn check_network(&self, errors: &mut Vec<FieldError>) {
        if self.network.mode == NetworkMode::None {
            if self.network.address.is_some() {
                errors.push(FieldError::new(
                    "network.address",
                    "cannot be set with network mode none",
                ));
            }
            if !self.ports.is_empty() {
                errors.push(FieldError::new(
                    "ports",
                    "cannot be published with network mode none",
                ));
            }
        }
        let mut seen = BTreeSet::new();
        for (index, port) in self.ports.iter().enumerate() {
            if port.host_port == 0 || port.guest_port == 0 {
                errors.push(FieldError::new(
                    format!("ports[{index}]"),
                    "port numbers must be 1 to 65535",
                ));
            }
            if !seen.insert((port.protocol, port.host_ip, port.host_port)) {
                errors.push(FieldError::new(
                    format!("ports[{index}].host_port"),
                    format!("{port} is published twice"),
                ));
            }
        }
    }

    fn check_volumes(&self, errors: &mut Vec<FieldError>) {
        // virtio-blk: one root disk and the letters vdb to vdz.
        if self.volumes.len() > 16 {
            errors.push(FieldError::new(
                "volumes",
                format!("are {}, must be at most 16", self.volumes.len()),
            ));
        }
        let mut names = BTreeSet::new();
        for (index, volume) in self.volumes.iter().enumerate() {
            let path = |field: &str| format!("volumes[{index}].{field}");
            if volume.name.as_str().len() > 20 || matches!(volume.name.as_str(), "root") {
                errors.push(FieldError::new(
                    path("name"),
                    "must be at most 20 characters and not \"root\"",
                ));
            }
            if !names.insert(&volume.name) {
                errors.push(FieldError::new(
                    path("name"),
                    format!("{} is used twice", volume.name),
                ));
            }
            if !(MIN_DISK..=MAX_DISK).contains(&volume.size) {
                errors.push(FieldError::new(
                    path("size"),
                    format!("is {}, must be {MIN_DISK} to {MAX_DISK}", volume.size),
                ));
            }
            check_guest_path(&path("mount"), &volume.mount, errors);
        }
    }
}

fn check_guest_path(field: &str, path: &str, errors: &mut Vec<FieldError>) {
    let clean =
        path.starts_with('/') && !path.contains('\0') && path.split('/').all(|part| part != "..");
    if !clean {
        errors.push(FieldError::new(
            field,
            format!("is {path:?}, must be an absolute path without '..'"),
        ));
    }
}

#[cfg(test)]
mod tests;
