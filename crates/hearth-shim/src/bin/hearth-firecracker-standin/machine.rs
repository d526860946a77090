//! The VM as the API sees it.
//!
//! ```text
//!   Not started ──InstanceStart──► Running ◄──PATCH /vm──► Paused
//!        │ configuration                └── SendCtrlAltDel ──► off
//! ```

use std::fs::File;
use std::io::{Read, Write};

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::bodies::{
    Action, ActionType, Balloon, BootSource, CpuConfig, Drive, Entropy, Logger, MachineConfig,
    Metrics, NetworkInterface, Serial, State, VmState, Vsock,
};
use super::http::Request;

const AFTER: &str = "The requested operation is not supported after starting the microVM.";
const BEFORE: &str = "The requested operation is not supported before starting the microVM.";
/// The most vCPUs.
const VCPUS_MAX: u8 = 32;
/// The least context id of a guest.
const CID_MIN: u32 = 3;

/// What came of a request.
#[derive(Debug)]
pub(super) enum Outcome {
    Done,
    Says(Value),
    Refused(String),
    /// The vsock device's socket is to be made.
    Vsock(String),
    Started,
    /// It has started and its kernel found no disk.
    Panicked,
    Off,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    NotStarted,
    Running,
    Paused,
    Off,
}

/// The state of the VM.
#[derive(Debug)]
pub(super) struct Machine {
    id: String,
    phase: Phase,
    kernel: Option<String>,
    boot_args: String,
    drives: usize,
    /// Its guest has panicked and restarts, which is the VMM's end.
    doomed: bool,
    metrics: Option<File>,
    machine: Value,
}

type Handled = Result<Outcome, String>;

fn body<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    serde_json::from_slice(bytes).map_err(|error| {
        format!("An error occurred when deserializing the json body of a request: {error}.")
    })
}

/// An id in a path.
fn checked_id(id: Option<&str>) -> Result<&str, String> {
    let id = id
        .filter(|id| !id.is_empty())
        .ok_or("The ID cannot be empty.")?;
    if id.chars().all(|c| c == '_' || c.is_alphanumeric()) {
        Ok(id)
    } else {
        Err("API Resource IDs can only contain alphanumeric characters and underscores.".to_owned())
    }
}

fn same_id(path: &str, body: &str) -> Result<(), String> {
    if path == body {
        Ok(())
    } else {
        Err("The id from the path does not match the id from the body!".to_owned())
    }
}

impl Machine {
    pub(super) fn new(id: String) -> Self {
        Self {
            id,
            phase: Phase::NotStarted,
            kernel: None,
            boot_args: String::new(),
            drives: 0,
            doomed: false,
            metrics: None,
            machine: json!({"vcpu_count": 1, "mem_size_mib": 128, "smt": false,
                "track_dirty_pages": false, "huge_pages": "None"}),
        }
    }

    pub(super) fn is_off(&self) -> bool {
        self.phase == Phase::Off
    }

    /// Whoever asked has its answer: a guest needs longer than that to boot and to panic.
    pub(super) fn hung_up(&mut self) {
        if self.doomed {
            self.phase = Phase::Off;
        }
    }

    pub(super) fn is_started(&self) -> bool {
        self.phase != Phase::NotStarted
    }

    pub(super) fn handle(&mut self, request: &Request) -> Outcome {
        let path = request.path.trim_start_matches('/');
        let mut parts = path.split_terminator('/');
        let first = parts.next().unwrap_or_default();
        let handled = match (request.method.as_str(), request.body.as_deref()) {
            ("GET", None) => self.get(first, parts.next()),
            ("GET", Some(_)) => Err("GET request cannot have a body.".to_owned()),
            ("PUT", Some(bytes)) => self.put(first, parts.next(), bytes),
            ("PUT", None) => Err("Empty PUT request.".to_owned()),
            ("PATCH", Some(bytes)) => self.patch(first, bytes),
            ("PATCH", None) => Err("Empty PATCH request.".to_owned()),
            (method, _) => Err(unknown(method, first)),
        };
        handled.unwrap_or_else(Outcome::Refused)
    }

    fn get(&self, first: &str, second: Option<&str>) -> Handled {
        Ok(Outcome::Says(match (first, second) {
            ("", None) => json!({
                "id": self.id, "app_name": "Firecracker", "vmm_version": super::VERSION,
                "state": match self.phase {
                    Phase::NotStarted => "Not started",
                    Phase::Paused => "Paused",
                    Phase::Running | Phase::Off => "Running",
                },
            }),
            ("version", None) => json!({ "firecracker_version": super::VERSION }),
            ("machine-config", None) => self.machine.clone(),
            ("vm", Some("config")) => json!({ "machine-config": self.machine }),
            _ => return Err(unknown("GET", first)),
        }))
    }

    fn patch(&mut self, first: &str, bytes: &[u8]) -> Handled {
        if first != "vm" {
            return Err(unknown("PATCH", first));
        }
        let wanted: VmState = body(bytes)?;
        if self.phase == Phase::NotStarted {
            return Err(BEFORE.to_owned());
        }
        self.phase = match wanted.state {
            State::Paused => Phase::Paused,
            State::Resumed => Phase::Running,
        };
        Ok(Outcome::Done)
    }

    fn put(&mut self, first: &str, second: Option<&str>, bytes: &[u8]) -> Handled {
        if first == "actions" {
            return self.act(body::<Action>(bytes)?.action_type);
        }
        // A body that cannot be understood is refused whatever the state.
        match first {
            "boot-source" => self.boot_source(&body(bytes)?),
            "machine-config" => self.machine_config(&body(bytes)?, bytes),
            "drives" => self.drive(checked_id(second)?, &body(bytes)?),
            "network-interfaces" => {
                let id = checked_id(second)?;
                let body: NetworkInterface = body(bytes)?;
                same_id(id, &body.iface_id)?;
                self.before_start()
            }
            "vsock" => self.vsock(body(bytes)?),
            "balloon" => body::<Balloon>(bytes).and_then(|_| self.before_start()),
            "entropy" => body::<Entropy>(bytes).and_then(|_| self.before_start()),
            "logger" => body::<Logger>(bytes).and_then(|_| self.before_start()),
            "serial" => body::<Serial>(bytes).and_then(|_| self.before_start()),
            "cpu-config" => body::<CpuConfig>(bytes).and_then(|_| self.before_start()),
            "metrics" => self.metrics(&body(bytes)?),
            _ => Err(unknown("PUT", first)),
        }
    }

    fn before_start(&self) -> Handled {
        if self.phase == Phase::NotStarted {
            Ok(Outcome::Done)
        } else {
            Err(AFTER.to_owned())
        }
    }

    fn boot_source(&mut self, source: &BootSource) -> Handled {
        self.before_start()?;
        File::open(&source.kernel_image_path).map_err(|error| {
            format!("Boot source error: The kernel file cannot be opened: {error}")
        })?;
        if let Some(initrd) = &source.initrd_path {
            File::open(initrd).map_err(|error| {
                format!("Boot source error: The initrd file cannot be opened due to invalid path or invalid permissions. {error}")
            })?;
        }
        self.kernel = Some(source.kernel_image_path.clone());
        self.boot_args = source.boot_args.clone().unwrap_or_default();
        Ok(Outcome::Done)
    }

    fn machine_config(&mut self, config: &MachineConfig, bytes: &[u8]) -> Handled {
        self.before_start()?;
        let vcpus = config.vcpu_count;
        if vcpus == 0 || vcpus > VCPUS_MAX || (config.smt && vcpus > 1 && vcpus % 2 == 1) {
            return Err(format!(
                "Machine config error: The number of vCPUs must be greater than 0, less than {VCPUS_MAX} and must be 1 or an even number if SMT is enabled."
            ));
        }
        if config.mem_size_mib == 0 {
            return Err("Machine config error: The memory size (MiB) is either 0, or not a multiple of the configured page size.".to_owned());
        }
        self.machine = body(bytes)?;
        Ok(Outcome::Done)
    }

    fn drive(&mut self, id: &str, drive: &Drive) -> Handled {
        same_id(id, &drive.drive_id)?;
        self.before_start()?;
        let Some(path) = &drive.path_on_host else {
            return Err("Drive config error: Unable to create the virtio block device: Invalid configuration.".to_owned());
        };
        let opened = File::options()
            .read(true)
            .write(!drive.is_read_only.unwrap_or(false))
            .open(path);
        opened.map_err(|error| {
            format!("Drive config error: Unable to create the virtio block device: Virtio backend error: Error manipulating the backing file: {error} {path}")
        })?;
        self.drives += 1;
        Ok(Outcome::Done)
    }

    fn vsock(&self, vsock: Vsock) -> Handled {
        if vsock.guest_cid < CID_MIN {
            // The real one's device does not boot with it.
            return Err(format!("Vsock config error: guest_cid below {CID_MIN}"));
        }
        self.before_start()?;
        Ok(Outcome::Vsock(vsock.uds_path))
    }

    fn metrics(&mut self, metrics: &Metrics) -> Handled {
        self.before_start()?;
        if self.metrics.is_some() {
            return Err("Metrics error: Cannot initialize the metrics system due to bad user input: Reinitialization of metrics not allowed.".to_owned());
        }
        let opened = File::options()
            .create(true)
            .read(true)
            .append(true)
            .open(&metrics.metrics_path);
        let opened = opened.map_err(|error| {
            format!(
                "Metrics error: Cannot initialize the metrics system due to bad user input: {error}"
            )
        })?;
        self.metrics = Some(opened);
        Ok(Outcome::Done)
    }

    fn act(&mut self, action: ActionType) -> Handled {
        match action {
            ActionType::FlushMetrics => self.flush_metrics(),
            ActionType::InstanceStart => {
                self.before_start()?;
                let kernel = self.kernel.as_ref().ok_or(
                    "Start microvm error: Cannot start microvm without kernel configuration.",
                )?;
                if !is_elf(kernel) {
                    return Err("Start microvm error: Cannot load kernel due to invalid memory configuration or invalid kernel image: Kernel Loader: Invalid ELF magic number".to_owned());
                }
                self.phase = Phase::Running;
                if self.drives > 0 {
                    return Ok(Outcome::Started);
                }
                // Told to restart at once, a kernel that panicked takes the VMM with it.
                self.doomed = self.boot_args.split(' ').any(|word| word == "panic=-1");
                Ok(Outcome::Panicked)
            }
            ActionType::SendCtrlAltDel if self.phase == Phase::NotStarted => Err(BEFORE.to_owned()),
            ActionType::SendCtrlAltDel => {
                // A paused guest hears of it later; this one's patience is not simulated.
                self.phase = Phase::Off;
                Ok(Outcome::Off)
            }
        }
    }

    fn flush_metrics(&mut self) -> Handled {
        if self.phase == Phase::NotStarted {
            return Err(BEFORE.to_owned());
        }
        if let Some(metrics) = &mut self.metrics {
            let now = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
            let millis = u64::try_from(now.as_millis()).unwrap_or_default();
            let line = json!({
                "utc_timestamp_ms": millis,
                "block": {"read_bytes": 4096, "write_bytes": 0, "flush_count": 1},
                "net": {"rx_bytes_count": 0, "tx_bytes_count": 0},
                "seccomp": {"num_faults": 0},
            });
            drop(writeln!(metrics, "{line}"));
        }
        Ok(Outcome::Done)
    }
}

fn unknown(method: &str, path: &str) -> String {
    format!("Invalid request method and/or path: {method} {path}.")
}

fn is_elf(path: &str) -> bool {
    let mut magic = [0; 4];
    File::open(path)
        .and_then(|mut file| file.read_exact(&mut magic))
        .is_ok_and(|()| magic == *b"\x7fELF")
}
