//! What Firecracker is told before its guest starts, in this order.

use hearth_types::units::MIB;
use serde_json::{Value, json};

use super::api::Request;
use super::place;
use crate::{LaunchSpec, VmmError};

/// The kernel's name in the cage.
pub(super) const KERNEL: &str = "vmlinux";
/// The initramfs' name in the cage.
pub(super) const INITRD: &str = "initrd";
/// The most vCPUs (its API's limit).
pub(super) const MAX_VCPUS: u32 = 32;
/// How often a rate limiter's bucket is filled, in milliseconds.
const REFILL_MS: u64 = 1000;

/// The VM's configuration as requests.
///
/// `template` is a CPU template: the name of one that Firecracker has, or a JSON text for
/// one of one's own.
pub(super) fn requests(spec: &LaunchSpec, template: Option<&Template>) -> Vec<Request> {
    let mut all = vec![
        Request::put(
            "/metrics",
            json!({"metrics_path": in_run(place::METRICS_PIPE)}),
        ),
        Request::put("/machine-config", machine(spec, template)),
        Request::put(
            "/boot-source",
            json!({
                "kernel_image_path": KERNEL, "initrd_path": INITRD,
                "boot_args": command_line(spec),
            }),
        ),
    ];
    if let Some(Template::Own(body)) = template {
        all.push(Request::put("/cpu-config", body.clone()));
    }
    for (number, disk) in spec.disks.iter().enumerate() {
        // Names of volumes may hold what an id may not.
        let id = format!("disk{number}");
        let mut body = json!({
            "drive_id": id, "path_on_host": disk.file, "is_read_only": disk.read_only,
            // The guest's root is chosen by its initramfs.
            "is_root_device": false,
            // A guest's flush is an fsync on the host.
            "cache_type": "Writeback",
        });
        if let Some(limiter) = limiter(spec) {
            body["rate_limiter"] = limiter;
        }
        all.push(Request::put(format!("/drives/{id}"), body));
    }
    if let Some(nic) = &spec.nic {
        all.push(Request::put(
            "/network-interfaces/eth0",
            json!({
                "iface_id": "eth0", "host_dev_name": nic.tap,
                "guest_mac": nic.mac.to_string(),
            }),
        ));
    }
    all.push(Request::put(
        "/vsock",
        json!({"guest_cid": spec.cid, "uds_path": in_run(place::VSOCK_SOCKET)}),
    ));
    all.push(Request::put(
        "/balloon",
        json!({"amount_mib": 0, "deflate_on_oom": true}),
    ));
    all.push(Request::put("/entropy", json!({})));
    all
}

/// The last request: the guest starts.
pub(super) fn start() -> Request {
    Request::put("/actions", json!({"action_type": "InstanceStart"}))
}

/// Ctrl-Alt-Del on the guest's keyboard: its power button.
pub(super) fn ctrl_alt_del() -> Request {
    Request::put("/actions", json!({"action_type": "SendCtrlAltDel"}))
}

/// A CPU template.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Template {
    /// One that Firecracker has: `T2`, `T2S` …
    Named(String),
    /// The body of `PUT /cpu-config`.
    Own(Value),
}

fn in_run(name: &str) -> String {
    format!("{}/{name}", hearth_shim::CAGE_RUN)
}

fn machine(spec: &LaunchSpec, template: Option<&Template>) -> Value {
    let mut body = json!({
        "vcpu_count": spec.vcpus,
        "mem_size_mib": spec.memory.0.div_ceil(MIB),
        "smt": false,
    });
    if let Some(Template::Named(name)) = template {
        body["cpu_template"] = json!(name);
    }
    body
}

fn command_line(spec: &LaunchSpec) -> String {
    // reboot=k: a reset through the keyboard controller is how a guest ends its VMM. The
    // keyboard stays: the host presses Ctrl-Alt-Del on it.
    let mut words = vec![
        "console=ttyS0 panic=-1 quiet reboot=k i8042.noaux i8042.nomux i8042.dumbkbd".to_owned(),
    ];
    words.extend(spec.cmdline.iter().cloned());
    words.join(" ")
}

/// Limits of the VM's resources as a rate limiter. Firecracker has one bucket for reads and
/// writes, so the greater limit of both holds here; where the control group limits them
/// apart, it does so too.
fn limiter(spec: &LaunchSpec) -> Option<Value> {
    let resources = &spec.resources;
    let greater = |read: Option<u64>, write: Option<u64>| Some(read?.max(write?));
    let bucket = |size: u64| json!({"size": size, "refill_time": REFILL_MS});
    let bytes = greater(
        resources.io_read_bps.map(|bytes| bytes.0),
        resources.io_write_bps.map(|bytes| bytes.0),
    );
    let requests = greater(resources.io_read_iops, resources.io_write_iops);
    if bytes.is_none() && requests.is_none() {
        return None;
    }
    Some(json!({"bandwidth": bytes.map(bucket), "ops": requests.map(bucket)}))
}

/// Refuses what Firecracker cannot run or what would mean something else to it.
pub(super) fn check(spec: &LaunchSpec) -> Result<(), VmmError> {
    let plain = |text: &str| {
        !text.is_empty()
            && !text.starts_with('.')
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    let refused = |detail: String| {
        Err(VmmError::Start {
            vm: spec.vm,
            detail,
        })
    };
    if spec.vcpus > MAX_VCPUS {
        return refused(format!(
            "it asks for {} vCPUs and Firecracker has {MAX_VCPUS} at most; ask for less or choose the driver qemu",
            spec.vcpus
        ));
    }
    for disk in &spec.disks {
        if !plain(&disk.file) || [KERNEL, INITRD].contains(&disk.file.as_str()) {
            return refused(format!("the disk file {:?} is not a file name", disk.file));
        }
    }
    match &spec.nic {
        Some(nic) if !plain(&nic.tap) => {
            refused(format!("the TAP {:?} is not an interface name", nic.tap))
        }
        _ => Ok(()),
    }
}
