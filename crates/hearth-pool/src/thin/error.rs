//! How work on thin devices fails.

use camino::Utf8PathBuf;
use hearth_dm::DmError;
use hearth_host::command::CommandError;
use hearth_safeguards::GuardError;
use hearth_types::thin::ThinState;

use crate::error::PoolError;

/// How work on a thin device failed.
#[derive(Debug, thiserror::Error)]
pub enum ThinError {
    /// Its pool cannot be used at this moment. What is in it is not lost by that.
    #[error("the pool cannot be used")]
    Pool(#[from] PoolError),
    /// The pool is there and takes no changes.
    #[error("the pool is {state}, and takes no changes")]
    NoChanges {
        /// How it is.
        state: &'static str,
    },
    /// The ledger could not be read or written.
    #[error("cannot {operation} in the ledger of thin devices")]
    Ledger {
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The device-mapper refused.
    #[error("cannot {operation} the thin device {id}")]
    Dm {
        /// What was tried.
        operation: &'static str,
        /// Its number in the pool.
        id: u32,
        /// Why it failed.
        #[source]
        source: DmError,
    },
    /// A snapshot was made, or not, and its origin waits.
    #[error("the thin device {origin} was suspended for a snapshot and cannot be resumed")]
    NotResumed {
        /// The one that waits.
        origin: u32,
        /// Why.
        #[source]
        source: DmError,
    },
    /// A device of others has a place that is ours.
    #[error("{what}")]
    Foreign {
        /// What it is.
        what: String,
    },
    /// It is not whole.
    #[error("the volume {name} (thin device {id}) is {state}")]
    NotReady {
        /// The volume.
        name: String,
        /// Its number in the pool.
        id: u32,
        /// How far it has come.
        state: ThinState,
    },
    /// The ledger has it and the pool has not.
    #[error("the pool has no thin device {id}, which {name} stands on: what was on it is lost")]
    Lost {
        /// The volume.
        name: String,
        /// Its number in the pool.
        id: u32,
    },
    /// A layer that something is to be made of.
    #[error("{name} is not in the pool")]
    NoLayer {
        /// Its volume.
        name: String,
    },
    /// It failed too often.
    #[error("{count} devices of {name} whose making failed are kept; no more are made")]
    TooManyOrphans {
        /// The volume.
        name: String,
        /// How many.
        count: usize,
    },
    /// It is left as it is.
    #[error("the thin device {id} is not cleared away: {why}")]
    NotCleared {
        /// Its number in the pool.
        id: u32,
        /// Why.
        why: String,
    },
    /// Nothing can be told of what was asked about.
    #[error("{path} is a block device's node, and the ledger knows no volume of that name")]
    Unrecorded {
        /// The node.
        path: Utf8PathBuf,
    },
    /// The metadata cannot be listed.
    #[error("the thin devices in the pool's metadata cannot be listed")]
    List(#[source] CommandError),
    /// The list is not understood.
    #[error("the list of thin devices cannot be understood: {line:?}")]
    Garbled {
        /// A line of it.
        line: String,
    },
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
}

impl ThinError {
    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Pool(error) => return error.hint(),
            Self::NoChanges { .. } => "see why: hearth pool status",
            Self::TooManyOrphans { .. } => {
                "see why they failed: hearth pool volumes; clear them away: hearth gc"
            }
            Self::Lost { .. } => "see hearth pool volumes, and the kernel's log",
            Self::List(CommandError::Missing { .. }) => {
                "install it: apt-get install thin-provisioning-tools"
            }
            _ => return None,
        })
    }

    /// The kernel's answer was no, or the guard's: nothing was changed. Anything else leaves that open.
    #[must_use]
    pub const fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Dm {
                source: DmError::Refused { .. }
                    | DmError::Absent { .. }
                    | DmError::Busy { .. }
                    | DmError::Invalid { .. },
                ..
            } | Self::Foreign { .. }
                | Self::Pool(
                    PoolError::NoHelper { .. }
                        | PoolError::Guard(
                            GuardError::Refused { .. }
                                | GuardError::NotInTurn { .. }
                                | GuardError::Behind { .. }
                        )
                )
        )
    }

    /// The kernel's answer was that it has it already.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        self.errno() == Some(rustix::io::Errno::EXIST)
    }

    /// The kernel's answer was that the pool has no such device.
    #[must_use]
    pub fn is_no_data(&self) -> bool {
        self.errno() == Some(rustix::io::Errno::NODATA)
    }

    fn errno(&self) -> Option<rustix::io::Errno> {
        match self {
            Self::Dm {
                source: DmError::Refused { source, .. },
                ..
            } => rustix::io::Errno::from_io_error(source),
            _ => None,
        }
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
