//! Making a snapshot.

use std::os::unix::fs::DirBuilderExt as _;
use std::sync::Arc;

use anyhow::Context as _;
use camino::Utf8Path;
use hearth_host::aside::aside;
use hearth_store::VmRow;
use hearth_types::event::{NewEvent, Severity};
use hearth_types::ids::SnapshotId;
use hearth_types::names::VmName;
use hearth_types::problem::Problem;
use hearth_types::snapshot::{Consistency, CreateSnapshot, Snapshot, SnapshotDisk, SnapshotState};
use hearth_types::status::Goal;
use hearth_types::units::Bytes;
use tokio::time::Instant;

use super::attached::Sources;
use super::still::Way;
use super::{PATIENCE, about, conflict, disk_problem, file_of, still_worked_on};
use crate::engine::Engine;
use crate::engine::borrow::Borrowed;
use crate::engine::disks::MadeDisks;

/// How much of a VM's name a snapshot's own begins with: a name has 63 characters at most.
const NAME_PART: usize = 50;

/// A name for a snapshot that was given none.
fn own_name(vm: &VmName, id: SnapshotId) -> anyhow::Result<VmName> {
    let begin: String = vm.as_str().chars().take(NAME_PART).collect();
    Ok(format!("{begin}-{}", id.short()).parse()?)
}

impl Engine {
    /// Makes a snapshot of all disks of a VM.
    ///
    /// # Errors
    /// A [`Problem`] where it cannot be; whatever fails, nothing of it is left and the VM goes on.
    pub async fn create_snapshot(
        self: &Arc<Self>,
        row: &VmRow,
        asked: CreateSnapshot,
    ) -> anyhow::Result<Snapshot> {
        let begun = Instant::now();
        let (_borrowed, row) = &self.in_hand(row).await?;
        self.settle_disks(row.id).await?;
        let (mut snapshot, sources) = self.planned(row, &asked).await?;
        let _alone = self.snapshots.alone(snapshot.id);
        let way = self.way(row, (&snapshot, &sources), &asked).await?;
        {
            // Until the snapshot is recorded as its user, the image must not be removed.
            let _no_image_goes = self.image_use.read().await;
            self.parts.store.begin_snapshot(snapshot.clone()).await?;
        }
        self.failpoints.hit("after", "snapshot_begun").await;
        let made = self.make_snapshot(row, way, &sources, &mut snapshot).await;
        self.metrics
            .snapshot_made(made.is_ok(), begun.elapsed(), snapshot.frozen_ms);
        match made {
            Ok(()) => {
                self.tell_made(&snapshot).await;
                Ok(snapshot)
            }
            Err(error) => {
                self.give_up(&snapshot, &error).await;
                Err(error)
            }
        }
    }

    /// Borrows a VM, and looks what it is now that nobody else works on it.
    pub(in crate::engine) async fn in_hand(
        self: &Arc<Self>,
        row: &VmRow,
    ) -> anyhow::Result<(Borrowed, VmRow)> {
        let borrowed = self.borrow(row.id, PATIENCE).await;
        let borrowed = borrowed.ok_or_else(|| still_worked_on(row))?;
        let now = self.parts.store.vm(row.id).await;
        let now = now.filter(|row| row.goal != Goal::Absent);
        let gone = || conflict(format!("{} is being removed", row.spec.name));
        Ok((borrowed, now.ok_or_else(gone)?))
    }

    /// The record of a snapshot that is about to be made, and where its disks are.
    async fn planned(
        &self,
        row: &VmRow,
        asked: &CreateSnapshot,
    ) -> anyhow::Result<(Snapshot, Sources)> {
        let dir = self.paths.vm(row.id);
        if !self.has_disks(row.id) {
            let vm = &row.spec.name;
            let problem = conflict(format!("{vm} has no disks yet: it was never started"));
            return Err(problem
                .hint(format!("start it once: hearth start {vm}"))
                .into());
        }
        let folder = dir.clone();
        let made = aside(move || MadeDisks::read(&folder)).await?;
        let volumes = row.spec.volumes.iter().filter(|volume| made.has(volume));
        let names = std::iter::once(None).chain(volumes.map(|volume| Some(volume.name.clone())));
        let (mut disks, mut sources) = (Vec::new(), Sources::default());
        for volume in names {
            let disk = SnapshotDisk {
                volume,
                attached: None,
                bytes: 0,
            };
            sources.paths.push(dir.join(file_of(&disk)));
            disks.push(disk);
        }
        let attached = self.attachments_of(row.id).await?;
        if !asked.without_volumes {
            disks.extend(self.take_attached(&attached, &mut sources).await?);
        }
        for (disk, path) in disks.iter_mut().zip(&sources.paths) {
            let size = self.parts.disks.size(path).await;
            let size = size.map_err(|error| disk_problem("it cannot be snapshotted", &error))?;
            disk.bytes = size.0;
        }
        let id = SnapshotId::new();
        let name = asked.name.clone();
        let snapshot = Snapshot {
            id,
            name: name.map_or_else(|| own_name(&row.spec.name, id), Ok)?,
            vm: row.id,
            vm_name: row.spec.name.clone(),
            image: row.image.clone(),
            kernel: row.kernel.clone(),
            spec: row.spec.clone(),
            disks,
            attached,
            consistency: None,
            frozen_ms: None,
            created_at: self.now(),
            state: SnapshotState::Creating,
        };
        Ok((snapshot, sources))
    }

    async fn make_snapshot(
        &self,
        row: &VmRow,
        way: Way,
        sources: &Sources,
        snapshot: &mut Snapshot,
    ) -> anyhow::Result<()> {
        let folder = self.snapshot_folder(snapshot.id);
        let made = folder.clone();
        aside(move || make_folder(&made)).await??;
        let (_unused, still) = match way {
            Way::Stopped => (self.unused(row).await?, None),
            way => (None, self.hold_still(row, way).await?),
        };
        let cloned = self.clone_disks(sources, snapshot, &folder).await;
        match still {
            Some(still) => {
                let took = self.let_go(row, still).await;
                // What the clones say comes first, what letting go says is never lost.
                cloned?;
                let (consistency, frozen) = took?;
                snapshot.consistency = Some(consistency);
                snapshot.frozen_ms = frozen;
            }
            None => {
                cloned?;
                snapshot.consistency = Some(Consistency::Stopped);
            }
        }
        let ready = Snapshot {
            state: SnapshotState::Ready,
            ..snapshot.clone()
        };
        self.parts.store.put_snapshot(ready.clone()).await?;
        self.keep_snapshot(&ready).await;
        self.count_snapshots().await;
        *snapshot = ready;
        Ok(())
    }

    async fn clone_disks(
        &self,
        sources: &Sources,
        snapshot: &Snapshot,
        folder: &Utf8Path,
    ) -> anyhow::Result<()> {
        for (disk, source) in snapshot.disks.iter().zip(&sources.paths) {
            let (target, size) = (folder.join(file_of(disk)), Bytes(disk.bytes));
            let disks = &self.parts.disks;
            let made = disks.duplicate(source, &target, size, 0).await;
            let what = format!("disk {} cannot be snapshotted", disk.name());
            let made = made.map_err(|error| disk_problem(&what, &error))?;
            tracing::debug!(snapshot = %snapshot.id, disk = disk.name(), ?made, "disk snapshotted");
            self.failpoints.hit("after", "snapshot_disk").await;
        }
        Ok(())
    }

    async fn tell_made(&self, snapshot: &Snapshot) {
        let how = snapshot.consistency.map_or("", Consistency::as_str);
        let frozen = snapshot.frozen_ms.map(|ms| format!(" for {ms} ms"));
        let message = format!(
            "snapshot {} of {} made: {}, {how}{}",
            snapshot.name,
            snapshot.vm_name,
            snapshot.bytes().human(),
            frozen.unwrap_or_default(),
        );
        let event = NewEvent::info("snapshot.created", message);
        self.tell(about(event, snapshot)).await;
    }

    async fn give_up(&self, snapshot: &Snapshot, error: &anyhow::Error) {
        let name = &snapshot.name;
        let mut message = format!(
            "snapshot {name} of {} not made: {error:#}",
            snapshot.vm_name
        );
        if let Err(error) = self.clear_snapshot(snapshot).await {
            let words = format!(
                "; what is left of it cannot be removed: {error:#}; try again with: hearth snapshot rm {name}"
            );
            message.push_str(&words);
        }
        let event = NewEvent::info("snapshot.failed", message).severity(Severity::Warning);
        self.tell(about(event, snapshot)).await;
    }

    /// How a VM's disks are to be made to belong together.
    async fn way(
        &self,
        row: &VmRow,
        (snapshot, sources): (&Snapshot, &Sources),
        asked: &CreateSnapshot,
    ) -> anyhow::Result<Way> {
        let (pause, crash) = (asked.pause, asked.crash_consistent);
        if pause && crash {
            let field = "crash_consistent: cannot be asked for together with pause";
            return Err(Problem::new(hearth_types::problem::Code::Invalid, field).into());
        }
        let way = self.way_of(row, pause, crash).await?;
        if matches!(way, Way::Freeze | Way::Crash) && !self.at_once(snapshot, sources).await? {
            let vm = &row.spec.name;
            let problem = conflict(format!(
                "{vm} runs, and its disks cannot be snapshotted at once: they would have to be copied, for as long as {} take",
                snapshot.bytes().human()
            ));
            let hint = format!(
                "stop it (hearth stop {vm}), pause it for as long as that takes (--pause), or keep its disks on a file system that shares blocks (XFS, Btrfs) or in the thin pool{}",
                if sources.has_attached() {
                    "; or leave out what is attached to it (--without-volumes)"
                } else {
                    ""
                }
            );
            return Err(problem.hint(hint).into());
        }
        Ok(way)
    }

    /// Whether all disks of a VM can be cloned without copying.
    async fn at_once(&self, snapshot: &Snapshot, sources: &Sources) -> anyhow::Result<bool> {
        let root = self.paths.snapshots();
        let made = root.clone();
        aside(move || make_folder(&made)).await??;
        for (disk, source) in snapshot.disks.iter().zip(&sources.paths) {
            let file = file_of(disk);
            let probe = root.join(format!("probe-{}-{file}", snapshot.id));
            let disks = &self.parts.disks;
            let at_once = disks.clones_at_once(source, &probe).await;
            if !at_once.map_err(|error| disk_problem("it cannot be snapshotted", &error))? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Only the daemon looks into it.
pub(in crate::engine) fn make_folder(folder: &Utf8Path) -> anyhow::Result<()> {
    std::fs::DirBuilder::new()
        .mode(0o700)
        .recursive(true)
        .create(folder)
        .with_context(|| format!("cannot make {folder}"))
}
