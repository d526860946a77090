//! How work on the pool fails, and what to do then.

use std::time::Duration;

use camino::Utf8PathBuf;
use hearth_dm::DmError;
use hearth_host::command::CommandError;
use hearth_host::loopdev::LoopError;
use hearth_safeguards::GuardError;
use hearth_types::units::Bytes;

use crate::base::Unfit;
use crate::space::Bound;

/// How work on the pool failed.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// There is no device-mapper to make it with.
    #[error("this host cannot have a thin pool")]
    Unavailable(#[source] DmError),
    /// None was set up.
    #[error("there is no pool")]
    Absent,
    /// One of another size was set up before.
    #[error("there is a pool of {present} already")]
    Present {
        /// Its data's size.
        present: Bytes,
    },
    /// The size asked for is not possible.
    #[error("a pool of {wanted} is not possible: {why}")]
    Size {
        /// What was asked for.
        wanted: Bytes,
        /// What is.
        why: &'static str,
    },
    /// There is not enough space for its metadata.
    #[error("the pool's metadata needs {needed} of {folder}, and {free} are free")]
    NoSpace {
        /// Where.
        folder: Utf8PathBuf,
        /// What is needed, the reserve included.
        needed: Bytes,
        /// What is free.
        free: Bytes,
    },
    /// It would become smaller.
    #[error("the pool's {what} has {}, and cannot become {}", present.human(), wanted.human())]
    Shrink {
        /// Data or metadata.
        what: &'static str,
        /// What it has.
        present: Bytes,
        /// What was asked for.
        wanted: Bytes,
    },
    /// It cannot become as large as was asked for.
    #[error(
        "the pool cannot have {} of {what}: {} are the most, because {why}",
        wanted.human(), most.human()
    )]
    TooLarge {
        /// Data or metadata.
        what: &'static str,
        /// What was asked for.
        wanted: Bytes,
        /// What is possible.
        most: Bytes,
        /// What bounds it.
        why: Bound,
    },
    /// It is full to near its end, and cannot grow.
    #[error(
        "the pool's {what} is too full for anything new: {percent} % of the {} that it can have are used \
         ({}), {limit} % are the limit, and {why}",
        most.human(), used.human()
    )]
    Tight {
        /// Data or metadata.
        what: &'static str,
        /// How much is used.
        used: Bytes,
        /// How much it may have.
        most: Bytes,
        /// In percent of that.
        percent: u64,
        /// The limit, in percent.
        limit: u32,
        /// What bounds its growth.
        why: Bound,
    },
    /// It is about to run out.
    #[error("the pool is about to run out: {why}")]
    RunsOut {
        /// How much is left, and what bounds its growth.
        why: String,
    },
    /// More would be promised than the operator allows.
    #[error(
        "{} more would be too much: volumes of {} were made of {} of data, and {times} times as much is the \
         limit (POOL_OVERCOMMIT)",
        wanted.human(), provisioned.human(), most.human()
    )]
    Overcommitted {
        /// What was asked for.
        wanted: Bytes,
        /// The sizes of all volumes that are there.
        provisioned: Bytes,
        /// The data that the pool can have.
        most: Bytes,
        /// How many times that is the limit.
        times: u32,
    },
    /// Devices stand on it, or somebody has it open.
    #[error("the pool is in use ({users} devices stand on it or have it open)")]
    InUse {
        /// How many.
        users: u32,
    },
    /// It holds data.
    #[error("the pool holds {used} of data")]
    HoldsData {
        /// How much.
        used: Bytes,
    },
    /// Nobody can tell whether it holds data.
    #[error("the pool is {state}, and nobody can tell whether it holds data")]
    MayHoldData {
        /// How it is.
        state: &'static str,
    },
    /// A device of others has its place, or its device stands on files that are not its own.
    #[error("{what}")]
    Foreign {
        /// What it is.
        what: String,
    },
    /// The kernel has our pool, and its record is gone.
    #[error("the kernel has the pool {name}, and {record} is gone")]
    Unrecorded {
        /// Its name.
        name: String,
        /// Where the record was.
        record: Utf8PathBuf,
    },
    /// Its metadata is damaged, or could not be checked in time.
    #[error("the pool's metadata is not put to use: {said}")]
    Damaged {
        /// What `thin_check` said.
        said: String,
    },
    /// Its metadata must be checked before anything of it is changed.
    #[error(
        "a write of the pool's metadata has failed, and it must be checked before it can change"
    )]
    NeedsCheck,
    /// Its metadata cannot be repaired.
    #[error("the pool's metadata cannot be made sound, and is as it was: {said}")]
    Beyond {
        /// What the tool said.
        said: String,
    },
    /// There is no such backup.
    #[error("there is no backup {file:?} of the pool's metadata")]
    NoBackup {
        /// What was asked for.
        file: String,
    },
    /// A file of it is missing or not as large as it was.
    #[error("{path} {what}")]
    File {
        /// The file.
        path: Utf8PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A device cannot be the pool's, or is not what it was.
    #[error("{device} {what}")]
    Device {
        /// The device, as it was given.
        device: Utf8PathBuf,
        /// What is wrong with it.
        what: String,
        /// What kind of wrong that is.
        unfit: Unfit,
    },
    /// Its destruction was cut off.
    #[error("the pool is half destroyed")]
    Destroying,
    /// Something else is being done to it.
    #[error("{what} has been under way for {} s", since.as_secs())]
    Working {
        /// What.
        what: String,
        /// For how long.
        since: Duration,
    },
    /// The guard did not let it through, or has given it up.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// The kernel does not come back.
    #[error("the kernel has not ended {what} within {} s", waited.as_secs())]
    Stuck {
        /// What it was asked to do.
        what: &'static str,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The process that makes the calls could not begin: nothing was done.
    #[error("the helper process for device-mapper cannot {what}")]
    NoHelper {
        /// What it cannot.
        what: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It has begun, and its answer is none: nobody knows what was done.
    #[error("the helper process for device-mapper {what}")]
    Helper {
        /// Its number, and what it was at.
        what: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The device-mapper refused.
    #[error("cannot {operation} the pool")]
    Dm {
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        #[source]
        source: DmError,
    },
    /// The kernel says something of the pool that is not understood.
    #[error("the pool's state cannot be told")]
    Garbled(#[source] hearth_dm::thin::StatusError),
    /// The kernel has made it and it does not work.
    #[error("the kernel has made the pool, and it is {state}")]
    NotWorking {
        /// How it is.
        state: &'static str,
    },
    /// No loop device could be made.
    #[error("cannot make the pool's devices")]
    Loop(#[from] LoopError),
    /// `thin_check` could not be run.
    #[error("the pool's metadata cannot be checked")]
    Check(#[source] CommandError),
    /// A file operation failed.
    #[error("cannot {operation} {path}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which path.
        path: Utf8PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The record cannot be understood.
    #[error("{path} cannot be understood")]
    Record {
        /// The record.
        path: Utf8PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// What kind of failure it is, for those who only sort.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The host has not what it takes.
    Unavailable,
    /// There is no pool.
    Absent,
    /// Its state does not allow it.
    Conflict,
    /// Others use it.
    InUse,
    /// What was asked for is impossible.
    Invalid,
    /// No space.
    NoSpace,
    /// A defect of the host or of Hearth.
    Internal,
}

impl PoolError {
    /// Sorts it.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Unavailable(_)
            | Self::Stuck { .. }
            | Self::NoHelper { .. }
            | Self::Guard(_)
            | Self::Check(CommandError::Missing { .. }) => Kind::Unavailable,
            Self::Absent | Self::NoBackup { .. } => Kind::Absent,
            Self::Size { .. } | Self::Shrink { .. } => Kind::Invalid,
            Self::NoSpace { .. }
            | Self::TooLarge { .. }
            | Self::Tight { .. }
            | Self::RunsOut { .. }
            | Self::Overcommitted { .. } => Kind::NoSpace,
            Self::InUse { .. } => Kind::InUse,
            Self::Device { unfit, .. } => match unfit {
                Unfit::NoDevice | Unfit::Small | Unfit::Whole | Unfit::ReadOnly => Kind::Invalid,
                Unfit::InUse => Kind::InUse,
                Unfit::Holds | Unfit::Elsewhere | Unfit::Lost | Unfit::Forbidden => Kind::Conflict,
                Unfit::Missing => Kind::Unavailable,
            },
            Self::Present { .. }
            | Self::HoldsData { .. }
            | Self::MayHoldData { .. }
            | Self::Foreign { .. }
            | Self::Unrecorded { .. }
            | Self::Damaged { .. }
            | Self::NeedsCheck
            | Self::Beyond { .. }
            | Self::File { .. }
            | Self::Destroying
            | Self::Working { .. } => Kind::Conflict,
            Self::Dm { .. }
            | Self::Helper { .. }
            | Self::Garbled(_)
            | Self::NotWorking { .. }
            | Self::Loop(_)
            | Self::Check(_)
            | Self::Io { .. }
            | Self::Record { .. } => Kind::Internal,
        }
    }

    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Guard(error) => return error.hint(),
            Self::Unavailable(_) => {
                "load the module dm_thin_pool (modprobe dm_thin_pool) and let hearthd open \
                 /dev/mapper/control; volumes are files until then, and VMs need no pool"
            }
            Self::Absent => "make one with: hearth pool setup",
            Self::Present { .. } => {
                "make it larger with: hearth pool extend; smaller it cannot become"
            }
            Self::Shrink { .. } => "a pool can only grow: destroy it first, or go on with it",
            Self::Device { unfit, .. } => unfit.hint(),
            Self::TooLarge {
                why: Bound::Device, ..
            } => "make its device larger first (lvextend), or ask for less",
            Self::TooLarge { .. } => "make room on the host, or ask for less",
            Self::Tight { .. } | Self::RunsOut { .. } => {
                "remove volumes and snapshots, discard what guests do not use (fstrim), or make room and: \
                 hearth pool extend"
            }
            Self::Overcommitted { .. } => {
                "remove volumes, give the pool more data (hearth pool extend), or raise POOL_OVERCOMMIT"
            }
            Self::NoSpace { .. } => "make room: all of the metadata is allotted at once",
            Self::InUse { .. } => "take off what stands on it first (dmsetup ls --tree shows it)",
            Self::HoldsData { .. } | Self::MayHoldData { .. } => {
                "what is in it is lost with it: hearth pool destroy --force"
            }
            Self::Foreign { .. } => "nothing was touched: see dmsetup table, and who made it",
            Self::Unrecorded { .. } => {
                "put pool.json back from a backup, or give the pool up: hearth pool destroy --force"
            }
            Self::Damaged { .. } => {
                "repair it with: hearth pool repair (the damaged metadata is kept beside)"
            }
            Self::NeedsCheck => {
                "stop the VMs on it, then: hearth pool check, and if that finds damage: hearth pool repair"
            }
            Self::Beyond { .. } => {
                "put a backup in its place: hearth pool backups, hearth pool restore-metadata FILE; or give the \
                 pool up: hearth pool reset --force"
            }
            Self::NoBackup { .. } => "see which there are: hearth pool backups",
            Self::File { .. } => {
                "put the file back, then: hearth pool check; or give the pool up: \
                 hearth pool destroy --force"
            }
            Self::Destroying => "go on with: hearth pool destroy",
            Self::Stuck { .. } => {
                "a device below does not answer: see dmesg; this goes on when it does, else reboot"
            }
            Self::NoHelper { .. } => {
                "see hearth pool status for what does not come back, and the daemon's limits (memory, processes)"
            }
            Self::Helper { .. } => {
                "the next change looks at what was done; see who has ended it: journalctl -u hearthd, dmesg"
            }
            Self::Check(CommandError::Missing { .. }) => {
                "install it: apt-get install thin-provisioning-tools"
            }
            Self::Dm { .. } | Self::NotWorking { .. } | Self::Loop(_) => {
                "the kernel's log says why: dmesg | grep -e device-mapper -e loop"
            }
            Self::Record { .. } => "put the file back from a backup; nothing was touched",
            Self::Working { .. } => "wait for it: hearth pool status",
            _ => return None,
        })
    }

    /// The device that its data is on is not there.
    #[must_use]
    pub const fn is_missing_device(&self) -> bool {
        matches!(
            self,
            Self::Device {
                unfit: Unfit::Missing,
                ..
            }
        )
    }

    /// An error of a file operation.
    pub(crate) fn io(
        operation: &'static str,
        path: impl Into<Utf8PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            operation,
            path,
            source,
        }
    }
}
