//! Data volumes of their own: recorded before they are made, forgotten after they are gone.
//!
//! ```text
//!  create, import, snapshot ─► record `creating` ─► disk made ─► `ready` ◄─┐ grow, migrate
//!            │ failed, or the daemon died                         │  └─────┘
//!            └─────────► disk and folder removed ─► record gone ◄─┴─ rm: record `deleting`
//!
//!  volumes/ID/disk-1.img ── second name ──► vms/ID/attached-NAME.img   as long as the VM has it
//! ```
//! A VM that has a volume finds it under a second name in its own folder, made anew before each start.
//! So the VM's removal takes nothing from the volume. Who has which is in the database, which lets one
//! VM write or many read, and keeps a volume that somebody has.
//!
//! `attach` gives and takes, `grow` makes larger, `snap` makes snapshots, `content` brings whole volumes
//! in and out, `migrate` moves disks between files and the pool.

mod attach;
mod content;
mod grow;
mod migrate;
mod snap;

use std::sync::Arc;

use anyhow::Context as _;
use hearth_disk::Made;
use hearth_host::aside::aside;
use hearth_types::event::{NewEvent, Severity};
use hearth_types::ids::VolumeId;
use hearth_types::mode::Mode;
use hearth_types::names::VmName;
use hearth_types::problem::{Code, Problem};
use hearth_types::survey::chain;
use hearth_types::units::Bytes;
use hearth_types::volume::{
    Attachment, CreateVolume, StorageKind, Volume, VolumeState, VolumeView, check_size,
};

use super::Engine;
use super::snapshots::{Hold, conflict, disk_problem, make_folder};
use crate::keepsakes;

pub use content::Content;

/// The longest label of an ext4 file system (ext4(5)).
const LABEL: usize = 16;
/// The disk of a new volume.
const FIRST_DISK: u32 = 1;

/// What a person typed: the name, the id, or the beginning of the id or short id.
fn means(volume: &Volume, text: &str) -> bool {
    let (text, id) = (text.to_ascii_lowercase(), volume.id);
    !text.is_empty() && (id.to_string().starts_with(&text) || id.short().starts_with(&text))
}

fn in_use(name: &VmName) -> anyhow::Error {
    let detail = format!("volume {name} is being worked on: made, moved, exported or removed");
    Problem::new(Code::InUse, detail)
        .hint("try again when that is done: hearth volume ls")
        .into()
}

/// An event about a volume.
fn about(event: NewEvent, volume: &Volume) -> NewEvent {
    event.details(serde_json::json!({
        "volume": volume.id,
        "name": volume.name,
        "size": volume.size.0,
        "storage": volume.storage,
    }))
}

impl Engine {
    /// All volumes, with who has them.
    ///
    /// # Errors
    /// Only the database's own.
    pub async fn volume_views(&self) -> anyhow::Result<Vec<VolumeView>> {
        let volumes = self.parts.store.volumes().await?;
        let attachments = self.parts.store.attachments().await?;
        let of = |volume: Volume| {
            let attached = attachments.iter().filter(|it| it.volume == volume.id);
            VolumeView {
                attached: attached.cloned().collect(),
                volume,
            }
        };
        Ok(volumes.into_iter().map(of).collect())
    }

    /// The volume that a name, id or id prefix means.
    ///
    /// # Errors
    /// A [`Problem`]: there is none, or several; the database's own.
    pub async fn find_volume(&self, text: &str) -> anyhow::Result<VolumeView> {
        let all = self.volume_views().await?;
        if let Some(named) = all.iter().find(|one| one.volume.name.as_str() == text) {
            return Ok(named.clone());
        }
        let found: Vec<_> = all.iter().filter(|it| means(&it.volume, text)).collect();
        match found.as_slice() {
            [one] => Ok((*one).clone()),
            [] => Err(
                Problem::new(Code::NotFound, format!("there is no volume {text}"))
                    .hint("list them with: hearth volume ls")
                    .into(),
            ),
            several => {
                let several: Vec<_> = several.iter().map(|it| it.volume.name.as_str()).collect();
                let detail = format!("{text} could mean several volumes: {}", several.join(", "));
                Err(conflict(detail)
                    .hint("give more of the id, or the name")
                    .into())
            }
        }
    }

    /// The record of a volume that is about to be made.
    async fn new_volume(&self, name: VmName, size: Bytes) -> Volume {
        let id = VolumeId::new();
        let storage = self.parts.disks.kind_of_new(self.paths.data()).await;
        Volume {
            id,
            name,
            size,
            storage,
            snapshot_of: None,
            consistency: None,
            created_at: self.now(),
            state: VolumeState::Creating,
            disk: FIRST_DISK,
            draft: None,
        }
    }

    /// Makes a volume: empty, or a copy of another one.
    ///
    /// # Errors
    /// A [`Problem`] where it cannot be; whatever fails, nothing of it is left.
    pub async fn create_volume(
        self: &Arc<Self>,
        asked: CreateVolume,
    ) -> anyhow::Result<VolumeView> {
        if let Some(source) = &asked.from {
            let source = self.find_volume(source).await?;
            let size = asked.size.unwrap_or(source.volume.size);
            return self.copy_volume(asked.name, &source, size).await;
        }
        let wrong = match asked.size {
            Some(size) => check_size(size),
            None => Some(hearth_types::spec::FieldError::new("size", "must be given")),
        };
        if let Some(error) = wrong {
            return Err(Problem::fields(vec![error]).into());
        }
        let volume = self
            .new_volume(asked.name, asked.size.unwrap_or_default())
            .await;
        let engine = Arc::clone(self);
        self.make_volume(volume, async move |volume| {
            let path = engine.paths.volume_disk(volume.id, volume.disk);
            let label: String = volume.name.as_str().chars().take(LABEL).collect();
            let disks = &engine.parts.disks;
            let made = disks.create_ext4(&path, volume.size, &label, 0).await;
            made.map(|_: Made| ())
                .map_err(|error| disk_problem("the volume is not made", &error))
        })
        .await
    }

    /// Records a volume, has it made, and records that it is whole.
    async fn make_volume(
        &self,
        volume: Volume,
        make: impl AsyncFnOnce(&mut Volume) -> anyhow::Result<()>,
    ) -> anyhow::Result<VolumeView> {
        let _alone = self.volumes.alone(volume.id);
        self.parts.store.begin_volume(volume.clone()).await?;
        self.failpoints.hit("after", "volume_begun").await;
        let mut volume = volume;
        match self.make_whole(&mut volume, make).await {
            Ok(()) => {}
            Err(error) => {
                self.give_volume_up(&volume, &error).await;
                return Err(error);
            }
        }
        let words = match &volume.snapshot_of {
            Some(of) => format!("snapshot {} of volume {of} made", volume.name),
            None => format!("volume {} made: {}", volume.name, volume.size.human()),
        };
        let event = NewEvent::info("volume.created", words);
        self.tell(about(event, &volume)).await;
        Ok(VolumeView {
            volume,
            attached: Vec::new(),
        })
    }

    async fn make_whole(
        &self,
        volume: &mut Volume,
        make: impl AsyncFnOnce(&mut Volume) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let folder = self.paths.volume(volume.id);
        aside(move || make_folder(&folder)).await??;
        make(volume).await?;
        self.failpoints.hit("after", "volume_made").await;
        let path = self.paths.volume_disk(volume.id, volume.disk);
        let disks = &self.parts.disks;
        let told = |error| disk_problem("the volume cannot be looked at", &error);
        volume.storage = disks.kind(&path).await.map_err(told)?;
        volume.state = VolumeState::Ready;
        self.parts.store.put_volume(volume.clone()).await?;
        self.keep_volume(volume.id).await;
        self.count_volumes().await;
        Ok(())
    }

    async fn give_volume_up(&self, volume: &Volume, error: &anyhow::Error) {
        let name = &volume.name;
        let mut message = format!("volume {name} not made: {error:#}");
        if let Err(error) = self.clear_volume(volume).await {
            let words = format!(
                "; what is left of it cannot be removed: {error:#}; try again with: hearth volume rm {name}"
            );
            message.push_str(&words);
        }
        let event = NewEvent::info("volume.failed", message).severity(Severity::Warning);
        self.tell(about(event, volume)).await;
    }

    /// Nobody else works with it, as it is now.
    async fn volume_alone(
        &self,
        view: &VolumeView,
    ) -> anyhow::Result<(Hold<VolumeId>, VolumeView)> {
        let hold = self.volumes.alone(view.volume.id);
        let hold = hold.ok_or_else(|| in_use(&view.volume.name))?;
        let now = self.find_volume(&view.volume.id.to_string()).await?;
        Ok((hold, now))
    }

    /// Removes a volume with what is on it.
    ///
    /// # Errors
    /// A [`Problem`] while a VM has it or it is worked on; what could not be removed: it is tried
    /// again by the next daemon, and by whoever asks again.
    pub async fn remove_volume(&self, view: &VolumeView) -> anyhow::Result<()> {
        let (_alone, now) = self.volume_alone(view).await?;
        let id = now.volume.id;
        let Some(volume) = self.parts.store.begin_volume_removal(id).await? else {
            return Ok(());
        };
        self.failpoints.hit("after", "volume_removal_begun").await;
        self.clear_volume(&volume).await?;
        let event = NewEvent::info("volume.removed", format!("volume {} removed", volume.name));
        self.tell(about(event, &volume)).await;
        Ok(())
    }

    /// Removes what there is of a volume, and its record last.
    async fn clear_volume(&self, volume: &Volume) -> anyhow::Result<()> {
        let what = "the volume is not removed";
        keepsakes::remove(keepsakes::of_volume(&self.paths, volume.id)).await?;
        let disks = &self.parts.disks;
        for number in [Some(volume.disk), volume.draft].into_iter().flatten() {
            let removed = disks
                .remove(&self.paths.volume_disk(volume.id, number))
                .await;
            removed.map_err(|error| disk_problem(what, &error))?;
        }
        let folder = self.paths.volume(volume.id);
        let cleared = disks.clear(&folder).await;
        cleared.map_err(|error| disk_problem(what, &error))?;
        self.failpoints.hit("after", "volume_disks_removed").await;
        let removed = aside(move || match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {folder}"))
            }
            _ => Ok(()),
        });
        removed.await.context("the removal was interrupted")??;
        self.parts.store.forget_volume(volume.id).await?;
        self.count_volumes().await;
        Ok(())
    }

    /// Has the metrics know what there is.
    async fn count_volumes(&self) {
        if let Ok(all) = self.parts.store.volumes().await {
            self.metrics.volumes_are(&all);
        }
    }

    /// Finishes what a daemon has left in the middle: what was being made or removed goes, and so
    /// does a copy that a move has left.
    pub(super) async fn settle_volumes(self: &Arc<Self>) {
        self.count_volumes().await;
        if self.modes.mode() == Mode::Readonly {
            return;
        }
        let all = match self.parts.store.volumes().await {
            Ok(all) => all,
            Err(error) => {
                tracing::error!(error = %chain(&error), "what is left of volumes cannot be looked for");
                return;
            }
        };
        let left = all.into_iter();
        let left = left.filter(|one| one.state != VolumeState::Ready || one.draft.is_some());
        let left: Vec<_> = left
            .filter_map(|one| self.volumes.alone(one.id).map(|alone| (one, alone)))
            .collect();
        let engine = Arc::clone(self);
        tokio::spawn(async move {
            for (volume, _alone) in left {
                engine.settle_volume(&volume).await;
            }
        });
    }

    async fn settle_volume(&self, volume: &Volume) {
        let name = &volume.name;
        if volume.state == VolumeState::Ready {
            if let Err(error) = self.drop_draft(volume).await {
                tracing::warn!(volume = %name, error = format!("{error:#}"), "what a move has left of a volume is not removed yet");
            }
            self.tell_changed();
            return;
        }
        let event = match self.clear_volume(volume).await {
            Ok(()) => NewEvent::info(
                "volume.removed",
                format!(
                    "[recovery] volume {name} removed: the daemon had died while it was {}",
                    volume.state
                ),
            ),
            Err(error) => NewEvent::info(
                "volume.failed",
                format!(
                    "what is left of volume {name} cannot be removed: {error:#}; try again with: hearth volume rm {name}"
                ),
            ),
        };
        let event = event.severity(Severity::Warning);
        self.tell(about(event, volume)).await;
    }

    /// Who has a volume and is not down, as far as the database knows.
    async fn running_users(&self, view: &VolumeView) -> Vec<(Attachment, hearth_store::VmRow)> {
        let mut running = Vec::new();
        for attached in &view.attached {
            let row = self.parts.store.vm(attached.vm).await;
            if let Some(row) = row.filter(|row| row.status.vmm.is_some()) {
                running.push((attached.clone(), row));
            }
        }
        running
    }

    /// Refuses a volume that is not whole.
    fn must_be_whole(volume: &Volume) -> anyhow::Result<()> {
        if volume.state == VolumeState::Ready {
            return Ok(());
        }
        let detail = format!(
            "volume {} is not whole: it is {}",
            volume.name, volume.state
        );
        Err(conflict(detail).into())
    }
}

/// The word for where disks are, in sentences.
const fn place(storage: StorageKind) -> &'static str {
    match storage {
        StorageKind::Files => "files",
        StorageKind::Thin => "the thin pool",
    }
}
