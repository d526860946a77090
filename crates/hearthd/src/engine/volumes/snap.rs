//! Snapshots of volumes, and copies of them: volumes of their own, which share blocks where disks are
//! in the pool or the file system can. A snapshot is attached read-only.

use std::sync::Arc;

use camino::Utf8Path;
use hearth_store::VmRow;
use hearth_types::names::VmName;
use hearth_types::problem::Problem;
use hearth_types::snapshot::Consistency;
use hearth_types::spec::FieldError;
use hearth_types::units::Bytes;
use hearth_types::volume::{Attachment, SnapshotVolume, Volume, VolumeView, check_size};

use super::in_use;
use crate::engine::Engine;
use crate::engine::borrow::Borrowed;
use crate::engine::snapshots::{Way, conflict, disk_problem, make_folder};

/// How much of a volume's name a snapshot's own begins with: a name has 63 characters at most.
const NAME_PART: usize = 50;

impl Engine {
    /// Makes a snapshot of a volume. The guest that writes to it holds its writes meanwhile, or its
    /// vCPUs stand still.
    ///
    /// # Errors
    /// A [`Problem`] where it cannot be; nothing of it is left then, and the VM goes on.
    pub async fn snapshot_volume(
        self: &Arc<Self>,
        view: &VolumeView,
        asked: SnapshotVolume,
    ) -> anyhow::Result<VolumeView> {
        let source = &view.volume;
        let mut new = self.new_volume(source.name.clone(), source.size).await;
        new.name = match asked.name {
            Some(name) => name,
            None => {
                let begin: String = source.name.as_str().chars().take(NAME_PART).collect();
                format!("{begin}-{}", new.id.short()).parse()?
            }
        };
        new.snapshot_of = Some(source.name.clone());
        self.duplicate_volume(view, new, asked.pause).await
    }

    /// Makes a volume that begins as a copy of another one.
    pub(super) async fn copy_volume(
        self: &Arc<Self>,
        name: VmName,
        source: &VolumeView,
        size: Bytes,
    ) -> anyhow::Result<VolumeView> {
        let wrong = match check_size(size) {
            None if size < source.volume.size => {
                let least = source.volume.size;
                Some(FieldError::new(
                    "size",
                    format!("is {size}, and {} has {least}", source.volume.name),
                ))
            }
            wrong => wrong,
        };
        if let Some(error) = wrong {
            return Err(Problem::fields(vec![error]).into());
        }
        let new = self.new_volume(name, size).await;
        self.duplicate_volume(source, new, false).await
    }

    async fn duplicate_volume(
        self: &Arc<Self>,
        view: &VolumeView,
        new: Volume,
        pause: bool,
    ) -> anyhow::Result<VolumeView> {
        let source = &view.volume;
        let hold = self.volumes.read(source.id);
        let _hold = hold.ok_or_else(|| in_use(&source.name))?;
        Self::must_be_whole(source)?;
        let path = self.paths.volume_disk(source.id, source.disk);
        // It does not start, and does not end, meanwhile.
        let mut writers = view.attached.iter().filter(|it| !it.read_only);
        let (_borrowed, writer) = match writers.next() {
            Some(it) => {
                let (borrowed, row) = self.borrow_writer(it).await?;
                (Some(borrowed), Some(row))
            }
            None => (None, None),
        };
        let way = match &writer {
            Some(row) => self.way_for_volume(row, source, &path, pause).await?,
            None => Way::Stopped,
        };
        let (engine, is_snapshot) = (Arc::clone(self), new.snapshot_of.is_some());
        self.make_volume(new, async move |new| {
            let still = match &writer {
                Some(row) => engine.hold_still(row, way).await?,
                None => None,
            };
            let target = engine.paths.volume_disk(new.id, new.disk);
            let disks = &engine.parts.disks;
            let cloned = disks.duplicate(&path, &target, new.size, 0).await;
            let cloned = cloned.map_err(|error| disk_problem("the volume is not copied", &error));
            let consistency = match (still, &writer) {
                (Some(still), Some(row)) => {
                    let took = engine.let_go(row, still).await;
                    // What the clone says comes first, what letting go says is never lost.
                    cloned?;
                    took?.0
                }
                _ => {
                    cloned?;
                    Consistency::Stopped
                }
            };
            new.consistency = is_snapshot.then_some(consistency);
            Ok(())
        })
        .await
    }

    async fn borrow_writer(self: &Arc<Self>, it: &Attachment) -> anyhow::Result<(Borrowed, VmRow)> {
        let row = self.parts.store.vm(it.vm).await;
        let row = row.ok_or_else(|| conflict(format!("{} is being removed", it.vm_name)))?;
        self.in_hand(&row).await
    }

    /// How the VM that writes to a volume is held still.
    async fn way_for_volume(
        &self,
        row: &VmRow,
        volume: &Volume,
        path: &Utf8Path,
        pause: bool,
    ) -> anyhow::Result<Way> {
        let way = self.way_of(row, pause, false).await?;
        if !matches!(way, Way::Freeze) {
            return Ok(way);
        }
        let folder = self.paths.volumes();
        let probe = folder.join(format!("probe-{}.img", volume.id));
        hearth_host::aside::aside(move || make_folder(&folder)).await??;
        let at_once = self.parts.disks.clones_at_once(path, &probe).await;
        if at_once.map_err(|error| disk_problem("it cannot be snapshotted", &error))? {
            return Ok(way);
        }
        let vm = &row.spec.name;
        let detail = format!(
            "{vm} runs and writes to volume {}, which would have to be copied, for as long as {} take",
            volume.name,
            volume.size.human()
        );
        let hint = format!(
            "stop it (hearth stop {vm}), pause it for as long as that takes (--pause), or keep volumes on a file system that shares blocks (XFS, Btrfs) or in the thin pool"
        );
        Err(conflict(detail).hint(hint).into())
    }
}
