//! The daemon dies everywhere in the work on snapshots: what the next one finds is whole, or goes.

use std::collections::BTreeSet;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use hearth_types::ids::VmId;
use hearth_types::snapshot::{CloneSnapshot, CreateSnapshot, Snapshot, SnapshotState};
use hearth_types::status::Goal;
use hearth_types::units::Bytes;
use hearth_types::volume::CreateVolume;
use hearthd::failpoint::places;

use super::story::{self, Story, Where, dies_at_each, down, listed, places_met, up};
use super::world::{Life, library, root, spec};

/// The disks of a VM's own, in its folder and in a snapshot's.
const DISKS: [&str; 2] = ["root.img", "volume-data.img"];
/// How long the clean-up may take, in virtual time.
const PATIENCE: Duration = Duration::from_secs(60);

/// Snapshots are made, restored, cloned and removed.
#[derive(Default)]
struct Snapshots {
    vm: Option<VmId>,
}

/// All disks of the VM, where they are: its own, and that of the volume that is attached to it.
async fn disks(life: &Life, vm: VmId) -> Vec<Utf8PathBuf> {
    let paths = &life.engine.paths;
    let mut disks = DISKS.map(|disk| paths.vm(vm).join(disk)).to_vec();
    for volume in life.engine.parts.store.volumes().await.unwrap() {
        disks.push(paths.volume_disk(volume.id, volume.disk));
    }
    disks
}

async fn fill(life: &Life, vm: VmId, text: &str) {
    for disk in disks(life, vm).await {
        story::fill(&disk, text);
    }
}

async fn written(life: &Life, vm: VmId) -> Vec<String> {
    let disks = disks(life, vm).await;
    disks.iter().map(|disk| story::content(disk)).collect()
}

/// What is on the disks in a folder: the VM's own, and that of the volume by this name.
fn content(folder: &Utf8Path, volume: &str) -> [String; 3] {
    let [root, data] = DISKS;
    [root, data, volume].map(|disk| story::content(&folder.join(disk)))
}

async fn all(life: &Life) -> Vec<Snapshot> {
    life.engine.parts.store.snapshots().await.unwrap()
}

/// What the daemon has left is removed, and what is whole has all of its disks.
async fn settled(life: &Life) -> Vec<Snapshot> {
    let folder = life.engine.paths.snapshots();
    let mut changes = life.engine.changes();
    loop {
        changes.mark_unchanged();
        let found = all(life).await;
        let ready = found.iter().all(|one| one.state == SnapshotState::Ready);
        let ids: BTreeSet<_> = found.iter().map(|one| one.id.to_string()).collect();
        if ready && ids == listed(&folder) {
            for one in &found {
                content(&folder.join(one.id.to_string()), "attached-pgdata.img");
            }
            return found;
        }
        let told = tokio::time::timeout(PATIENCE, changes.changed()).await;
        assert!(told.is_ok(), "{found:?} {:?}", listed(&folder));
    }
}

fn named(found: &[Snapshot], name: &str) -> Option<Snapshot> {
    found.iter().find(|one| one.name.as_str() == name).cloned()
}

impl Story for Snapshots {
    const CHAPTERS: usize = 6;

    async fn tell(&mut self, chapter: usize, life: &Life) {
        let engine = &life.engine;
        let asked = |name: &str| CreateSnapshot {
            name: Some(name.parse().unwrap()),
            ..CreateSnapshot::default()
        };
        let found = settled(life).await;
        match chapter {
            0 => {
                let mut web = spec("web");
                web.volumes = vec!["data:/data:16MiB".parse().unwrap()];
                let vm = life.create(web, Goal::Running).await;
                self.vm = Some(vm);
                up(life, vm).await;
                down(life, vm).await;
                let asked = CreateVolume {
                    name: "pgdata".parse().unwrap(),
                    size: Some(Bytes::mib(16)),
                    from: None,
                };
                let volume = engine.create_volume(asked).await.unwrap();
                let row = life.row(vm).await;
                let attached = engine.attach_volume(&row, &volume, None, false).await;
                attached.unwrap();
                fill(life, vm, "first").await;
            }
            1 if named(&found, "one").is_none() => {
                let row = life.row(self.vm.unwrap()).await;
                engine.create_snapshot(&row, asked("one")).await.unwrap();
            }
            2 => {
                // Of one that runs: no agent holds its writes, so it stands still for it.
                let vm = self.vm.unwrap();
                up(life, vm).await;
                if named(&found, "two").is_none() {
                    fill(life, vm, "later").await;
                    let row = life.row(vm).await;
                    engine.create_snapshot(&row, asked("two")).await.unwrap();
                }
                life.until("it goes on", |_, host| host.vmms(vm).all(|vmm| !vmm.paused))
                    .await;
                down(life, vm).await;
            }
            3 => {
                let vm = self.vm.unwrap();
                let dir = engine.paths.vm(vm);
                let now = written(life, vm).await;
                let whole = now == ["first"; 3] || now == ["later"; 3];
                // While the record is there no VM uses them.
                let settled = !dir.join("restore.json").exists();
                assert!(whole || !settled, "mixed: {now:?}");
                // What a death has left is brought to its end before the next start, whoever asks.
                up(life, vm).await;
                let now = written(life, vm).await;
                assert!(now == ["first"; 3] || now == ["later"; 3], "mixed: {now:?}");
                down(life, vm).await;
                let row = life.row(vm).await;
                let one = named(&found, "one").unwrap();
                engine.restore_snapshot(&row, &one, false).await.unwrap();
                assert_eq!(written(life, vm).await, ["first"; 3]);
                up(life, vm).await;
                assert_eq!(content(&dir, "attached-pgdata.img"), ["first"; 3]);
                down(life, vm).await;
            }
            4 => {
                let two = named(&found, "two").unwrap();
                let copy = CloneSnapshot {
                    name: "copy".parse().unwrap(),
                    ports: Vec::new(),
                    start: false,
                };
                if life.vm("copy").await.is_none() {
                    engine.clone_snapshot(&two, &copy).await.unwrap();
                }
                let copy = life.vm("copy").await.unwrap().id;
                up(life, copy).await;
                let folder = engine.paths.vm(copy);
                assert_eq!(content(&folder, "volume-pgdata.img"), ["later"; 3]);
                down(life, copy).await;
            }
            5 => {
                for snapshot in &found {
                    engine.remove_snapshot(snapshot).await.unwrap();
                }
                assert_eq!(settled(life).await, []);
            }
            _ => {}
        }
    }
}

#[test]
fn a_death_anywhere_leaves_whole_snapshots_and_whole_disks() {
    if !root() {
        return;
    }
    let _kept = library();
    let begins = ["snapshot_", "restore_", "clone_"];
    let ours = |(_, step): &Where| begins.iter().any(|begin| step.starts_with(begin));
    let mut met = places_met::<Snapshots>();
    met.retain(ours);
    let every: BTreeSet<_> = places().filter(ours).collect();
    assert_eq!(met.iter().copied().collect::<BTreeSet<_>>(), every);
    dies_at_each::<Snapshots>(&met);
}
