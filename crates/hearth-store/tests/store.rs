//! The store through its public face.
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "store/backup.rs"]
mod backup;
#[path = "store/common.rs"]
mod common;
#[path = "store/crash.rs"]
mod crash;
#[path = "store/damage.rs"]
mod damage;
#[path = "store/leases.rs"]
mod leases;
#[path = "store/model.rs"]
mod model;
#[path = "store/offline.rs"]
mod offline;
#[path = "store/requests.rs"]
mod requests;
#[path = "store/thin.rs"]
mod thin;
#[path = "store/threads.rs"]
mod threads;
#[path = "store/volumes.rs"]
mod volumes;
