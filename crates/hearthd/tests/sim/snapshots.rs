//! The daemon dies everywhere in the work on snapshots: what the next one finds is whole, or goes.

use std::collections::BTreeSet;
use std::time::Duration;

use camino::Utf8Path;
use hearth_types::ids::VmId;
use hearth_types::snapshot::{CloneSnapshot, CreateSnapshot, Snapshot, SnapshotState};
use hearth_types::status::Goal;
use hearthd::failpoint::places;

use super::story::{self, Story, Where, dies_at_each, down, listed, places_met, up};
use super::world::{Life, library, root, spec};

/// All disks of a VM, in its folder and in a snapshot's.
const DISKS: [&str; 2] = ["root.img", "volume-data.img"];
/// How long the clean-up may take, in virtual time.
const PATIENCE: Duration = Duration::from_secs(60);

/// Snapshots are made, restored, cloned and removed.
#[derive(Default)]
struct Snapshots {
    vm: Option<VmId>,
}

fn fill(life: &Life, vm: VmId, text: &str) {
    for disk in DISKS {
        story::fill(&life.engine.paths.vm(vm).join(disk), text);
    }
}

fn content(folder: &Utf8Path) -> [String; 2] {
    DISKS.map(|disk| story::content(&folder.join(disk)))
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
                content(&folder.join(one.id.to_string()));
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
                fill(life, vm, "first");
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
                    fill(life, vm, "later");
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
                let now = content(&dir);
                let whole = now == ["first"; 2] || now == ["later"; 2];
                // While the record is there no VM uses them.
                let settled = !dir.join("restore.json").exists();
                assert!(whole || !settled, "mixed: {now:?}");
                // What a death has left is brought to its end before the next start, whoever asks.
                up(life, vm).await;
                let now = content(&dir);
                assert!(now == ["first"; 2] || now == ["later"; 2], "mixed: {now:?}");
                down(life, vm).await;
                let row = life.row(vm).await;
                let one = named(&found, "one").unwrap();
                engine.restore_snapshot(&row, &one).await.unwrap();
                assert_eq!(content(&dir), ["first"; 2]);
                up(life, vm).await;
                assert_eq!(content(&dir), ["first"; 2]);
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
                assert_eq!(content(&engine.paths.vm(copy)), ["later"; 2]);
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
