//! What is true of a VM: status as stored and as shown.

pub mod bootstrap;
pub mod recovery;

use std::net::Ipv4Addr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::net::MacAddr;
use crate::process::{GuestReport, ProcessExit, ProcessIdentity};
pub use bootstrap::{Awaited, Bootstrap, Fate, Wait};
pub use recovery::{Breaker, Cause, Failure, Hold, Recovery};

/// What the user wants of a VM. The last word holds (see the generation beside it).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Goal {
    /// It should run.
    Running,
    /// It should run, with its vCPUs stopped.
    Paused,
    /// It should not run; its disk stays.
    Stopped,
    /// It should be gone, with all it has.
    Absent,
}

/// Where a VM is in its life, as people see it.
///
/// ```text
///            ┌──────────────────────────── restart policy ───────────────┐
///            ▼                                                           │
/// Created ─► Starting ─► Running ⇄ Paused                                 │
///            │              │ stop            │ ended by itself           │
///            │              ▼                 ▼                           │
///            │           Stopping ────────► Exited / Failed ── Backoff ──┘
///            └─ cannot start ───────────────► Failed
/// any ── rm ─► Removing ─► (gone)
/// ```
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Recorded, never started.
    Created,
    /// On its way up: disk, TAP, VMM.
    Starting,
    /// Its VMM runs.
    Running,
    /// Its VMM runs, its vCPUs do not.
    Paused,
    /// On its way down.
    Stopping,
    /// Ended, as wanted or with status 0.
    Exited,
    /// Ended by a failure, or could not start; `reason` says why.
    Failed,
    /// Ended, and waiting for its next start.
    Backoff,
    /// Being torn down.
    Removing,
    /// The host could not be surveyed: nothing is known, nothing is done.
    Unknown,
}

impl Phase {
    /// The word that tables and JSON show.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
            Self::Exited => "exited",
            Self::Failed => "failed",
            Self::Backoff => "backoff",
            Self::Removing => "removing",
            Self::Unknown => "unknown",
        }
    }
}

/// What was leased to a VM for its whole life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Leases {
    /// IPv4 address in the installation's subnet; absent with network mode none.
    #[schema(value_type = Option<String>, format = Ipv4)]
    pub ip: Option<Ipv4Addr>,
    /// Ethernet address; absent with network mode none.
    pub mac: Option<MacAddr>,
    /// vsock context id, 3 and up.
    pub cid: u32,
    /// The uid and gid its VMM runs as.
    pub uid: u32,
}

/// The kinds of ends that are told apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EndClass {
    /// The entrypoint ended with status 0, or the guest was shut down as asked.
    Clean,
    /// The entrypoint ended with another status or by a signal, or could not be started.
    WorkloadFailed,
    /// The guest powered itself off without a word about its entrypoint.
    GuestPoweredOff,
    /// The guest rebooted itself. It is started again unless the restart policy is `no`.
    GuestRebooted,
    /// The guest's kernel panicked.
    GuestPanicked,
    /// The VMM ended by a fault of its own: a signal that a program earns (SIGSEGV, SIGABRT
    /// and such) or a status other than 0.
    VmmCrashed,
    /// The kernel killed the VMM because its cgroup had no memory left.
    OutOfMemory,
    /// The kernel killed the VMM because the host, or all VMs together, had no memory left.
    HostOutOfMemory,
    /// Somebody killed the VMM (SIGKILL, SIGTERM and such).
    Killed,
    /// A check of its health failed for too long, and its specification asks for a restart
    /// then; or its VMM could not let the guest go on.
    Unresponsive,
    /// The host went down under it.
    HostRebooted,
    /// Nobody saw how.
    #[default]
    Unknown,
}

/// Why the last run of a VM ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunEnd {
    /// The kind of end.
    #[serde(default)]
    pub class: EndClass,
    /// The VM's exit code, as `hearth wait` prints it: the entrypoint's, or 128 + signal;
    /// absent when the guest did not say.
    pub exit_code: Option<i32>,
    /// How the VMM itself ended, when its shim saw it.
    pub vmm: Option<ProcessExit>,
    /// What the guest reported.
    pub guest: Option<GuestReport>,
    /// Whether the restart policy counts it as a failure.
    pub failure: bool,
    /// One sentence for people.
    pub reason: String,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
}

/// A stop under way: when it began and how far the ladder was climbed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StopProgress {
    /// When the stop began.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// The last rung that was tried, if any.
    pub rung: Option<StopRung>,
}

/// A guest waits for room on the host: its VMM has stopped it at a write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DiskFull {
    /// Since when that is known.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// How often it was told to go on.
    pub tries: u32,
    /// When that was the last time.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub tried_at: Option<Timestamp>,
}

/// A VM waits for room in the thin pool that its disk is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PoolWait {
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
}

/// The rungs of a clean stop, each with its deadline.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum StopRung {
    /// The guest agent is asked to shut down.
    Agent,
    /// The ACPI power button is pressed.
    PowerButton,
    /// The VMM is asked to quit.
    Quit,
    /// The VMM is killed.
    Kill,
}

/// The stored status of a VM. Nothing that matters lives only in the daemon's memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmStatus {
    /// Phase as of the last pass.
    pub phase: Phase,
    /// The VMM that was started or adopted last, until its end is recorded.
    pub vmm: Option<ProcessIdentity>,
    /// When that VMM was started.
    pub started_at: Option<Timestamp>,
    /// The goal's generation that the last pass acted on.
    pub observed_generation: u64,
    /// A stop under way.
    pub stop: Option<StopProgress>,
    /// How the last run ended.
    pub last_end: Option<RunEnd>,
    /// Starts by the restart policy since the user last started it.
    pub restarts: u32,
    /// Failures in a row, for `on-failure:N` and the back-off.
    pub failures: u32,
    /// Before this time the restart policy does not start it.
    pub next_start: Option<Timestamp>,
    /// When the checks of a run's guest first found it well: see [`VmStatus::came_up`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub came_up_at: Option<Timestamp>,
    /// Since when its run is known to have ended while the end cannot be recorded: its VMM
    /// does not quit, or its shim has written no record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending_since: Option<Timestamp>,
    /// With a stop under way: it is stopped for this illness, and started again by its restart
    /// policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unresponsive: Option<String>,
    /// Its guest waits for room on the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_full: Option<DiskFull>,
    /// It was paused because the pool that its disk is in is about to run out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool_wait: Option<PoolWait>,
    /// Why it is where it is, for people; `None` when all is well.
    pub reason: Option<String>,
    /// The boot in which the status was written.
    pub boot_id: Option<String>,
    /// Failures, breaker and hold.
    #[serde(default, skip_serializing_if = "Recovery::is_blank")]
    pub recovery: Recovery,
    /// With phase `Starting`: the user asked for this start. A start that the daemon decided on
    /// by itself (after a reboot of the host) has it not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub asked: bool,
    /// What the bootstrap after the host's last reboot has decided about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<Bootstrap>,
    /// What its automatic start waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<Wait>,
    /// Its checks call it unhealthy, as the world was told last. Kept for the next boot only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unhealthy: bool,
}

impl VmStatus {
    /// Whether the guest of this run has been found well once: it is past coming up, whichever
    /// daemon asks.
    #[must_use]
    pub fn came_up(&self) -> bool {
        let times = self.came_up_at.zip(self.started_at);
        times.is_some_and(|(up, started)| up >= started)
    }
}

impl Default for VmStatus {
    fn default() -> Self {
        Self {
            phase: Phase::Created,
            vmm: None,
            started_at: None,
            observed_generation: 0,
            stop: None,
            last_end: None,
            restarts: 0,
            failures: 0,
            next_start: None,
            came_up_at: None,
            ending_since: None,
            unresponsive: None,
            disk_full: None,
            pool_wait: None,
            reason: None,
            boot_id: None,
            recovery: Recovery::default(),
            asked: false,
            bootstrap: None,
            wait: None,
            unhealthy: false,
        }
    }
}
