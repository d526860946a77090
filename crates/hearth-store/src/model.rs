//! Rows and requests of the store as data.

use hearth_types::ids::{ImageId, IntentId, VmId};
use hearth_types::names::VmName;
use hearth_types::spec::{PortSpec, VmSpec};
use hearth_types::status::{Goal, Leases, VmStatus};
use hearth_types::units::Span;
use ipnet::Ipv4Net;
use jiff::Timestamp;

/// One VM as recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmRow {
    /// Its id.
    pub id: VmId,
    /// What was asked for.
    pub spec: VmSpec,
    /// 1 at creation; grows by one with every change of the spec or the goal.
    pub generation: u64,
    /// What the user wants now.
    pub goal: Goal,
    /// Skip the clean rungs when stopping.
    pub force_stop: bool,
    /// Overrides the spec's stop timeout for the current stop.
    pub stop_timeout: Option<Span>,
    /// What was leased to it.
    pub leases: Leases,
    /// The status stored last.
    pub status: VmStatus,
    /// When it was created.
    pub created_at: Timestamp,
    /// The image its reference led to.
    pub image: ImageId,
    /// The kernel it boots; the default one when absent.
    pub kernel: Option<String>,
}

/// A VM that is not recorded yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewVm {
    /// What is asked for; valid by [`VmSpec`]'s own check.
    pub spec: VmSpec,
    /// What the user wants at first.
    pub goal: Goal,
    /// The image its reference led to.
    pub image: ImageId,
    /// The kernel it boots.
    pub kernel: Option<String>,
}

/// Another specification for a VM that is recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSpec {
    /// What is asked for now; valid by [`VmSpec`]'s own check.
    pub spec: VmSpec,
    /// The image its reference led to.
    pub image: ImageId,
    /// The kernel it boots.
    pub kernel: Option<String>,
}

/// Where leases come from.
///
/// A lease is handed out again as late as possible: each kind has a cursor in the database
/// that runs through its range and starts over at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseRanges {
    /// The guests' subnet. Its network, first (gateway) and broadcast addresses are never leased.
    pub subnet: Ipv4Net,
    /// First uid for VMMs; 0 = VMMs run as the daemon's user, and every VM's uid is 0.
    pub uid_base: u32,
    /// How many uids.
    pub uid_count: u32,
    /// First vsock context id; below 3 is taken as 3, the first that is a guest's.
    pub cid_base: u32,
}

/// What a VM has that is not recorded here, and keeps: it may live, or be adopted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reserved {
    /// Which VM.
    pub vm: VmId,
    /// Its name, as it was recorded.
    pub name: VmName,
    /// What was leased to it.
    pub leases: Leases,
    /// The host's ports that lead to it.
    pub ports: Vec<PortSpec>,
}

/// Makes a creation happen once, however often it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// The client's key.
    pub key: String,
    /// A hash of the request, so that the same key with another request is refused.
    pub hash: String,
}

/// The outcome of a creation with an idempotency key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Created {
    /// The VM was made now.
    New(Box<VmRow>),
    /// An earlier request with the same key made it; it may have been removed since.
    Replayed(VmId),
}

/// What a remembered key leads to.
#[derive(Debug, Clone, PartialEq)]
pub struct IdempotentHit {
    /// Whether the request is the same as the one remembered.
    pub matches: bool,
    /// The answer that was given then.
    pub response: serde_json::Value,
}

/// The outcome of looking for a VM by what a person typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FindResult {
    /// Exactly one VM.
    Found(Box<VmRow>),
    /// No VM.
    NotFound,
    /// Several VMs whose ids begin so.
    Ambiguous {
        /// All of them.
        matches: Vec<(VmId, VmName)>,
    },
}

/// A journal entry that was begun and not finished.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenIntentRow {
    /// Which entry.
    pub id: IntentId,
    /// The VM it acts for; `None` for shared objects.
    pub vm: Option<VmId>,
    /// The step as it was written down.
    pub step: serde_json::Value,
    /// When it was begun.
    pub begun_at: Timestamp,
}
