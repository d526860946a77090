//! One error for all of the guest: what failed, on which object, why.

use std::fmt::Display;
use std::io::Write;

/// Something failed in the guest.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {object}: {reason}")]
pub(crate) struct Failure {
    action: &'static str,
    object: String,
    reason: String,
}

impl Failure {
    pub(crate) fn new(action: &'static str, object: impl Display, reason: impl Display) -> Self {
        Self {
            action,
            object: object.to_string(),
            reason: reason.to_string(),
        }
    }
}

/// Adds what was attempted to an error.
pub(crate) trait Context<T> {
    fn context(self, action: &'static str, object: impl Display) -> Result<T, Failure>;
}

impl<T, E: Display> Context<T> for Result<T, E> {
    fn context(self, action: &'static str, object: impl Display) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(action, object, error))
    }
}

/// A line for people on the console. There is nowhere to tell that this failed.
pub(crate) fn say(what: &dyn Display) {
    let _told = writeln!(std::io::stderr(), "hearth-guest: {what}");
}

/// Tells of a failure that need not stop the guest.
pub(crate) fn tell<T>(outcome: Result<T, Failure>) -> Option<T> {
    outcome.map_err(|failure| say(&failure)).ok()
}
