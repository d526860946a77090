//! Restart policies.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ids::InvalidId;

/// What happens when a VM ends by itself (never when its user stopped it).
/// As text: `no`, `on-failure`, `on-failure:N`, `always`, `unless-stopped`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum RestartPolicy {
    /// It stays ended.
    #[default]
    No,
    /// Started again after a failure (exit status not 0, signal, crash of the VMM), at
    /// most so many times in a row when a number is given.
    OnFailure(Option<u32>),
    /// Always started again, and after a reboot of the host even if the user had stopped it.
    Always,
    /// Always started again, except when the user had stopped it.
    UnlessStopped,
}

impl utoipa::PartialSchema for RestartPolicy {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .pattern(Some(
                "^(no|on-failure(:[1-9][0-9]*)?|always|unless-stopped)$",
            ))
            .into()
    }
}

impl ToSchema for RestartPolicy {}

impl fmt::Display for RestartPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::No => f.write_str("no"),
            Self::OnFailure(None) => f.write_str("on-failure"),
            Self::OnFailure(Some(times)) => write!(f, "on-failure:{times}"),
            Self::Always => f.write_str("always"),
            Self::UnlessStopped => f.write_str("unless-stopped"),
        }
    }
}

impl FromStr for RestartPolicy {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let invalid = || InvalidId {
            kind: "restart policy",
            value: text.to_owned(),
            expected: "no, on-failure, on-failure:N, always or unless-stopped",
        };
        match text {
            "no" => Ok(Self::No),
            "on-failure" => Ok(Self::OnFailure(None)),
            "always" => Ok(Self::Always),
            "unless-stopped" => Ok(Self::UnlessStopped),
            _ => {
                let times = text.strip_prefix("on-failure:").ok_or_else(invalid)?;
                let times: u32 = times.parse().map_err(|_| invalid())?;
                if times == 0 {
                    Err(invalid())
                } else {
                    Ok(Self::OnFailure(Some(times)))
                }
            }
        }
    }
}

impl TryFrom<String> for RestartPolicy {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<RestartPolicy> for String {
    fn from(policy: RestartPolicy) -> Self {
        policy.to_string()
    }
}
