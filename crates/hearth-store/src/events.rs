//! The event log: numbered without gaps, bounded by count.

use hearth_types::event::{Event, NewEvent};
use hearth_types::ids::EventSeq;
use jiff::Timestamp;
use rusqlite::{Connection, Row, params};

use crate::open::corrupt;
use crate::session::Session;
use crate::{Result, vms};

/// How many events are kept: days of a busy host, a few megabytes.
const KEEP: u64 = 10_000;
/// Old events go in lots of this size rather than one by one.
const PRUNE_EVERY: u64 = 256;

pub(crate) fn load_last(conn: &Connection) -> rusqlite::Result<u64> {
    conn.query_row("SELECT coalesce(max(seq), 0) FROM events", [], |row| {
        row.get(0)
    })
}

pub(crate) fn append(session: &mut Session, new: NewEvent, now: Timestamp) -> Result<Event> {
    let event = Event {
        seq: EventSeq(session.last_event + 1),
        at: now,
        severity: new.severity,
        code: new.code,
        vm: new.vm,
        name: new.name,
        message: new.message,
        details: new.details,
    };
    let severity = vms::encode("the severity", &event.severity)?;
    let details = vms::encode("the event's details", &event.details)?;
    session.run("record an event", |conn| {
        conn.prepare_cached(
            "INSERT INTO events (seq, at, severity, code, vm, name, message, details)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![
            event.seq.0,
            event.at.to_string(),
            severity,
            event.code,
            event.vm.map(|vm| vm.to_string()),
            event.name,
            event.message,
            details,
        ])?;
        if event.seq.0.is_multiple_of(PRUNE_EVERY) {
            conn.prepare_cached("DELETE FROM events WHERE seq <= ?1")?
                .execute([event.seq.0.saturating_sub(KEEP)])?;
        }
        Ok(())
    })?;
    session.last_event = event.seq.0;
    Ok(event)
}

pub(crate) fn read(session: &Session, after: EventSeq, limit: usize) -> Result<Vec<Event>> {
    let after = i64::try_from(after.0).unwrap_or(i64::MAX);
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let events: Vec<(i64, Option<Event>)> = session.run("read the events", |conn| {
        conn.prepare_cached(
            "SELECT seq, at, severity, code, vm, name, message, details FROM events
             WHERE seq > ?1 ORDER BY seq LIMIT ?2",
        )?
        .query_map([after, limit], |row| Ok((row.get(0)?, decode(row)?)))?
        .collect()
    })?;
    events
        .into_iter()
        .map(|(seq, event)| {
            event.ok_or_else(|| corrupt(&session.path, format!("event {seq} cannot be read")))
        })
        .collect()
}

/// `None` if a column does not hold what was once written there.
fn decode(row: &Row<'_>) -> rusqlite::Result<Option<Event>> {
    let seq: u64 = row.get(0)?;
    let text = |n: usize| row.get::<_, String>(n);
    let vm: Option<String> = row.get(4)?;
    let (at, severity, details) = (text(1)?, text(2)?, text(7)?);
    let (code, name, message) = (text(3)?, row.get(5)?, text(6)?);
    let vm = vm.map(|vm| vm.parse()).transpose();
    let whole = || {
        Some(Event {
            seq: EventSeq(seq),
            at: at.parse().ok()?,
            severity: serde_json::from_str(&severity).ok()?,
            code,
            vm: vm.ok()?,
            name,
            message,
            details: serde_json::from_str(&details).ok()?,
        })
    };
    Ok(whole())
}
