//! The journal: what was about to be done to the host, and how it went.

use hearth_types::ids::{IntentId, VmId};
use jiff::Timestamp;
use rusqlite::params;
use serde_json::Value;

use crate::open::corrupt;
use crate::session::Session;
use crate::{OpenIntentRow, Result, vms};

/// How many entries are kept, finished ones only being dropped: enough to read what the
/// last passes did, little enough to stay small.
const KEEP: i64 = 5_000;

pub(crate) fn begin(
    session: &Session,
    vm: Option<VmId>,
    step: &Value,
    now: Timestamp,
) -> Result<IntentId> {
    let id = IntentId::new();
    let step = vms::encode("the step", step)?;
    session.run("begin a journal entry", |conn| {
        conn.prepare_cached(
            "INSERT INTO intents (id, vm, step, begun_at) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![
            id.to_string(),
            vm.map(|vm| vm.to_string()),
            step,
            now.to_string()
        ])?;
        let n = conn.last_insert_rowid();
        if n % 256 == 0 {
            conn.prepare_cached("DELETE FROM intents WHERE n <= ?1 AND finished_at IS NOT NULL")?
                .execute([n - KEEP])?;
        }
        Ok(id)
    })
}

/// Those of these VMs that some entry names, other than the removal of an orphan.
pub(crate) fn names(session: &Session, vms: Vec<VmId>) -> Result<Vec<VmId>> {
    session.run("read the journal", |conn| {
        let mut known = conn.prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM intents
             WHERE vm = ?1 AND step ->> '$.step' NOT LIKE '%orphan%')",
        )?;
        let mut named = Vec::new();
        for vm in vms {
            if known.query_row([vm.to_string()], |row| row.get(0))? {
                named.push(vm);
            }
        }
        Ok(named)
    })
}

/// Closes entries; those that are closed already keep their first outcome.
pub(crate) fn finish(
    session: &Session,
    ids: &[IntentId],
    outcome: &str,
    now: Timestamp,
) -> Result<()> {
    session.run("finish a journal entry", |conn| {
        let mut update = conn.prepare_cached(
            "UPDATE intents SET finished_at = ?2, outcome = ?3
             WHERE id = ?1 AND finished_at IS NULL",
        )?;
        for id in ids {
            update.execute(params![id.to_string(), now.to_string(), outcome])?;
        }
        Ok(())
    })
}

pub(crate) fn open_entries(session: &Session) -> Result<Vec<OpenIntentRow>> {
    type Raw = (String, Option<String>, String, String);
    let raw: Vec<Raw> = session.run("read the journal", |conn| {
        conn.prepare_cached(
            "SELECT id, vm, step, begun_at FROM intents WHERE finished_at IS NULL ORDER BY n",
        )?
        .query_map([], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        })?
        .collect()
    })?;
    raw.into_iter()
        .map(|(id, vm, step, begun_at)| {
            let damaged = || corrupt(&session.path, format!("journal entry {id} cannot be read"));
            Ok(OpenIntentRow {
                id: id.parse().map_err(|_| damaged())?,
                vm: vm.map(|vm| vm.parse()).transpose().map_err(|_| damaged())?,
                step: serde_json::from_str(&step).map_err(|_| damaged())?,
                begun_at: begun_at.parse().map_err(|_| damaged())?,
            })
        })
        .collect()
}
