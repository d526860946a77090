//! Bodies of the HTTP API: shared by the daemon and its clients.

mod database;
mod devices;
pub mod health;
mod images;
mod overview;
mod recovery;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use database::{DatabaseBackup, DatabaseBackupFailure, DatabaseView};
pub use devices::DeviceStats;
pub use health::{CheckResult, CheckView, Health, Verdict, VmHealth};
pub use images::{
    ImageFromSnapshot, ImageList, ImageView, ImportImage, ImportKind, Progress, PullImage,
    RegistryAuth, S3Access,
};
pub use overview::{Overview, VmGlance, WorkView};
pub use recovery::{HoldVm, HostReset, PlanReason, RecoverVm, Recovered, RecoveredList, VmPlan};

use crate::event::Event;
use crate::history::Dump;
use crate::ids::{InstallationId, VmId};
use crate::image::KernelRecord;
use crate::mode::Mode;
use crate::spec::VmSpec;
use crate::status::{Bootstrap, Breaker, Failure, Goal, Hold, Leases, Phase, RunEnd, Wait};

/// One VM as the API shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Vm {
    /// Its id.
    pub id: VmId,
    /// What was asked for.
    pub spec: VmSpec,
    /// Grows with every change of the spec or the goal; the ETag.
    pub generation: u64,
    /// What the user wants now.
    pub goal: Goal,
    /// Where it is.
    pub phase: Phase,
    /// Why, when not all is well.
    pub reason: Option<String>,
    /// What its checks say.
    pub health: Health,
    /// Its checks, where one VM is asked for; none in lists.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<CheckView>,
    /// What was leased to it.
    pub leases: Leases,
    /// The VMM's process id while it runs.
    pub pid: Option<i32>,
    /// `qemu` …, while it runs.
    pub driver: Option<String>,
    /// `kvm` or `tcg`, while it runs.
    pub accelerator: Option<String>,
    /// When it was created.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When the current run began.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub started_at: Option<Timestamp>,
    /// How the last run ended.
    pub last_end: Option<RunEnd>,
    /// Restarts by policy since the user started it.
    pub restarts: u32,
    /// When the restart policy starts it next.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub next_start: Option<Timestamp>,
    /// Its circuit breaker, unless it is closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub breaker: Option<Breaker>,
    /// Its failures of the last hour, runs and starts alike, each with what it came from, the
    /// oldest first; none in lists.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<Failure>,
    /// Dumps of its guest's memory and cores of its VMM that are kept, the newest first; none in
    /// lists.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dumps: Vec<Dump>,
    /// What became of the last core of its VMM, where its specification asks for one; not in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_core: Option<String>,
    /// The operator's word that nothing is done to it automatically.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
    /// What was decided about it after the host's last reboot, until its user says something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<Bootstrap>,
    /// What its automatic start waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<Wait>,
}

/// A page of VMs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmPage {
    /// The VMs, by name.
    pub items: Vec<Vm>,
    /// Give it as `after` to get the next page; absent on the last one.
    pub next: Option<String>,
}

/// A request for a new VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateVm {
    /// What it should be.
    pub spec: VmSpec,
    /// Whether it should be started at once.
    #[serde(default)]
    pub start: bool,
}

/// How to stop a VM.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StopVm {
    /// Skip the clean rungs and kill the VMM.
    #[serde(default)]
    pub force: bool,
    /// Another stop timeout than the spec's.
    #[serde(default)]
    pub timeout: Option<crate::units::Span>,
}

/// The answer of `wait`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WaitResult {
    /// The VM's exit code: the entrypoint's, 128 + signal, or absent if the guest did not say.
    pub exit_code: Option<i32>,
    /// How the run ended, unless the VM was removed before it ran.
    pub end: Option<RunEnd>,
}

/// A command to run in the guest. Sent as the first text message of the exec WebSocket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecRequest {
    /// Program and arguments; at least the program.
    pub argv: Vec<String>,
    /// Environment over the image's.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Working folder; the image's when absent.
    #[serde(default)]
    pub workdir: Option<String>,
    /// `user[:group]`; the image's when absent.
    #[serde(default)]
    pub user: Option<String>,
    /// Give it a terminal of this size.
    #[serde(default)]
    pub tty: Option<WindowSize>,
    /// Keep standard input open for the client.
    #[serde(default)]
    pub stdin: bool,
}

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WindowSize {
    /// Rows.
    pub rows: u16,
    /// Columns.
    pub cols: u16,
}

/// Text messages of the exec WebSocket, both ways. Binary messages carry bytes: the first
/// byte says which stream (0 stdin, 1 stdout, 2 stderr), the rest is data; an empty rest
/// closes that stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum ExecControl {
    /// Client to server: the terminal has a new size.
    Resize(WindowSize),
    /// Client to server: send this signal to the process.
    Signal {
        /// Its number.
        signal: i32,
    },
    /// Server to client, last: the process has ended.
    Exit {
        /// Exit status; 128 + signal when a signal ended it.
        code: i32,
    },
    /// Server to client, last: the command could not be run or the channel was lost.
    Error {
        /// The problem.
        problem: crate::problem::Problem,
    },
}

/// Guest and VMM figures of one VM.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct VmStats {
    /// CPU time the VMM has used, in milliseconds.
    pub cpu_millis: u64,
    /// Resident memory of the VMM, in bytes.
    pub vmm_rss: u64,
    /// What the VMM says of its devices, if it answers.
    #[serde(default)]
    pub devices: Option<DeviceStats>,
    /// Figures from the agent, if it answers.
    pub guest: Option<GuestMetrics>,
}

/// What the agent reads in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct GuestMetrics {
    /// Seconds since the guest's boot.
    pub uptime_secs: u64,
    /// Total memory in bytes.
    pub mem_total: u64,
    /// Available memory in bytes.
    pub mem_available: u64,
    /// One-minute load average × 100.
    pub load1_centi: u64,
    /// Number of processes.
    pub processes: u64,
    /// Size of the root file system in bytes.
    pub disk_total: u64,
    /// Free bytes of the root file system.
    pub disk_free: u64,
    /// Bytes received on the guest's network.
    pub net_rx: u64,
    /// Bytes sent on the guest's network.
    pub net_tx: u64,
}

/// A request to import a kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportKernel {
    /// Absolute path of a vmlinuz, a vmlinux or a Debian package on the daemon's host;
    /// the running distribution's newest kernel when absent.
    #[serde(default)]
    pub path: Option<String>,
    /// Where the kernel's modules are (`…/lib/modules/VERSION`), for a bare vmlinuz or vmlinux.
    #[serde(default)]
    pub modules: Option<String>,
    /// The name to give it; its version when absent.
    #[serde(default)]
    pub name: Option<String>,
    /// Make it the default. The first kernel always is.
    #[serde(default)]
    pub default: bool,
}

/// A list of kernels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KernelList {
    /// The kernels.
    pub items: Vec<KernelRecord>,
}

/// One step of a plan, as shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlanStep {
    /// The kind of step, such as `start_vmm`.
    pub step: String,
    /// Whose step: a VM's id, or absent for what is shared.
    pub vm: Option<VmId>,
    /// The VM's name, if it has one.
    pub name: Option<String>,
    /// The object acted on, in words.
    pub object: String,
    /// Why.
    pub reason: String,
    /// Whether it takes something away (removes, kills, stops).
    pub destructive: bool,
}

/// What the next pass would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlanView {
    /// The steps in the order they would be taken.
    pub steps: Vec<PlanStep>,
    /// What is not acted on, and why: kinds of objects that could not be surveyed,
    /// orphans within their grace age or only reported, VMs that wait.
    pub notes: Vec<String>,
    /// Steps that would be due and are not taken: the mode or a key of the configuration holds them.
    #[serde(default)]
    pub held: Vec<crate::mode::HeldStep>,
    /// When the next pass is due even if nothing happens.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub next_pass: Option<Timestamp>,
}

/// A page of events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EventList {
    /// The events, oldest first.
    pub items: Vec<Event>,
}

/// Version of the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Version {
    /// The daemon's version.
    pub version: String,
    /// The API's version.
    pub api: String,
    /// The database schema's version.
    pub schema: u32,
    /// The mode in force.
    #[serde(default)]
    pub mode: Mode,
}

/// Whether the daemon works; no token is needed to ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HealthView {
    /// `ok` or `starting`.
    pub status: String,
    /// The mode in force.
    #[serde(default)]
    pub mode: Mode,
    /// Why, unless the mode is `normal`.
    #[serde(default)]
    pub mode_reason: Option<String>,
    /// When the last pass of the loop ended well.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_pass: Option<Timestamp>,
}

/// Facts about the installation; no token is needed to ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InfoView {
    /// The daemon's version.
    pub version: String,
    /// The installation's id.
    pub installation: InstallationId,
    /// The domain that guests' names end in.
    pub domain: String,
    /// Seconds since the daemon started.
    pub uptime_secs: u64,
    /// Number of VMs by phase.
    pub vms: BTreeMap<String, u64>,
    /// The mode in force.
    #[serde(default)]
    pub mode: Mode,
    /// Why the host's circuit breaker is open; absent when it is closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_breaker: Option<String>,
}

/// The result of one of doctor's checks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DoctorCheck {
    /// What was checked, such as `kvm`.
    pub name: String,
    /// The result.
    pub status: DoctorStatus,
    /// What was found.
    pub detail: String,
    /// What to do, when something is wrong.
    pub hint: Option<String>,
}

/// Results of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DoctorStatus {
    /// Good.
    Ok,
    /// Works, but less well.
    Warning,
    /// Does not work.
    Failed,
}

/// All of doctor's checks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DoctorReport {
    /// The checks.
    pub checks: Vec<DoctorCheck>,
}

/// One configuration value and where it came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConfigEntry {
    /// The key as in the config file.
    pub key: String,
    /// The value in force; `(set)` for secrets.
    pub value: String,
    /// `default`, `file /etc/hearth/config`, `environment HEARTH_…` or `flag --…`.
    pub source: String,
}

/// The configuration in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConfigView {
    /// The entries.
    pub entries: Vec<ConfigEntry>,
}

impl ConfigView {
    /// The value of a key, unless it is unset. Not for secrets: what is shown of them is not their
    /// value.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&str> {
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        (entry.value != "(unset)").then_some(entry.value.as_str())
    }
}
