//! How a VM's runs ended, and what was done about it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::process::ProcessExit;
use crate::status::{Cause, EndClass};
use crate::units::Bytes;

/// Ends kept of each VM.
pub const HISTORY_KEPT: usize = 20;
/// Attempts kept of each end: the first ones, and the last.
pub const ATTEMPTS_KEPT: usize = 10;

/// One end of a run that the user did not ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HistoryEntry {
    /// The kind of end.
    pub class: EndClass,
    /// The VM's exit code, if the guest said it.
    pub exit_code: Option<i32>,
    /// Exit status or signal of the VMM, when its shim saw it.
    pub vmm: Option<ProcessExit>,
    /// Whether the restart policy counts it as a failure.
    pub failure: bool,
    /// One sentence for people.
    pub reason: String,
    /// When the run began.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[schema(value_type = String, format = DateTime)]
    pub ended_at: Timestamp,
    /// When the end was recorded.
    #[schema(value_type = String, format = DateTime)]
    pub recorded_at: Timestamp,
    /// When the next VMM ran, whoever asked for it.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub back_at: Option<Timestamp>,
    /// What was tried since, oldest first.
    pub tried: Vec<Attempt>,
    /// The last lines of the console, as they were then.
    pub console: Vec<String>,
    /// The last lines of the VMM's log.
    pub vmm_log: Vec<String>,
    /// What became of the core of its VMM, in one sentence: where the VM asks for one and a signal
    /// that leaves one ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub core: Option<String>,
}

/// One attempt to start the VM again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Attempt {
    /// When it ended.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// The step that it ended with, such as `start_vmm`.
    pub step: String,
    /// Why it failed; absent if it did not.
    pub problem: Option<String>,
    /// What that came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
}

/// A VM's history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct History {
    /// The ends, the newest first; at most 20.
    pub items: Vec<HistoryEntry>,
    /// Dumps of the guest's memory and cores of the VMM that are kept, the newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dumps: Vec<Dump>,
    /// Where the core of a VMM goes on this host, if the VM asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vmm_cores: Option<String>,
}

/// What a dump is of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DumpKind {
    /// The guest's memory.
    #[default]
    GuestMemory,
    /// The VMM's core, with the guest's memory in it.
    VmmCore,
}

/// A dump of a guest's memory or of its VMM. It holds what the guest knew, passwords and keys included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Dump {
    /// What it is of.
    #[serde(default)]
    pub kind: DumpKind,
    /// Its file, readable by root only. Goes with the VM.
    pub file: String,
    /// What it takes on the disk.
    pub size: Bytes,
    /// When it was finished.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
}
