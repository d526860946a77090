//! What identifies a process beyond its pid, and how a VMM's run ended.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::mark::OwnerMark;

/// Proof material for one process: a pid alone may be anybody's after a while.
///
/// All of it must hold again at the moment of a signal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// `/proc/sys/kernel/random/boot_id` when the process was seen.
    pub boot_id: String,
    /// The process id in the daemon's pid namespace.
    pub pid: i32,
    /// Field 22 of `/proc/<pid>/stat`: clock ticks after boot. With the pid it is unique in a boot.
    pub start_time: u64,
    /// The target of `/proc/<pid>/exe`, without the kernel's ` (deleted)`.
    pub exe: String,
    /// The owner mark from the process' environment.
    pub mark: OwnerMark,
}

/// How a process ended, as `wait` tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProcessExit {
    /// It called `exit` with this status.
    Code(i32),
    /// A signal ended it.
    Signal(i32),
}

/// How the guest says its workload ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GuestReport {
    /// The entrypoint's exit; absent when the guest was shut down before it ended.
    pub exit: Option<ProcessExit>,
    /// Why the guest goes down: `exited`, `shutdown`, `failed` (could not start the
    /// entrypoint), with the detail in `message`.
    pub reason: String,
    /// Free text for people.
    #[serde(default)]
    pub message: Option<String>,
}

/// The last thing that a guest's kernel said on its console, when it said one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConsoleEnd {
    /// `Kernel panic - not syncing` (kernel/panic.c).
    Panic,
    /// `reboot: Restarting system` (kernel/reboot.c).
    Reboot,
    /// `reboot: Power down` (kernel/reboot.c).
    PowerOff,
}

/// What a VMM's shim found besides the exit status, so that ends can be told apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Evidence {
    /// Processes of the VM's own cgroup that the kernel killed for want of memory (`oom_kill`
    /// in `memory.events`); where the VM has no cgroup of its own, whether the kernel's log names
    /// the VMM.
    pub oom_kills: u64,
    /// It was for the host's want of memory, or for that of all VMs together: the VM's own limit
    /// was not reached.
    pub oom_host: bool,
    /// The VMM left a core dump.
    pub core_dumped: bool,
    /// What the console said last.
    pub console: Option<ConsoleEnd>,
    /// SIGTERM came to the VM's shim while the VMM lived: somebody stopped its unit, and the
    /// guest or the VMM may have ended as if by itself.
    pub terminated: bool,
    /// It came because the host went down.
    pub host_down: bool,
}

/// The durable record that a VMM's shim leaves when the VMM has ended. It is written
/// without the daemon, so a daemon that was away learns it later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// Which process ended.
    pub identity: ProcessIdentity,
    /// How the VMM itself ended.
    pub vmm: ProcessExit,
    /// What the guest reported before, if it did.
    pub guest: Option<GuestReport>,
    /// What else was found; nothing in records of an older shim.
    #[serde(default)]
    pub evidence: Evidence,
    /// When the shim saw the end.
    pub ended_at: Timestamp,
}
