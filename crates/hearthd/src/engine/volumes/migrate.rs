//! Moving disks between files and the thin pool. The copy is compared with its source before it
//! counts, and counts from one write on; the source goes after that.
//!
//! ```text
//!  a volume:    record: draft 2 ─► copied, compared ─► record: disk 2, draft 1 ─► disk 1 removed ─► record
//!  a VM's:      restore.json    ─► each copied beside ─► restore.json `decided` ─► each put in place ─► gone
//!                     └── cut off: the copies go              └── cut off: it is gone on with
//! ```

use std::sync::Arc;

use hearth_host::aside::aside;
use hearth_store::VmRow;
use hearth_types::event::{NewEvent, Severity};
use hearth_types::volume::{StorageKind, Volume, VolumeView};
use tokio::time::Instant;

use super::{about, place};
use crate::engine::Engine;
use crate::engine::disks::MadeDisks;
use crate::engine::paths::{Paths, ROOT_DISK};
use crate::engine::snapshots::{Restore, conflict, disk_problem, draft};

impl Engine {
    /// Moves a volume that no VM has. One that is there already is a success.
    ///
    /// # Errors
    /// A [`Problem`](hearth_types::problem::Problem) where it cannot be; it is where it was then.
    pub async fn migrate_volume(
        self: &Arc<Self>,
        view: &VolumeView,
        to: StorageKind,
    ) -> anyhow::Result<VolumeView> {
        let (_alone, mut now) = self.volume_alone(view).await?;
        let name = &now.volume.name;
        Self::must_be_whole(&now.volume)?;
        if let Some(it) = now.attached.first() {
            let detail = format!("volume {name} is attached to {}", it.vm_name);
            let hint = format!(
                "take it from the VM first: hearth volume detach {} {name}",
                it.vm_name
            );
            return Err(conflict(detail).hint(hint).into());
        }
        let volume = self.drop_draft(&now.volume).await?;
        if volume.storage == to {
            now.volume = volume;
            return Ok(now);
        }
        self.must_have(to).await?;
        let begun = Instant::now();
        let moved = self.move_volume(volume.clone(), to).await;
        self.metrics.disks_moved(moved.is_ok(), begun.elapsed());
        match moved {
            Ok(volume) => {
                let words = format!("volume {} moved into {}", volume.name, place(to));
                self.tell(about(NewEvent::info("volume.moved", words), &volume))
                    .await;
                now.volume = volume;
                Ok(now)
            }
            Err(error) => {
                let words = format!(
                    "volume {} not moved into {}: {error:#}",
                    volume.name,
                    place(to)
                );
                let event = NewEvent::info("volume.failed", words).severity(Severity::Warning);
                self.tell(about(event, &volume)).await;
                Err(error)
            }
        }
    }

    async fn move_volume(&self, volume: Volume, to: StorageKind) -> anyhow::Result<Volume> {
        let (store, disks) = (&self.parts.store, &self.parts.disks);
        let old = volume.disk;
        let begun = Volume {
            draft: Some(old + 1),
            ..volume
        };
        store.put_volume(begun.clone()).await?;
        self.failpoints.hit("after", "move_begun").await;
        let (source, path) = (
            self.paths.volume_disk(begun.id, old),
            self.paths.volume_disk(begun.id, old + 1),
        );
        let copied = disks.convert(&source, &path, to, 0).await;
        if let Err(error) = copied {
            // What is left of the copy goes with the next move, the next start, or the volume.
            if let Err(error) = self.drop_draft(&begun).await {
                tracing::warn!(volume = %begun.name, error = format!("{error:#}"), "the copy stays for now");
            }
            return Err(disk_problem("the copy failed", &error));
        }
        self.failpoints.hit("after", "move_copied").await;
        let moved = Volume {
            disk: old + 1,
            draft: Some(old),
            storage: to,
            ..begun
        };
        // From here on it is the new one.
        store.put_volume(moved.clone()).await?;
        self.keep_volume(moved.id).await;
        self.failpoints.hit("after", "move_decided").await;
        match self.drop_draft(&moved).await {
            Ok(volume) => Ok(volume),
            Err(error) => {
                tracing::warn!(volume = %moved.name, error = format!("{error:#}"), "the source of a move stays for now");
                Ok(moved)
            }
        }
    }

    /// Removes the disk of a volume that does not count.
    pub(in crate::engine) async fn drop_draft(&self, volume: &Volume) -> anyhow::Result<Volume> {
        let Some(number) = volume.draft else {
            return Ok(volume.clone());
        };
        let path = self.paths.volume_disk(volume.id, number);
        let removed = self.parts.disks.remove(&path).await;
        removed
            .map_err(|error| disk_problem("a disk that does not count is not removed", &error))?;
        self.failpoints.hit("after", "draft_removed").await;
        let volume = Volume {
            draft: None,
            ..volume.clone()
        };
        self.parts.store.put_volume(volume.clone()).await?;
        self.keep_volume(volume.id).await;
        Ok(volume)
    }

    /// Refuses a kind of storage that this host does not have.
    async fn must_have(&self, to: StorageKind) -> anyhow::Result<()> {
        let Some(why) = self.parts.disks.cannot(to, self.paths.data()).await else {
            return Ok(());
        };
        let detail = format!("disks cannot be moved into {}: {why}", place(to));
        Err(conflict(detail)
            .hint("see what there is: hearth pool status; set one up with: hearth pool setup")
            .into())
    }

    /// Moves the disks of a VM that does not run: its root disk and its own volumes. Those that are
    /// there already stay as they are.
    ///
    /// # Errors
    /// A [`Problem`](hearth_types::problem::Problem) where it cannot be. All disks are where they were then, or all are moved.
    pub async fn migrate_vm(self: &Arc<Self>, row: &VmRow, to: StorageKind) -> anyhow::Result<()> {
        let (_borrowed, row) = &self.in_hand(row).await?;
        let vm = &row.spec.name;
        if row.status.vmm.is_some() {
            let problem = conflict(format!("{vm} is running"));
            return Err(problem
                .hint(format!("stop it first: hearth stop {vm}"))
                .into());
        }
        if !self.has_disks(row.id) {
            let problem = conflict(format!("{vm} has no disks yet: it was never started"));
            let hint = "its disks are made as STORAGE says; start it once to have some";
            return Err(problem.hint(hint).into());
        }
        let _unused = self.unused(row).await?;
        self.settle_disks(row.id).await?;
        let files = self.disks_elsewhere(row, to).await?;
        if files.is_empty() {
            return Ok(());
        }
        self.must_have(to).await?;
        let begun = Instant::now();
        let moved = self.move_disks(row, files, to).await;
        self.metrics.disks_moved(moved.is_ok(), begun.elapsed());
        let event = match &moved {
            Ok(()) => NewEvent::info(
                "vm.disks_moved",
                format!("the disks of {vm} are in {}", place(to)),
            ),
            Err(error) => {
                let words = format!(
                    "the disks of {vm} are not moved into {}: {error:#}",
                    place(to)
                );
                NewEvent::info("vm.disks_not_moved", words).severity(Severity::Warning)
            }
        };
        self.tell(event.vm(row.id, vm)).await;
        moved
    }

    /// The VM's own disks that are not there yet.
    async fn disks_elsewhere(&self, row: &VmRow, to: StorageKind) -> anyhow::Result<Vec<String>> {
        let dir = self.paths.vm(row.id);
        let folder = dir.clone();
        let made = aside(move || MadeDisks::read(&folder)).await?;
        let volumes = row.spec.volumes.iter().filter(|volume| made.has(volume));
        let volumes = volumes.map(|volume| Paths::volume_file(volume.name.as_str()));
        let mut files = Vec::new();
        for file in std::iter::once(ROOT_DISK.to_owned()).chain(volumes) {
            let kind = self.parts.disks.kind(&dir.join(&file)).await;
            let kind = kind.map_err(|error| disk_problem("a disk cannot be looked at", &error))?;
            if kind != to {
                files.push(file);
            }
        }
        Ok(files)
    }

    async fn move_disks(
        &self,
        row: &VmRow,
        files: Vec<String>,
        to: StorageKind,
    ) -> anyhow::Result<()> {
        let (vm, dir) = (row.id, self.paths.vm(row.id));
        let mut record = Restore {
            snapshot: None,
            decided: false,
            files,
            volumes: Vec::new(),
        };
        self.record_restore(vm, &record).await?;
        self.failpoints.hit("after", "move_begun").await;
        let (disks, owner) = (&self.parts.disks, self.vmm_uid(row));
        for file in &record.files {
            let new = draft(&dir, file);
            let copied = disks.convert(&dir.join(file), &new, to, owner).await;
            if let Err(error) = copied {
                let error = disk_problem(&format!("the copy of {file} failed"), &error);
                self.settle_disks(vm).await?;
                return Err(error);
            }
            self.failpoints.hit("after", "move_copied").await;
        }
        record.decided = true;
        self.record_restore(vm, &record).await?;
        self.failpoints.hit("after", "move_decided").await;
        self.settle_disks(vm).await
    }
}
