//! Image sources to verified, safely unpacked volumes.
//!
//! The room has one door, [`ImageStore`]. Behind it a registry, an OCI layout, a
//! `docker save` archive, a root filesystem tar or a raw disk becomes a sealed folder with an
//! ext4 volume and a description. See the README for the picture and the decisions.

#![forbid(unsafe_code)]

mod archive;
mod blob;
mod build;
mod bundle;
mod config;
mod decompress;
mod digest;
mod disk;
mod download;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod import;
pub mod jobs;
mod layers;
mod layout;
mod limits;
mod manifest;
mod name;
mod origin;
mod progress;
mod pull;
mod reference;
mod registry;
mod remove;
mod s3;
pub mod snapshot;
mod store;
mod tarstream;
mod tls;
pub mod unpack;
mod volume;

pub use error::ImageError;
pub use hearth_s3::Settings as S3Settings;
pub use jobs::ImageJobs;
pub use layers::{LayerDevice, Layers};
pub use limits::Limits;
pub use name::Name;
pub use progress::{NoProgress, ProgressSink};
pub use pull::PullRequest;
pub use reference::Reference;
pub use remove::Removed;
pub use snapshot::{OpenSnapshot, Snapshots};
pub use store::ImageStore;
