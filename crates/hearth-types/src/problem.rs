//! Errors as the API tells them: RFC 9457 problem documents with a stable code.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::spec::FieldError;

/// The stable codes. A code never changes its meaning; new ones may be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The request could not be read or holds impossible values (400).
    Invalid,
    /// No or a wrong token (401).
    Unauthorized,
    /// No such object (404).
    NotFound,
    /// The method does not exist for this path (405).
    MethodNotAllowed,
    /// The object's state does not allow it, or a name or port is taken (409).
    Conflict,
    /// The object is used by others (409).
    InUse,
    /// The generation given is not the current one (412).
    PreconditionFailed,
    /// The body is larger than allowed (413).
    TooLarge,
    /// The idempotency key was used with another body (422).
    IdempotencyMismatch,
    /// Nothing left to lease, no space (507).
    Exhausted,
    /// The guest or its agent does not answer (504).
    GuestUnreachable,
    /// Another server, such as a registry, failed (502).
    Upstream,
    /// The daemon is shutting down or cannot act now (503).
    Unavailable,
    /// The daemon is in mode `readonly` and changes nothing (503).
    ReadOnly,
    /// A defect of Hearth or of the host (500).
    Internal,
}

impl Code {
    /// The HTTP status that goes with it.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::Invalid => 400,
            Self::Unauthorized => 401,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::Conflict | Self::InUse => 409,
            Self::PreconditionFailed => 412,
            Self::TooLarge => 413,
            Self::IdempotencyMismatch => 422,
            Self::Internal => 500,
            Self::Upstream => 502,
            Self::Unavailable | Self::ReadOnly => 503,
            Self::GuestUnreachable => 504,
            Self::Exhausted => 507,
        }
    }

    /// A short summary of the kind of problem: the same for every occurrence.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Invalid => "The request is not valid",
            Self::Unauthorized => "A valid token is needed",
            Self::NotFound => "No such object",
            Self::MethodNotAllowed => "Method not allowed",
            Self::Conflict => "The state of the object does not allow this",
            Self::InUse => "The object is in use",
            Self::PreconditionFailed => "The object has changed",
            Self::TooLarge => "The request is too large",
            Self::IdempotencyMismatch => "The idempotency key was used for another request",
            Self::Exhausted => "Nothing left to hand out",
            Self::GuestUnreachable => "The guest does not answer",
            Self::Upstream => "Another server failed",
            Self::Unavailable => "Not available now",
            Self::ReadOnly => "The daemon only looks and changes nothing",
            Self::Internal => "Internal error",
        }
    }
}

/// A problem document (`application/problem+json`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `urn:hearth:problem:<code>`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Summary of the kind of problem.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// The stable code.
    pub code: Code,
    /// What failed, on which object, and why.
    pub detail: String,
    /// What to do next, if there is advice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The fields that are wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
}

impl Problem {
    /// A problem of this kind.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        let word = serde_json::to_value(code)
            .ok()
            .and_then(|v| v.as_str().map(str::to_owned))
            .unwrap_or_default();
        Self {
            kind: format!("urn:hearth:problem:{word}"),
            title: code.title().to_owned(),
            status: code.status(),
            code,
            detail: detail.into(),
            hint: None,
            errors: Vec::new(),
        }
    }

    /// The same with advice.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self {
            hint: Some(hint.into()),
            ..self
        }
    }

    /// A problem for wrong fields.
    #[must_use]
    pub fn fields(errors: Vec<FieldError>) -> Self {
        let detail = errors
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("; ");
        Self {
            errors,
            ..Self::new(Code::Invalid, detail)
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Problem {}
