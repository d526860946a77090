//! What looking at the host yields.

use serde::{Deserialize, Serialize};

/// The answer of one look at one kind of host object.
///
/// A look that failed, timed out or was partial is `Unknown`, which is never read as
/// "nothing there": nobody removes, kills or restarts on `Unknown`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Survey<T> {
    /// The whole answer.
    Known(T),
    /// No answer, and why.
    Unknown(String),
}

impl<T> Survey<T> {
    /// The answer, if there is one.
    pub const fn known(&self) -> Option<&T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Unknown(_) => None,
        }
    }

    /// Turns a fallible look into a survey; the error's whole chain becomes the reason.
    pub fn from_result<E: std::error::Error>(result: Result<T, E>) -> Self {
        match result {
            Ok(value) => Self::Known(value),
            Err(error) => Self::Unknown(chain(&error)),
        }
    }

    /// Changes the answer, keeps `Unknown`.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Survey<U> {
        match self {
            Self::Known(value) => Survey::Known(f(value)),
            Self::Unknown(reason) => Survey::Unknown(reason),
        }
    }
}

/// An error and its causes in one line: `outer: inner: innermost`.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
