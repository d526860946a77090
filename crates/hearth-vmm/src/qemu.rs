//! The QEMU driver.
//!
//! ```text
//!            launch: shim ─► exec ─► greeting ─► query-status
//!   (none) ───────────────────────────────────────────────► Running ◄──cont── Paused
//!      ▲                       │ failure: kill, clean up       │  └────stop────►  │
//!      │                       ▼                               │                  │
//!      │◄──────────────── no process                           │ power button,    │ quit, kill
//!      │                                                       │ quit, kill,      │
//!      │    exit.json written by the shim                      ▼ guest's end      ▼
//!      └──────────────────────────────────────────────────── Ended ◄──────────────┘
//! ```
//!
//! The driver keeps no state about VMs: the folder, the lock in it and the process say it
//! all, so a new daemon goes on where the old one was.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use hearth_types::api::DeviceStats;
use hearth_types::ids::VmId;
use hearth_types::observe::RunState;
use hearth_types::process::{ExitRecord, ProcessIdentity};
use serde_json::Value;

use crate::launch::{self, Launcher};
use crate::{
    GrownDisk, KernelFiles, LaunchSpec, Probe, Stream, Vmm, VmmError, find_companion, record,
};

mod args;
mod greet;
mod needs;
mod probe;
mod qmp;
mod stats;

pub use args::QEMU_AGENT_PORT;
pub(crate) use probe::empty_initramfs;

use args::Accelerator;
use needs::needs;
use qmp::QmpError;

/// The deadline of a command that changes something. QEMU answers in a millisecond; a host
/// under pressure may need seconds.
const COMMAND_DEADLINE: Duration = Duration::from_secs(10);

/// Whether hardware virtualisation may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KvmMode {
    /// If a probe shows that it really works.
    #[default]
    Auto,
    /// Never.
    Off,
}

/// How the driver finds its programs.
#[derive(Debug, Clone, Default)]
pub struct QemuConfig {
    /// QEMU's program; `None` looks for `qemu-system-x86_64` in the system's folders.
    pub binary: Option<Utf8PathBuf>,
    /// The shim; `None` looks beside the running program and in `/usr/lib/hearth`.
    pub shim: Option<Utf8PathBuf>,
    /// Where the answer of the KVM probe is kept; `None` asks again in each process.
    pub probe_cache: Option<Utf8PathBuf>,
    /// Whether KVM may be used.
    pub kvm: KvmMode,
    /// How shims are started.
    pub launcher: Launcher,
}

/// VMs in QEMU processes.
#[derive(Debug)]
pub struct QemuDriver {
    config: QemuConfig,
    probes: Arc<probe::Probes>,
}

impl QemuDriver {
    /// A driver. Nothing is looked for or run before it is needed.
    #[must_use]
    pub fn new(config: QemuConfig) -> Self {
        Self {
            config,
            probes: Arc::default(),
        }
    }

    /// Boots a kernel without a root file system, with KVM or emulated, and waits for its
    /// panic: whether guests can run at all, for `hearth doctor` and the probe's own test.
    ///
    /// # Errors
    /// In words: how far it came.
    pub async fn boots(
        &self,
        kernel: &KernelFiles,
        kvm: bool,
        deadline: Duration,
    ) -> Result<(), String> {
        let binary = self.binary().map_err(|error| error.to_string())?;
        let accelerator = if kvm {
            Accelerator::Kvm { groups: Vec::new() }
        } else {
            Accelerator::Tcg {
                khz: probe::host_khz(),
            }
        };
        let bzimage = kernel.bzimage.as_ref().ok_or("the kernel has no bzImage")?;
        let boot = probe::Boot {
            accelerator,
            user: None,
            deadline,
        };
        boot.run(&self.config, &binary, bzimage).await
    }

    fn binary(&self) -> Result<Utf8PathBuf, VmmError> {
        const NAME: &str = "qemu-system-x86_64";
        let found = match &self.config.binary {
            Some(path) => path.is_file().then(|| path.as_std_path().to_owned()),
            None => hearth_host::command::find(NAME),
        };
        // The shim runs it from another working folder.
        let absolute = found
            .and_then(|path| std::path::absolute(path).ok())
            .and_then(|path| Utf8PathBuf::from_path_buf(path).ok());
        absolute.ok_or_else(|| VmmError::Missing {
            what: "QEMU".to_owned(),
            detail: match &self.config.binary {
                Some(path) => format!("there is no {path}"),
                None => format!("{NAME} is in no system folder; install qemu-system-x86"),
            },
        })
    }

    fn shim(&self) -> Result<Utf8PathBuf, VmmError> {
        let explicit = self.config.shim.as_deref().map(Utf8Path::as_std_path);
        find_companion("hearth-shim", explicit)
    }

    async fn accelerator(&self, kernel: &KernelFiles) -> Result<Accelerator, VmmError> {
        let probe = self.probe(Some(kernel)).await?;
        Ok(if probe.accelerator == "kvm" {
            let groups = probe::kvm_groups(std::path::Path::new("/dev/kvm"));
            Accelerator::Kvm {
                groups: groups.unwrap_or_default(),
            }
        } else {
            Accelerator::Tcg {
                khz: probe::host_khz(),
            }
        })
    }

    async fn command(
        vm: VmId,
        dir: &Utf8Path,
        command: &str,
        deadline: Duration,
    ) -> Result<Value, VmmError> {
        qmp::execute(dir, command, deadline)
            .await
            .map_err(|error| control(vm, command, &error))
    }
}

fn control(vm: VmId, command: &str, error: &QmpError) -> VmmError {
    VmmError::Control {
        vm,
        command: command.to_owned(),
        detail: hearth_types::survey::chain(error),
    }
}

#[async_trait]
impl Vmm for QemuDriver {
    fn name(&self) -> &'static str {
        "qemu"
    }

    async fn probe(&self, kernel: Option<&KernelFiles>) -> Result<Probe, VmmError> {
        let binary = self.binary()?;
        self.probes.answer(&self.config, &binary, kernel).await
    }

    async fn launch(&self, spec: &LaunchSpec) -> Result<ProcessIdentity, VmmError> {
        let binary = self.binary()?;
        let shim = self.shim()?;
        let accelerator = self.accelerator(&spec.kernel).await?;
        let request = args::request(spec, &binary, &accelerator)?;
        let begun = tokio::time::Instant::now();
        let needs = needs(spec, &accelerator);
        let launcher = self.config.launcher;
        let identity = launch::through_shim(launcher, &shim, spec, &request, &needs).await?;
        let executed = begun.elapsed();
        greet::greeted(spec.vm, &spec.dir, &identity).await?;
        tracing::debug!(
            vm = %spec.vm,
            pid = identity.pid,
            accelerator = accelerator.name(),
            executed_us = executed.as_micros(),
            answered_us = begun.elapsed().as_micros(),
            "VMM runs"
        );
        Ok(identity)
    }

    async fn run_state(
        &self,
        vm: VmId,
        dir: &Utf8Path,
        deadline: Duration,
    ) -> Result<RunState, VmmError> {
        const COMMAND: &str = "query-status";
        let answer = Self::command(vm, dir, COMMAND, deadline).await?;
        let status = answer.get("status").and_then(Value::as_str);
        state_of(status.unwrap_or_default()).ok_or_else(|| {
            let error = QmpError::Protocol(format!("unknown status in {answer}"));
            control(vm, COMMAND, &error)
        })
    }

    async fn device_stats(
        &self,
        vm: VmId,
        dir: &Utf8Path,
    ) -> Result<Option<DeviceStats>, VmmError> {
        const COMMAND: &str = "query-blockstats";
        let answer = Self::command(vm, dir, COMMAND, COMMAND_DEADLINE).await?;
        Ok(Some(stats::of_disks(&answer)))
    }

    async fn pause(&self, vm: VmId, dir: &Utf8Path) -> Result<(), VmmError> {
        Self::command(vm, dir, "stop", COMMAND_DEADLINE)
            .await
            .map(drop)
    }

    async fn resume(&self, vm: VmId, dir: &Utf8Path) -> Result<(), VmmError> {
        Self::command(vm, dir, "cont", COMMAND_DEADLINE)
            .await
            .map(drop)
    }

    async fn power_button(&self, vm: VmId, dir: &Utf8Path) -> Result<(), VmmError> {
        Self::command(vm, dir, "system_powerdown", COMMAND_DEADLINE)
            .await
            .map(drop)
    }

    async fn quit(&self, vm: VmId, dir: &Utf8Path) -> Result<(), VmmError> {
        Self::command(vm, dir, "quit", COMMAND_DEADLINE)
            .await
            .map(drop)
    }

    async fn disk_grown(&self, vm: VmId, dir: &Utf8Path, disk: &GrownDisk) -> Result<(), VmmError> {
        const COMMAND: &str = "block_resize";
        let node = format!("disk{}", disk.number);
        let arguments = serde_json::json!({ "node-name": node, "size": disk.size.0 });
        let answer = qmp::execute_with(dir, COMMAND, Some(arguments), COMMAND_DEADLINE).await;
        answer
            .map(drop)
            .map_err(|error| control(vm, COMMAND, &error))
    }

    async fn panicked(&self, vm: VmId, dir: &Utf8Path) -> Result<bool, VmmError> {
        let answer = Self::command(vm, dir, "query-status", COMMAND_DEADLINE).await?;
        Ok(answer.get("status").and_then(Value::as_str) == Some("guest-panicked"))
    }

    async fn dump_memory(
        &self,
        vm: VmId,
        dir: &Utf8Path,
        file: &str,
        deadline: Duration,
    ) -> Result<(), VmmError> {
        const COMMAND: &str = "dump-guest-memory";
        // Not detached: QEMU does nothing else meanwhile, so nobody lets the guest go on halfway.
        let arguments = serde_json::json!({
            "paging": false, "protocol": format!("file:{file}"), "detach": false,
            "format": "kdump-zlib",
        });
        let answer = qmp::execute_with(dir, COMMAND, Some(arguments), deadline).await;
        answer
            .map(drop)
            .map_err(|error| control(vm, COMMAND, &error))
    }

    async fn kill(&self, identity: &ProcessIdentity) -> Result<(), VmmError> {
        launch::kill(identity).await
    }

    async fn wait_dead(&self, identity: &ProcessIdentity) -> Result<(), VmmError> {
        hearth_host::process::watch(identity.clone()).await;
        Ok(())
    }

    async fn agent(&self, vm: VmId, dir: &Utf8Path) -> Result<Box<dyn Stream>, VmmError> {
        connect(vm, dir, args::AGENT_SOCKET).await
    }

    async fn qemu_agent(&self, vm: VmId, dir: &Utf8Path) -> Result<Box<dyn Stream>, VmmError> {
        connect(vm, dir, args::QEMU_AGENT_SOCKET).await
    }

    async fn console(&self, vm: VmId, dir: &Utf8Path) -> Result<Box<dyn Stream>, VmmError> {
        connect(vm, dir, hearth_shim::CONSOLE_SOCKET).await
    }

    async fn exit_record(&self, dir: &Utf8Path) -> Result<Option<ExitRecord>, VmmError> {
        record::exit_record(dir).await
    }
}

async fn connect(vm: VmId, dir: &Utf8Path, name: &str) -> Result<Box<dyn Stream>, VmmError> {
    let stream = hearth_host::unixsock::connect(dir.as_std_path(), name);
    let stream = tokio::time::timeout(COMMAND_DEADLINE, stream)
        .await
        .map_err(|_| control(vm, "connect", &QmpError::Deadline(COMMAND_DEADLINE)))?
        .map_err(|source| VmmError::Io {
            operation: "connect to",
            path: dir.join(name),
            source,
        })?;
    Ok(Box::new(stream))
}

/// QEMU's run states (qapi/run-state.json) in ours.
fn state_of(status: &str) -> Option<RunState> {
    Some(match status {
        "running" | "debug" => RunState::Running,
        "paused" | "prelaunch" | "suspended" | "save-vm" | "restore-vm" | "inmigrate"
        | "postmigrate" | "finish-migrate" | "watchdog" => RunState::Paused,
        // By `werror=enospc` of its disks: no other failure of a disk stops the guest.
        "io-error" => RunState::DiskFull,
        "internal-error" => RunState::Broken,
        "shutdown" | "guest-panicked" | "colo" => RunState::Ended,
        _ => return None,
    })
}
