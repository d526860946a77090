//! Garbage collection: what is there and nobody needs.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::words::words;

/// Kinds of garbage.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum GcKind {
    /// A device of the pool whose making failed half-way, or that nothing refers to.
    ThinDevice,
    /// What is left of a VM: a TAP, a shim, a folder, tracked connections.
    Leftover,
    /// A download, whole or partial, that no image needs, a day old or older.
    Download,
    /// An old console or VMM log of a VM, beyond those that are kept.
    Log,
    /// A dump of a guest's memory, 30 days old or older, or one that was cut off.
    Dump,
    /// A file that was being written when its writer died, a day ago or longer.
    Draft,
    /// A backup of the database or of the pool's metadata, beyond those that are kept.
    Backup,
    /// The record of a pull or import that ended 30 days ago or earlier.
    Job,
    /// What a repair has put aside 30 days ago or earlier. Only when it is asked for by its kind: it may be
    /// all that is left of something.
    Aside,
    /// An image that no VM uses. Only when it is asked for by its kind: it may be wanted again.
    Image,
}

words!(GcKind or UnknownKind {
    ThinDevice => "thin_device",
    Leftover => "leftover",
    Download => "download",
    Log => "log",
    Dump => "dump",
    Draft => "draft",
    Backup => "backup",
    Job => "job",
    Aside => "aside",
    Image => "image",
});

impl GcKind {
    /// Whether it goes only when it is asked for by its kind.
    #[must_use]
    pub const fn only_by_name(self) -> bool {
        matches!(self, Self::Aside | Self::Image)
    }

    /// Whether it is cleaned where these kinds are asked for; with none of them, all that need not be
    /// asked for by name.
    #[must_use]
    pub fn is_meant(self, kinds: &[Self]) -> bool {
        if kinds.is_empty() {
            return !self.only_by_name();
        }
        kinds.contains(&self)
    }
}

/// A word that is no kind of garbage.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no kind of garbage")]
pub struct UnknownKind(String);

/// What has become of a piece of garbage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum GcOutcome {
    /// It would be cleaned.
    Found,
    /// It is gone.
    Cleaned,
    /// It could not be cleaned, and is as it was.
    Failed,
    /// It is left alone.
    Skipped,
}

words!(GcOutcome {
    Found => "found",
    Cleaned => "cleaned",
    Failed => "failed",
    Skipped => "skipped",
});

/// A piece of garbage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GcItem {
    /// What it is called: `thin-7`, or as `hearth orphans` and `hearth image ls` have it.
    pub id: String,
    /// What it is.
    pub kind: GcKind,
    /// The object.
    pub object: String,
    /// Why it is garbage.
    pub reason: String,
    /// Bytes that it takes, as far as that is known. What it shares with others is among them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Since when it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<Timestamp>,
    /// What has become of it.
    pub outcome: GcOutcome,
    /// Why it failed or was skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// The counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GcSummary {
    /// Gone.
    pub cleaned: usize,
    /// Could not be cleaned.
    pub failed: usize,
    /// Found.
    pub orphaned: usize,
    /// Left alone.
    pub skipped: usize,
    /// Devices of the pool in all.
    pub total_devices: usize,
}

impl fmt::Display for GcSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            cleaned,
            failed,
            orphaned,
            skipped,
            total_devices,
        } = self;
        write!(
            f,
            "cleaned={cleaned} failed={failed} orphaned={orphaned} skipped={skipped} total_devices={total_devices}"
        )
    }
}

/// What was found, and what was done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GcReport {
    /// Nothing was changed.
    pub dry_run: bool,
    /// Each piece.
    pub items: Vec<GcItem>,
    /// The counts.
    pub summary: GcSummary,
    /// Bytes that were freed, or would be.
    pub bytes: u64,
    /// What could not be looked at; nothing that it may refer to is garbage.
    pub unknown: Vec<String>,
}

/// What to clean.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RunGc {
    /// Clean it. Otherwise nothing is changed.
    #[serde(default)]
    pub force: bool,
    /// Only these kinds; when empty all that need not be asked for by name.
    #[serde(default)]
    pub kinds: Vec<GcKind>,
}
