//! Bodies about the health of VMs.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::spec::health::{CheckKind, OnFailure};

/// The health of a VM: the worst that its checks say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Every check succeeds.
    Healthy,
    /// A check has failed, and not often enough yet to be called unhealthy.
    Degraded,
    /// A check has failed as many times in a row as it may.
    Unhealthy,
    /// Coming up: a check has not succeeded yet.
    Starting,
    /// A check cannot be made, which says nothing of the guest.
    Unknown,
    /// Not running, or paused, or nothing is checked.
    None,
}

impl Health {
    /// As in requests and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unhealthy => "unhealthy",
            Self::Starting => "starting",
            Self::Unknown => "unknown",
            Self::None => "none",
        }
    }
}

/// The health of one VM with all of its checks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmHealth {
    /// All in one word.
    pub health: Health,
    /// Since when, as this daemon has seen it.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<Timestamp>,
    /// Which check says so and why, when not all is well.
    pub reason: Option<String>,
    /// The checks; none while it does not run.
    pub checks: Vec<CheckView>,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CheckView {
    /// Its name.
    pub name: String,
    /// What it looks at.
    pub kind: CheckKind,
    /// What it says.
    pub state: Health,
    /// Since when, as this daemon has seen it.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// Failures in a row.
    pub failures: u32,
    /// Successes in a row.
    pub successes: u32,
    /// Failures in a row that make it unhealthy.
    pub failure_threshold: u32,
    /// Successes in a row that make it healthy again.
    pub success_threshold: u32,
    /// Time between two checks, in milliseconds.
    pub interval_millis: u64,
    /// How long an answer may take, in milliseconds.
    pub timeout_millis: u64,
    /// What follows when it is unhealthy.
    pub on_failure: OnFailure,
    /// The last results, newest first, ten at most.
    pub history: Vec<CheckResult>,
}

/// What came of making a check once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CheckResult {
    /// When it was known.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// How it went.
    pub verdict: Verdict,
    /// How long it took, in milliseconds.
    pub millis: u64,
    /// In words, shortened.
    pub message: String,
}

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Pass,
    /// Not as it should be.
    Fail,
    /// It could not be made: no failure of the guest.
    Unknown,
}
