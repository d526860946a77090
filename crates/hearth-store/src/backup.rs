//! A copy of the database while the daemon works with it.
//!
//! ```text
//! writer's thread: pages ─► FILE.new        (SQLite's online backup, between two transactions)
//! another thread:  FILE.new ─ whole? ─► synced ─► FILE ─► folder synced
//! ```
//! A file with the name that was asked for is a whole database, checked after it was written;
//! what a failure or a death leaves is a file that ends in `.new`.

use camino::{Utf8Path, Utf8PathBuf};
use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};

use crate::offline::{self, Checked};
use crate::open;
use crate::{Result, StoreError};

/// Where a copy is written before it is whole.
pub(crate) fn unfinished(to: &Utf8Path) -> Utf8PathBuf {
    Utf8PathBuf::from(format!("{to}.new"))
}

/// Copies every page. No transaction may be open on the connection; the copy is the database
/// between two of them. Writers wait meanwhile: a few milliseconds per megabyte.
pub(crate) fn copy_pages(conn: &Connection, path: &Utf8Path, to: &Utf8Path) -> Result<()> {
    let new = unfinished(to);
    remove_if_there(&new)?;
    // Made first: with the owner's rights only.
    open::create_file(&new)?;
    pages(conn, &new).map_err(|error| StoreError::sqlite(path, "back up the database", error))
}

fn pages(conn: &Connection, new: &Utf8Path) -> rusqlite::Result<()> {
    let mut copy = Connection::open(new)?;
    // It is synced as a whole when it is.
    copy.execute_batch("PRAGMA synchronous = OFF; PRAGMA journal_mode = OFF")?;
    let backup = Backup::new(conn, &mut copy)?;
    loop {
        match backup.step(-1)? {
            StepResult::Done => return Ok(()),
            // Nobody else has either of the two: this does not happen, and would not last.
            _ => std::thread::yield_now(),
        }
    }
}

/// Looks through the copy and gives it its name.
pub(crate) fn finish(to: &Utf8Path) -> Result<Checked> {
    let new = unfinished(to);
    let checked = offline::check(&new).and_then(|checked| {
        let empty = || open::corrupt(&new, "the copy is empty");
        let checked = checked.ok_or_else(empty)?;
        offline::sync(&new)?;
        std::fs::rename(&new, to).map_err(|error| StoreError::io("write", to, error))?;
        if let Some(folder) = to.parent() {
            offline::sync(folder)?;
        }
        Ok(checked)
    });
    if checked.is_err() {
        drop(remove_if_there(&new));
    }
    checked
}

fn remove_if_there(file: &Utf8Path) -> Result<()> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(StoreError::io("remove", file, error))
        }
        _ => Ok(()),
    }
}
