//! What can go wrong between here and an object.

use std::io;

/// Why there is no object, or not all of it.
#[derive(Debug, thiserror::Error)]
pub enum S3Error {
    /// The text names no object.
    #[error("{text:?} is not the name of an object ({why}); expected: s3://bucket/key")]
    Location {
        /// The text.
        text: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The endpoint is none.
    #[error(
        "{endpoint:?} is not an S3 endpoint ({why}); expected: https://host or http://host:port"
    )]
    Endpoint {
        /// The text.
        endpoint: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A file with credentials or settings cannot be read.
    #[error("cannot read {path}")]
    File {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Credentials that are asked for are not there, or not whole.
    #[error("{what} {why}")]
    Credentials {
        /// Which: `profile "x"`, `the environment`.
        what: String,
        /// What is missing.
        why: &'static str,
    },
    /// No client can be made.
    #[error("cannot make a client for {endpoint}")]
    Client {
        /// The server.
        endpoint: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The server cannot be reached, or the connection broke off.
    #[error("no answer from {endpoint} about {object}")]
    Unreachable {
        /// The server.
        endpoint: String,
        /// The object.
        object: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The object or its bucket is not there.
    #[error("{endpoint} has no {object}{}", in_brackets(code.as_deref()))]
    NotFound {
        /// The server.
        endpoint: String,
        /// The object.
        object: String,
        /// The server's word: `NoSuchKey`, `NoSuchBucket`.
        code: Option<String>,
    },
    /// The server does not give the object to who asks.
    #[error("{endpoint} does not give {object} to {asker}{}", in_brackets(code.as_deref()))]
    Refused {
        /// The server.
        endpoint: String,
        /// The object.
        object: String,
        /// Whose credentials were shown, in words.
        asker: String,
        /// The server's word: `SignatureDoesNotMatch`, `AccessDenied`.
        code: Option<String>,
    },
    /// The bucket is in another region.
    #[error("bucket of {object} is in {}, not in {asked}", region.as_deref().unwrap_or("another region"))]
    Region {
        /// The object.
        object: String,
        /// Which region was asked.
        asked: String,
        /// Where the server says it is.
        region: Option<String>,
    },
    /// The object is another one than it was.
    #[error("{object} was changed while it was being read")]
    Changed {
        /// The object.
        object: String,
    },
    /// The server answers a question for a part with the whole.
    #[error("{endpoint} gave all of {object} when asked for a part of it")]
    NoRanges {
        /// The server.
        endpoint: String,
        /// The object.
        object: String,
    },
    /// Any other refusal.
    #[error("{endpoint} answered {status} for {object}{}", in_brackets(code.as_deref()))]
    Answer {
        /// The server.
        endpoint: String,
        /// The object.
        object: String,
        /// The HTTP status.
        status: u16,
        /// The server's word.
        code: Option<String>,
    },
}

impl S3Error {
    /// Whether the same request may succeed a little later.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Answer { status, .. } => *status >= 500 || matches!(*status, 408 | 429),
            _ => false,
        }
    }

    /// What to do next, where there is advice beyond the message.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Refused { code, .. } => match code.as_deref() {
                Some("RequestTimeTooSkewed") => "set this host's clock",
                Some("SignatureDoesNotMatch") => "the secret key is not the one of this key id",
                Some("ExpiredToken" | "InvalidToken") => "give the daemon new session credentials",
                _ => {
                    "check the credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY of the daemon, or S3_PROFILE) and the bucket's policy; a missing key is refused, too, if they may not list the bucket"
                }
            },
            Self::Region {
                region: Some(region),
                ..
            } => {
                return Some(format!("give --region {region}, or set S3_REGION={region}"));
            }
            Self::Region { .. } => "give the bucket's region: --region, or S3_REGION",
            Self::NotFound { .. } => "check bucket, key and endpoint (--endpoint, or S3_ENDPOINT)",
            Self::Changed { .. } => "pull it again when nobody writes to it any more",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

fn in_brackets(code: Option<&str>) -> String {
    code.map(|code| format!(" ({code})")).unwrap_or_default()
}
