//! Desired state, status, journal, leases and events in SQLite.
//!
//! One thread owns the only connection and does every write ([`Store`] sends it requests);
//! requests that wait while it commits share the next transaction and its fsync. A request
//! is answered after its commit is on the disk. VMs are also kept in memory, as of the last
//! commit, so that reading them costs no I/O.
//!
//! ```text
//! Store::vms ──────────────► rows in memory (as of the last commit)
//!                                  ▲ after each commit
//! Store::create_vm … ─► queue ─► writer thread: BEGIN, a savepoint per request, COMMIT ─► answers
//! ```
//!
//! What two VMs must not share (name, address, MAC, context id, uid, TAP, published port) is
//! kept apart by constraints of the schema, not by this code alone.
#![forbid(unsafe_code)]

mod backup;
mod error;
mod events;
mod history;
mod journal;
mod keys;
mod leases;
mod model;
pub mod offline;
mod open;
mod session;
mod settings;
mod snapshots;
mod store;
mod templates;
mod thin;
mod vms;
mod volumes;
mod writer;

pub use error::StoreError;
pub use model::{
    Created, FindResult, IdempotencyKey, IdempotentHit, LeaseRanges, NewSpec, NewVm, OpenIntentRow,
    Reserved, VmRow,
};
pub use open::SCHEMA_VERSION;
pub use store::Store;

/// Results of the store.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;
