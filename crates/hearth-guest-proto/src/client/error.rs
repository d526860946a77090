//! What can go wrong between host and guest.

use std::time::Duration;

use super::ExpectedGuest;
use crate::message::{ErrorCode, StreamError};
use crate::mux::MuxError;

/// Why a guest could not be talked to, or said no.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answered in time.
    #[error(
        "the guest did not answer {what} within {after:?}; is it still booting, paused or stuck?"
    )]
    Deadline {
        /// What was asked.
        what: &'static str,
        /// How long was waited.
        after: Duration,
    },
    /// Another VM or another boot answered.
    #[error(
        "another guest answered: expected VM {} (start {}), found VM {} (start {})",
        expected.vm_id, expected.boot_nonce, found.vm_id, found.boot_nonce
    )]
    WrongGuest {
        /// Who should have.
        expected: ExpectedGuest,
        /// Who did.
        found: ExpectedGuest,
    },
    /// The connection is over.
    #[error("the connection to the guest's agent is closed: {reason}")]
    Closed {
        /// Why.
        reason: String,
    },
    /// The guest refused, or broke off.
    #[error("the guest refused: {message}")]
    Refused {
        /// For programs.
        code: ErrorCode,
        /// The guest's words.
        message: String,
    },
    /// A copy failed in the guest.
    #[error("the guest could not copy: {message}")]
    Copy {
        /// The guest's words.
        message: String,
    },
    /// The source of a copy cannot be read.
    #[error("the copy's source cannot be read")]
    Source {
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The request cannot be sent.
    #[error("the request cannot be sent to the guest")]
    Send {
        /// Why.
        #[source]
        source: MuxError,
    },
    /// The request cannot be written as JSON.
    #[error("the request cannot be written as JSON")]
    Encode {
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// No random numbers.
    #[error("the kernel gives no random numbers")]
    Random {
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The guest broke the rules.
    #[error("the guest broke the protocol's rules: {what}")]
    Protocol {
        /// Which.
        what: &'static str,
    },
}

impl ClientError {
    /// What the guest did, if it was hung up on because of it: it sent garbage, or flooded the channel.
    #[must_use]
    pub fn misbehaviour(&self) -> Option<&'static str> {
        match self {
            Self::Closed { reason } => super::driver::misbehaviour(reason),
            _ => None,
        }
    }
}

impl From<StreamError> for ClientError {
    fn from(error: StreamError) -> Self {
        Self::Refused {
            code: error.code,
            message: error.message,
        }
    }
}
