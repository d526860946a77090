//! Events: what happened, for people and programs that watch.
//!
//! An event never drives a decision; the loop looks again instead.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ids::{EventSeq, VmId};

/// How much an event matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Expected.
    Info,
    /// Worth a look.
    Warning,
    /// Something failed.
    Error,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Position in the log; a watcher resumes after the last one it saw.
    pub seq: EventSeq,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// How much it matters.
    pub severity: Severity,
    /// A stable code, dotted: `vm.started`, `vm.exited`, `image.pulled`, `orphan.removed` …
    pub code: String,
    /// The VM it is about, if any.
    pub vm: Option<VmId>,
    /// The VM's name at that time, if any.
    pub name: Option<String>,
    /// One sentence for people.
    pub message: String,
    /// Details for programs.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    #[schema(value_type = Object)]
    pub details: serde_json::Value,
}

/// An event that is not in the log yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// How much it matters.
    pub severity: Severity,
    /// A stable code.
    pub code: String,
    /// The VM it is about, if any.
    pub vm: Option<VmId>,
    /// The VM's name.
    pub name: Option<String>,
    /// One sentence for people.
    pub message: String,
    /// Details for programs; `Null` when there are none.
    pub details: serde_json::Value,
}

impl NewEvent {
    /// An event of normal life.
    #[must_use]
    pub fn info(code: &str, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Info,
            code: code.to_owned(),
            vm: None,
            name: None,
            message: message.into(),
            details: serde_json::Value::Null,
        }
    }

    /// The same with another weight.
    #[must_use]
    pub fn severity(self, severity: Severity) -> Self {
        Self { severity, ..self }
    }

    /// The same, about this VM.
    #[must_use]
    pub fn vm(self, id: VmId, name: impl ToString) -> Self {
        Self {
            vm: Some(id),
            name: Some(name.to_string()),
            ..self
        }
    }

    /// The same with details.
    #[must_use]
    pub fn details(self, details: serde_json::Value) -> Self {
        Self { details, ..self }
    }
}
