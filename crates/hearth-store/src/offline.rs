//! A database while no daemon has it: looked through, copied, made anew.
//!
//! Whoever calls this holds the lock of the data folder. Nothing here changes a database that
//! is there.

use camino::Utf8Path;
use hearth_types::ids::InstallationId;
use rusqlite::{Connection, params};

use crate::open::{self, SCHEMA_VERSION, corrupt};
use crate::{Result, StoreError, vms};

/// The most complaints of SQLite that are told.
const COMPLAINTS: usize = 10;

/// What a whole database is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// Whose it is.
    pub installation: InstallationId,
    /// The version of its schema.
    pub schema: u32,
    /// VMs that it records.
    pub vms: usize,
}

/// Looks through the whole database; `None` if there is none.
///
/// # Errors
/// As `Store::open`; [`StoreError::Corrupt`] also when a record in it cannot be read.
pub fn check(path: &Utf8Path) -> Result<Option<Checked>> {
    if !open::exists_with_content(path)? {
        return Ok(None);
    }
    open::verify(path)?;
    let conn = open::to_look(path)?;
    let fail = |error| StoreError::sqlite(path, "check the database", error);
    let complaints = complaints(&conn).map_err(fail)?;
    if !complaints.is_empty() {
        return Err(corrupt(path, complaints.join("; ")));
    }
    let schema: u32 = open::pragma(&conn, "user_version").map_err(fail)?;
    let installation = open::installation(path, &conn)?;
    let query = "SELECT count(*) FROM vms";
    let vms: i64 = conn.query_row(query, [], |row| row.get(0)).map_err(fail)?;
    if schema == SCHEMA_VERSION {
        let rows = vms::load(&conn).map_err(fail)?;
        rows.map_err(|detail| corrupt(path, detail))?;
    }
    Ok(Some(Checked {
        installation,
        schema,
        // A count is not negative.
        vms: usize::try_from(vms).unwrap_or_default(),
    }))
}

/// What SQLite says of structure and references; nothing if all is well.
fn complaints(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut query = conn.prepare(&format!("PRAGMA integrity_check({COMPLAINTS})"))?;
    let said = query.query_map([], |row| row.get::<_, String>(0))?;
    let mut said: Vec<String> = said.collect::<rusqlite::Result<_>>()?;
    said.retain(|line| line != "ok");
    let mut query = conn.prepare("PRAGMA foreign_key_check")?;
    let dangling = query.query_map([], |row| {
        let table: String = row.get(0)?;
        Ok(format!("a row of {table} names a VM that is not there"))
    })?;
    for line in dangling.take(COMPLAINTS) {
        said.push(line?);
    }
    Ok(said)
}

/// The installation of a database that may be damaged, as far as that can be read.
#[must_use]
pub fn installation(path: &Utf8Path) -> Option<InstallationId> {
    open::exists_with_content(path)
        .ok()
        .filter(|there| *there)?;
    let conn = open::to_look(path).ok()?;
    open::installation(path, &conn).ok()
}

/// Writes a whole copy of the database, what is only in its log included, to a file that is
/// not there yet.
///
/// # Errors
/// When there is such a file, or the database cannot be read or the copy not written.
pub fn copy(path: &Utf8Path, to: &Utf8Path) -> Result<()> {
    absent(to)?;
    open::verify(path)?;
    // Made first: with the owner's rights only.
    open::create_file(to)?;
    let conn = open::to_look(path)?;
    let copied = conn.execute("VACUUM INTO ?1", params![to.as_str()]);
    copied
        .map(drop)
        .map_err(|error| StoreError::sqlite(path, "copy the database", error))
        .and_then(|()| sync(to))
        .inspect_err(|_| drop(std::fs::remove_file(to)))
}

/// Makes an empty database for an installation, in a file that is not there yet.
///
/// # Errors
/// When there is such a file, or it cannot be made.
pub fn make(path: &Utf8Path, installation: InstallationId) -> Result<()> {
    absent(path)?;
    let conn = open::open(path)?;
    conn.execute(
        "UPDATE meta SET installation = ?1",
        [installation.to_string()],
    )
    .map(drop)
    .map_err(|error| StoreError::sqlite(path, "write the installation's id", error))
}

fn absent(path: &Utf8Path) -> Result<()> {
    match path.symlink_metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(StoreError::io("look at", path, error)),
        Ok(_) => {
            let there = std::io::Error::from(std::io::ErrorKind::AlreadyExists);
            Err(StoreError::io("write", path, there))
        }
    }
}

pub(crate) fn sync(path: &Utf8Path) -> Result<()> {
    let file = std::fs::File::open(path).and_then(|file| file.sync_all());
    file.map_err(|error| StoreError::io("sync", path, error))
}
