//! How runs of VMs ended: the last few of each.

use hearth_types::history::{HISTORY_KEPT, HistoryEntry};
use hearth_types::ids::VmId;
use rusqlite::{OptionalExtension as _, params};

use crate::open::corrupt;
use crate::session::Session;
use crate::{Result, vms};

/// Adds an end and drops the oldest ones.
pub(crate) fn add(session: &Session, vm: VmId, entry: &HistoryEntry) -> Result<()> {
    session.row(vm)?;
    let text = vms::encode("the history", entry)?;
    session.run("record the history", |conn| {
        conn.prepare_cached("INSERT INTO history (vm, entry) VALUES (?1, ?2)")?
            .execute(params![vm.to_string(), text])?;
        conn.prepare_cached(
            "DELETE FROM history WHERE vm = ?1 AND n NOT IN
                 (SELECT n FROM history WHERE vm = ?1 ORDER BY n DESC LIMIT ?2)",
        )?
        .execute(params![vm.to_string(), HISTORY_KEPT])
    })?;
    Ok(())
}

/// Changes the newest end; nothing if there is none.
pub(crate) fn amend(
    session: &Session,
    vm: VmId,
    change: impl FnOnce(&mut HistoryEntry),
) -> Result<()> {
    let newest: Option<(i64, String)> = session.run("read the history", |conn| {
        conn.prepare_cached("SELECT n, entry FROM history WHERE vm = ?1 ORDER BY n DESC LIMIT 1")?
            .query_row([vm.to_string()], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()
    })?;
    let Some((n, text)) = newest else {
        return Ok(());
    };
    let mut entry = decode(session, vm, &text)?;
    change(&mut entry);
    let text = vms::encode("the history", &entry)?;
    session.run("record the history", |conn| {
        conn.prepare_cached("UPDATE history SET entry = ?2 WHERE n = ?1")?
            .execute(params![n, text])
    })?;
    Ok(())
}

/// All that is kept, the newest first.
pub(crate) fn read(session: &Session, vm: VmId) -> Result<Vec<HistoryEntry>> {
    let texts: Vec<String> = session.run("read the history", |conn| {
        conn.prepare_cached("SELECT entry FROM history WHERE vm = ?1 ORDER BY n DESC")?
            .query_map([vm.to_string()], |row| row.get(0))?
            .collect()
    })?;
    texts.iter().map(|text| decode(session, vm, text)).collect()
}

fn decode(session: &Session, vm: VmId, text: &str) -> Result<HistoryEntry> {
    serde_json::from_str(text).map_err(|_| {
        corrupt(
            &session.path,
            format!("the history of VM {vm} cannot be read"),
        )
    })
}
