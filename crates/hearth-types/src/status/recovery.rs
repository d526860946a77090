//! What the loop remembers of a VM's troubles, and what its operator has said about them.
//!
//! All of it is stored with the VM's status: a daemon that is started again forgets nothing.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The most failures that are remembered of one VM.
pub const MAX_FAILURES: usize = 16;

/// Failures, breaker and hold of one VM.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Recovery {
    /// Grows with every word of the operator that is written here (hold, release, recover,
    /// reset): a plan that was made before the word is not carried out after it.
    pub word: u64,
    /// The failures of the last hour, oldest first, at most [`MAX_FAILURES`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<Failure>,
    /// The circuit breaker, unless it is closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub breaker: Option<Breaker>,
    /// The operator's word that nothing is done of the daemon's own accord.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
}

impl Recovery {
    /// Nothing to remember: the common case, which is not written down.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        *self == Self::default()
    }
}

/// A run that failed, or a start that did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Failure {
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// What it came from.
    #[serde(default)]
    pub cause: Cause,
}

/// What a failure came from, as far as VMs can have it in common.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The VM's folder, root disk or volumes could not be made.
    Disk,
    /// The host has no memory for another VM.
    Memory,
    /// The bridge, the rules, the name server or a TAP could not be made.
    Network,
    /// The hypervisor of the host's kernel does not work.
    Kvm,
    /// The VMM could not be started for another reason.
    Start,
    /// The VMM crashed.
    Vmm,
    /// The VM's image is gone, damaged or cannot be read.
    Image,
    /// What its specification asks for is not to be had of its VMM.
    Config,
    /// The VM's own affair: its workload, its guest, its own memory limit, somebody's kill.
    #[default]
    Own,
}

impl Cause {
    /// Those that are the host's affair when several VMs have them at once.
    pub const SHARED: [Self; 6] = [
        Self::Disk,
        Self::Memory,
        Self::Network,
        Self::Kvm,
        Self::Start,
        Self::Vmm,
    ];

    /// Whether VMs can have it in common, so that the host is the patient.
    #[must_use]
    pub fn is_shared(self) -> bool {
        Self::SHARED.contains(&self)
    }

    /// The word that tables, labels and JSON show.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::Memory => "memory",
            Self::Network => "network",
            Self::Kvm => "kvm",
            Self::Start => "start",
            Self::Vmm => "vmm",
            Self::Image => "image",
            Self::Config => "config",
            Self::Own => "own",
        }
    }

    /// What is wrong, for people.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Disk => "their disks cannot be made",
            Self::Memory => "the host has no memory for them",
            Self::Network => "their network cannot be made",
            Self::Kvm => "KVM does not work",
            Self::Start => "their VMMs cannot be started",
            Self::Vmm => "their VMMs crash",
            Self::Image => "their images cannot be used",
            Self::Config => "their VMMs have not what they ask for",
            Self::Own => "each for a cause of its own",
        }
    }
}

/// A circuit breaker that is not closed.
///
/// ```text
///            N failures in the window                     cool-down over, or the user starts it
/// closed ───────────────────────────► open (trial: none) ────────────────► half open (trial: since)
///   ▲                                       ▲                                   │         │
///   │                                       └── failure: cool-down doubles ─────┘         │
///   └──────────────── a run that is stable, or ends well; reset-breaker ──────────────────┘
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Breaker {
    /// When it opened last.
    #[schema(value_type = String, format = DateTime)]
    pub opened_at: Timestamp,
    /// When the next trial is due.
    #[schema(value_type = String, format = DateTime)]
    pub until: Timestamp,
    /// How often it has opened without having been closed.
    pub opens: u32,
    /// Since when it is half open: one start is under way or runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub trial: Option<Timestamp>,
    /// Why it opened, for people.
    pub reason: String,
}

/// The operator's word that the daemon keeps its hands off a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Hold {
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// Why, in the operator's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}
