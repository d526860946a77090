//! The ledger of thin devices: which id of the pool is whose.
//!
//! An id is handed out once and not again before its entry is gone, and then as late as possible.

use hearth_types::thin::{NewThin, ThinDevice};
use rusqlite::{Row, params};

use crate::open::corrupt;
use crate::session::Session;
use crate::{Result, StoreError};

/// Ids are numbers of 24 bits; 0 is nobody's.
const LAST_ID: u32 = (1 << 24) - 1;

/// All entries, by id.
pub(crate) fn read(session: &Session) -> Result<Vec<ThinDevice>> {
    let rows = session.run("read the thin devices", |conn| {
        conn.prepare_cached(
            "SELECT id, name, kind, origin, bytes, state, cause, transaction_id, created_at
             FROM thin_devices ORDER BY id",
        )?
        .query_map([], decode)?
        .collect::<rusqlite::Result<Vec<_>>>()
    })?;
    rows.into_iter()
        .map(|row| row.ok_or_else(|| garbled(session)))
        .collect()
}

/// Writes a new device down under the next free id.
pub(crate) fn begin(session: &Session, new: NewThin) -> Result<ThinDevice> {
    let device = new.with_id(next_id(session)?);
    put(session, &device)?;
    session.run("move the thin devices' cursor", |conn| {
        conn.prepare_cached("UPDATE thin_cursor SET last = ?1")?
            .execute([device.id])
    })?;
    Ok(device)
}

/// Writes an entry, a new one or over the one of its id.
pub(crate) fn put(session: &Session, device: &ThinDevice) -> Result<()> {
    let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    session.run("record a thin device", |conn| {
        conn.prepare_cached(
            "INSERT INTO thin_devices
                 (id, name, kind, origin, bytes, state, cause, transaction_id, created_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
             ON CONFLICT (id) DO UPDATE SET name = excluded.name, kind = excluded.kind,
                 origin = excluded.origin, bytes = excluded.bytes, state = excluded.state,
                 cause = excluded.cause, transaction_id = excluded.transaction_id",
        )?
        .execute(params![
            device.id,
            device.name,
            device.kind.as_str(),
            device.origin,
            number(device.bytes),
            device.state.as_str(),
            device.cause,
            number(device.transaction_id),
            device.created_at.to_string(),
        ])
    })?;
    Ok(())
}

/// Drops an entry: the kernel has confirmed that it has no such device.
pub(crate) fn forget(session: &Session, id: u32) -> Result<()> {
    session.run("forget a thin device", |conn| {
        conn.prepare_cached("DELETE FROM thin_devices WHERE id = ?1")?
            .execute([id])
    })?;
    Ok(())
}

/// The first free id after the one that was handed out last.
fn next_id(session: &Session) -> Result<u32> {
    let last: u32 = session.run("read the thin devices' cursor", |conn| {
        conn.prepare_cached("SELECT last FROM thin_cursor")?
            .query_row([], |row| row.get(0))
    })?;
    let taken: std::collections::BTreeSet<u32> = session.run("read the thin devices", |conn| {
        conn.prepare_cached("SELECT id FROM thin_devices")?
            .query_map([], |row| row.get(0))?
            .collect()
    })?;
    let from = last % LAST_ID + 1;
    (from..=LAST_ID)
        .chain(1..from)
        .find(|id| !taken.contains(id))
        .ok_or_else(|| StoreError::Exhausted {
            what: "id of a thin device".to_owned(),
        })
}

fn decode(row: &Row<'_>) -> rusqlite::Result<Option<ThinDevice>> {
    let text = |at: usize| row.get::<_, String>(at);
    let number = |at: usize| row.get::<_, i64>(at).map(i64::unsigned_abs);
    let (kind, state, created_at) = (text(2)?.parse(), text(5)?.parse(), text(8)?.parse());
    let (Ok(kind), Ok(state), Ok(created_at)) = (kind, state, created_at) else {
        return Ok(None);
    };
    Ok(Some(ThinDevice {
        id: row.get(0)?,
        name: text(1)?,
        kind,
        origin: row.get(3)?,
        bytes: number(4)?,
        state,
        cause: row.get(6)?,
        transaction_id: number(7)?,
        created_at,
    }))
}

fn garbled(session: &Session) -> StoreError {
    corrupt(&session.path, "a thin device cannot be read".to_owned())
}
