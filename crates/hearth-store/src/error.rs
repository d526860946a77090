//! What can go wrong in the store, in types.

use std::net::Ipv4Addr;
use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use hearth_types::ids::VmId;
use hearth_types::names::VmName;
use hearth_types::spec::PortSpec;
use hearth_types::spec::bootstrap::circle_words;
use ipnet::Ipv4Net;

/// A request that the store did not carry out. The database is as it was before.
///
/// Cloneable, because requests that shared one transaction share its failure.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The file is no database of Hearth's, or a damaged one. It was not touched.
    #[error(
        "database {path} is damaged or not Hearth's ({detail}); it was left as it is: restore it from a backup, or move it away to start empty"
    )]
    Corrupt {
        /// The database.
        path: Utf8PathBuf,
        /// What was found.
        detail: String,
    },
    /// A newer `hearthd` made the file. It was not touched.
    #[error(
        "the database has schema version {found}, this hearthd knows versions up to {supported}: use the newer hearthd that made it"
    )]
    NewerSchema {
        /// Version in the file.
        found: u32,
        /// The newest version this build knows.
        supported: u32,
    },
    /// The file system refused.
    #[error("cannot {what} {path}")]
    Io {
        /// What was tried, such as `create`.
        what: &'static str,
        /// On which file.
        path: Utf8PathBuf,
        /// Why.
        #[source]
        source: Arc<std::io::Error>,
    },
    /// Another process has the database open.
    #[error("database {path} is in use by another process: only one hearthd may own a data folder")]
    Locked {
        /// The database.
        path: Utf8PathBuf,
    },
    /// There is no space left for the database.
    #[error(
        "no space is left for the database {path}: nothing was recorded; free some space and try again"
    )]
    Full {
        /// The database.
        path: Utf8PathBuf,
    },
    /// SQLite refused.
    #[error("cannot {what} in the database")]
    Database {
        /// What was tried, in words.
        what: &'static str,
        /// Why.
        #[source]
        source: Arc<rusqlite::Error>,
    },
    /// A value cannot be written as JSON.
    #[error("cannot record {what} as JSON")]
    Encode {
        /// Which value.
        what: &'static str,
        /// Why.
        #[source]
        source: Arc<serde_json::Error>,
    },
    /// The store's thread is gone.
    #[error("the store has stopped; restart hearthd")]
    Stopped,

    /// Another VM has the name.
    #[error("the name {name} is taken by VM {by}: choose another name or remove that VM first")]
    NameTaken {
        /// The name.
        name: VmName,
        /// Who has it.
        by: VmId,
    },
    /// Another snapshot has the name.
    #[error("the name {name} is taken by another snapshot: choose another name or remove that one")]
    SnapshotNamed {
        /// The name.
        name: VmName,
    },
    /// Another template has the name.
    #[error("the name {name} is taken by another template: choose another name, or replace it")]
    TemplateNamed {
        /// The name.
        name: VmName,
    },
    /// A VM's disks are still to be made of the snapshot.
    #[error("snapshot {name} is used by {vm}: its disks are not made yet")]
    SnapshotUsed {
        /// The snapshot.
        name: VmName,
        /// The VM.
        vm: String,
    },
    /// The snapshot is gone, or is not whole.
    #[error("snapshot {name} is not there any more")]
    SnapshotGone {
        /// The snapshot.
        name: VmName,
    },
    /// Another volume has the name.
    #[error("the name {name} is taken by another volume: choose another name or remove that one")]
    VolumeNamed {
        /// The name.
        name: VmName,
    },
    /// A VM has the volume.
    #[error("volume {name} is attached to {vm}")]
    VolumeUsed {
        /// The volume.
        name: VmName,
        /// The VM.
        vm: VmName,
    },
    /// A VM cannot have the volume.
    #[error("volume {name} cannot be attached to {vm}: {why}")]
    NotAttached {
        /// The volume.
        name: VmName,
        /// The VM.
        vm: VmName,
        /// Why not.
        why: String,
    },
    /// A VM cannot have these volumes of its own together with those that are attached to it.
    #[error("{vm} cannot have these volumes: {why}")]
    Volumes {
        /// The VM.
        vm: VmName,
        /// Why not.
        why: String,
    },
    /// Another VM publishes the port (`0.0.0.0` overlaps every address).
    #[error(
        "host port {port} is published by VM {by} already: choose another host port or address"
    )]
    PortTaken {
        /// The port that was asked for.
        port: PortSpec,
        /// Who publishes it.
        by: VmName,
    },
    /// Another VM has the address.
    #[error("address {ip} is taken by VM {by}: choose another address")]
    AddressTaken {
        /// The address.
        ip: Ipv4Addr,
        /// Who has it.
        by: VmName,
    },
    /// Another VM has the context id or user id.
    #[error("its context id or user id is taken by VM {by}: remove that VM first")]
    LeaseTaken {
        /// Who has it.
        by: VmName,
    },
    /// VMs would be started after each other, round in a circle.
    #[error(
        "{} is a circle: none of them could be started first; take a name out of one of their after lists",
        circle_words(path)
    )]
    Circle {
        /// From the VM over those that it waits for back to it.
        path: Vec<VmName>,
    },
    /// There is a record of it.
    #[error("VM {id} is recorded: nothing has to be restored")]
    Recorded {
        /// The VM.
        id: VmId,
    },
    /// The address is no guest address of the subnet: outside, or its first (the gateway),
    /// network or broadcast address.
    #[error(
        "address {ip} is not for guests of {subnet}: choose one of the subnet other than its network, gateway and broadcast addresses"
    )]
    AddressOutside {
        /// The address.
        ip: Ipv4Addr,
        /// The installation's subnet.
        subnet: Ipv4Net,
    },
    /// Nothing of this kind is left to lease.
    #[error("no {what} is left: remove VMs or widen the range in the configuration")]
    Exhausted {
        /// `address in 10.0.0.0/30`, `vsock context id`, `uid`.
        what: String,
    },
    /// There is no such VM.
    #[error("there is no VM {id}")]
    NotFound {
        /// The id.
        id: VmId,
    },
    /// The VM has changed since the caller looked.
    #[error("the VM is at generation {found}, not {expected}: look at it again and repeat")]
    Stale {
        /// What the caller had seen.
        expected: u64,
        /// What is.
        found: u64,
    },
    /// Its guest uses the network that it was started with.
    #[error("{name} runs: its network's mode and address can be changed only while it does not")]
    Connected {
        /// The VM.
        name: VmName,
    },
    /// It is being removed, and that cannot be taken back.
    #[error("{name} is being removed")]
    Leaving {
        /// The VM.
        name: VmName,
    },
    /// Only a VM whose goal is `absent` can be forgotten.
    #[error("VM {id} is still wanted and cannot be forgotten: its goal must be absent first")]
    StillWanted {
        /// The VM.
        id: VmId,
    },
    /// The idempotency key was used for another request.
    #[error(
        "idempotency key {key:?} was used for a different request within the last day: use a new key"
    )]
    KeyReused {
        /// The key.
        key: String,
    },
}

impl StoreError {
    /// Names SQLite's refusals that deserve a name of their own.
    pub(crate) fn sqlite(path: &Utf8Path, what: &'static str, error: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode as Code;
        let path = path.to_owned();
        let unreadable = matches!(
            error,
            rusqlite::Error::FromSqlConversionFailure(..)
                | rusqlite::Error::InvalidColumnType(..)
                | rusqlite::Error::IntegralValueOutOfRange(..)
                | rusqlite::Error::Utf8Error(..)
        );
        if unreadable {
            let detail = format!("cannot {what}: {error}");
            return Self::Corrupt { path, detail };
        }
        match error.sqlite_error_code() {
            Some(Code::DiskFull) => Self::Full { path },
            Some(Code::DatabaseBusy | Code::DatabaseLocked) => Self::Locked { path },
            Some(Code::DatabaseCorrupt | Code::NotADatabase) => Self::Corrupt {
                path,
                detail: error.to_string(),
            },
            _ => Self::Database {
                what,
                source: Arc::new(error),
            },
        }
    }

    pub(crate) fn io(what: &'static str, path: &Utf8Path, source: std::io::Error) -> Self {
        Self::Io {
            what,
            path: path.to_owned(),
            source: Arc::new(source),
        }
    }
}
