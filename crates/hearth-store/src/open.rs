//! Opening the database: what it is, whether it is whole, which version it has.
//!
//! A file that exists is first looked through without changing it. Only when it is a whole
//! database of ours, of a version this build knows, is anything written.

use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use hearth_types::ids::InstallationId;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension};

use crate::{Result, StoreError};

/// One script per schema version, the first for version 1.
const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001.sql"),
    include_str!("migrations/0002.sql"),
    include_str!("migrations/0003.sql"),
    include_str!("migrations/0004.sql"),
    include_str!("migrations/0005.sql"),
    include_str!("migrations/0006.sql"),
    include_str!("migrations/0007.sql"),
    include_str!("migrations/0008.sql"),
    include_str!("migrations/0009.sql"),
];

/// The schema version that this build writes.
#[expect(clippy::cast_possible_truncation, reason = "a handful of scripts")]
pub const SCHEMA_VERSION: u32 = MIGRATIONS.len() as u32;

/// `PRAGMA application_id`: "Hrth". Tells our databases from others' (SQLite file format, 1.3.15).
const APPLICATION_ID: i32 = 0x4872_7468;

/// The first bytes of every SQLite database (SQLite file format, 1.3.1).
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// How long to wait for another process to let go of the database, as a daemon that is
/// just ending does.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// Opens the database for writing, making it if it is not there.
pub(crate) fn open(path: &Utf8Path) -> Result<Connection> {
    if exists_with_content(path)? {
        verify(path)?;
    } else {
        create_file(path)?;
    }
    let mut conn = connect(path)?;
    prepare(path, &conn)?;
    migrate(path, &mut conn)?;
    Ok(conn)
}

/// The installation's id, which creation wrote.
pub(crate) fn installation(path: &Utf8Path, conn: &Connection) -> Result<InstallationId> {
    let text: Option<String> = conn
        .query_row("SELECT installation FROM meta", [], |row| row.get(0))
        .optional()
        .map_err(|error| StoreError::sqlite(path, "read the installation id", error))?;
    text.and_then(|text| text.parse().ok())
        .ok_or_else(|| corrupt(path, "it holds no installation id"))
}

pub(crate) fn corrupt(path: &Utf8Path, detail: impl Into<String>) -> StoreError {
    StoreError::Corrupt {
        path: path.to_owned(),
        detail: detail.into(),
    }
}

/// Whether there is a file with at least one byte. Says `Corrupt` if it cannot be SQLite's.
pub(crate) fn exists_with_content(path: &Utf8Path) -> Result<bool> {
    let mut file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(StoreError::io("open", path, error)),
    };
    let mut head = Vec::with_capacity(MAGIC.len());
    file.by_ref()
        .take(MAGIC.len() as u64)
        .read_to_end(&mut head)
        .map_err(|error| StoreError::io("read", path, error))?;
    if head.is_empty() {
        // A write-ahead log without its database holds commits that would be lost.
        if wal_has_content(path) {
            return Err(corrupt(path, "it is empty but its write-ahead log is not"));
        }
        return Ok(false);
    }
    if head != MAGIC {
        return Err(corrupt(path, "it is not an SQLite database"));
    }
    Ok(true)
}

fn wal_path(path: &Utf8Path) -> Utf8PathBuf {
    Utf8PathBuf::from(format!("{path}-wal"))
}

fn wal_has_content(path: &Utf8Path) -> bool {
    std::fs::metadata(wal_path(path)).is_ok_and(|meta| meta.len() > 0)
}

/// Makes the file with the owner's rights only: specs hold environment variables.
pub(crate) fn create_file(path: &Utf8Path) -> Result<()> {
    if wal_has_content(path) {
        return Err(corrupt(
            path,
            "it is missing but its write-ahead log is not",
        ));
    }
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map(drop)
        .map_err(|error| StoreError::io("create", path, error))
}

/// Looks at the file without writing to it: is it whole, is it ours, do we know its version?
pub(crate) fn verify(path: &Utf8Path) -> Result<()> {
    let conn = to_look(path)?;
    let fail = |error| StoreError::sqlite(path, "check the database", error);
    let application: i32 = pragma(&conn, "application_id").map_err(fail)?;
    let version: u32 = pragma(&conn, "user_version").map_err(fail)?;
    let tables: i64 = conn
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(fail)?;
    // A crash right after creation leaves a database that is empty: that is ours to go on with.
    let untouched = application == 0 && version == 0 && tables == 0;
    if application != APPLICATION_ID && !untouched {
        return Err(corrupt(path, "it is another program's SQLite database"));
    }
    if version > SCHEMA_VERSION {
        return Err(StoreError::NewerSchema {
            found: version,
            supported: SCHEMA_VERSION,
        });
    }
    let verdict: String = pragma(&conn, "quick_check(1)").map_err(fail)?;
    if verdict != "ok" {
        return Err(corrupt(path, verdict));
    }
    Ok(())
}

/// A connection to look through, that leaves the database as it is.
///
/// Without a write-ahead log: read-only, and `immutable`, which keeps SQLite from making its
/// side files next to a database that we may refuse. That would not see commits that are
/// only in a log, as after a crash; then it is an exclusive connection that does not write
/// the log back when it closes. (Plain reading would need a shared-memory file, which a
/// full disk has no room for.)
pub(crate) fn to_look(path: &Utf8Path) -> Result<Connection> {
    let fail = |error| StoreError::sqlite(path, "open the database", error);
    if wal_has_content(path) {
        let conn = connect(path)?;
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
            .map_err(fail)?;
        return Ok(conn);
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_URI
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let uri = format!("file:{}?immutable=1", uri_escape(path.as_str()));
    Connection::open_with_flags(uri, flags).map_err(fail)
}

/// Escapes what has a meaning in SQLite's URI file names.
fn uri_escape(path: &str) -> String {
    path.replace('%', "%25")
        .replace('?', "%3f")
        .replace('#', "%23")
}

pub(crate) fn pragma<T: rusqlite::types::FromSql>(
    conn: &Connection,
    name: &str,
) -> rusqlite::Result<T> {
    conn.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0))
}

/// Opens with the right to write. The exclusive locking mode keeps the lock until the
/// connection closes, so a second daemon on the same folder is refused even if it got past
/// the lock file.
fn connect(path: &Utf8Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let fail = |error| StoreError::sqlite(path, "open the database", error);
    let conn = Connection::open_with_flags(path, flags).map_err(fail)?;
    conn.busy_timeout(BUSY_TIMEOUT).map_err(fail)?;
    conn.execute_batch("PRAGMA locking_mode = EXCLUSIVE")
        .map_err(fail)?;
    Ok(conn)
}

/// Takes the lock and sets how it is written.
fn prepare(path: &Utf8Path, conn: &Connection) -> Result<()> {
    conn.execute_batch(
        "PRAGMA journal_mode = WAL;
         PRAGMA synchronous = FULL;
         PRAGMA foreign_keys = ON;
         PRAGMA trusted_schema = OFF;
         BEGIN IMMEDIATE; COMMIT;",
    )
    .map_err(|error| StoreError::sqlite(path, "open the database", error))?;
    // Every statement of this crate, with some to spare.
    conn.set_prepared_statement_cache_capacity(64);
    Ok(())
}

/// Runs the scripts that the file lacks, each in a transaction of its own.
fn migrate(path: &Utf8Path, conn: &mut Connection) -> Result<()> {
    let fail = |error| StoreError::sqlite(path, "bring the schema up to date", error);
    let found: u32 = pragma(conn, "user_version").map_err(fail)?;
    for (version, script) in (1_u32..).zip(MIGRATIONS).skip(found as usize) {
        let tx = conn.transaction().map_err(fail)?;
        tx.execute_batch(script).map_err(fail)?;
        if version == 1 {
            tx.execute_batch(&format!("PRAGMA application_id = {APPLICATION_ID}"))
                .map_err(fail)?;
            tx.execute(
                "INSERT INTO meta (only, installation) VALUES (1, ?1)",
                [InstallationId::new().to_string()],
            )
            .map_err(fail)?;
        }
        tx.execute_batch(&format!("PRAGMA user_version = {version}"))
            .map_err(fail)?;
        tx.commit().map_err(fail)?;
    }
    Ok(())
}
