//! Everything that a dashboard shows, in one answer.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Health;
use crate::ids::{EventSeq, VmId};
use crate::mode::Mode;
use crate::pool::PoolView;
use crate::status::Phase;

/// The host and its VMs at one moment.
///
/// Made for those who ask every second: it is read from memory and `/proc`, no guest is asked
/// and no survey made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Overview {
    /// The daemon's clock.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// The daemon's version.
    pub version: String,
    /// Seconds since the daemon started.
    pub uptime_secs: u64,
    /// The mode in force.
    pub mode: Mode,
    /// Why, unless the mode is `normal`.
    pub mode_reason: Option<String>,
    /// Why the host's circuit breaker is open; absent when it is closed.
    pub host_breaker: Option<String>,
    /// When the last pass of the loop ended well.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_pass: Option<Timestamp>,
    /// Number of the newest event.
    pub last_event: EventSeq,
    /// The VMs, by name.
    pub vms: Vec<VmGlance>,
    /// What is being done, the oldest first; a pass of the loop is not among it.
    pub under_way: Vec<WorkView>,
    /// The thin pool; absent when it did not say in time how it is.
    pub pool: Option<PoolView>,
}

/// One VM at a glance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmGlance {
    /// Its id.
    pub id: VmId,
    /// Its name.
    pub name: String,
    /// The image it was made from.
    pub image: String,
    /// Where it is.
    pub phase: Phase,
    /// What its checks say.
    pub health: Health,
    /// Why, when not all is well.
    pub reason: Option<String>,
    /// Its vCPUs.
    pub vcpus: u32,
    /// Its memory, in bytes.
    pub memory: u64,
    /// CPU time that its VMM has used, in milliseconds; absent while it does not run or when
    /// that cannot be read.
    pub cpu_millis: Option<u64>,
    /// Resident memory of its VMM, in bytes.
    pub rss: Option<u64>,
    /// When the current run began.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub started_at: Option<Timestamp>,
    /// Restarts by policy since the user started it.
    pub restarts: u32,
    /// When the restart policy starts it next.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub next_start: Option<Timestamp>,
    /// Its circuit breaker is open.
    pub breaker: bool,
    /// An operator holds it.
    pub held: bool,
}

/// A step that is being taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WorkView {
    /// The kind of step, such as `start_vmm`.
    pub what: String,
    /// The object acted on, in words.
    pub object: String,
    /// The VM's name, or its id if it has none; absent for what is shared.
    pub vm: Option<String>,
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// It takes longer than it may.
    pub stuck: bool,
}
