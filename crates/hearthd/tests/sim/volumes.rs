//! The daemon dies everywhere in the work on volumes, and where disks are moved: what the next one finds is whole
//! and counts once, or goes.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use camino::Utf8PathBuf;
use futures::FutureExt as _;
use hearth_types::ids::VmId;
use hearth_types::status::{Goal, Phase};
use hearth_types::units::Bytes;
use hearth_types::volume::{CreateVolume, SnapshotVolume, StorageKind, VolumeState, VolumeView};
use hearthd::failpoint::places;

use super::world::{Life, Place, World, library, root, spec};

const CHAPTERS: usize = 7;
/// How long the clean-up may take, in virtual time.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
struct Story {
    chapter: usize,
    vm: Option<VmId>,
}

fn fill(path: &Utf8PathBuf, text: &str) {
    use std::os::unix::fs::FileExt as _;
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(text.as_bytes(), 0).unwrap();
}

fn content(path: &Utf8PathBuf) -> String {
    use std::os::unix::fs::FileExt as _;
    let mut bytes = [0; 5];
    let file = std::fs::File::open(path).unwrap();
    file.read_exact_at(&mut bytes, 0).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
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

fn listed(folder: &Utf8PathBuf) -> BTreeSet<String> {
    let entries = folder.read_dir_utf8().into_iter().flatten();
    entries
        .map(|entry| entry.unwrap().file_name().to_owned())
        .collect()
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
        let alone = |it: &VolumeView| listed(&life.engine.paths.volume(it.volume.id)).len() == 1;
        if found.iter().all(whole) && ids == listed(&root) && found.iter().all(alone) {
            return found;
        }
        let told = tokio::time::timeout(PATIENCE, changes.changed()).await;
        assert!(told.is_ok(), "{found:?} {:?}", listed(&root));
    }
}

async fn down(life: &Life, vm: VmId) {
    life.set_goal(vm, Goal::Stopped).await;
    life.until("it is down", |_, host| host.vmms(vm).count() == 0)
        .await;
    life.until("that is known", |rows, _| {
        rows.iter()
            .all(|row| row.id != vm || row.status.vmm.is_none())
    })
    .await;
}

async fn up(life: &Life, vm: VmId) {
    life.set_goal(vm, Goal::Running).await;
    life.until("it runs", |rows, _| {
        let mut rows = rows.iter();
        rows.any(|row| row.id == vm && row.status.phase == Phase::Running)
    })
    .await;
}

impl Story {
    async fn go_on(&mut self, life: &Life) {
        while self.chapter < CHAPTERS {
            self.tell(life).await;
            self.chapter += 1;
        }
    }

    /// Each chapter can be told again from where a death has left it.
    async fn tell(&mut self, life: &Life) {
        let engine = &life.engine;
        settled(life).await;
        let data = named(life, "data").await;
        match self.chapter {
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

fn world() -> World {
    let mut world = World::new();
    world.host.content = true;
    world
}

#[test]
fn a_death_anywhere_loses_no_volume_and_leaves_nothing() {
    if !root() {
        return;
    }
    let _kept = library();
    let seen: Arc<Mutex<Vec<(&'static str, &'static str)>>> = Arc::default();
    let seeing = Arc::clone(&seen);
    let hook = Arc::new(move |side, step| {
        seeing.lock().unwrap().push((side, step));
        std::future::ready(()).boxed()
    });
    let mut story = Story::default();
    let never = std::future::pending();
    world()
        .live_with(hook, never, async |life| story.go_on(life).await)
        .unwrap();
    let begins = ["volume_", "move_", "draft_"];
    let ours = |(_, step): &(&str, &str)| begins.iter().any(|begin| step.starts_with(begin));
    let told = |(_, step): &(&str, &str)| ours(&("", step)) || *step == "restore_settled";
    let met: Vec<_> = seen.lock().unwrap().iter().copied().filter(told).collect();
    let every: BTreeSet<_> = places().filter(ours).collect();
    let met_ours: BTreeSet<_> = met.iter().copied().filter(ours).collect();
    assert_eq!(met_ours, every);

    for (at, (side, step)) in met.iter().enumerate() {
        let before = met[..at].iter().filter(|place| **place == (*side, *step));
        let nth = u32::try_from(before.count()).unwrap() + 1;
        let place = Place { side, step, nth };
        println!("dies {place:?}");
        let (mut world, mut story) = (world(), Story::default());
        let died = world.live_until(place, async |life| story.go_on(life).await);
        assert!(died.is_none(), "it did not die at {place:?}");
        world.live(async |life| story.go_on(life).await);
    }
}
