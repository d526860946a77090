//! Settings: a handful of JSON values by key, of the installation as a whole.

use rusqlite::{OptionalExtension as _, params};
use serde_json::Value;

use crate::open::corrupt;
use crate::session::Session;
use crate::{Result, vms};

/// The key that [`probe`] writes.
const PROBE: &str = "probe";

pub(crate) fn read(session: &Session, key: &str) -> Result<Option<Value>> {
    let text: Option<String> = session.run("read a setting", |conn| {
        conn.prepare_cached("SELECT value FROM settings WHERE key = ?1")?
            .query_row([key], |row| row.get(0))
            .optional()
    })?;
    text.map(|text| {
        serde_json::from_str(&text)
            .map_err(|_| corrupt(&session.path, format!("setting {key} cannot be read")))
    })
    .transpose()
}

pub(crate) fn write(session: &Session, key: &str, value: Option<&Value>) -> Result<()> {
    match value {
        Some(value) => {
            let text = vms::encode("a setting", value)?;
            session.run("record a setting", |conn| {
                conn.prepare_cached(
                    "INSERT INTO settings (key, value) VALUES (?1, ?2)
                     ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                )?
                .execute(params![key, text])
            })?;
        }
        None => {
            session.run("forget a setting", |conn| {
                conn.prepare_cached("DELETE FROM settings WHERE key = ?1")?
                    .execute([key])
            })?;
        }
    }
    Ok(())
}

/// Writes something that is always new: SQLite leaves out a write that changes nothing.
pub(crate) fn probe(session: &Session) -> Result<()> {
    session.run("write to the database", |conn| {
        conn.prepare_cached(
            "INSERT INTO settings (key, value) VALUES (?1, '1')
             ON CONFLICT (key) DO UPDATE SET value = CAST(value AS INTEGER) + 1",
        )?
        .execute([PROBE])
    })?;
    Ok(())
}
