//! The HTTP API over the real router, a real database, real images and kernels, and a host
//! in memory. No guest runs here; where one must answer, its agent runs as a process.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failed unwrap is a failed test, and skips are said"
)]

mod content;
#[path = "../common/openmetrics.rs"]
mod openmetrics;
mod rig;

mod auth;
mod change;
mod database;
mod deploy;
mod document;
mod errors;
mod events;
mod gc;
mod gc_keeper;
mod images;
mod keepsakes;
mod lifecycle;
mod metrics;
mod mode;
mod orphans;
mod overview;
mod pool;
mod pool_compare;
mod pool_device;
mod pool_keeper;
mod recovery;
mod refs;
mod snapshots;
mod snapshots_volumes;
mod streams;
mod templates;
mod vms;
mod volumes;
