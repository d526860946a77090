//! Volumes that are attached to a VM, in its snapshots: taken with its own disks, of the same moment, where it may
//! write to them. What it only reads is somebody else's, and named alone.
//!
//! ```text
//!  restore: volumes/ID/disk-N.img stays ─► disk-N+1 made of the snapshot ─► `decided` ─► record: disk N+1, draft N ─► N removed
//!  clone:   volumes of the new VM's own, at the same places; what was only read is attached to it, too
//! ```

use camino::Utf8PathBuf;
use hearth_store::VmRow;
use hearth_types::event::NewEvent;
use hearth_types::ids::{VmId, VolumeId};
use hearth_types::names::VmName;
use hearth_types::problem::{Code, Problem};
use hearth_types::snapshot::{Snapshot, SnapshotDisk};
use hearth_types::spec::VolumeSpec;
use hearth_types::units::Bytes;
use hearth_types::volume::{Attachment, Volume, VolumeState};
use serde::{Deserialize, Serialize};

use super::holds::Hold;
use super::{conflict, disk_problem};
use crate::engine::Engine;
use crate::engine::paths::{Paths, file_of};

/// The longest name of a volume of a VM's own: virtio-blk serials end there.
const LONGEST: usize = 20;

/// Where the disks of a snapshot come from, in its order; the volumes among them stay what they are meanwhile.
#[derive(Debug, Default)]
pub(super) struct Sources {
    pub(super) paths: Vec<Utf8PathBuf>,
    held: Vec<Hold<VolumeId>>,
}

impl Sources {
    pub(super) const fn has_attached(&self) -> bool {
        !self.held.is_empty()
    }
}

/// A volume that gets another disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::engine) struct Renewed {
    /// Which volume.
    volume: VolumeId,
    /// The number of its disk before.
    before: u32,
    /// The number of the new one.
    disk: u32,
}

fn busy(name: &VmName) -> anyhow::Error {
    let detail = format!("volume {name} is being worked on: moved, exported or grown");
    Problem::new(Code::InUse, detail)
        .hint("try again when that is done: hearth volume ls")
        .into()
}

/// What is attached and in a snapshot becomes these volumes of a clone's own, by the snapshot's disks.
pub(super) fn own_volumes(snapshot: &Snapshot) -> Vec<(VolumeSpec, &SnapshotDisk)> {
    let mut taken: Vec<String> = vec!["root".to_owned()];
    let own = snapshot.spec.volumes.iter();
    taken.extend(own.map(|volume| volume.name.to_string()));
    let mut volumes = Vec::new();
    for disk in &snapshot.disks {
        let mut attached = snapshot.attached.iter();
        let Some(it) = attached.find(|it| disk.attached == Some(it.volume)) else {
            continue;
        };
        let Some(name) = own_name(it.name.as_str(), &taken) else {
            continue;
        };
        taken.push(name.to_string());
        let volume = VolumeSpec {
            name,
            mount: it.mount.clone(),
            size: Bytes(disk.bytes),
            read_only: false,
        };
        volumes.push((volume, disk));
    }
    volumes
}

/// A name that is free, and short enough.
fn own_name(name: &str, taken: &[String]) -> Option<VmName> {
    let part = |length: usize| name.get(..length).unwrap_or(name).trim_end_matches('-');
    let whole = std::iter::once(part(LONGEST).to_owned());
    let numbered = (2..100).map(|number| format!("{}-{number}", part(LONGEST - 3)));
    let mut names = whole.chain(numbered);
    let free = names.find(|name| !taken.contains(name))?;
    free.parse().ok()
}

impl Engine {
    /// The disks of the volumes that a VM may write to.
    pub(super) async fn take_attached(
        &self,
        attached: &[Attachment],
        sources: &mut Sources,
    ) -> anyhow::Result<Vec<SnapshotDisk>> {
        let mut disks = Vec::new();
        for it in attached.iter().filter(|it| !it.read_only) {
            let held = self.volumes.read(it.volume);
            sources.held.push(held.ok_or_else(|| busy(&it.name))?);
            let volume = self.whole_volume(it.volume, &it.name).await?;
            let path = self.paths.volume_disk(volume.id, volume.disk);
            sources.paths.push(path);
            disks.push(SnapshotDisk {
                volume: Some(it.name.clone()),
                attached: Some(it.volume),
                bytes: 0,
            });
        }
        Ok(disks)
    }

    async fn whole_volume(&self, id: VolumeId, name: &VmName) -> anyhow::Result<Volume> {
        let all = self.parts.store.volumes().await?;
        let whole = |one: &Volume| one.id == id && one.state == VolumeState::Ready;
        let found = all.into_iter().find(whole);
        found.ok_or_else(|| conflict(format!("volume {name} is not whole, or gone")).into())
    }

    /// The volumes that a VM gets back, held; those of the snapshot that it does not have are a reason to refuse.
    pub(super) async fn volumes_to_renew(
        &self,
        row: &VmRow,
        snapshot: &Snapshot,
    ) -> anyhow::Result<(Vec<Renewed>, Vec<Hold<VolumeId>>)> {
        let present = self.attachments_of(row.id).await?;
        let (mut renewed, mut held) = (Vec::new(), Vec::new());
        for disk in &snapshot.disks {
            let (Some(id), Some(name)) = (disk.attached, &disk.volume) else {
                continue;
            };
            if !present.iter().any(|it| it.volume == id && !it.read_only) {
                return Err(not_attached(row, snapshot, name));
            }
            let alone = self.volumes.alone(id);
            held.push(alone.ok_or_else(|| busy(name))?);
            let volume = self.whole_volume(id, name).await?;
            let volume = self.drop_draft(&volume).await?;
            renewed.push(Renewed {
                volume: id,
                before: volume.disk,
                disk: volume.disk + 1,
            });
        }
        Ok((renewed, held))
    }

    /// Makes the new disks of volumes, beside the present ones.
    pub(super) async fn draft_volumes(
        &self,
        renewed: &[Renewed],
        snapshot: &Snapshot,
    ) -> anyhow::Result<()> {
        let folder = self.snapshot_folder(snapshot.id);
        let disks = &self.parts.disks;
        for it in renewed {
            let mut all = snapshot.disks.iter();
            let Some(disk) = all.find(|disk| disk.attached == Some(it.volume)) else {
                continue;
            };
            let volume = self.whole_volume(it.volume, &snapshot.name).await?;
            let new = self.paths.volume_disk(it.volume, it.disk);
            let what = format!("volume {} cannot be made again", volume.name);
            // What is left of something else is not taken for it.
            let removed = disks.remove(&new).await;
            removed.map_err(|error| disk_problem(&what, &error))?;
            let size = Bytes(disk.bytes).max(volume.size);
            let source = folder.join(file_of(disk));
            let made = disks.duplicate(&source, &new, size, 0).await;
            made.map_err(|error| disk_problem(&what, &error))?;
            self.failpoints.hit("after", "restore_disk").await;
        }
        Ok(())
    }

    /// Puts the new disks of volumes in place if that was decided, and removes them if it was not.
    pub(super) async fn settle_renewed(
        &self,
        vm: VmId,
        renewed: &[Renewed],
        decided: bool,
    ) -> anyhow::Result<()> {
        let all = self.parts.store.volumes().await?;
        for it in renewed {
            let Some(volume) = all.iter().find(|one| one.id == it.volume) else {
                continue;
            };
            if !decided && volume.disk != it.disk {
                let path = self.paths.volume_disk(it.volume, it.disk);
                let removed = self.parts.disks.remove(&path).await;
                removed.map_err(|error| disk_problem("a new disk is not removed", &error))?;
            } else if decided && volume.disk == it.before {
                self.renew(volume, it).await?;
                // Its second name is that of the disk before.
                let file = Paths::lent_file(volume.name.as_str());
                self.take_names_back(&self.paths.vm(vm), |name| name == file)
                    .await?;
                tracing::info!(%vm, volume = %volume.name, disk = it.disk, "a volume has the disk of a snapshot");
            }
            self.failpoints.hit("after", "restore_settled").await;
        }
        Ok(())
    }

    async fn renew(&self, volume: &Volume, it: &Renewed) -> anyhow::Result<()> {
        let path = self.paths.volume_disk(it.volume, it.disk);
        let disks = &self.parts.disks;
        let told = |error| disk_problem("the new disk of a volume cannot be looked at", &error);
        let now = Volume {
            size: disks.size(&path).await.map_err(told)?,
            storage: disks.kind(&path).await.map_err(told)?,
            disk: it.disk,
            draft: Some(it.before),
            ..volume.clone()
        };
        // From here on it is the new one.
        self.parts.store.put_volume(now.clone()).await?;
        self.keep_volume(now.id).await;
        if let Err(error) = self.drop_draft(&now).await {
            tracing::warn!(volume = %now.name, error = format!("{error:#}"), "the disk from before a restore stays for now");
        }
        Ok(())
    }

    /// Holds the volumes of a restore that was cut off.
    pub(super) fn hold_renewed(&self, renewed: &[Renewed]) -> anyhow::Result<Vec<Hold<VolumeId>>> {
        let held = renewed.iter().map(|it| {
            let alone = self.volumes.alone(it.volume);
            alone.ok_or_else(|| {
                let detail = format!(
                    "volume {} is being worked on, and a restore of it was cut off",
                    it.volume.short()
                );
                conflict(detail).into()
            })
        });
        held.collect()
    }

    /// Gives a clone what the VM of the snapshot only read. What cannot be is told.
    pub(super) async fn attach_what_was_read(&self, row: &VmRow, snapshot: &Snapshot) {
        for it in &snapshot.attached {
            if snapshot.holds(it.volume) {
                continue;
            }
            let name = &row.spec.name;
            let attached = match it.read_only {
                true => {
                    let attachment = Attachment {
                        vm: row.id,
                        vm_name: name.clone(),
                        ..it.clone()
                    };
                    let attached = self.parts.store.attach_volume(attachment).await;
                    attached.map_err(|error| error.to_string())
                }
                false => Err("it was left out of the snapshot".to_owned()),
            };
            let event = match attached {
                Ok(()) => {
                    self.keep_volume(it.volume).await;
                    let words = format!("volume {} attached to {name}, read-only", it.name);
                    NewEvent::info("volume.attached", words)
                }
                Err(why) => {
                    let words = format!("{name} does not have volume {}: {why}", it.name);
                    let event = NewEvent::info("volume.failed", words);
                    event.severity(hearth_types::event::Severity::Warning)
                }
            };
            self.tell(event.vm(row.id, name)).await;
        }
    }
}

fn not_attached(row: &VmRow, snapshot: &Snapshot, volume: &VmName) -> anyhow::Error {
    let (vm, name) = (&row.spec.name, &snapshot.name);
    let detail =
        format!("snapshot {name} has volume {volume}, which {vm} does not have to write to now");
    let hint = format!(
        "attach it (hearth volume attach {vm} {volume}), leave volumes as they are (--keep-volumes), or make a new VM of the snapshot: hearth snapshot clone {name} --name NEW"
    );
    conflict(detail).hint(hint).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_a_clones_volumes_are_short_and_free() {
        let taken = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let free = |name: &str, names: &[&str]| own_name(name, &taken(names)).unwrap().to_string();
        assert_eq!(free("pgdata", &["root"]), "pgdata");
        assert_eq!(free("root", &["root"]), "root-2");
        let long = "a-volume-with-a-name-that-is-long";
        assert_eq!(free(long, &[]), "a-volume-with-a-name");
        assert_eq!(free(long, &["a-volume-with-a-name"]), "a-volume-with-a-n-2");
    }
}
