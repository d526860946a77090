//! The daemon dies everywhere in the work on snapshots: what the next one finds is whole, or goes.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use camino::Utf8PathBuf;
use futures::FutureExt as _;
use hearth_types::ids::VmId;
use hearth_types::snapshot::{CloneSnapshot, CreateSnapshot, Snapshot, SnapshotState};
use hearth_types::status::{Goal, Phase};
use hearthd::failpoint::places;

use super::world::{Life, Place, World, library, root, spec};

/// All disks of a VM, in its folder and in a snapshot's.
const DISKS: [&str; 2] = ["root.img", "volume-data.img"];

/// How far the story has come.
#[derive(Debug, Default)]
struct Story {
    chapter: usize,
    vm: Option<VmId>,
}

const CHAPTERS: usize = 6;
/// How long the clean-up may take, in virtual time.
const PATIENCE: Duration = Duration::from_secs(60);

fn fill(life: &Life, vm: VmId, text: &str) {
    use std::os::unix::fs::FileExt as _;
    for disk in DISKS {
        let path = life.engine.paths.vm(vm).join(disk);
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(text.as_bytes(), 0).unwrap();
    }
}

fn content(folder: &Utf8PathBuf) -> Vec<String> {
    let begin = |disk| {
        use std::os::unix::fs::FileExt as _;
        let mut bytes = [0; 5];
        let file = std::fs::File::open(folder.join(disk)).unwrap();
        file.read_exact_at(&mut bytes, 0).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    DISKS.map(begin).to_vec()
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

async fn all(life: &Life) -> Vec<Snapshot> {
    life.engine.parts.store.snapshots().await.unwrap()
}

/// What the daemon has left is removed, and what is whole has all of its disks.
async fn settled(life: &Life) -> Vec<Snapshot> {
    let folder = life.engine.paths.snapshots();
    let listed = |folder: &Utf8PathBuf| -> BTreeSet<String> {
        let entries = folder.read_dir_utf8().into_iter().flatten();
        entries
            .map(|entry| entry.unwrap().file_name().to_owned())
            .collect()
    };
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
        let asked = |name: &str| CreateSnapshot {
            name: Some(name.parse().unwrap()),
            ..CreateSnapshot::default()
        };
        let found = settled(life).await;
        match self.chapter {
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

fn world() -> World {
    let mut world = World::new();
    world.host.content = true;
    world
}

#[test]
fn a_death_anywhere_leaves_whole_snapshots_and_whole_disks() {
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
    let ours = |(_, step): &(&str, &str)| {
        ["snapshot_", "restore_", "clone_"]
            .iter()
            .any(|begin| step.starts_with(begin))
    };
    let met: Vec<_> = seen.lock().unwrap().iter().copied().filter(ours).collect();
    let every: BTreeSet<_> = places().filter(ours).collect();
    assert_eq!(met.iter().copied().collect::<BTreeSet<_>>(), every);

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
