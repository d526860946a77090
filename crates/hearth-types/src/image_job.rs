//! Jobs of the image pipeline: what is being pulled or imported, how far it is, how it ended.
//!
//! ```text
//! resolve ─► download ─► verify ─► unpack ─► seal ─► ready
//!    └──────────┴──────────┴─────────┴────────┴────► aborted, cancelled
//! ```

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ids::ImageId;
use crate::problem::Problem;
use crate::words::words;

/// Where a job is.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Finding out what the name leads to.
    Resolve,
    /// Getting what is not here.
    Download,
    /// Comparing it with its digests.
    Verify,
    /// Making the volume.
    Unpack,
    /// Writing it out and giving it its name.
    Seal,
    /// Done: the image is there.
    Ready,
    /// Given up.
    Aborted,
    /// Stopped on somebody's word.
    Cancelled,
}

words!(JobState {
    Resolve => "resolve",
    Download => "download",
    Verify => "verify",
    Unpack => "unpack",
    Seal => "seal",
    Ready => "ready",
    Aborted => "aborted",
    Cancelled => "cancelled",
});

impl JobState {
    /// Whether a job stays there unless somebody says otherwise.
    #[must_use]
    pub const fn is_end(self) -> bool {
        matches!(self, Self::Ready | Self::Aborted | Self::Cancelled)
    }
}

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobKind {
    /// From a registry or S3.
    Pull,
    /// From a file of the daemon's host.
    Import,
    /// From a snapshot of a VM's disks.
    #[serde(rename = "from-snapshot")]
    FromSnapshot,
}

impl JobKind {
    /// Its word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Import => "import",
            Self::FromSnapshot => "from-snapshot",
        }
    }
}

/// A failure of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobFailure {
    /// In which state.
    pub state: JobState,
    /// A word for the kind of cause: `network`, `login`, `not_found`, `digest`, `refused`, `limit`,
    /// `disk_full`, `deadline`, `restarts`, `internal`.
    pub reason: String,
    /// What happened, in words and with advice.
    pub problem: Problem,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
}

/// What a job that came to nothing has left on the disk. It is used when the job is tried again,
/// and removed after a day if nobody does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct JobLeft {
    /// Whole downloads.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of downloads that broke off.
    pub partial_bytes: u64,
}

/// One pull, import or making of an image from a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageJob {
    /// Its id.
    pub id: String,
    /// What it does.
    pub kind: JobKind,
    /// The name that the image gets, in full form.
    pub name: String,
    /// The file of an import, or the snapshot that an image is made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Where it is.
    pub state: JobState,
    /// How often each state was begun, by its word.
    pub attempts: BTreeMap<JobState, u32>,
    /// How often the daemon ended under it.
    pub restarts: u32,
    /// What it waits for, in words; none while it works.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
    /// Bytes done of what its state is about.
    pub done: u64,
    /// Bytes in all, as far as is known.
    pub total: u64,
    /// The image, when it is known which it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageId>,
    /// The last failure, also of a job that goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<JobFailure>,
    /// What is left on the disk, of a job that was aborted or cancelled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<JobLeft>,
    /// Whether it goes on when nobody waits for it.
    pub detached: bool,
    /// When it was asked for.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When its state was begun.
    #[schema(value_type = String, format = DateTime)]
    pub state_since: Timestamp,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<Timestamp>,
}

/// Jobs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageJobList {
    /// Newest first.
    pub items: Vec<ImageJob>,
}

/// A word to try a job again.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RetryJob {
    /// Credentials for the registry: the daemon has kept none.
    pub auth: Option<crate::api::RegistryAuth>,
    /// Go on when the client goes away; the answer ends with the job's first line.
    pub detach: bool,
}
