//! What the host tells the guest before there is a channel: `/hearth/config.json` in the
//! last cpio segment of the initramfs.
//!
//! Unknown fields are ignored, so that a newer host can start an older guest binary.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// Where the guest finds its [`GuestConfig`], in the initramfs.
pub const CONFIG_PATH: &str = "/hearth/config.json";

/// Where the guest finds the kernel modules to load: one absolute path a line, in order.
pub const MODULES_PATH: &str = "/hearth/modules";

/// Who is PID 1 once the root file system is mounted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InitMode {
    /// `hearth-guest` stays PID 1 and runs the entrypoint; its end is the VM's end.
    #[default]
    Hearth,
    /// The image's own init (systemd, OpenRC, busybox) becomes PID 1.
    Image,
}

/// A data volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeConfig {
    /// The serial of its virtio-blk device.
    pub serial: String,
    /// Absolute path of the mount point in the image.
    pub mount: String,
    /// Mounted read-only.
    #[serde(default)]
    pub read_only: bool,
}

/// The guest's one network interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkConfig {
    /// Its hardware address, `52:54:00:…`: how the guest finds it.
    pub mac: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Prefix length of its subnet.
    pub prefix: u8,
    /// The default route.
    pub gateway: Ipv4Addr,
    /// Name servers, in order.
    #[serde(default)]
    pub dns: Vec<Ipv4Addr>,
    /// Search domains, in order.
    #[serde(default)]
    pub search: Vec<String>,
}

/// The workload. The host has already merged the image's settings with the user's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessConfig {
    /// Program and arguments.
    #[serde(default)]
    pub argv: Vec<String>,
    /// `K=V` each.
    #[serde(default)]
    pub env: Vec<String>,
    /// `user[:group]`, names of the image or numbers; root when absent.
    #[serde(default)]
    pub user: Option<String>,
    /// Working folder, made when missing; `/` when absent.
    #[serde(default)]
    pub workdir: Option<String>,
}

/// Everything a guest needs to know for one start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestConfig {
    /// The VM's id.
    pub vm_id: String,
    /// Host name, a single label.
    pub hostname: String,
    /// Domain of the host name, if any.
    #[serde(default)]
    pub domain: Option<String>,
    /// Random for each start: proves to the host that it talks to this boot.
    pub boot_nonce: String,
    /// Serial of the root disk.
    #[serde(default = "default_root_serial")]
    pub root_serial: String,
    /// Data volumes, mounted in this order.
    #[serde(default)]
    pub volumes: Vec<VolumeConfig>,
    /// The network; loopback only when absent.
    #[serde(default)]
    pub network: Option<NetworkConfig>,
    /// The workload.
    #[serde(default)]
    pub process: ProcessConfig,
    /// Who is PID 1.
    #[serde(default)]
    pub init: InitMode,
    /// The host's time at the start, milliseconds after the Unix epoch: a microVM may
    /// have no clock of its own.
    #[serde(default)]
    pub wall_clock_ms: Option<u64>,
    /// What asks the entrypoint to end, `SIGTERM` when absent.
    #[serde(default)]
    pub stop_signal: Option<String>,
    /// How long the entrypoint may take to end when the power button is pressed;
    /// 10 seconds when absent.
    #[serde(default)]
    pub stop_timeout_ms: Option<u64>,
    /// The channels to the host go over vsock; over virtio-serial when absent.
    #[serde(default)]
    pub vsock: Option<VsockConfig>,
    /// Names of virtio-serial ports that programs of the image look for below `/dev/virtio-ports`,
    /// where udev would put them.
    #[serde(default)]
    pub ports: Vec<String>,
    /// The machine cannot be switched off: resetting it ends it.
    #[serde(default)]
    pub ends_by_reset: bool,
}

/// The two channels over vsock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VsockConfig {
    /// The port on which the agent listens.
    pub agent_port: u32,
    /// The host's port that takes the exit report.
    pub report_port: u32,
}

/// The serial of the root disk unless the host says otherwise.
#[must_use]
pub fn default_root_serial() -> String {
    "root".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_field_does_not_stop_an_older_guest() {
        let text = r#"{"vm_id":"v","hostname":"h","boot_nonce":"n","from_the_future":1}"#;
        let config: GuestConfig = serde_json::from_str(text).unwrap();
        assert_eq!(config.root_serial, "root");
        assert_eq!(config.init, InitMode::Hearth);
    }
}
