//! What is ours and not wanted, what is wanted and missing, and what only looks like ours.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ids::VmId;

/// Kinds of host objects that are listed.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum OrphanKind {
    /// A VMM that runs.
    Vmm,
    /// A VMM's shim.
    Shim,
    /// A unit of the service manager.
    Unit,
    /// A TAP.
    Tap,
    /// A VM's folder with its disks.
    Folder,
    /// A socket in a VM's folder that nobody listens on.
    Socket,
    /// A loop device over a file of ours.
    LoopDevice,
    /// A mount in our folders.
    Mount,
    /// The bridge.
    Bridge,
    /// Filters and forwarded ports.
    Rules,
    /// The name server.
    Names,
    /// A control group named like one of a VM of ours.
    Cgroup,
    /// An interface that is a port of our bridge, or named like our TAPs.
    Interface,
    /// An element of our filters or of the forwarded ports.
    Rule,
    /// Tracked connections of a guest's address.
    Connections,
    /// A route of the host into the guests' subnet.
    Route,
    /// A disk of a VM.
    Volume,
    /// An old log in a VM's folder.
    Log,
    /// Another file in a VM's folder.
    File,
    /// A network namespace.
    NetworkNamespace,
    /// The root folder of its own that a VMM runs in.
    Cage,
    /// What only one VM may have.
    Lease,
    /// An entry of the journal that is open.
    JournalEntry,
    /// A process that made calls to device-mapper for a daemon that is gone.
    Helper,
    /// A thin device of the pool in which database, kernel and metadata do not agree.
    ThinDevice,
}

impl OrphanKind {
    /// Every kind.
    pub const ALL: [Self; 25] = [
        Self::Vmm,
        Self::Shim,
        Self::Unit,
        Self::Tap,
        Self::Folder,
        Self::Socket,
        Self::LoopDevice,
        Self::Mount,
        Self::Bridge,
        Self::Rules,
        Self::Names,
        Self::Cgroup,
        Self::Interface,
        Self::Rule,
        Self::Connections,
        Self::Route,
        Self::Volume,
        Self::Log,
        Self::File,
        Self::NetworkNamespace,
        Self::Cage,
        Self::Lease,
        Self::JournalEntry,
        Self::Helper,
        Self::ThinDevice,
    ];

    /// The word that tables, ids and JSON have for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Vmm => "vmm",
            Self::Shim => "shim",
            Self::Unit => "unit",
            Self::Tap => "tap",
            Self::Folder => "folder",
            Self::Socket => "socket",
            Self::LoopDevice => "loop_device",
            Self::Mount => "mount",
            Self::Bridge => "bridge",
            Self::Rules => "rules",
            Self::Names => "names",
            Self::Cgroup => "cgroup",
            Self::Interface => "interface",
            Self::Rule => "rule",
            Self::Connections => "connections",
            Self::Route => "route",
            Self::Volume => "volume",
            Self::Log => "log",
            Self::File => "file",
            Self::NetworkNamespace => "network_namespace",
            Self::Cage => "cage",
            Self::Lease => "lease",
            Self::JournalEntry => "journal_entry",
            Self::Helper => "helper",
            Self::ThinDevice => "thin_device",
        }
    }
}

/// What is wrong with an object.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum OrphanState {
    /// It is ours, and no VM of the database has it.
    Unwanted,
    /// A VM of the database needs it, and it is not there or not as it should be.
    Missing,
    /// It looks like ours and nothing proves it.
    Unproven,
}

/// What will be done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FateKind {
    /// It is removed.
    Removed,
    /// It is made, or put right.
    PutBack,
    /// Nothing: the mode or a switch holds it.
    Held,
    /// Nothing now: why is said.
    Kept,
    /// Nothing by itself: a person decides.
    Reported,
    /// Nothing, ever.
    Never,
}

/// What will be done about an object, when, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Fate {
    /// What.
    pub what: FateKind,
    /// When, if it will be at a time of its own; absent for the next pass.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub at: Option<Timestamp>,
    /// Why, in one sentence.
    pub why: String,
}

/// One object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Orphan {
    /// Names it for `remove` and `adopt`: its kind and what tells it from all others.
    pub id: String,
    /// What it is.
    pub kind: OrphanKind,
    /// What is wrong with it.
    pub state: OrphanState,
    /// It in words: `pid 4711 (/usr/bin/qemu-system-x86_64)`, a path, an interface.
    pub object: String,
    /// The VM in its mark or name.
    pub vm: Option<VmId>,
    /// That VM's name, if it is known.
    pub name: Option<String>,
    /// The image that VM was made from, if it is known.
    pub image: Option<String>,
    /// Since when it is there: its start or last change.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<Timestamp>,
    /// Bytes it takes on the disk, of folders and files.
    pub bytes: Option<u64>,
    /// Why it is listed.
    pub reason: String,
    /// What will be done about it.
    pub fate: Fate,
    /// `hearth orphans adopt` can make a record of it.
    pub adoptable: bool,
    /// It can be removed by hand, and `all` means it.
    #[serde(default)]
    pub removable: bool,
}

/// All of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OrphanList {
    /// The objects: unwanted, missing, unproven.
    pub items: Vec<Orphan>,
    /// Kinds of objects that could not be looked at, and why: none of them is listed.
    pub unknown: Vec<String>,
}

/// Which orphans to remove.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RemoveOrphans {
    /// These.
    pub ids: Vec<String>,
    /// All that are ours and not wanted.
    pub all: bool,
    /// Of all, only those of this kind.
    pub kind: Option<OrphanKind>,
}

/// What became of one of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OrphanRemoved {
    /// Which.
    pub id: String,
    /// Why it was not removed; absent if it was.
    pub problem: Option<String>,
}

/// What became of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OrphansRemoved {
    /// Each, in the order in which they were taken.
    pub items: Vec<OrphanRemoved>,
}

/// How to adopt a VM whose record is lost.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdoptOrphan {
    /// Another name than it had, because that is taken.
    pub name: Option<String>,
}
