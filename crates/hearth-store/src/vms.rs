//! VMs: rows to SQL and back, and the requests that change them.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::Arc;

use hearth_types::ids::VmId;
use hearth_types::names::VmName;
use hearth_types::net::MacAddr;
use hearth_types::spec::VmSpec;
use hearth_types::spec::bootstrap::circle;
use hearth_types::status::{Goal, Leases, Phase, VmStatus};
use hearth_types::units::Span;
use hearth_types::volume::volumes_clash;
use jiff::Timestamp;
use rusqlite::{Connection, Row, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::session::{Cursors, Rows, Session};
use crate::{LeaseRanges, NewSpec, NewVm, Result, StoreError, VmRow, leases, volumes};

/// Reads every VM. A row that cannot be read is damage, said by the VM's id.
pub(crate) fn load(conn: &Connection) -> rusqlite::Result<std::result::Result<Rows, String>> {
    let mut query = conn.prepare(
        "SELECT vms.id, spec, generation, goal, force_stop, stop_timeout, status, created_at,
                image, kernel, ip, mac, cid, uid
         FROM vms LEFT JOIN leases ON leases.vm = vms.id",
    )?;
    let mut found = query.query([])?;
    let mut rows = Rows::new();
    while let Some(row) = found.next()? {
        let id: String = row.get(0)?;
        match decode(&id, row) {
            Ok(row) => rows.insert(row.id, Arc::new(row)),
            Err(detail) => return Ok(Err(format!("the record of VM {id}: {detail}"))),
        };
    }
    Ok(Ok(rows))
}

pub(crate) fn load_cursors(conn: &Connection) -> rusqlite::Result<Cursors> {
    conn.query_row("SELECT last_ip, last_cid, last_uid FROM meta", [], |row| {
        Ok(Cursors {
            ip: row.get(0)?,
            cid: row.get(1)?,
            uid: row.get(2)?,
        })
    })
}

fn decode(id: &str, row: &Row<'_>) -> std::result::Result<VmRow, String> {
    fn text<T: FromStr<Err: std::fmt::Display>>(
        text: &str,
        what: &str,
    ) -> std::result::Result<T, String> {
        text.parse().map_err(|error| format!("{what}: {error}"))
    }
    fn json<T: DeserializeOwned>(text: &str, what: &str) -> std::result::Result<T, String> {
        serde_json::from_str(text).map_err(|error| format!("{what}: {error}"))
    }
    let sql = |error: rusqlite::Error| error.to_string();
    let column = |n: usize| row.get::<_, String>(n).map_err(sql);
    let goal = format!("\"{}\"", column(3)?);
    let mac: Option<String> = row.get(11).map_err(sql)?;
    Ok(VmRow {
        id: text(id, "id")?,
        spec: json(&column(1)?, "spec")?,
        generation: row.get(2).map_err(sql)?,
        goal: json(&goal, "goal")?,
        force_stop: row.get(4).map_err(sql)?,
        stop_timeout: row.get::<_, Option<u64>>(5).map_err(sql)?.map(Span::millis),
        leases: Leases {
            ip: row
                .get::<_, Option<u32>>(10)
                .map_err(sql)?
                .map(std::net::Ipv4Addr::from),
            mac: mac.map(|mac| text::<MacAddr>(&mac, "mac")).transpose()?,
            cid: row.get(12).map_err(sql)?,
            uid: row.get(13).map_err(sql)?,
        },
        status: json(&column(6)?, "status")?,
        created_at: text(&column(7)?, "created_at")?,
        image: text(&column(8)?, "image")?,
        kernel: row.get(9).map_err(sql)?,
    })
}

pub(crate) fn encode<T: Serialize>(what: &'static str, value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|error| StoreError::Encode {
        what,
        source: Arc::new(error),
    })
}

const fn goal_text(goal: Goal) -> &'static str {
    match goal {
        Goal::Running => "running",
        Goal::Paused => "paused",
        Goal::Stopped => "stopped",
        Goal::Absent => "absent",
    }
}

/// Writes the whole row, new or not. Not an `INSERT OR REPLACE`: that would delete the row
/// first and its leases with it.
fn save(session: &Session, row: &VmRow) -> Result<()> {
    let spec = encode("the spec", &row.spec)?;
    let status = encode("the status", &row.status)?;
    session.run("record the VM", |conn| {
        conn.prepare_cached(
            "INSERT INTO vms (id, name, spec, generation, goal, force_stop, stop_timeout, status,
                              created_at, image, kernel)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
             ON CONFLICT (id) DO UPDATE SET name = excluded.name, spec = excluded.spec,
                 generation = excluded.generation, goal = excluded.goal,
                 force_stop = excluded.force_stop, stop_timeout = excluded.stop_timeout,
                 status = excluded.status, image = excluded.image, kernel = excluded.kernel",
        )?
        .execute(params![
            row.id.to_string(),
            row.spec.name.as_str(),
            spec,
            row.generation,
            goal_text(row.goal),
            row.force_stop,
            row.stop_timeout.map(Span::as_millis),
            status,
            row.created_at.to_string(),
            row.image.as_str(),
            row.kernel,
        ])
    })?;
    Ok(())
}

fn check_name(session: &Session, name: &VmName, own: VmId) -> Result<()> {
    let holder = session
        .rows()
        .values()
        .find(|row| row.spec.name == *name && row.id != own);
    match holder {
        Some(row) => Err(StoreError::NameTaken {
            name: name.clone(),
            by: row.id,
        }),
        None => Ok(()),
    }
}

/// A VM that is started after others must not, by way of them, be started after itself. Every
/// circle is closed by the last of its VMs that is written, whatever the order.
fn check_order(session: &Session, spec: &VmSpec, own: VmId) -> Result<()> {
    if spec.after.is_empty() {
        return Ok(());
    }
    let others = session.rows().values();
    let others = others.filter(|row| row.id != own && row.goal != Goal::Absent);
    let after: HashMap<_, _> = others
        .map(|row| (&row.spec.name, row.spec.after.as_slice()))
        .collect();
    let of = |name: &VmName| after.get(name).copied().unwrap_or_default();
    match circle(&spec.name, &spec.after, of) {
        Some(path) => Err(StoreError::Circle { path }),
        None => Ok(()),
    }
}

/// What is attached to a VM stays so, whatever its specification becomes.
fn check_volumes(session: &Session, spec: &VmSpec, own: VmId) -> Result<()> {
    let mut attached = volumes::attachments(session)?;
    attached.retain(|it| it.vm == own);
    match volumes_clash(&spec.volumes, &attached) {
        Some(why) => Err(StoreError::Volumes {
            vm: spec.name.clone(),
            why,
        }),
        None => Ok(()),
    }
}

/// A removal that was acknowledged is not taken back: parts of the VM may be gone already.
fn check_stays(row: &VmRow) -> Result<()> {
    match row.goal {
        Goal::Absent => Err(StoreError::Leaving {
            name: row.spec.name.clone(),
        }),
        _ => Ok(()),
    }
}

/// Whether a VMM of it lives, or is just being started.
fn is_up(row: &VmRow) -> bool {
    row.status.vmm.is_some() || row.status.phase == Phase::Starting
}

fn check_generation(row: &VmRow, expected: Option<u64>) -> Result<()> {
    match expected {
        Some(expected) if expected != row.generation => Err(StoreError::Stale {
            expected,
            found: row.generation,
        }),
        _ => Ok(()),
    }
}

pub(crate) fn create(
    session: &mut Session,
    new: NewVm,
    ranges: LeaseRanges,
    now: Timestamp,
) -> Result<VmRow> {
    let id = VmId::new();
    check_name(session, &new.spec.name, id)?;
    check_order(session, &new.spec, id)?;
    let leases = leases::choose(session, &new.spec, ranges)?;
    let row = VmRow {
        id,
        spec: new.spec,
        generation: 1,
        goal: new.goal,
        force_stop: false,
        stop_timeout: None,
        leases,
        status: VmStatus::default(),
        created_at: now,
        image: new.image,
        kernel: new.kernel,
    };
    save(session, &row)?;
    leases::record(session, id, &row.spec, &row.leases)?;
    session.put(row.clone());
    Ok(row)
}

/// Records a VM as it was recorded once, with the id and the leases that it has.
pub(crate) fn restore(session: &mut Session, row: VmRow) -> Result<VmRow> {
    if session.rows().contains_key(&row.id) {
        return Err(StoreError::Recorded { id: row.id });
    }
    check_name(session, &row.spec.name, row.id)?;
    check_order(session, &row.spec, row.id)?;
    let taken = |of: &dyn Fn(&Leases) -> bool| {
        session
            .rows()
            .values()
            .find(|other| of(&other.leases))
            .map(|other| other.spec.name.clone())
    };
    let ip = row.leases.ip;
    if let (Some(ip), Some(by)) = (ip, taken(&|other| other.ip == ip && ip.is_some())) {
        return Err(StoreError::AddressTaken { ip, by });
    }
    let (cid, uid) = (row.leases.cid, row.leases.uid);
    if let Some(by) = taken(&|other| other.cid == cid || (uid != 0 && other.uid == uid)) {
        return Err(StoreError::LeaseTaken { by });
    }
    save(session, &row)?;
    leases::record(session, row.id, &row.spec, &row.leases)?;
    session.put(row.clone());
    Ok(row)
}

pub(crate) fn set_goal(
    session: &mut Session,
    id: VmId,
    goal: Goal,
    force: bool,
    stop_timeout: Option<Span>,
    expected: Option<u64>,
) -> Result<VmRow> {
    let old = session.row(id)?;
    check_generation(old, expected)?;
    if goal != Goal::Absent {
        check_stays(old)?;
    }
    let row = VmRow {
        generation: old.generation + 1,
        goal,
        force_stop: force,
        stop_timeout,
        ..VmRow::clone(old)
    };
    session.run("record the goal", |conn| {
        conn.prepare_cached(
            "UPDATE vms SET generation = ?2, goal = ?3, force_stop = ?4, stop_timeout = ?5
             WHERE id = ?1",
        )?
        .execute(params![
            id.to_string(),
            row.generation,
            goal_text(goal),
            force,
            stop_timeout.map(Span::as_millis),
        ])
    })?;
    session.put(row.clone());
    Ok(row)
}

pub(crate) fn replace_spec(
    session: &mut Session,
    id: VmId,
    new: NewSpec,
    ranges: LeaseRanges,
    expected: Option<u64>,
) -> Result<VmRow> {
    let old = Arc::clone(session.row(id)?);
    check_generation(&old, expected)?;
    check_stays(&old)?;
    check_name(session, &new.spec.name, id)?;
    check_order(session, &new.spec, id)?;
    check_volumes(session, &new.spec, id)?;
    let ip = leases::choose_ip(session, Some(&old), &new.spec, ranges.subnet)?;
    // The guest keeps the address until its end, so nobody else may have it before.
    if ip != old.leases.ip && is_up(&old) {
        return Err(StoreError::Connected {
            name: old.spec.name.clone(),
        });
    }
    let row = VmRow {
        leases: Leases {
            ip,
            mac: ip.map(MacAddr::for_ipv4),
            ..old.leases
        },
        generation: old.generation + 1,
        spec: new.spec,
        image: new.image,
        kernel: new.kernel,
        ..VmRow::clone(&old)
    };
    save(session, &row)?;
    leases::record(session, id, &row.spec, &row.leases)?;
    session.put(row.clone());
    Ok(row)
}

pub(crate) fn set_status(session: &mut Session, id: VmId, status: VmStatus) -> Result<()> {
    let old = session.row(id)?;
    if old.status == status {
        return Ok(());
    }
    let row = VmRow {
        status,
        ..VmRow::clone(old)
    };
    let text = encode("the status", &row.status)?;
    session.run("record the status", |conn| {
        conn.prepare_cached("UPDATE vms SET status = ?2 WHERE id = ?1")?
            .execute(params![id.to_string(), text])
    })?;
    session.put(row);
    Ok(())
}

pub(crate) fn forget(session: &mut Session, id: VmId) -> Result<()> {
    if session.row(id)?.goal != Goal::Absent {
        return Err(StoreError::StillWanted { id });
    }
    session.run("forget the VM", |conn| {
        conn.prepare_cached("DELETE FROM vms WHERE id = ?1")?
            .execute([id.to_string()])
    })?;
    session.remove(id);
    Ok(())
}
