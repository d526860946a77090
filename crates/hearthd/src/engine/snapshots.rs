//! Snapshots of VMs' disks: recorded before their first disk is made, forgotten after the last one
//! is gone.
//!
//! ```text
//!  create ─► record `creating` ─► hold the guest's writes ─► a clone of each disk ─► let them go on ─► `ready`
//!                  │ failed, or the daemon died                                                         │ rm
//!                  └──────────────► disks and folder removed ─► record gone ◄──── record `deleting` ◄───┘
//! ```
//! Each disk appears in `snapshots/ID/` when it is whole, and all of them are when the record says
//! `ready`. What a daemon has left `creating` or `deleting` the next one removes.
//!
//! `make` makes them, `still` holds the guest, `restore`, `clones` and `images` use them, `attached` is what
//! volumes that are attached to the VM need, `holds` keeps them while they are used.

mod attached;
mod clones;
mod holds;
mod images;
mod make;
mod restore;
mod still;

use std::sync::Arc;

use anyhow::Context as _;
use camino::Utf8PathBuf;
use hearth_disk::DiskError;
use hearth_host::aside::aside;
use hearth_host::lock::LockFile;
use hearth_store::{StoreError, VmRow};
use hearth_types::event::{NewEvent, Severity};
use hearth_types::ids::{ImageId, SnapshotId, VmId};
use hearth_types::mode::Mode;
use hearth_types::problem::{Code, Problem};
use hearth_types::snapshot::{Snapshot, SnapshotState};
use hearth_types::survey::chain;

use super::Engine;
use super::paths::{VMM_LOCK, file_of};
use crate::keepsakes;

pub(super) use clones::Origin;
pub(super) use holds::{Hold, Holds};
pub use images::ImageSource;
pub(super) use make::make_folder;
pub(super) use restore::{Restore, draft};
pub(super) use still::Way;

/// How long a VM's owner task may take to finish what it is at.
pub(super) const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

/// A failed volume operation, as the API tells it.
pub(super) fn disk_problem(what: &str, error: &DiskError) -> anyhow::Error {
    let code = match error {
        DiskError::NoSpace { .. } => Code::Exhausted,
        _ => Code::Internal,
    };
    Problem::new(code, format!("{what}: {}", chain(error))).into()
}

pub(super) fn conflict(detail: impl Into<String>) -> Problem {
    Problem::new(Code::Conflict, detail)
}

pub(super) fn still_worked_on(row: &VmRow) -> anyhow::Error {
    let name = &row.spec.name;
    let detail = format!(
        "{name} is being worked on, and was for {} s",
        PATIENCE.as_secs()
    );
    conflict(detail)
        .hint(format!(
            "see what is done: hearth plan --for {name}; then try again"
        ))
        .into()
}

/// What a person typed: the name, the id, or the beginning of the id or short id.
fn means(snapshot: &Snapshot, text: &str) -> bool {
    let (text, id) = (text.to_ascii_lowercase(), snapshot.id);
    !text.is_empty() && (id.to_string().starts_with(&text) || id.short().starts_with(&text))
}

impl Engine {
    fn snapshot_folder(&self, id: SnapshotId) -> Utf8PathBuf {
        self.paths.snapshots().join(id.to_string())
    }

    /// The snapshot that a name, id or id prefix means.
    ///
    /// # Errors
    /// A [`Problem`]: there is none, or several; the database's own.
    pub async fn find_snapshot(&self, text: &str) -> anyhow::Result<Snapshot> {
        let all = self.parts.store.snapshots().await?;
        if let Some(named) = all.iter().find(|one| one.name.as_str() == text) {
            return Ok(named.clone());
        }
        let found: Vec<_> = all.iter().filter(|one| means(one, text)).collect();
        match found.as_slice() {
            [one] => Ok((*one).clone()),
            [] => Err(
                Problem::new(Code::NotFound, format!("there is no snapshot {text}"))
                    .hint("list them with: hearth snapshot ls")
                    .into(),
            ),
            several => {
                let several: Vec<_> = several
                    .iter()
                    .map(|one| format!("{} ({})", one.name, one.id))
                    .collect();
                let detail = format!(
                    "{text} could mean several snapshots: {}",
                    several.join(", ")
                );
                Err(conflict(detail)
                    .hint("give more of the id, or the name")
                    .into())
            }
        }
    }

    /// Names of the snapshots that need an image.
    ///
    /// # Errors
    /// Only the database's own.
    pub async fn snapshots_of(&self, image: &ImageId) -> Result<Vec<String>, StoreError> {
        self.snapshots_that(|one| one.image == *image).await
    }

    /// Names of the snapshots that need a kernel: VMs that are cloned of them boot it.
    ///
    /// # Errors
    /// Only the database's own.
    pub async fn snapshots_with_kernel(&self, kernel: &str) -> Result<Vec<String>, StoreError> {
        self.snapshots_that(|one| one.kernel.as_deref() == Some(kernel))
            .await
    }

    async fn snapshots_that(
        &self,
        is_meant: impl Fn(&Snapshot) -> bool,
    ) -> Result<Vec<String>, StoreError> {
        let all = self.parts.store.snapshots().await?;
        let meant = all.into_iter().filter(is_meant);
        Ok(meant.map(|one| format!("snapshot {}", one.name)).collect())
    }

    /// Proves that no VMM uses a VM's disks, and keeps one from it as long as the lock is held.
    pub(super) async fn unused(&self, row: &VmRow) -> anyhow::Result<Option<LockFile>> {
        let lock = self.paths.vm(row.id).join(VMM_LOCK);
        let name = row.spec.name.clone();
        let taken = aside(move || LockFile::of_existing(&lock)).await?;
        taken.map_err(|error| {
            let detail = format!("a VMM may run in the folder of {name}: {}", chain(&error));
            conflict(detail).into()
        })
    }

    /// Removes a snapshot with its disks.
    ///
    /// # Errors
    /// A [`Problem`] while it is made or used; what could not be removed: it is tried again by the
    /// next daemon, and by whoever asks again.
    pub async fn remove_snapshot(&self, snapshot: &Snapshot) -> anyhow::Result<()> {
        let name = &snapshot.name;
        let Some(_alone) = self.snapshots.alone(snapshot.id) else {
            let detail =
                format!("snapshot {name} is in use: it is being made, restored, cloned or removed");
            return Err(Problem::new(Code::InUse, detail)
                .hint("try again when that is done")
                .into());
        };
        self.free_origin(snapshot).await?;
        self.clear_snapshot(snapshot).await?;
        let event = NewEvent::info("snapshot.removed", format!("snapshot {name} removed"));
        self.tell(about(event, snapshot)).await;
        Ok(())
    }

    /// Records that it goes, unless a VM's disks are still to be made of it.
    async fn free_origin(&self, snapshot: &Snapshot) -> anyhow::Result<()> {
        let store = &self.parts.store;
        loop {
            let begun = store.begin_snapshot_removal(snapshot.clone()).await;
            let Err(StoreError::SnapshotUsed { vm, .. }) = begun else {
                return Ok(begun?);
            };
            // A daemon may have died between the disks and the record of them.
            let row = store.vms().await;
            let row = row.into_iter().find(|row| row.spec.name.as_str() == vm);
            match row.filter(|row| self.has_disks(row.id)) {
                Some(row) => store.forget_origin(row.id).await?,
                None => {
                    let detail = format!(
                        "snapshot {} is used by {vm}: its disks are not made yet",
                        snapshot.name
                    );
                    return Err(Problem::new(Code::InUse, detail)
                        .hint(format!("start {vm} once, or remove it: hearth rm {vm}"))
                        .into());
                }
            }
        }
    }

    /// Has the metrics know what there is.
    async fn count_snapshots(&self) {
        if let Ok(all) = self.parts.store.snapshots().await {
            self.metrics.snapshots_are(&all);
        }
    }

    /// Removes what there is of a snapshot, and its record last.
    async fn clear_snapshot(&self, snapshot: &Snapshot) -> anyhow::Result<()> {
        let folder = self.snapshot_folder(snapshot.id);
        keepsakes::remove(keepsakes::of_snapshot(&self.paths, snapshot.id)).await?;
        let disks = &self.parts.disks;
        for disk in &snapshot.disks {
            let removed = disks.remove(&folder.join(file_of(disk))).await;
            removed.map_err(|error| disk_problem("the snapshot is not removed", &error))?;
        }
        self.failpoints.hit("after", "snapshot_disks_removed").await;
        let cleared = disks.clear(&folder).await;
        cleared.map_err(|error| disk_problem("the snapshot is not removed", &error))?;
        let removed = aside(move || match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {folder}"))
            }
            _ => Ok(()),
        });
        removed.await??;
        self.parts.store.forget_snapshot(snapshot.id).await?;
        self.count_snapshots().await;
        Ok(())
    }

    /// What the daemon before has left in the middle is removed, or brought to its end. Called
    /// before anything new can begin.
    pub(super) async fn settle_snapshots(self: &Arc<Self>) {
        self.count_snapshots().await;
        if self.modes.mode() == Mode::Readonly {
            return;
        }
        let left = match self.parts.store.snapshots().await {
            Ok(all) => all
                .into_iter()
                .filter(|one| one.state != SnapshotState::Ready),
            Err(error) => {
                tracing::error!(error = %chain(&error), "what is left of snapshots cannot be looked for");
                return;
            }
        };
        let left: Vec<_> = left
            .filter_map(|one| self.snapshots.alone(one.id).map(|alone| (one, alone)))
            .collect();
        let engine = Arc::clone(self);
        tokio::spawn(async move {
            for (snapshot, _alone) in left {
                engine.settle_snapshot(&snapshot).await;
            }
            engine.settle_restores().await;
        });
    }

    async fn settle_snapshot(&self, snapshot: &Snapshot) {
        let name = &snapshot.name;
        let event = match self.clear_snapshot(snapshot).await {
            Ok(()) => NewEvent::info(
                "snapshot.removed",
                format!(
                    "[recovery] snapshot {name} removed: the daemon had died while it was {}",
                    snapshot.state
                ),
            ),
            Err(error) => NewEvent::info(
                "snapshot.failed",
                format!(
                    "what is left of snapshot {name} cannot be removed: {error:#}; try again with: hearth snapshot rm {name}"
                ),
            ),
        };
        self.tell(about(event.severity(Severity::Warning), snapshot))
            .await;
    }

    /// Brings restores to their end that a daemon has left in the middle.
    async fn settle_restores(self: &Arc<Self>) {
        let vms: Vec<VmId> = self
            .parts
            .store
            .vms()
            .await
            .iter()
            .map(|row| row.id)
            .collect();
        for vm in vms {
            if !self.paths.vm(vm).join(restore::RECORD).exists() {
                continue;
            }
            let Some(_borrowed) = self.borrow(vm, PATIENCE).await else {
                continue;
            };
            if let Err(error) = self.settle_disks(vm).await {
                // Its next start tries again, and does not happen before.
                tracing::error!(%vm, error = format!("{error:#}"), "a restore cannot be brought to its end");
            }
        }
    }
}

/// An event about a snapshot and its VM.
fn about(event: NewEvent, snapshot: &Snapshot) -> NewEvent {
    event
        .vm(snapshot.vm, &snapshot.vm_name)
        .details(serde_json::json!({
            "snapshot": snapshot.id,
            "name": snapshot.name,
            "bytes": snapshot.bytes().0,
            "consistency": snapshot.consistency,
            "frozen_ms": snapshot.frozen_ms,
        }))
}
