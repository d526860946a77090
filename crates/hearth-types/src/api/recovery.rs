//! Bodies about recovery: breakers, holds, and what the operator says about them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::PlanStep;
use crate::ids::VmId;

/// A request to hold a VM.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HoldVm {
    /// Why, for those who find it held; at most 200 characters.
    #[serde(default)]
    pub reason: Option<String>,
}

/// A request to start now what waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RecoverVm {
    /// Also what its circuit breaker or its restart policy keeps down.
    #[serde(default)]
    pub force: bool,
}

/// One question that the planner asks of a VM, with the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlanReason {
    /// What it is about: `goal`, `phase`, `word`, `hold`, `policy`, `back-off`, `breaker`,
    /// `host breaker`, `mode`, `note`, `held`, `step`.
    pub topic: String,
    /// The answer, one sentence for people.
    pub text: String,
}

/// What the next pass would do to one VM, and why it does that and no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmPlan {
    /// The VM.
    pub vm: VmId,
    /// Its name.
    pub name: String,
    /// Its steps, in their order.
    pub steps: Vec<PlanStep>,
    /// The planner's questions in their order, with the answers.
    pub reasons: Vec<PlanReason>,
    /// When the next pass is due even if nothing happens.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub next_pass: Option<Timestamp>,
}

/// What an operator's word did to one VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Recovered {
    /// The VM.
    pub vm: VmId,
    /// Its name.
    pub name: String,
    /// Whether anything was changed.
    pub done: bool,
    /// What was done, or why nothing was.
    pub detail: String,
}

/// What an operator's word did to the host's circuit breaker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostReset {
    /// Whether it was open.
    pub done: bool,
    /// What was done, or why nothing was.
    pub detail: String,
}

/// What an operator's word did to several VMs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RecoveredList {
    /// One entry for each VM, by name.
    pub items: Vec<Recovered>,
}
