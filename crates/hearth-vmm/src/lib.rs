//! VMM drivers behind one trait, and one contract suite for all of them.
//!
//! A driver knows how to launch, question and end one kind of VMM. It decides nothing:
//! when to start or stop comes from the planner. The states of a VMM are drawn in [`qemu`].
//!
//! | module | holds |
//! | --- | --- |
//! | [`qemu`] | the QEMU driver: arguments, launch through the shim, QMP, the KVM probe |
//! | [`firecracker`] | the Firecracker driver: its API, cage, vsock, figures |
//! | [`drivers`] | all drivers of a host behind one |
//! | [`fake`] | a VMM in memory, for tests |
//! | `contract` | what every driver must keep, as functions that tests call |
//! | `launch` | starting any VMM through the shim |
//! | `record`, `companion` | exit records; finding the shim and the guest agent |

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use hearth_types::OwnerMark;
use hearth_types::api::DeviceStats;
use hearth_types::ids::{InstallationId, VmId};
use hearth_types::net::MacAddr;
use hearth_types::observe::{ObservedUnit, RunState};
use hearth_types::process::{ExitRecord, ProcessIdentity};
use hearth_types::resources::Resources;
use hearth_types::spec::{CrashDump, DriverChoice, Machine, VmSpec};
use hearth_types::units::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

mod companion;
#[doc(hidden)]
pub mod contract;
pub mod drivers;
pub mod fake;
pub mod firecracker;
mod launch;
mod probing;
pub mod qemu;
mod record;

pub(crate) use qemu::empty_initramfs;

pub use companion::find_companion;
pub use hearth_shim::{CONSOLE_LOG, EXIT_RECORD, LOCK as VMM_LOCK, VMM_LOG};
pub use launch::Launcher;
pub use probing::sweep as sweep_probes;

/// Files that a VMM and its shim make in a VM's folder, apart from sockets and old logs.
pub const FILES: [&str; 7] = [
    CONSOLE_LOG,
    EXIT_RECORD,
    VMM_LOG,
    hearth_shim::LAUNCHED,
    launch::LIMITS,
    hearth_shim::LOCK,
    hearth_shim::METRICS,
];

/// A byte stream to something in or around a VM.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// All that a driver needs to launch one VMM. Files are named relative to `dir`, so that an
/// unprivileged VMM that starts there needs no permission on the folders above.
#[derive(Debug, Clone)]
pub struct LaunchSpec {
    /// The VM.
    pub vm: VmId,
    /// Its name, for the VMM's own process title.
    pub name: String,
    /// The mark its processes carry.
    pub mark: OwnerMark,
    /// The VM's folder: disks, sockets, logs, the exit record.
    pub dir: Utf8PathBuf,
    /// Which driver was asked for.
    pub driver: DriverChoice,
    /// Number of vCPUs.
    pub vcpus: u32,
    /// Guest memory.
    pub memory: Bytes,
    /// Machine model.
    pub machine: Machine,
    /// Absolute paths of the kernel.
    pub kernel: KernelFiles,
    /// Absolute path of the whole initramfs for this VM (base, agent and configuration).
    pub initramfs: Utf8PathBuf,
    /// More words for the kernel's command line.
    pub cmdline: Vec<String>,
    /// Disks in order; the first is the root disk.
    pub disks: Vec<Disk>,
    /// The network device, if any.
    pub nic: Option<Nic>,
    /// vsock context id, for drivers that have vsock.
    pub cid: u32,
    /// Its share of the host.
    pub resources: Resources,
    /// How long the guest's workload may take to end when the VM's shim is told to end.
    pub stop_timeout: Duration,
    /// The uid and gid to run as; `None` keeps the daemon's.
    pub user: Option<u32>,
    /// A port for QEMU's guest agent.
    pub qemu_agent: bool,
    /// What is kept of it when it crashes.
    pub crash_dump: CrashDump,
    /// Limits of the console log.
    pub console: LogLimits,
}

/// Where a kernel's files are.
#[derive(Debug, Clone)]
pub struct KernelFiles {
    /// A bzImage, for QEMU.
    pub bzimage: Option<Utf8PathBuf>,
    /// The ELF inside it, for Firecracker and Cloud Hypervisor.
    pub elf: Option<Utf8PathBuf>,
}

/// One disk of a VM.
#[derive(Debug, Clone)]
pub struct Disk {
    /// The file, relative to the VM's folder.
    pub file: String,
    /// virtio-blk serial, 20 characters at most: how the guest finds it.
    pub serial: String,
    /// The guest may not write to it.
    pub read_only: bool,
    /// The host's own node of the device (`/dev/dm-7`), if the file is the node of one.
    pub device: Option<Utf8PathBuf>,
    /// The VM has it for a while: it is not the VM's own, and the VMM may open it already.
    pub lent: bool,
}

/// A disk of a VM that runs, which has become larger on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrownDisk {
    /// Its place among the disks that the VM was started with.
    pub number: usize,
    /// Its file, relative to the VM's folder.
    pub file: String,
    /// Its new size.
    pub size: Bytes,
}

/// The network device of a VM.
#[derive(Debug, Clone)]
pub struct Nic {
    /// The persistent TAP to attach to.
    pub tap: String,
    /// The guest's address.
    pub mac: MacAddr,
}

/// Size cap and rotation of a log that is written without the daemon.
#[derive(Debug, Clone, Copy)]
pub struct LogLimits {
    /// Bytes per file.
    pub max_bytes: u64,
    /// Old files kept beside the current one.
    pub keep: u32,
}

/// What a guest has to know of the machine that its driver makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// The driver's name.
    pub driver: &'static str,
    /// `kvm` or `tcg`.
    pub accelerator: String,
    /// The serials of the disks, in their order.
    pub serials: Vec<String>,
    /// The agent's and the report's ports, where they go over vsock; virtio-serial else.
    pub vsock: Option<VsockPorts>,
    /// The machine cannot be switched off: a guest that has ended resets it, which ends the
    /// VMM.
    pub ends_by_reset: bool,
}

/// Ports of the two channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VsockPorts {
    /// The guest's agent listens on it.
    pub agent: u32,
    /// The host listens on it for the guest's exit report.
    pub report: u32,
}

/// What a driver found out about itself and the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// The VMM's version.
    pub version: String,
    /// `kvm` or `tcg`: what VMs will be run with.
    pub accelerator: String,
    /// Why it is not KVM, if it is not; what was tried and how long it took.
    pub detail: String,
}

/// How a VMM operation failed.
#[derive(Debug, thiserror::Error)]
pub enum VmmError {
    /// The VMM, its shim or something they need is not installed.
    #[error("{what} is not available: {detail}")]
    Missing {
        /// The program or file.
        what: String,
        /// Where it was looked for and what to do.
        detail: String,
    },
    /// The VM asks for what this driver does not have.
    #[error("this VMM cannot run the VM: {detail}")]
    Unsuitable {
        /// What it lacks and what to do.
        detail: String,
    },
    /// A VMM for this VM lives already: it holds the lock of the VM's folder.
    #[error("VM {vm} already has a living VMM")]
    AlreadyRunning {
        /// The VM.
        vm: VmId,
    },
    /// The VMM ended before it answered.
    #[error("the VMM of VM {vm} ended while it started: {detail}")]
    Start {
        /// The VM.
        vm: VmId,
        /// What the VMM said: the last lines of its log.
        detail: String,
    },
    /// A deadline of the start passed; nothing of the launch stays. On a host that is busy
    /// the next one may succeed.
    #[error("the VMM of VM {vm} was not ready in time: {detail}")]
    Slow {
        /// The VM.
        vm: VmId,
        /// Who was waited for, and for how long.
        detail: String,
    },
    /// The process is not the one that was meant: it is gone or its proof does not hold.
    #[error("process {pid} is not the VMM that was meant: {detail}", pid = identity.pid)]
    NotProven {
        /// Who was meant.
        identity: Box<ProcessIdentity>,
        /// Which part of the proof failed.
        detail: String,
    },
    /// The VMM does not answer in time or answers with an error.
    #[error("the VMM of VM {vm} did not do {command}: {detail}")]
    Control {
        /// The VM.
        vm: VmId,
        /// What was asked.
        command: String,
        /// Why not.
        detail: String,
    },
    /// A file or socket operation failed.
    #[error("cannot {operation} {path}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which path.
        path: Utf8PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}

/// One kind of VMM.
#[async_trait]
pub trait Vmm: Send + Sync {
    /// `qemu` …
    fn name(&self) -> &'static str;

    /// Says what will be used; cached by the driver, so it is cheap after the first call.
    ///
    /// `kernel` is the kernel that a probe may boot to see whether KVM really works. Without
    /// one, a driver that depends on it answers with what works in any case.
    async fn probe(&self, kernel: Option<&KernelFiles>) -> Result<Probe, VmmError>;

    /// [`Self::probe`] of every driver behind this one, the one that `auto` means first.
    async fn probe_all(
        &self,
        kernel: Option<&KernelFiles>,
    ) -> Vec<(&'static str, Result<Probe, VmmError>)> {
        vec![(self.name(), self.probe(kernel).await)]
    }

    /// Whether such a VM can run here, as far as that can be told at once.
    async fn admits(&self, _spec: &VmSpec) -> Result<(), VmmError> {
        Ok(())
    }

    /// What a guest with these disks, which exist, is told about its machine.
    async fn terms(
        &self,
        _choice: DriverChoice,
        kernel: &KernelFiles,
        _dir: &Utf8Path,
        disks: &[Disk],
    ) -> Result<Terms, VmmError> {
        Ok(Terms {
            driver: self.name(),
            accelerator: self.probe(Some(kernel)).await?.accelerator,
            serials: disks.iter().map(|disk| disk.serial.clone()).collect(),
            vsock: None,
            ends_by_reset: false,
        })
    }

    /// Launches the VMM detached from this process and returns when its control channel
    /// answers. Whatever fails, no process of this launch stays behind.
    async fn launch(&self, spec: &LaunchSpec) -> Result<ProcessIdentity, VmmError>;

    /// Asks a living VMM for its state, within `deadline`.
    async fn run_state(
        &self,
        vm: VmId,
        dir: &Utf8Path,
        deadline: Duration,
    ) -> Result<RunState, VmmError>;

    /// What the VM's devices have done since the VMM started; `None` when it does not count.
    async fn device_stats(
        &self,
        _vm: VmId,
        _dir: &Utf8Path,
    ) -> Result<Option<DeviceStats>, VmmError> {
        Ok(None)
    }

    /// Stops the vCPUs. Idempotent.
    async fn pause(&self, vm: VmId, dir: &Utf8Path) -> Result<(), VmmError>;

    /// Lets the vCPUs run. Idempotent.
    async fn resume(&self, vm: VmId, dir: &Utf8Path) -> Result<(), VmmError>;

    /// Presses the power button.
    async fn power_button(&self, vm: VmId, dir: &Utf8Path) -> Result<(), VmmError>;

    /// Asks the VMM to quit.
    async fn quit(&self, vm: VmId, dir: &Utf8Path) -> Result<(), VmmError>;

    /// Tells the VMM, and so its guest, that a disk has become larger.
    async fn disk_grown(
        &self,
        _vm: VmId,
        _dir: &Utf8Path,
        _disk: &GrownDisk,
    ) -> Result<(), VmmError> {
        Err(VmmError::Unsuitable {
            detail: format!(
                "{} cannot make a disk larger while its VM runs",
                self.name()
            ),
        })
    }

    /// Whether its guest's kernel has panicked and the VMM has kept it as it was then. Only those whose
    /// [`LaunchSpec::crash_dump`] asks for the guest's memory are kept.
    async fn panicked(&self, _vm: VmId, _dir: &Utf8Path) -> Result<bool, VmmError> {
        Ok(false)
    }

    /// Writes the guest's memory into a file of its folder that exists and that the VMM may write to.
    /// The guest stands still meanwhile.
    async fn dump_memory(
        &self,
        _vm: VmId,
        _dir: &Utf8Path,
        _file: &str,
        _deadline: Duration,
    ) -> Result<(), VmmError> {
        Err(VmmError::Unsuitable {
            detail: format!("{} cannot dump a guest's memory; QEMU can", self.name()),
        })
    }

    /// Proves the identity again, kills the process and returns when it is dead.
    /// A process that is dead already is a success.
    async fn kill(&self, identity: &ProcessIdentity) -> Result<(), VmmError>;

    /// The units of this installation's VMMs; none where VMMs get no units. `known` are the
    /// VMs of the database with their folders.
    ///
    /// # Errors
    /// When systemd does not answer: then nothing is known.
    async fn units(
        &self,
        _installation: InstallationId,
        _known: &BTreeMap<VmId, Utf8PathBuf>,
    ) -> Result<Vec<ObservedUnit>, VmmError> {
        Ok(Vec::new())
    }

    /// Puts back what somebody has changed of the limits of this VMM's unit since it was started, as
    /// far as the VMM keeps within them. One without a unit has none.
    ///
    /// # Errors
    /// When it is not the process that was meant, or systemd does not do it.
    async fn ensure_limits(
        &self,
        _identity: &ProcessIdentity,
        _dir: &Utf8Path,
    ) -> Result<(), VmmError> {
        Ok(())
    }

    /// Removes a unit that holds no process of a VM, after its mark was proved again.
    ///
    /// # Errors
    /// When it is another's, or systemd does not let go of it.
    async fn remove_unit(&self, _unit: &ObservedUnit) -> Result<(), VmmError> {
        Ok(())
    }

    /// Returns when the process is dead (at once if it is dead already or somebody else).
    async fn wait_dead(&self, identity: &ProcessIdentity) -> Result<(), VmmError>;

    /// Opens the byte stream to the port of QEMU's guest agent.
    ///
    /// # Errors
    /// When the driver has no such port, or the VM was started without one.
    async fn qemu_agent(&self, _vm: VmId, _dir: &Utf8Path) -> Result<Box<dyn Stream>, VmmError> {
        Err(VmmError::Unsuitable {
            detail: format!("{} has no port for QEMU's guest agent", self.name()),
        })
    }

    /// Opens the byte stream to the guest's agent.
    async fn agent(&self, vm: VmId, dir: &Utf8Path) -> Result<Box<dyn Stream>, VmmError>;

    /// Opens the console: bytes both ways. The log goes on beside it.
    async fn console(&self, vm: VmId, dir: &Utf8Path) -> Result<Box<dyn Stream>, VmmError>;

    /// The record of the last VMM's end in this folder, if there is one.
    async fn exit_record(&self, dir: &Utf8Path) -> Result<Option<ExitRecord>, VmmError>;
}

/// The host's boot; empty when it cannot be read.
pub(crate) fn boot_id() -> String {
    hearth_host::boot::BootId::current()
        .map_or_else(|_| String::new(), |boot| boot.as_str().to_owned())
}
