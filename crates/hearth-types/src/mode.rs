//! Modes: how much the daemon may do.
//!
//! ```text
//!             by hand, or by a rule whose cause appears
//!  normal ─────────────────────────────────────────────► maintenance   manual actions only
//!     ▲  ────────────────────────────────────────────►   readonly      looks, plans, takes no step
//!     └── by hand, or (what a rule entered) when its cause is gone
//! ```
//! The strictest of what was set by hand and of what the rules ask for is in force.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::PlanStep;
use crate::words::words;

/// How much the daemon may do, the strictest last.
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
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Everything.
    #[default]
    Normal,
    /// What the user asks for, and nothing by itself.
    Maintenance,
    /// Nothing: it looks, plans and tells, and refuses requests that change something.
    Readonly,
}

words!(Mode {
    Normal => "normal",
    Maintenance => "maintenance",
    Readonly => "readonly",
});

/// What makes the daemon enter a mode by itself.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum ModeRule {
    /// The database cannot be written: nothing that is done could be recorded.
    DatabaseUnwritable,
    /// The data folder's file system has less free than the reserve.
    DiskFull,
    /// Many VMs fail for one cause: the host is the patient.
    HostBreaker,
}

words!(ModeRule {
    DatabaseUnwritable => "database_unwritable",
    DiskFull => "disk_full",
    HostBreaker => "host_breaker",
});

impl ModeRule {
    /// The mode that it enters.
    #[must_use]
    pub const fn mode(self) -> Mode {
        match self {
            Self::DatabaseUnwritable | Self::DiskFull => Mode::Readonly,
            Self::HostBreaker => Mode::Maintenance,
        }
    }

    /// Whether a mode set by hand may set it aside until its cause is gone. Not where nothing
    /// could be recorded: a step without its journal is never taken.
    #[must_use]
    pub const fn yields(self) -> bool {
        !matches!(self, Self::DatabaseUnwritable)
    }
}

/// Why a mode is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ModeBy {
    /// Nobody asked for another one.
    Default,
    /// A person set it.
    Hand,
    /// A rule did.
    Rule,
}

/// The mode and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ModeView {
    /// The mode in force.
    pub mode: Mode,
    /// Since when; absent when it has been so since the daemon started.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<Timestamp>,
    /// Where it comes from.
    pub by: ModeBy,
    /// Why, in one sentence; absent in mode `normal`.
    pub reason: Option<String>,
    /// What was set by hand, if anything was.
    pub hand: Option<HandMode>,
    /// Rules whose cause is there.
    pub rules: Vec<RuleMode>,
}

impl Default for ModeView {
    fn default() -> Self {
        Self {
            mode: Mode::Normal,
            since: None,
            by: ModeBy::Default,
            reason: None,
            hand: None,
            rules: Vec::new(),
        }
    }
}

/// A mode set by hand. It is left by hand only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HandMode {
    /// The mode.
    pub mode: Mode,
    /// Why, in the words of who set it.
    pub reason: Option<String>,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// Whether it survives a restart of the daemon. Not while the database cannot be written:
    /// then it is only in memory, and is stored as soon as that is possible.
    pub stored: bool,
}

/// A rule whose cause is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RuleMode {
    /// Which rule.
    pub rule: ModeRule,
    /// The mode that it asks for.
    pub mode: Mode,
    /// The cause.
    pub reason: String,
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// A person has set another mode since, which holds until the cause is gone.
    pub set_aside: bool,
}

/// A request for another mode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetMode {
    /// The mode.
    pub mode: Mode,
    /// Why; at most 500 characters in one line.
    #[serde(default)]
    pub reason: Option<String>,
}

/// A step that the plan has and that is not taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HeldStep {
    /// The step.
    pub step: PlanStep,
    /// What holds it: the mode, or a key of the configuration.
    pub by: String,
}
