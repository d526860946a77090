//! What a VM's health is judged by.
//!
//! ```toml
//! [vm.health]
//! interval = "10s"
//! on_failure = "restart"
//! [[vm.health.checks]]
//! kind = "http"
//! port = 80
//! path = "/healthz"
//! ```
//!
//! Four checks are made without being asked for ([`BUILT_IN`]). What is said of the kind of one
//! of them replaces it.

mod check;
mod effective;
#[cfg(test)]
mod tests;
mod text;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use effective::{Check, Probe};
pub use text::Text;

use crate::ids::InvalidId;
use crate::units::Span;

/// The most checks that one VM may ask for.
pub const MAX_CHECKS: usize = 16;
/// The checks that are made without being asked for.
pub const BUILT_IN: [CheckKind; 4] = [
    CheckKind::Process,
    CheckKind::VmmApi,
    CheckKind::Agent,
    CheckKind::Console,
];
/// Time between two checks when nothing else is said.
pub const DEFAULT_INTERVAL: Span = Span::secs(30);
/// Time that an answer may take when nothing else is said.
pub const DEFAULT_TIMEOUT: Span = Span::secs(5);
/// How long a guest may take to come up when nothing else is said: a guest that is emulated on
/// a busy host takes most of a minute.
pub const DEFAULT_START_PERIOD: Span = Span::secs(120);
/// Failures in a row that make a check unhealthy when nothing else is said.
pub const DEFAULT_FAILURE_THRESHOLD: u32 = 3;
/// Successes in a row that make it healthy again when nothing else is said.
pub const DEFAULT_SUCCESS_THRESHOLD: u32 = 2;

/// How a VM's health is judged, and what follows. Values said here hold for all checks of
/// the VM, the built-in ones and the image's own included; a check's own come first.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HealthSpec {
    /// Time between two checks, `1s` to `24h`; `30s` when absent. It is shortened at random by
    /// up to a tenth, so that many VMs are not checked at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Span>,
    /// How long an answer may take, `100ms` to `5m`; `5s` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// How long the guest may take to come up: until its first success, a check that fails does
    /// not count in this time. At most `24h`; `2m` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_period: Option<Span>,
    /// So many failures in a row make a check unhealthy: 1 to 100, 3 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 100)]
    pub failure_threshold: Option<u32>,
    /// So many successes in a row make it healthy again: 1 to 100, 2 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 100)]
    pub success_threshold: Option<u32>,
    /// What follows when a check is unhealthy; `none` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_failure: Option<OnFailure>,
    /// The image's own `HEALTHCHECK` is not made.
    #[serde(default, skip_serializing_if = "super::is_false")]
    pub ignore_image: bool,
    /// Built-in checks that are not made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 4)]
    pub without: Vec<CheckKind>,
    /// Checks beside the built-in ones, or in the place of one of the same kind.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 16)]
    pub checks: Vec<CheckSpec>,
}

/// One check. Which fields go with which kind is said at each; others are refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckSpec {
    /// What is looked at.
    pub kind: CheckKind,
    /// Its name, unique in the VM: 1 to 32 letters, digits, `-`, `_` and `.`; the kind when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `tcp` and `http`: the guest's port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub port: Option<u16>,
    /// `http`: the path that is asked for, with its query; `/` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// `http`: which answers are good, such as `200` or `200-399`; the latter when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<StatusRange>,
    /// `exec`: program and arguments; good when it exits with 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// `console`: good once this text appears in what the run has written, such as `login:`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
    /// `console`: a check fails if one of these texts has appeared since the one before. A
    /// panic, a file system that turned read-only, a hung task and a kill for want of memory
    /// in the guest always count.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 16)]
    pub bad: Vec<String>,
    /// `console`: `pattern` and `bad` are regular expressions, each for one line.
    #[serde(default, skip_serializing_if = "super::is_false")]
    pub regex: bool,
    /// As in the section above it, for this check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Span>,
    /// As in the section above it, for this check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// As in the section above it, for this check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_period: Option<Span>,
    /// As in the section above it, for this check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 100)]
    pub failure_threshold: Option<u32>,
    /// As in the section above it, for this check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 100)]
    pub success_threshold: Option<u32>,
    /// As in the section above it, for this check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_failure: Option<OnFailure>,
}

/// What a check looks at.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum CheckKind {
    /// The VMM's process: alive, not stopped, not stuck in the kernel.
    Process,
    /// The VMM's control socket answers.
    VmmApi,
    /// The guest's agent echoes a number: it is this run of this VM.
    Agent,
    /// What the guest writes on its console.
    Console,
    /// systemd's view of the VM's service agrees with the kernel's; only where systemd is the init.
    Unit,
    /// The guest accepts a TCP connection from the host.
    Tcp,
    /// The guest answers an HTTP request from the host.
    Http,
    /// A command in the guest exits with 0.
    Exec,
    /// QEMU's guest agent (`qemu-ga`) in the guest answers; only with the driver `qemu`.
    QemuAgent,
}

impl CheckKind {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 9] = [
        Self::Process,
        Self::VmmApi,
        Self::Agent,
        Self::Console,
        Self::Unit,
        Self::Tcp,
        Self::Http,
        Self::Exec,
        Self::QemuAgent,
    ];

    /// As in files, requests and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::VmmApi => "vmm-api",
            Self::Agent => "agent",
            Self::Console => "console",
            Self::Unit => "unit",
            Self::Tcp => "tcp",
            Self::Http => "http",
            Self::Exec => "exec",
            Self::QemuAgent => "qemu-agent",
        }
    }
}

/// What follows when a check is unhealthy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// It is shown and told, nothing else.
    #[default]
    None,
    /// The VM is stopped, and started again as its restart policy says.
    Restart,
}

/// A range of HTTP status codes. As text: `200` or `200-399`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StatusRange {
    /// The lowest good one.
    pub from: u16,
    /// The highest.
    pub to: u16,
}

impl Default for StatusRange {
    fn default() -> Self {
        Self { from: 200, to: 399 }
    }
}

impl fmt::Display for StatusRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.from == self.to {
            write!(f, "{}", self.from)
        } else {
            write!(f, "{}-{}", self.from, self.to)
        }
    }
}

impl FromStr for StatusRange {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let code = |text: &str| {
            let number = text.bytes().all(|byte| byte.is_ascii_digit());
            let code = text.parse::<u16>().ok().filter(|_| number)?;
            (100..=599).contains(&code).then_some(code)
        };
        let (from, to) = text.split_once('-').unwrap_or((text, text));
        match (code(from), code(to)) {
            (Some(from), Some(to)) if from <= to => Ok(Self { from, to }),
            _ => Err(InvalidId {
                kind: "status range",
                value: text.to_owned(),
                expected: "a code from 100 to 599 or a range of them, such as 200-399",
            }),
        }
    }
}

impl TryFrom<String> for StatusRange {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<StatusRange> for String {
    fn from(range: StatusRange) -> Self {
        range.to_string()
    }
}

impl utoipa::PartialSchema for StatusRange {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .pattern(Some("^[1-5][0-9]{2}(-[1-5][0-9]{2})?$"))
            .into()
    }
}

impl ToSchema for StatusRange {}

impl HealthSpec {
    /// Whether QEMU's guest agent is asked, which needs a port of its own.
    #[must_use]
    pub fn asks_qemu_agent(&self) -> bool {
        let mut checks = self.checks.iter();
        checks.any(|check| check.kind == CheckKind::QemuAgent)
    }

    /// Nothing is said.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl CheckSpec {
    /// A check of this kind that says nothing else.
    #[must_use]
    pub const fn new(kind: CheckKind) -> Self {
        Self {
            kind,
            name: None,
            port: None,
            path: None,
            status: None,
            command: None,
            pattern: None,
            bad: Vec::new(),
            regex: false,
            interval: None,
            timeout: None,
            start_period: None,
            failure_threshold: None,
            success_threshold: None,
            on_failure: None,
        }
    }

    /// The name it goes by.
    #[must_use]
    pub fn label(&self) -> &str {
        self.name.as_deref().unwrap_or(self.kind.as_str())
    }
}
