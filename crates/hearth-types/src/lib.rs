//! What things are called: ids, units, specs, status, events.
//!
//! This room holds data and its validation only. Nothing here does I/O, so every other
//! room may depend on it.

#![forbid(unsafe_code)]

pub mod api;
pub mod event;
pub mod gc;
pub mod history;
pub mod ids;
pub mod image;
pub mod image_job;
pub mod manifest;
pub mod mark;
pub mod mode;
pub mod names;
pub mod net;
pub mod observe;
pub mod orphan;
pub mod pool;
pub mod problem;
pub mod process;
pub mod resources;
pub mod snapshot;
pub mod spec;
pub mod status;
pub mod survey;
pub mod template;
pub mod thin;
pub mod units;
pub mod volume;
mod words;

pub use ids::{EventSeq, ImageId, InstallationId, IntentId, SnapshotId, VmId, VolumeId};
pub use mark::OwnerMark;
pub use names::{Label, VmName};
pub use spec::{RestartPolicy, VmSpec};
pub use survey::Survey;
pub use units::Bytes;
