//! A typed client of hearthd's API.
//!
//! One method for each route; bodies are `hearth_types::api`. Each request has a connection
//! of its own, so a client is cheap to clone, has no state to lose, and a long stream never
//! stands in the way of a short question.
//!
//! | file | holds |
//! | --- | --- |
//! | `endpoint` | where the daemon is and the token for it |
//! | `connection` | opening a stream there, with advice when that fails |
//! | `request` | sending a request, reading answers and problems |
//! | `lines` | newline-delimited JSON and server-sent events as streams |
//! | `vms`, `images`, `system` | the routes |
//! | `socket` | console and exec over WebSocket |

#![forbid(unsafe_code)]

mod connection;
mod endpoint;
mod error;
mod gc;
mod images;
mod lines;
mod pool;
mod recovery;
mod request;
mod snapshots;
mod socket;
mod system;
mod templates;
mod vms;
mod volumes;

#[cfg(test)]
mod tests;

pub use endpoint::{DEFAULT_SOCKET, Endpoint, InvalidEndpoint, Token, TokenError};
pub use error::ClientError;
pub use request::ByteStream;
pub use socket::{
    ConsoleReader, ConsoleSocket, ConsoleWriter, ExecOutput, ExecReader, ExecSession, ExecWriter,
};
pub use system::SinceSeq;
pub use vms::{ActOptions, Action, ListVms, LogOptions, LogSource, Wait, WaitCondition};

/// A client of one daemon.
#[derive(Debug, Clone)]
pub struct Client {
    endpoint: Endpoint,
    token: Option<Token>,
}

impl Client {
    /// A client of the daemon at `endpoint`. Nothing is opened before the first request.
    #[must_use]
    pub const fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            token: None,
        }
    }

    /// The same with a bearer token; it goes into the `Authorization` header and nowhere else.
    #[must_use]
    pub fn with_token(self, token: Option<Token>) -> Self {
        Self { token, ..self }
    }

    /// Where this client's daemon is.
    #[must_use]
    pub const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }
}
