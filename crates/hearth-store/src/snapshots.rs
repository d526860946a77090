//! Snapshots, and which VMs get their disks from which.

use hearth_types::ids::{SnapshotId, VmId};
use hearth_types::snapshot::{Snapshot, SnapshotState};
use jiff::Timestamp;
use rusqlite::{OptionalExtension as _, params};

use crate::open::corrupt;
use crate::session::Session;
use crate::{LeaseRanges, NewVm, Result, StoreError, VmRow, vms};

/// All of them, oldest first.
pub(crate) fn read(session: &Session) -> Result<Vec<Snapshot>> {
    let texts: Vec<String> = session.run("read the snapshots", |conn| {
        conn.prepare_cached("SELECT snapshot FROM snapshots ORDER BY id")?
            .query_map([], |row| row.get(0))?
            .collect()
    })?;
    texts.iter().map(|text| decode(session, text)).collect()
}

fn decode(session: &Session, text: &str) -> Result<Snapshot> {
    serde_json::from_str(text)
        .map_err(|error| corrupt(&session.path, format!("a snapshot cannot be read: {error}")))
}

/// Writes a snapshot down whose disks are about to be made.
pub(crate) fn begin(session: &Session, snapshot: &Snapshot) -> Result<()> {
    let name = &snapshot.name;
    let taken = session.run("look for the name", |conn| {
        conn.prepare_cached("SELECT 1 FROM snapshots WHERE name = ?1")?
            .exists([name.as_str()])
    })?;
    if taken {
        let name = name.clone();
        return Err(StoreError::SnapshotNamed { name });
    }
    put(session, snapshot)
}

/// Writes a snapshot, a new one or over the one of its id.
pub(crate) fn put(session: &Session, snapshot: &Snapshot) -> Result<()> {
    let text = vms::encode("the snapshot", snapshot)?;
    session.run("record the snapshot", |conn| {
        conn.prepare_cached(
            "INSERT INTO snapshots (id, name, state, vm, image, created_at, snapshot)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
             ON CONFLICT (id) DO UPDATE SET state = excluded.state, snapshot = excluded.snapshot",
        )?
        .execute(params![
            snapshot.id.to_string(),
            snapshot.name.as_str(),
            snapshot.state.as_str(),
            snapshot.vm.to_string(),
            snapshot.image.as_str(),
            snapshot.created_at.to_string(),
            text,
        ])
    })?;
    Ok(())
}

/// Marks a snapshot as one that is being removed, unless a VM's disks are still to be made of it.
pub(crate) fn begin_removal(session: &Session, snapshot: &Snapshot) -> Result<()> {
    let vm: Option<String> = session.run("look for the snapshot's users", |conn| {
        conn.prepare_cached(
            "SELECT vms.name FROM origins JOIN vms ON vms.id = origins.vm
             WHERE snapshot = ?1 LIMIT 1",
        )?
        .query_row([snapshot.id.to_string()], |row| row.get(0))
        .optional()
    })?;
    if let Some(vm) = vm {
        let name = snapshot.name.clone();
        return Err(StoreError::SnapshotUsed { name, vm });
    }
    let leaving = Snapshot {
        state: SnapshotState::Deleting,
        ..snapshot.clone()
    };
    put(session, &leaving)
}

/// Drops the record of a snapshot whose disks are gone.
pub(crate) fn forget(session: &Session, id: SnapshotId) -> Result<()> {
    session.run("forget the snapshot", |conn| {
        conn.prepare_cached("DELETE FROM snapshots WHERE id = ?1")?
            .execute([id.to_string()])
    })?;
    Ok(())
}

/// Records a VM whose disks are to be made of a snapshot.
pub(crate) fn create_vm(
    session: &mut Session,
    new: NewVm,
    origin: &Snapshot,
    ranges: LeaseRanges,
    now: Timestamp,
) -> Result<VmRow> {
    let ready = session.run("look for the snapshot", |conn| {
        conn.prepare_cached("SELECT 1 FROM snapshots WHERE id = ?1 AND state = 'ready'")?
            .exists([origin.id.to_string()])
    })?;
    if !ready {
        let name = origin.name.clone();
        return Err(StoreError::SnapshotGone { name });
    }
    let row = vms::create(session, new, ranges, now)?;
    session.run("record where the VM's disks come from", |conn| {
        conn.prepare_cached("INSERT INTO origins (vm, snapshot) VALUES (?1, ?2)")?
            .execute([row.id.to_string(), origin.id.to_string()])
    })?;
    Ok(row)
}

/// The snapshot that a VM's disks are still to be made of.
pub(crate) fn origin(session: &Session, vm: VmId) -> Result<Option<Snapshot>> {
    let text: Option<String> = session.run("read where the VM's disks come from", |conn| {
        conn.prepare_cached(
            "SELECT snapshot FROM snapshots
             WHERE id = (SELECT snapshot FROM origins WHERE vm = ?1)",
        )?
        .query_row([vm.to_string()], |row| row.get(0))
        .optional()
    })?;
    text.map(|text| decode(session, &text)).transpose()
}

/// The VM's disks are made.
pub(crate) fn forget_origin(session: &Session, vm: VmId) -> Result<()> {
    session.run("forget where the VM's disks came from", |conn| {
        conn.prepare_cached("DELETE FROM origins WHERE vm = ?1")?
            .execute([vm.to_string()])
    })?;
    Ok(())
}
