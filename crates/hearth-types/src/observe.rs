//! What surveys find on the host: the objects that carry this installation's mark.
//!
//! Foreign objects are never listed: what is not listed cannot be acted on by mistake.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::VmId;
use crate::mark::OwnerMark;
use crate::net::RuleSet;
use crate::process::{ExitRecord, ProcessIdentity};
use crate::survey::Survey;

/// The environment variable that says what a marked process is for.
pub const ROLE_ENV: &str = "HEARTH_ROLE";

/// What a marked process is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProcessRole {
    /// A VMM.
    Vmm,
    /// A VMM's parent: it keeps the console log and writes the exit record.
    Shim,
    /// The name server of the bridge.
    Names,
    /// It makes the daemon's calls to device-mapper, so that one that hangs does not hold the daemon.
    Helper,
}

impl ProcessRole {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Vmm, Self::Shim, Self::Names, Self::Helper];

    /// The value of [`ROLE_ENV`].
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Vmm => "vmm",
            Self::Shim => "shim",
            Self::Names => "names",
            Self::Helper => "helper",
        }
    }
}

/// Whether a VMM runs its guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// vCPUs run.
    Running,
    /// vCPUs are stopped on request.
    Paused,
    /// vCPUs are stopped because a write of the guest found no room on the host. Nothing is
    /// lost: told to go on, the guest goes on, and the write is made again.
    DiskFull,
    /// vCPUs are stopped by an error of the VMM's own: the guest cannot go on.
    Broken,
    /// The guest has ended or crashed; the process is about to go.
    Ended,
}

/// A marked process that lives. Zombies are dead and not listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedProcess {
    /// Proof material.
    pub identity: ProcessIdentity,
    /// What it is for.
    pub role: ProcessRole,
    /// When it was started.
    pub started_at: Timestamp,
    /// A signal or a debugger has stopped it (state `T` or `t`): it lives and does nothing.
    #[serde(default)]
    pub suspended: bool,
}

/// What the service of a VM's VMM is doing, as systemd says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnitState {
    /// Its main process runs or starts.
    Active,
    /// It is being stopped.
    Deactivating,
    /// It has ended with a failure and is still known.
    Failed,
    /// It does not run.
    Inactive,
}

/// A unit of ours: `hearth-vm-<id>.service`.
///
/// Its name says which VM it is for. That it is this installation's is proved for a VM of
/// the database by the id, which no other installation makes, and for any other by the owner
/// mark in the unit's environment, which systemd tells. It is proved so again before a unit is removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedUnit {
    /// Whose it is.
    pub mark: OwnerMark,
    /// What it is doing.
    pub state: UnitState,
    /// When that began; absent where nobody asked, which is for VMs of the database.
    pub since: Option<Timestamp>,
    /// The limits of its control group that are not what they were when its VMM was started.
    /// Of a unit without a record of them there are none.
    pub limits: Survey<Vec<ChangedLimit>>,
}

/// A limit of a VM's control group that somebody has changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedLimit {
    /// The control group's file, such as `memory.max` (cgroups(7)).
    pub name: String,
    /// What stood in it when the VMM was started.
    pub wanted: String,
    /// What stands in it now.
    pub found: String,
    /// It can be put back without harm: the VMM does not use more than it would allow.
    pub fits: bool,
}

/// A TAP of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedTap {
    /// Interface name.
    pub name: String,
    /// Interface index: with the alias, the proof that it is still the same one.
    pub index: u32,
    /// The mark in its alias.
    pub mark: OwnerMark,
    /// It is up and a port of our bridge.
    pub attached: bool,
}

/// The folder of one VM under our data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedDir {
    /// The VM it is named after.
    pub vm: VmId,
    /// The root disk is complete.
    pub has_disk: bool,
    /// The disks are complete, and not yet what the specification asks for: a volume was added
    /// or grown since.
    #[serde(default)]
    pub behind: bool,
    /// The record of the last VMM's end, if there is one.
    pub exit: Option<ExitRecord>,
    /// When it was last changed.
    pub changed_at: Timestamp,
}

/// Our bridge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedBridge {
    /// It is up, with our address and settings.
    pub ready: bool,
}

/// Our name server.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ObservedNames {
    /// A marked name server process lives.
    pub running: bool,
    /// The names it serves.
    pub hosts: BTreeMap<String, Ipv4Addr>,
}

/// One whole survey of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// Our living processes.
    pub processes: Survey<Vec<ObservedProcess>>,
    /// What each living VMM says of itself; a VM that is missing here was not asked.
    pub run_states: BTreeMap<VmId, Survey<RunState>>,
    /// Our units; none where systemd is not the init.
    pub units: Survey<Vec<ObservedUnit>>,
    /// Our TAPs.
    pub taps: Survey<Vec<ObservedTap>>,
    /// VM folders.
    pub dirs: Survey<Vec<ObservedDir>>,
    /// Our bridge; `None` when there is none.
    pub bridge: Survey<Option<ObservedBridge>>,
    /// Our nftables table; `None` when there is none.
    pub rules: Survey<Option<RuleSet>>,
    /// Our name server.
    pub names: Survey<ObservedNames>,
}
