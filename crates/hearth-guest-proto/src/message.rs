//! What is said on the channel: JSON in control frames.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The protocol's version, told in both directions of the handshake.
pub const PROTOCOL: u32 = 1;

/// Channel of a stream: stdin (towards the guest), stdout or tar (towards the host).
pub const CHANNEL_MAIN: u8 = 0;
/// Channel of a stream towards the host: stderr.
pub const CHANNEL_STDERR: u8 = 1;

/// Host: begins a session. Sent again until answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// Echoed in the answer.
    pub nonce: u64,
}

/// Guest: answers a [`Hello`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelloAck {
    /// [`PROTOCOL`] of the guest.
    pub protocol: u32,
    /// The [`Hello`]'s.
    pub nonce: u64,
    /// Which VM answers.
    pub vm_id: String,
    /// Which boot of it answers.
    pub boot_nonce: String,
    /// Version of the guest binary.
    pub agent_version: String,
}

/// Host: are you there?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ping {
    /// Chosen by the host, at random.
    pub nonce: u64,
}

/// Guest: I am, and I am who you think.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    /// The [`Ping`]'s.
    pub nonce: u64,
    /// Which VM answers.
    pub vm_id: String,
    /// Which boot of it answers.
    pub boot_nonce: String,
}

/// A terminal's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TtySize {
    /// Lines.
    pub rows: u16,
    /// Characters a line.
    pub cols: u16,
}

/// Run a program in the guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRequest {
    /// Program and arguments. The program is looked up in `PATH` of the environment.
    pub argv: Vec<String>,
    /// Added to the workload's environment; the later one of two with one name wins.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Working folder; the workload's when absent.
    #[serde(default)]
    pub workdir: Option<String>,
    /// `user[:group]`; the workload's when absent.
    #[serde(default)]
    pub user: Option<String>,
    /// With a terminal of this size: stdout and stderr are one then.
    #[serde(default)]
    pub tty: Option<TtySize>,
    /// Stdin comes from the host; else it is empty.
    #[serde(default)]
    pub stdin: bool,
}

/// What a VM is asked to do as it goes down.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShutdownKind {
    /// Power off.
    #[default]
    Poweroff,
    /// Restart.
    Reboot,
}

/// The first frame of a stream: what it is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Request {
    /// Run a program; answered by `started` and `exit`.
    Exec(ExecRequest),
    /// Unpack the tar stream that follows into a folder that exists.
    CopyIn {
        /// The folder.
        path: String,
    },
    /// Send a file or folder as a tar stream whose top entry is its last path component.
    CopyOut {
        /// The file or folder.
        path: String,
    },
    /// What is at a path, without following a final symbolic link.
    Stat {
        /// The path.
        path: String,
    },
    /// Go down in order.
    Shutdown {
        /// How long the workload may take before it is killed, in milliseconds.
        timeout_ms: u64,
        /// Power off or restart.
        #[serde(default)]
        kind: ShutdownKind,
    },
    /// How the guest is doing.
    Metrics,
    /// Stop all writes to the root and the volumes.
    Freeze {
        /// Writes go on by themselves after this many milliseconds.
        max_ms: u64,
    },
    /// Let writes go on.
    Thaw,
    /// About the guest.
    Info,
    /// The host has made a volume's disk larger: make its file system fill it. Asked again until the
    /// answer is as large as the disk is: the guest's kernel is told at some time.
    GrowVolume {
        /// Where the volume is mounted.
        mount: String,
    },
    /// Set the guest's clock.
    SetClock {
        /// Milliseconds after the Unix epoch.
        wall_clock_ms: u64,
    },
}

/// Host: on a running stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum StreamControl {
    /// The terminal has another size now.
    Resize(TtySize),
    /// Send a signal to the program's process group.
    Signal {
        /// Its number.
        signal: i32,
    },
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitStatus {
    /// It called `exit` with this status.
    Code(i32),
    /// A signal ended it.
    Signal(i32),
}

impl ExitStatus {
    /// As a shell tells it: the code, or 128 + the signal.
    #[must_use]
    pub const fn shell_code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }

    /// It ended with code 0.
    #[must_use]
    pub const fn success(self) -> bool {
        matches!(self, Self::Code(0))
    }
}

/// Guest: on a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum StreamReply {
    /// The program runs.
    Started {
        /// Its process id in the guest.
        pid: i32,
    },
    /// The program has ended; all it wrote was sent before.
    Exit {
        /// How.
        status: ExitStatus,
    },
    /// The answer to a request that is no program.
    Done {
        /// The answer.
        response: Response,
    },
}

/// Answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Response {
    /// Done, or on its way (shutdown).
    Ok,
    /// To `metrics`.
    Metrics(GuestMetrics),
    /// To `info`.
    Info(GuestInfo),
    /// To `stat`.
    Stat(GuestStat),
    /// To `grow_volume`.
    Disk(GuestDisk),
}

/// A volume's disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GuestDisk {
    /// How large the guest's kernel knows it to be, in bytes.
    pub bytes: u64,
}

/// How the guest is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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

/// About the guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GuestInfo {
    /// Which VM.
    pub vm_id: String,
    /// Which boot of it.
    pub boot_nonce: String,
    /// Version of the guest binary.
    pub agent_version: String,
    /// Release of its kernel.
    pub kernel: String,
    /// Its host name.
    pub hostname: String,
}

/// What a path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PathKind {
    /// A regular file.
    File,
    /// A folder.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A device, socket or FIFO.
    Other,
}

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestStat {
    /// What kind.
    pub kind: PathKind,
    /// Permission bits.
    pub mode: u32,
    /// Bytes.
    pub size: u64,
    /// Seconds after the Unix epoch.
    pub mtime: i64,
    /// Where a symbolic link points.
    #[serde(default)]
    pub link_target: Option<String>,
    /// It is a folder, or a link that leads to one.
    #[serde(default)]
    pub leads_to_directory: bool,
}

/// Why a stream was refused or broken off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The program or path does not exist.
    NotFound,
    /// The program or path may not be used.
    NotPermitted,
    /// No such user or group.
    NoSuchUser,
    /// The request makes no sense.
    Invalid,
    /// Too many streams are open.
    Busy,
    /// This guest cannot do it.
    Unsupported,
    /// The peer broke the protocol's rules.
    Protocol,
    /// The peer gave the stream up.
    Abandoned,
    /// Anything else; the message says it.
    #[serde(other)]
    Failed,
}

impl ErrorCode {
    /// The exit code docker users expect when a program could not be started.
    #[must_use]
    pub const fn shell_code(self) -> i32 {
        match self {
            Self::NotFound => 127,
            _ => 126,
        }
    }
}

/// Payload of a reset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamError {
    /// For programs.
    pub code: ErrorCode,
    /// For people.
    pub message: String,
}

/// How the guest says its workload ended: the JSON of `hearth_types::process::GuestReport`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestReport {
    /// The entrypoint's exit; absent when the guest was shut down before it ended.
    pub exit: Option<ExitStatus>,
    /// `exited`, `shutdown` or `failed`.
    pub reason: String,
    /// Free text for people.
    #[serde(default)]
    pub message: Option<String>,
}

/// Guest: something happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    /// The workload has ended. The durable way is the report port; this one is quicker.
    Exited {
        /// How.
        report: GuestReport,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_is_the_one_that_the_host_reads() {
        for exit in [Some(ExitStatus::Code(3)), Some(ExitStatus::Signal(9)), None] {
            let report = GuestReport {
                exit,
                reason: "exited".into(),
                message: Some("text".into()),
            };
            let text = serde_json::to_string(&report).unwrap();
            let read: hearth_types::process::GuestReport = serde_json::from_str(&text).unwrap();
            assert_eq!(serde_json::to_string(&read).unwrap(), text);
        }
    }

    #[test]
    fn metrics_have_the_fields_of_the_interface() {
        let text = serde_json::to_value(GuestMetrics::default()).unwrap();
        let read: hearth_types::api::GuestMetrics = serde_json::from_value(text.clone()).unwrap();
        assert_eq!(serde_json::to_value(read).unwrap(), text);
    }
}
