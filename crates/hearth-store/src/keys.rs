//! Idempotency keys: a request that is sent twice takes effect once.

use hearth_types::ids::VmId;
use jiff::Timestamp;
use rusqlite::{OptionalExtension, params};
use serde_json::Value;

use crate::open::corrupt;
use crate::session::Session;
use crate::{Created, IdempotencyKey, IdempotentHit, LeaseRanges, NewVm, Result, StoreError, vms};

/// How long a key is remembered, in seconds: 24 hours.
const REMEMBERED: i64 = 24 * 60 * 60;

pub(crate) fn look_up(session: &Session, key: &str, hash: &str) -> Result<Option<IdempotentHit>> {
    let found: Option<(String, String)> = session.run("look for the key", |conn| {
        conn.prepare_cached("SELECT hash, response FROM idempotency WHERE key = ?1")?
            .query_row([key], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()
    })?;
    let Some((known, response)) = found else {
        return Ok(None);
    };
    let response = serde_json::from_str(&response)
        .map_err(|_| corrupt(&session.path, "an idempotency record cannot be read"))?;
    Ok(Some(IdempotentHit {
        matches: known == hash,
        response,
    }))
}

pub(crate) fn remember(
    session: &Session,
    key: &IdempotencyKey,
    vm: Option<VmId>,
    response: &Value,
    now: Timestamp,
) -> Result<()> {
    let response = vms::encode("the answer", response)?;
    let now = now.as_second();
    session.run("remember the key", |conn| {
        conn.prepare_cached("DELETE FROM idempotency WHERE created_at < ?1")?
            .execute([now - REMEMBERED])?;
        conn.prepare_cached(
            "INSERT INTO idempotency (key, hash, vm, response, created_at)
             VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (key) DO UPDATE SET hash = excluded.hash, vm = excluded.vm,
                 response = excluded.response, created_at = excluded.created_at",
        )?
        .execute(params![
            key.key,
            key.hash,
            vm.map(|vm| vm.to_string()),
            response,
            now
        ])
    })?;
    Ok(())
}

/// Creates a VM unless a request with this key has done so within the last day.
pub(crate) fn create(
    session: &mut Session,
    new: NewVm,
    ranges: LeaseRanges,
    key: &IdempotencyKey,
    now: Timestamp,
) -> Result<Created> {
    let known: Option<(String, Option<String>)> = session.run("look for the key", |conn| {
        conn.prepare_cached("SELECT hash, vm FROM idempotency WHERE key = ?1 AND created_at >= ?2")?
            .query_row(params![key.key, now.as_second() - REMEMBERED], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .optional()
    })?;
    match known {
        None => {
            let row = vms::create(session, new, ranges, now)?;
            remember(session, key, Some(row.id), &Value::Null, now)?;
            Ok(Created::New(Box::new(row)))
        }
        Some((hash, Some(vm))) if hash == key.hash => vm
            .parse()
            .map(Created::Replayed)
            .map_err(|_| corrupt(&session.path, "an idempotency record cannot be read")),
        Some(_) => Err(StoreError::KeyReused {
            key: key.key.clone(),
        }),
    }
}
