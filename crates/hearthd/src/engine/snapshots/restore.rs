//! Giving a VM other disks in the place of its present ones: those of one of its snapshots, or copies in
//! another kind of storage.
//!
//! ```text
//!  record `preparing` ─► a new disk beside each present one ─► record `decided` ─► each put in place ─► record gone
//!        └── failed, or the daemon died: new disks removed           └── the daemon died: put in place
//! ```
//! The record lies in the VM's folder. Until it says `decided` the present disks are the VM's, from
//! then on the new ones are. No VM starts while there is one.

use std::sync::Arc;

use anyhow::Context as _;
use camino::{Utf8Path, Utf8PathBuf};
use hearth_host::aside::aside;
use hearth_store::VmRow;
use hearth_types::event::NewEvent;
use hearth_types::ids::{SnapshotId, VmId};
use hearth_types::problem::{Code, Problem};
use hearth_types::snapshot::{Snapshot, SnapshotDisk, SnapshotState};
use hearth_types::status::{Goal, Phase};
use hearth_types::units::Bytes;
use serde::{Deserialize, Serialize};

use super::attached::Renewed;
use super::{about, conflict, disk_problem, file_of};
use crate::engine::Engine;
use crate::engine::launch::place_file;

/// In a VM's folder: its disks are being replaced.
pub(in crate::engine) const RECORD: &str = "restore.json";

/// The content of [`RECORD`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::engine) struct Restore {
    /// From what; absent when they are copies of the present ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::engine) snapshot: Option<SnapshotId>,
    /// All new disks are whole: they are the VM's.
    pub(in crate::engine) decided: bool,
    /// The disks that are replaced.
    pub(in crate::engine) files: Vec<String>,
    /// The attached volumes that get another disk.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(in crate::engine) volumes: Vec<Renewed>,
}

impl Restore {
    fn read(dir: &Utf8Path) -> anyhow::Result<Option<Self>> {
        let path = dir.join(RECORD);
        match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .with_context(|| format!("{path} cannot be read")),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {path}")),
        }
    }
}

/// Where the new disk is until it is put in place. Its name ends as that of anything that is being made.
pub(in crate::engine) fn draft(dir: &Utf8Path, file: &str) -> Utf8PathBuf {
    dir.join(format!("restored-{}.new", file.trim_end_matches(".img")))
}

/// A snapshot that is whole.
pub(super) fn ready(snapshot: &Snapshot) -> anyhow::Result<()> {
    if snapshot.state == SnapshotState::Ready {
        return Ok(());
    }
    let detail = format!(
        "snapshot {} is not whole: it is {}",
        snapshot.name, snapshot.state
    );
    Err(conflict(detail).into())
}

impl Engine {
    /// Gives a VM that does not run the disks of its snapshot. The present ones are kept until the
    /// new ones are whole.
    ///
    /// # Errors
    /// A [`Problem`] where it cannot be. The VM has all of its old disks then, or all of the new ones.
    pub async fn restore_snapshot(
        self: &Arc<Self>,
        row: &VmRow,
        snapshot: &Snapshot,
        keep_volumes: bool,
    ) -> anyhow::Result<()> {
        ready(snapshot)?;
        let Some(_hold) = self.snapshots.read(snapshot.id) else {
            let detail = format!("snapshot {} is being removed", snapshot.name);
            return Err(conflict(detail).into());
        };
        let (_borrowed, row) = &self.in_hand(row).await?;
        check(row, snapshot)?;
        let _unused = self.unused(row).await?;
        self.settle_disks(row.id).await?;
        let (volumes, _held) = match keep_volumes {
            true => (Vec::new(), Vec::new()),
            false => self.volumes_to_renew(row, snapshot).await?,
        };
        let mut restore = Restore {
            snapshot: Some(snapshot.id),
            decided: false,
            files: own(snapshot).map(file_of).collect(),
            volumes,
        };
        self.record_restore(row.id, &restore).await?;
        self.failpoints.hit("after", "restore_begun").await;
        let begun = tokio::time::Instant::now();
        let drafted = match self.draft_disks(row, snapshot).await {
            Ok(()) => self.draft_volumes(&restore.volumes, snapshot).await,
            failed => failed,
        };
        if let Err(error) = drafted {
            self.settle_restore(row.id, restore)
                .await
                .with_context(|| {
                    format!("{error:#}; and what was made of the new disks is not removed")
                })?;
            return Err(error);
        }
        restore.decided = true;
        self.record_restore(row.id, &restore).await?;
        self.failpoints.hit("after", "restore_decided").await;
        self.settle_restore(row.id, restore).await.context(
            "the new disks are whole and are not all in place: that is done before the next start",
        )?;
        self.metrics.snapshot_restored(begun.elapsed());
        let message = format!(
            "{} has the disks of snapshot {}",
            row.spec.name, snapshot.name
        );
        let event = NewEvent::info("snapshot.restored", message);
        self.tell(about(event, snapshot)).await;
        Ok(())
    }

    async fn draft_disks(&self, row: &VmRow, snapshot: &Snapshot) -> anyhow::Result<()> {
        let (dir, folder) = (self.paths.vm(row.id), self.snapshot_folder(snapshot.id));
        for disk in own(snapshot) {
            let file = file_of(disk);
            let size = Bytes(disk.bytes).max(wanted(row, disk));
            let (source, new, owner) = (folder.join(&file), draft(&dir, &file), self.vmm_uid(row));
            let disks = &self.parts.disks;
            let cloned = disks.duplicate(&source, &new, size, owner).await;
            let what = format!("disk {} cannot be made again", disk.name());
            cloned.map_err(|error| disk_problem(&what, &error))?;
            self.failpoints.hit("after", "restore_disk").await;
        }
        Ok(())
    }

    pub(in crate::engine) async fn record_restore(
        &self,
        vm: VmId,
        restore: &Restore,
    ) -> anyhow::Result<()> {
        let path = self.paths.vm(vm).join(RECORD);
        let text = serde_json::to_vec(restore)?;
        aside(move || place_file(&path, &text, true)).await?
    }

    /// Brings a restore to its end that was cut off: its disks are put in place if it was decided, and
    /// removed if it was not. Nobody uses the disks.
    pub(in crate::engine) async fn settle_disks(&self, vm: VmId) -> anyhow::Result<()> {
        let folder = self.paths.vm(vm);
        let Some(restore) = aside(move || Restore::read(&folder)).await?? else {
            return Ok(());
        };
        let _held = self.hold_renewed(&restore.volumes)?;
        self.settle_restore(vm, restore).await
    }

    /// The same for one that is at hand, with its volumes.
    async fn settle_restore(&self, vm: VmId, restore: Restore) -> anyhow::Result<()> {
        let dir = self.paths.vm(vm);
        let disks = &self.parts.disks;
        for file in &restore.files {
            let (present, new) = (dir.join(file), draft(&dir, file));
            let done = if restore.decided {
                disks.replace(&present, &new).await
            } else {
                disks.remove(&new).await
            };
            done.map_err(|error| {
                disk_problem(
                    "the replacement of its disks cannot be brought to its end",
                    &error,
                )
            })?;
            self.failpoints.hit("after", "restore_settled").await;
        }
        self.settle_renewed(vm, &restore.volumes, restore.decided)
            .await?;
        let (path, snapshot) = (dir.join(RECORD), restore.snapshot);
        aside(move || std::fs::remove_file(&path).with_context(|| format!("cannot remove {path}")))
            .await??;
        let snapshot = snapshot.map(|id| id.to_string());
        tracing::info!(%vm, snapshot, replaced = restore.decided, "the replacement of its disks is over");
        Ok(())
    }
}

/// The disks of a snapshot that were the VM's own.
fn own(snapshot: &Snapshot) -> impl Iterator<Item = &SnapshotDisk> {
    let disks = snapshot.disks.iter();
    disks.filter(|disk| disk.attached.is_none())
}

/// The size that the VM's specification asks for.
fn wanted(row: &VmRow, disk: &SnapshotDisk) -> Bytes {
    match &disk.volume {
        None => row.spec.disk.unwrap_or_default(),
        Some(name) => {
            let mut volumes = row.spec.volumes.iter();
            let volume = volumes.find(|volume| volume.name == *name);
            volume.map_or_else(Bytes::default, |volume| volume.size)
        }
    }
}

/// Whether the snapshot's disks can be this VM's now.
fn check(row: &VmRow, snapshot: &Snapshot) -> anyhow::Result<()> {
    let (vm, name) = (&row.spec.name, &snapshot.name);
    let clone = format!("make a new VM of it: hearth snapshot clone {name} --name NEW");
    if snapshot.vm != row.id {
        let detail = format!("snapshot {name} is of another VM than {vm}");
        return Err(conflict(detail).hint(clone).into());
    }
    let starts =
        row.goal != Goal::Stopped && matches!(row.status.phase, Phase::Starting | Phase::Backoff);
    if row.status.vmm.is_some() || starts {
        let problem = Problem::new(Code::Conflict, format!("{vm} is running"));
        let hint = format!(
            "stop it first: hearth stop {vm}, or hearth snapshot restore --stop {vm} {name}"
        );
        return Err(problem.hint(hint).into());
    }
    let has = |volume: &str| {
        own(snapshot).any(|disk| {
            disk.volume
                .as_ref()
                .is_some_and(|name| name.as_str() == volume)
        })
    };
    let asks = |volume: &str| {
        let mut volumes = row.spec.volumes.iter();
        volumes.any(|asked| asked.name.as_str() == volume)
    };
    let lost = own(snapshot).filter_map(|disk| disk.volume.as_ref());
    if let Some(volume) = lost.map(|name| name.as_str()).find(|name| !asks(name)) {
        let detail = format!("snapshot {name} has volume {volume}, and {vm} has it no more");
        return Err(conflict(detail).hint(clone).into());
    }
    let mut asked = row.spec.volumes.iter().map(|volume| volume.name.as_str());
    if let Some(volume) = asked.find(|name| !has(name)) {
        let detail = format!("{vm} has volume {volume}, and snapshot {name} is older than it");
        return Err(conflict(detail).hint(clone).into());
    }
    Ok(())
}
