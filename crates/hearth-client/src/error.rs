//! What can go wrong between a client and its daemon.

use hearth_types::problem::Problem;

/// A request that did not bring what was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// No connection: the request did not reach the daemon.
    #[error("Cannot reach hearthd at {endpoint}")]
    Unreachable {
        /// Where it was looked for.
        endpoint: String,
        /// Why.
        #[source]
        source: std::io::Error,
        /// What to do about it.
        hint: String,
    },
    /// The daemon answered with a problem document.
    #[error("{0}")]
    Problem(Box<Problem>),
    /// The connection broke while the request or the answer was under way.
    #[error("The connection to hearthd broke during {request}")]
    Broken {
        /// Method and path.
        request: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The answer is not what the API promises.
    #[error("hearthd's answer to {request} cannot be used: {detail}")]
    Protocol {
        /// Method and path.
        request: String,
        /// What is wrong with it.
        detail: String,
    },
}

impl ClientError {
    /// The problem document, if the daemon sent one.
    #[must_use]
    pub const fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Problem(problem) => Some(problem),
            _ => None,
        }
    }

    /// Whether the daemon said that there is no such object.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.problem()
            .is_some_and(|p| p.code == hearth_types::problem::Code::NotFound)
    }

    /// Whether trying again later may help: no connection, or one that broke.
    #[must_use]
    pub const fn is_connection(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Broken { .. })
    }

    pub(crate) fn broken(
        request: &str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Broken {
            request: request.to_owned(),
            source: source.into(),
        }
    }

    pub(crate) fn protocol(request: &str, detail: impl Into<String>) -> Self {
        Self::Protocol {
            request: request.to_owned(),
            detail: detail.into(),
        }
    }
}

impl From<Problem> for ClientError {
    fn from(problem: Problem) -> Self {
        Self::Problem(Box::new(problem))
    }
}
