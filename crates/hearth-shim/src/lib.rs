//! The small parent of each VMM, and the words between it and a driver.
//!
//! The daemon may die at any moment, so nothing that a VM needs lives in it. A shim per VM
//! holds what must go on: the lock that says "this VM has a living VMM", the console log,
//! the console socket, the guest's exit report and, at the end, the exit record.
//!
//! ```text
//!  driver                shim                                      VMM
//!    │  Request (stdin)   │
//!    ├───────────────────►│ fork, own session
//!    │                    │ vmm.lock taken ──────── held elsewhere ─► Failed(AlreadyRunning)
//!    │                    │ sockets bound, files opened, disks handed to the uid
//!    │                    ├─ fork, drop uid, exec ─────────────────► starts
//!    │  Started (stdout)  │                                           │
//!    │◄───────────────────┤ pumps: stdout → console.log + clients     │
//!    │                    │        stderr → vmm.log                   │
//!    │  (may die now)     │        report pipe → last JSON line       │
//!    │                    │◄──────────────── pidfd readable ──────────┘ ends
//!    │                    │ exit.json (fsync, rename), sockets removed, lock released
//! ```
//!
//! A VMM that is configured after its exec runs no guest before that. Its driver leaves the
//! mark [`LAUNCHED`] when it does; if the caller dies without it, the launch is undone.
//!
//! If the shim is killed the VMM lives on: it ignores SIGPIPE, and it inherited the lock.
//! Only the exit record and the console log's rest are lost then.

use std::time::Duration;

use camino::Utf8PathBuf;
use hearth_types::OwnerMark;
use hearth_types::ids::VmId;
use hearth_types::process::ProcessIdentity;
use serde::{Deserialize, Serialize};

mod cage;
mod evidence;
pub mod identity;
mod journal;
mod kernel_log;
mod log;
mod outside;
mod pump;
mod record;
mod report;
mod run;
mod setup;
mod signals;
mod stop;
mod tap;
mod totals;
mod visitors;

pub use run::run;

/// The lock of a VM's folder, held by the shim and the VMM for as long as either lives.
pub const LOCK: &str = "vmm.lock";
/// The console's socket within the VM's folder: bytes both ways, no past.
pub const CONSOLE_SOCKET: &str = "console.sock";
/// The console's log within the VM's folder; older ones get `.1`, `.2` …
pub const CONSOLE_LOG: &str = "console.log";
/// What the VMM said on its standard error; the previous one gets `.1`.
pub const VMM_LOG: &str = "vmm.log";
/// The exit record within the VM's folder.
pub const EXIT_RECORD: &str = "exit.json";
/// The name under which a VMM's arguments may use the guest's report pipe: `{fd:report}`.
pub const REPORT: &str = "report";

/// The argument with which the shim is the main process of a systemd service: it stays in
/// the foreground, and the console goes to its standard error, too.
pub const UNIT_FLAG: &str = "--unit";

/// The file within the VM's folder by which a driver says that a launch which needed more
/// than an exec is complete.
pub const LAUNCHED: &str = "launched";
/// The sums of the VMM's figures within the VM's folder, if it gives any.
pub const METRICS: &str = "metrics.json";
/// The folder of a cage that the VMM may write to.
pub const CAGE_RUN: &str = "run";

/// How long a guest may take beyond its workload's time to go down, as with `hearth stop`.
pub const AFTER_WORKLOAD: Duration = Duration::from_secs(5);
/// How long a VMM may take to flush its disks and end after SIGTERM before it is killed.
pub const QUIT_WAIT: Duration = Duration::from_secs(15);

/// What the shim shall start. Arrives as JSON on its standard input.
///
/// In `args`, `{fd:NAME}` stands for the number under which the VMM inherits the file or
/// socket of that name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The VM.
    pub vm: VmId,
    /// The mark of both processes.
    pub mark: OwnerMark,
    /// The VM's folder, absolute: working folder of both processes.
    pub dir: Utf8PathBuf,
    /// The VMM's program, absolute.
    pub program: Utf8PathBuf,
    /// Its arguments, with `{fd:NAME}` where a number is to be filled in.
    pub args: Vec<String>,
    /// Files that are opened before privileges are dropped, for reading.
    pub files: Vec<PassedFile>,
    /// TAPs that are attached to before privileges are dropped.
    #[serde(default)]
    pub taps: Vec<PassedTap>,
    /// Listening sockets that the shim binds and the VMM inherits.
    pub sockets: Vec<PassedSocket>,
    /// Files within the folder that the VMM's uid must be able to open: they get that uid.
    pub owned: Vec<String>,
    /// Files within the folder that are other names of disks which the VM has for a while. The daemon
    /// has said who may open them; they are left as they are.
    #[serde(default)]
    pub lent: Vec<String>,
    /// The uid and gid of the VMM; `None` keeps the shim's.
    pub user: Option<u32>,
    /// Supplementary groups of the VMM, if `user` is given.
    pub groups: Vec<u32>,
    /// The VMM's `oom_score_adj` (proc(5)); without it the VMM has the shim's.
    #[serde(default)]
    pub oom_score: Option<i16>,
    /// The largest core that the VMM may leave when a signal ends it, in bytes; without it none.
    #[serde(default)]
    pub core_bytes: Option<u64>,
    /// Bytes per console log file.
    pub console_bytes: u64,
    /// Old console logs kept.
    pub console_keep: u32,
    /// The VMM is killed after this time, in milliseconds. For probes.
    pub max_millis: Option<u64>,
    /// The driver's name, kept in the lock for whoever has to talk to the VMM later.
    #[serde(default)]
    pub driver: Option<String>,
    /// Who completes the launch: if it dies and there is no [`LAUNCHED`] by then, the VMM is
    /// killed and leaves no exit record.
    #[serde(default)]
    pub caller: Option<identity::Instance>,
    /// The VMM gets a root folder of its own with nothing but this in it.
    #[serde(default)]
    pub cage: Option<Cage>,
    /// How the guest is asked to go down when the shim is told to end by SIGTERM. Without it
    /// the signal is only remembered.
    #[serde(default)]
    pub stop: Option<Stop>,
}

/// How a guest is asked to go down. The agent is asked first; if it does not agree within
/// moments, the words are said, too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stop {
    /// How long its workload may take, in milliseconds.
    pub patience_millis: u64,
    /// Where its agent is.
    pub agent: Option<AgentSocket>,
    /// What is said to the VMM, such as that the power button is pressed.
    pub words: Vec<Words>,
}

/// The way to a guest's agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentSocket {
    /// A socket in the VM's folder, or in [`CAGE_RUN`] of a cage.
    pub socket: String,
    /// The port to ask the socket for, if it is that of a vsock device.
    pub vsock_port: Option<u32>,
}

/// Something to be said to a VMM's own socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Words {
    /// What it is, for the log.
    pub name: String,
    /// A socket in the VM's folder, or in [`CAGE_RUN`] of a cage.
    pub socket: String,
    /// What is written.
    pub text: String,
    /// The answer has come when this …
    pub until: String,
    /// … has come so many times.
    pub answers: usize,
}

/// A root folder for one VMM: a small memory file system of its mount namespace, and so gone
/// with the process. The program itself is in it, under its file name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cage {
    /// Files of the host.
    pub files: Vec<CagedFile>,
    /// Device nodes below `/dev`, such as `net/tun`.
    pub devices: Vec<String>,
    /// A named pipe in [`CAGE_RUN`]; what comes out of it goes to the VMM's log.
    pub log: Option<String>,
    /// A named pipe in [`CAGE_RUN`]; its lines are added up in [`METRICS`].
    pub metrics: Option<String>,
    /// A listening socket in [`CAGE_RUN`] to which guests' exit reports come.
    pub report: Option<String>,
}

/// A file of the host that a caged VMM sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CagedFile {
    /// Its name in the cage's root.
    pub name: String,
    /// Its path on the host, absolute or relative to the VM's folder.
    pub path: Utf8PathBuf,
    /// The VMM may write to it. Such a file is one of `owned`.
    pub writable: bool,
}

/// A file that the VMM inherits open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassedFile {
    /// Its name in the arguments.
    pub name: String,
    /// Its path, absolute or relative to the folder.
    pub path: Utf8PathBuf,
}

/// A TAP that the shim attaches to for the VMM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassedTap {
    /// The NAME in `{fd:NAME}`.
    pub name: String,
    /// The interface's name.
    pub interface: String,
}

/// A listening unix socket that the VMM inherits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassedSocket {
    /// Its name in the arguments.
    pub name: String,
    /// Its file name within the folder.
    pub file: String,
}

/// The shim's one line on standard output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The VMM was executed. The shim goes on without the caller.
    Started(ProcessIdentity),
    /// Nothing was started and nothing was left behind.
    Failed {
        /// What kind of failure.
        reason: Reason,
        /// On which object and why.
        detail: String,
    },
}

/// Kinds of failure before the VMM runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// A living VMM holds the lock.
    AlreadyRunning,
    /// A program or file is not there.
    Missing,
    /// The request cannot be understood.
    Request,
    /// The kernel refused something.
    System,
}

/// What stands in the lock file, for people and for whoever waits for the lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockHolder {
    /// The shim.
    pub shim: identity::Instance,
    /// The VMM, once it runs.
    pub vmm: Option<identity::Instance>,
    /// When the lock was taken.
    pub since: jiff::Timestamp,
    /// The driver's name, from the request.
    #[serde(default)]
    pub driver: Option<String>,
}
