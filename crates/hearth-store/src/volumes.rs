//! Data volumes of their own, and which VM has which.

use hearth_types::ids::{VmId, VolumeId};
use hearth_types::status::Goal;
use hearth_types::volume::{Attachment, MAX_DISKS, Volume, VolumeState};
use rusqlite::{OptionalExtension as _, params};

use crate::open::corrupt;
use crate::session::Session;
use crate::{Result, StoreError, vms};

/// All of them, oldest first.
pub(crate) fn read(session: &Session) -> Result<Vec<Volume>> {
    let texts: Vec<String> = session.run("read the volumes", |conn| {
        conn.prepare_cached("SELECT volume FROM data_volumes ORDER BY id")?
            .query_map([], |row| row.get(0))?
            .collect()
    })?;
    texts.iter().map(|text| decode(session, text)).collect()
}

fn decode(session: &Session, text: &str) -> Result<Volume> {
    serde_json::from_str(text)
        .map_err(|error| corrupt(&session.path, format!("a volume cannot be read: {error}")))
}

fn find(session: &Session, id: VolumeId) -> Result<Option<Volume>> {
    let text: Option<String> = session.run("read the volume", |conn| {
        conn.prepare_cached("SELECT volume FROM data_volumes WHERE id = ?1")?
            .query_row([id.to_string()], |row| row.get(0))
            .optional()
    })?;
    text.map(|text| decode(session, &text)).transpose()
}

/// Writes a volume down that is about to be made.
pub(crate) fn begin(session: &Session, volume: &Volume) -> Result<()> {
    let name = &volume.name;
    let taken = session.run("look for the name", |conn| {
        conn.prepare_cached("SELECT 1 FROM data_volumes WHERE name = ?1")?
            .exists([name.as_str()])
    })?;
    if taken {
        let name = name.clone();
        return Err(StoreError::VolumeNamed { name });
    }
    put(session, volume)
}

/// Writes a volume, a new one or over the one of its id.
pub(crate) fn put(session: &Session, volume: &Volume) -> Result<()> {
    let text = vms::encode("the volume", volume)?;
    session.run("record the volume", |conn| {
        conn.prepare_cached(
            "INSERT INTO data_volumes (id, name, state, created_at, volume)
             VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (id) DO UPDATE SET state = excluded.state, volume = excluded.volume",
        )?
        .execute(params![
            volume.id.to_string(),
            volume.name.as_str(),
            volume.state.as_str(),
            volume.created_at.to_string(),
            text,
        ])
    })?;
    Ok(())
}

/// Marks a volume as one that is being removed, unless a VM has it.
pub(crate) fn begin_removal(session: &Session, id: VolumeId) -> Result<Option<Volume>> {
    let Some(volume) = find(session, id)? else {
        return Ok(None);
    };
    if let Some(first) = attachments(session)?.into_iter().find(|it| it.volume == id) {
        return Err(StoreError::VolumeUsed {
            name: volume.name,
            vm: first.vm_name,
        });
    }
    let leaving = Volume {
        state: VolumeState::Deleting,
        ..volume
    };
    put(session, &leaving)?;
    Ok(Some(leaving))
}

/// Drops the record of a volume whose disk is gone.
pub(crate) fn forget(session: &Session, id: VolumeId) -> Result<()> {
    session.run("forget the volume", |conn| {
        conn.prepare_cached("DELETE FROM data_volumes WHERE id = ?1")?
            .execute([id.to_string()])
    })?;
    Ok(())
}

/// Which VM has which volume.
pub(crate) fn attachments(session: &Session) -> Result<Vec<Attachment>> {
    type Row = (String, String, String, String, String, bool);
    let rows: Vec<Row> = session.run("read who has which volume", |conn| {
        conn.prepare_cached(
            "SELECT attachments.volume, data_volumes.name, vm, vms.name, mount, read_only FROM attachments
             JOIN data_volumes ON data_volumes.id = attachments.volume JOIN vms ON vms.id = vm ORDER BY vm, attachments.volume",
        )?
        .query_map([], |row| {
            Ok((
                row.get(0)?,
                row.get(1)?,
                row.get(2)?,
                row.get(3)?,
                row.get(4)?,
                row.get(5)?,
            ))
        })?
        .collect()
    })?;
    let read = |(volume, name, vm, vm_name, mount, read_only): Row| {
        Some(Attachment {
            volume: volume.parse().ok()?,
            name: name.parse().ok()?,
            vm: vm.parse().ok()?,
            vm_name: vm_name.parse().ok()?,
            mount,
            read_only,
        })
    };
    let all: Option<Vec<_>> = rows.into_iter().map(read).collect();
    all.ok_or_else(|| corrupt(&session.path, "an attachment of a volume cannot be read"))
}

/// Gives a VM a volume. Asked for again with the same words it is a success.
pub(crate) fn attach(session: &Session, new: &Attachment) -> Result<()> {
    let row = session.row(new.vm)?;
    if row.goal == Goal::Absent {
        let name = row.spec.name.clone();
        return Err(StoreError::Leaving { name });
    }
    let own = row.spec.volumes.clone();
    let refused = |why: String| {
        Err(StoreError::NotAttached {
            name: new.name.clone(),
            vm: new.vm_name.clone(),
            why,
        })
    };
    let all = attachments(session)?;
    let same = |it: &&Attachment| it.volume == new.volume && it.vm == new.vm;
    if let Some(present) = all.iter().find(same) {
        if (&present.mount, present.read_only) == (&new.mount, new.read_only) {
            return Ok(());
        }
        return refused(format!("it has it at {} already", present.mount));
    }
    match find(session, new.volume)? {
        Some(volume) if volume.state == VolumeState::Ready => {
            if volume.snapshot_of.is_some() && !new.read_only {
                return refused("it is a snapshot, which is attached read-only".to_owned());
            }
        }
        _ => return refused("the volume is not whole, or is being removed".to_owned()),
    }
    let mut users = all.iter().filter(|it| it.volume == new.volume);
    if let Some(other) = users.find(|it| !it.read_only || !new.read_only) {
        let how = if other.read_only {
            "reads"
        } else {
            "writes to"
        };
        return refused(format!("{} {how} it", other.vm_name));
    }
    let others = all.iter().filter(|it| it.vm == new.vm);
    if own.len() + others.clone().count() >= MAX_DISKS {
        return refused(format!(
            "it has {MAX_DISKS} volumes, the most that a VM has"
        ));
    }
    let mounts = others.map(|it| (&it.name, it.mount.as_str()));
    let mut mounts = mounts.chain(own.iter().map(|it| (&it.name, it.mount.as_str())));
    if let Some((other, mount)) = mounts.find(|(_, mount)| new.is_at(mount)) {
        return refused(format!("volume {other} is mounted at {mount} there"));
    }
    session.run("record who has the volume", |conn| {
        conn.prepare_cached(
            "INSERT INTO attachments (volume, vm, mount, read_only) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![
            new.volume.to_string(),
            new.vm.to_string(),
            new.mount,
            new.read_only,
        ])
    })?;
    Ok(())
}

/// Takes a volume from a VM. Whether it had it.
pub(crate) fn detach(session: &Session, volume: VolumeId, vm: VmId) -> Result<bool> {
    let changed = session.run("record that the VM has the volume no more", |conn| {
        conn.prepare_cached("DELETE FROM attachments WHERE volume = ?1 AND vm = ?2")?
            .execute([volume.to_string(), vm.to_string()])
    })?;
    Ok(changed > 0)
}
