//! The daemon dies everywhere in the work on volumes, and where disks are moved: what the next one finds is whole
//! and counts once, or goes.

use std::collections::BTreeSet;
use std::time::Duration;

use camino::Utf8PathBuf;
use hearth_types::ids::VmId;
use hearth_types::status::Goal;
use hearth_types::units::Bytes;
use hearth_types::volume::{CreateVolume, SnapshotVolume, StorageKind, VolumeState, VolumeView};
use hearthd::failpoint::places;

use super::story::{Story, Where, content, dies_at_each, down, fill, listed, places_met, up};
use super::world::{Life, library, root, spec};

/// How long the clean-up may take, in virtual time.
const PATIENCE: Duration = Duration::from_secs(60);

/// Volumes are made, lent, grown, moved, snapshotted and removed.
#[derive(Default)]
struct Volumes {
    vm: Option<VmId>,
}

fn disk(life: &Life, view: &VolumeView) -> Utf8PathBuf {
    life.engine
        .paths
        .volume_disk(view.volume.id, view.volume.disk)
}

async fn all(life: &Life) -> Vec<VolumeView> {
    life.engine.volume_views().await.unwrap()
}

async fn named(life: &Life, name: &str) -> Option<VolumeView> {
    all(life)
        .await
        .into_iter()
        .find(|it| it.volume.name.as_str() == name)
}

/// What the daemon has left goes: each folder has a record, and the one disk that counts.
async fn settled(life: &Life) -> Vec<VolumeView> {
    let root = life.engine.paths.volumes();
    let mut changes = life.engine.changes();
    loop {
        changes.mark_unchanged();
        let found = all(life).await;
        let whole =
            |it: &VolumeView| it.volume.state == VolumeState::Ready && it.volume.draft.is_none();
        let ids: BTreeSet<_> = found.iter().map(|it| it.volume.id.to_string()).collect();
        let alone = |it: &VolumeView| {
            let mut files = listed(&life.engine.paths.volume(it.volume.id));
            files.remove("volume.json");
            files.len() == 1
        };
        if found.iter().all(whole) && ids == listed(&root) && found.iter().all(alone) {
            return found;
        }
        let told = tokio::time::timeout(PATIENCE, changes.changed()).await;
        assert!(told.is_ok(), "{found:?} {:?}", listed(&root));
    }
}

impl Story for Volumes {
    const CHAPTERS: usize = 7;

    async fn tell(&mut self, chapter: usize, life: &Life) {
        let engine = &life.engine;
        settled(life).await;
        let data = named(life, "data").await;
        match chapter {
            0 => {
                let vm = match life.vm("web").await {
                    Some(row) => row.id,
                    None => {
                        let mut web = spec("web");
                        web.volumes = vec!["own:/own:16MiB".parse().unwrap()];
                        life.create(web, Goal::Stopped).await
                    }
                };
                self.vm = Some(vm);
                if data.is_none() {
                    let asked = CreateVolume {
                        name: "data".parse().unwrap(),
                        size: Some(Bytes::mib(16)),
                        from: None,
                    };
                    engine.create_volume(asked).await.unwrap();
                }
                let data = named(life, "data").await.unwrap();
                fill(&disk(life, &data), "first");
            }
            1 => self.lent_and_taken(life, &data.unwrap()).await,
            2 => {
                let grown = engine
                    .grow_volume(&data.unwrap(), Bytes::mib(24))
                    .await
                    .unwrap();
                assert_eq!(
                    disk(life, &grown.volume).metadata().unwrap().len(),
                    24 << 20
                );
            }
            3 => {
                let data = data.unwrap();
                assert_eq!(content(&disk(life, &data)), "first");
                engine
                    .migrate_volume(&data, StorageKind::Thin)
                    .await
                    .unwrap();
                let data = named(life, "data").await.unwrap();
                assert_eq!(data.volume.storage, StorageKind::Thin);
                assert_eq!(content(&disk(life, &data)), "first");
            }
            4 => self.moved(life).await,
            5 => {
                let data = data.unwrap();
                if named(life, "kept").await.is_none() {
                    let asked = SnapshotVolume {
                        name: Some("kept".parse().unwrap()),
                        pause: false,
                    };
                    engine.snapshot_volume(&data, asked).await.unwrap();
                }
                let kept = named(life, "kept").await.unwrap();
                assert_eq!(content(&disk(life, &kept)), "first");
            }
            6 => {
                for view in all(life).await {
                    engine.remove_volume(&view).await.unwrap();
                }
                assert_eq!(settled(life).await, []);
            }
            _ => {}
        }
    }
}

impl Volumes {
    async fn lent_and_taken(&self, life: &Life, data: &VolumeView) {
        let (engine, vm) = (&life.engine, self.vm.unwrap());
        let row = life.row(vm).await;
        if row.status.vmm.is_none() {
            let attached = engine.attach_volume(&row, data, None, false).await;
            attached.unwrap();
            up(life, vm).await;
        }
        let name = engine.paths.vm(vm).join("attached-data.img");
        assert_eq!(content(&name), "first");
        down(life, vm).await;
        let row = life.row(vm).await;
        let data = named(life, "data").await.unwrap();
        if !data.attached.is_empty() {
            engine.detach_volume(&row, &data).await.unwrap();
        }
        // A name that a death has left goes before the next start.
        up(life, vm).await;
        assert!(!name.exists());
        down(life, vm).await;
        for disk in ["root.img", "volume-own.img"] {
            fill(&engine.paths.vm(vm).join(disk), "disks");
        }
    }

    async fn moved(&self, life: &Life) {
        let (engine, vm) = (&life.engine, self.vm.unwrap());
        let disks = ["root.img", "volume-own.img"].map(|disk| engine.paths.vm(vm).join(disk));
        for to in [StorageKind::Thin, StorageKind::Files] {
            let row = life.row(vm).await;
            engine.migrate_vm(&row, to).await.unwrap();
            for disk in &disks {
                assert_eq!(engine.parts.disks.kind(disk).await.unwrap(), to);
                assert_eq!(content(disk), "disks");
            }
        }
        up(life, vm).await;
        assert!(!engine.paths.vm(vm).join("restore.json").exists());
        assert!(disks.iter().all(|disk| content(disk) == "disks"));
        down(life, vm).await;
    }
}

#[test]
fn a_death_anywhere_loses_no_volume_and_leaves_nothing() {
    if !root() {
        return;
    }
    let _kept = library();
    let begins = ["volume_", "move_", "draft_"];
    let ours = |(_, step): &Where| begins.iter().any(|begin| step.starts_with(begin));
    let mut met = places_met::<Volumes>();
    met.retain(|place| ours(place) || place.1 == "restore_settled");
    let every: BTreeSet<_> = places().filter(ours).collect();
    let met_ours: BTreeSet<_> = met.iter().copied().filter(ours).collect();
    assert_eq!(met_ours, every);
    dies_at_each::<Volumes>(&met);
}
