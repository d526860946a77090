//! Stories that are told again and again: the daemon dies at each place that they come by, and the
//! next one goes on from there.

use std::collections::BTreeSet;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex};

use camino::Utf8Path;
use futures::FutureExt as _;
use hearth_types::ids::VmId;
use hearth_types::status::{Goal, Phase};

use super::world::{Life, Place, World};

/// Where a daemon may die: the side of a step, and the step.
pub(super) type Where = (&'static str, &'static str);

/// What is done in chapters, each of which can be told again from where a death has left it.
pub(super) trait Story: Default {
    const CHAPTERS: usize;

    async fn tell(&mut self, chapter: usize, life: &Life);
}

/// A story, and how far it has come.
#[derive(Default)]
struct Book<S> {
    story: S,
    chapter: usize,
}

impl<S: Story> Book<S> {
    async fn go_on(&mut self, life: &Life) {
        while self.chapter < S::CHAPTERS {
            self.story.tell(self.chapter, life).await;
            self.chapter += 1;
        }
    }
}

/// A host whose disks have content.
fn world() -> World {
    let mut world = World::new();
    world.host.content = true;
    world
}

/// The places that a story comes by when nobody dies, each as often as it is reached.
pub(super) fn places_met<S: Story>() -> Vec<Where> {
    let seen: Arc<Mutex<Vec<Where>>> = Arc::default();
    let seeing = Arc::clone(&seen);
    let hook = Arc::new(move |side, step| {
        seeing.lock().unwrap().push((side, step));
        std::future::ready(()).boxed()
    });
    let (never, mut book) = (std::future::pending(), Book::<S>::default());
    let told = world().live_with(hook, never, async |life| book.go_on(life).await);
    told.unwrap();
    let seen = seen.lock().unwrap();
    seen.clone()
}

/// Tells a story once for each of these places: its daemon dies there.
pub(super) fn dies_at_each<S: Story>(met: &[Where]) {
    for (at, (side, step)) in met.iter().enumerate() {
        let before = met[..at].iter().filter(|place| **place == (*side, *step));
        let nth = u32::try_from(before.count()).unwrap() + 1;
        let place = Place { side, step, nth };
        println!("dies {place:?}");
        let (mut world, mut book) = (world(), Book::<S>::default());
        let died = world.live_until(place, async |life| book.go_on(life).await);
        assert!(died.is_none(), "it did not die at {place:?}");
        world.live(async |life| book.go_on(life).await);
    }
}

/// Writes at the beginning of a disk.
pub(super) fn fill(disk: &Utf8Path, text: &str) {
    let file = std::fs::OpenOptions::new().write(true).open(disk).unwrap();
    file.write_all_at(text.as_bytes(), 0).unwrap();
}

/// The first five bytes of a disk.
pub(super) fn content(disk: &Utf8Path) -> String {
    let mut bytes = [0; 5];
    let file = std::fs::File::open(disk).unwrap();
    file.read_exact_at(&mut bytes, 0).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What is in a folder; nothing where there is none.
pub(super) fn listed(folder: &Utf8Path) -> BTreeSet<String> {
    let entries = folder.read_dir_utf8().into_iter().flatten();
    entries
        .map(|entry| entry.unwrap().file_name().to_owned())
        .collect()
}

pub(super) async fn down(life: &Life, vm: VmId) {
    life.set_goal(vm, Goal::Stopped).await;
    life.until("it is down", |_, host| host.vmms(vm).count() == 0)
        .await;
    life.until("that is known", |rows, _| {
        rows.iter()
            .all(|row| row.id != vm || row.status.vmm.is_none())
    })
    .await;
}

pub(super) async fn up(life: &Life, vm: VmId) {
    life.set_goal(vm, Goal::Running).await;
    life.until("it runs", |rows, _| {
        let mut rows = rows.iter();
        rows.any(|row| row.id == vm && row.status.phase == Phase::Running)
    })
    .await;
}
