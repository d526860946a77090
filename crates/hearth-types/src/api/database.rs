//! Bodies about the database and its backups.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A backup of the database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DatabaseBackup {
    /// Its file on the daemon's host.
    pub file: String,
    /// The moment that it is of.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Its size.
    pub bytes: u64,
}

/// A backup that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DatabaseBackupFailure {
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// The copy was not whole, which means that the database is damaged.
    pub damaged: bool,
    /// Why.
    pub reason: String,
}

/// The database and its backups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DatabaseView {
    /// Its file on the daemon's host.
    pub file: String,
    /// Its size, without what is only in its log.
    pub bytes: Option<u64>,
    /// The version of its schema.
    pub schema: u32,
    /// Its backups that are kept, the newest first. Each was looked through after it was written.
    pub backups: Vec<DatabaseBackup>,
    /// Seconds between two backups; 0 when none are made by themselves.
    pub interval_secs: u64,
    /// How many are kept.
    pub keep: u32,
    /// The last attempt, if it failed.
    pub failure: Option<DatabaseBackupFailure>,
}
