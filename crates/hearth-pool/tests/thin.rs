//! Thin devices and the volumes made of them, on a host in memory: the contracts, each difference
//! between ledger, kernel and metadata, and lives in which the power is cut between any two steps.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed unwrap is a failed test"
)]

#[path = "thin/cuts.rs"]
mod cuts;
#[path = "thin/layers.rs"]
mod layers;
#[path = "thin/volumes.rs"]
mod volumes;
#[path = "thin/world.rs"]
mod world;

use hearth_pool::thin::{Depth, MemoryLedger, ThinError, Wanted, ledger_contract};
use hearth_pool::{Expected, ThinGround as _, Thins};
use hearth_types::thin::{ThinDevice, ThinKind, ThinState};
use hearth_types::units::MIB;

use world::World;

/// The daemon, and nobody else.
const ALONE: hearth_disk::Borrower = hearth_disk::Borrower {
    owner: 0,
    read_only: false,
};

fn wanted(name: &str, origin: Option<u32>) -> Wanted {
    Wanted {
        name: name.to_owned(),
        kind: ThinKind::VmRoot,
        bytes: MIB,
        origin,
    }
}

async fn ready(world: &World, name: &str) -> ThinDevice {
    let made = world.thins.make(&wanted(name, None)).await.unwrap();
    world.thins.filled(made).await.unwrap()
}

#[tokio::test]
async fn the_ledger_in_memory_keeps_the_contract() {
    ledger_contract(&MemoryLedger::default()).await;
}

#[tokio::test]
async fn made_snapshotted_removed_and_counted() {
    let world = World::up().await;
    let image = ready(&world, "image").await;
    assert_eq!((image.id, image.transaction_id), (1, 1));
    let root = world.thins.make(&wanted("root", Some(1))).await.unwrap();
    assert_eq!((root.id, root.state), (2, ThinState::Ready));
    // Again: it is the same.
    let again = world.thins.make(&wanted("root", Some(1))).await.unwrap();
    assert_eq!(again, root);
    assert_eq!(world.ground.thin_ids(), [1, 2]);
    assert_eq!(world.pool.view().await.transaction_id, Some(2));
    world.thins.activate(&root).await.unwrap();
    world.thins.remove(|it| it.name == "root").await.unwrap();
    assert_eq!(world.ground.thin_ids(), [1]);
    assert!(world.ground.active_ids().is_empty());
    assert_eq!(world.pool.view().await.transaction_id, Some(3));
    // Its id comes again as late as possible.
    assert_eq!(ready(&world, "next").await.id, 3);
    assert!(world.thins.compare().await.unwrap().is_empty());
    assert!(!world.ground.is_held());
}

#[tokio::test]
async fn one_that_is_in_use_is_not_removed_and_goes_later() {
    let world = World::up().await;
    let device = ready(&world, "a").await;
    world.thins.activate(&device).await.unwrap();
    world.ground.set_open(1, true);
    let busy = world.thins.remove(|_| true).await;
    assert!(matches!(busy, Err(ThinError::Dm { .. })), "{busy:?}");
    assert_eq!(world.state(1).await, Some(ThinState::Deleting));
    // Its name is free, its id is not.
    assert_eq!(ready(&world, "a").await.id, 2);
    world.ground.set_open(1, false);
    world.thins.settle().await.unwrap();
    assert_eq!(world.ground.thin_ids(), [2]);
    assert_eq!(world.state(1).await, None);
}

#[tokio::test]
async fn an_id_that_the_pool_has_already_is_nobodys() {
    let world = World::up().await;
    world.ground.put_thin(1);
    let device = ready(&world, "a").await;
    assert_eq!(device.id, 2);
    assert_eq!(world.state(1).await, Some(ThinState::Orphaned));
    assert_eq!(world.ground.thin_ids(), [1, 2]);
    // No removal by name touches it.
    world.thins.remove(|_| true).await.unwrap();
    assert_eq!(world.ground.thin_ids(), [1]);
}

#[tokio::test]
async fn what_fails_again_and_again_is_not_made_for_ever() {
    let world = World::up().await;
    for id in 1..=3 {
        let device = world.thins.make(&wanted("a", None)).await.unwrap();
        assert_eq!(device.id, id);
        world.thins.orphan(device, "it failed").await.unwrap();
    }
    let refused = world.thins.make(&wanted("a", None)).await;
    assert!(
        matches!(refused, Err(ThinError::TooManyOrphans { count: 3, .. })),
        "{refused:?}"
    );
    assert_eq!(ready(&world, "b").await.id, 4);
}

#[tokio::test]
async fn each_difference_is_named_and_repaired_or_told() {
    let world = World::up().await;
    let lost = ready(&world, "lost").await;
    let kept = ready(&world, "kept").await;
    world.thins.activate(&kept).await.unwrap();
    world.ground.lose_thin(lost.id);
    world.ground.put_thin(77);
    world.ground.suspend_thin(kept.id);
    let mut behind = ready(&world, "behind").await;
    behind.transaction_id = 1000;
    world.ledger.put_now(behind);
    let found = world.thins.compare().await.unwrap();
    let mut told: Vec<_> = found
        .iter()
        .map(|it| (it.id, it.kind.as_str(), it.repaired))
        .collect();
    told.sort_unstable();
    assert_eq!(
        told,
        [
            (None, "behind", false),
            (Some(1), "lost", false),
            (Some(2), "suspended", true),
            (Some(77), "unrecorded", true),
        ]
    );
    assert!(!world.ground.any_suspended());
    assert_eq!(world.state(77).await, Some(ThinState::Orphaned));
    // What was repaired is not told again.
    let again = world.thins.compare().await.unwrap();
    assert_eq!(again.len(), 2, "{again:?}");
    let shown = world.thins.volumes().await.unwrap();
    assert_eq!(shown.differences, again);
    assert_eq!(shown.volumes.len(), 4);
    let gone = world.thins.activate(&lost).await;
    assert!(matches!(gone, Err(ThinError::Lost { .. })), "{gone:?}");
}

#[tokio::test]
async fn a_survey_compares_with_the_kernel_and_now_and_then_with_the_metadata() {
    let world = World::up().await;
    let on = ready(&world, "on").await;
    world.thins.activate(&on).await.unwrap();
    ready(&world, "lost").await;
    assert!(world.thins.compare().await.unwrap().is_empty());
    world.ground.lose_thin(2);
    world.ground.put_thin(77);
    let kinds =
        |found: Vec<hearth_types::thin::PoolDifference>| -> Vec<(Option<u32>, String, bool)> {
            let told = found.into_iter();
            told.map(|it| (it.id, it.kind, it.repaired)).collect()
        };
    // The kernel knows nothing of what is off.
    assert!(world.thins.survey(Depth::Kernel).await.unwrap().is_empty());
    let found = kinds(world.thins.survey(Depth::Metadata).await.unwrap());
    let lost = (Some(2), "lost".to_owned(), false);
    assert_eq!(
        found,
        [lost.clone(), (Some(77), "unrecorded".to_owned(), true)]
    );
    // Who is suspended by somebody's hand has that moment; who stays so goes on.
    world.ground.suspend_thin(1);
    let waits = kinds(world.thins.survey(Depth::Kernel).await.unwrap());
    assert!(
        waits.contains(&(Some(1), "suspended".to_owned(), false)),
        "{waits:?}"
    );
    assert!(world.ground.any_suspended());
    let goes_on = kinds(world.thins.survey(Depth::Kernel).await.unwrap());
    assert!(
        goes_on.contains(&(Some(1), "suspended".to_owned(), true)),
        "{goes_on:?}"
    );
    assert!(!world.ground.any_suspended());
    // What the metadata has told stands until it is asked again.
    assert!(goes_on.contains(&lost));
    world.ground.put_thin(2);
    assert!(
        world
            .thins
            .survey(Depth::Metadata)
            .await
            .unwrap()
            .is_empty()
    );
    assert!(!world.ground.is_held());
}

#[tokio::test]
async fn what_is_in_use_and_was_to_go_is_not_tried_with_each_survey() {
    let world = World::up().await;
    let device = ready(&world, "a").await;
    world.thins.activate(&device).await.unwrap();
    world.ground.set_open(1, true);
    world.thins.remove(|_| true).await.unwrap_err();
    let first = world.thins.survey(Depth::Kernel).await.unwrap();
    assert_eq!(
        (first[0].kind.as_str(), first[0].repaired),
        ("unsettled", false)
    );
    world.ground.set_open(1, false);
    assert_eq!(world.thins.survey(Depth::Kernel).await.unwrap(), first);
    assert_eq!(world.state(1).await, Some(ThinState::Deleting));
    let then = world.thins.survey(Depth::Metadata).await.unwrap();
    assert_eq!(
        (then[0].kind.as_str(), then[0].repaired),
        ("unsettled", true)
    );
    assert_eq!(world.state(1).await, None);
    assert!(world.thins.survey(Depth::Kernel).await.unwrap().is_empty());
}

#[tokio::test]
async fn what_cannot_be_listed_is_no_loss() {
    let world = World::up().await;
    ready(&world, "a").await;
    world.ground.lose_thin(1);
    world.ground.set_unlisted(true);
    assert!(world.thins.compare().await.unwrap().is_empty());
    assert!(!world.ground.is_held(), "the metadata is let go");
    let shown = world.thins.volumes().await.unwrap();
    assert!(shown.unknown.unwrap().contains("listed"));
    assert_eq!(shown.volumes[0].mapped, None);
}

#[tokio::test]
async fn an_orphan_is_cleared_away_on_order_and_nothing_else_is() {
    let world = World::up().await;
    let image = ready(&world, "image").await;
    let half = world.thins.make(&wanted("half", None)).await.unwrap();
    let refused = world.thins.clear(half.id, |_| true).await.unwrap_err();
    assert!(refused.to_string().contains("it is filling"), "{refused}");
    world
        .thins
        .orphan(half.clone(), "mkfs timed out")
        .await
        .unwrap();
    for id in [image.id, 99] {
        let refused = world.thins.clear(id, |_| false).await;
        assert!(matches!(refused, Err(ThinError::NotCleared { .. })));
    }
    world.thins.clear(half.id, |_| false).await.unwrap();
    assert_eq!(world.ground.thin_ids(), [image.id]);
    assert_eq!(world.state(half.id).await, None);
    // What the caller knows that nothing refers to goes, too.
    world
        .thins
        .clear(image.id, |device| device.name == "image")
        .await
        .unwrap();
    assert!(world.ground.thin_ids().is_empty());
    assert!(world.thins.devices().await.unwrap().is_empty());
}

#[tokio::test]
async fn an_orphan_that_cannot_be_cleared_stays_one_and_nothing_tries_again() {
    let world = World::up().await;
    let half = world.thins.make(&wanted("half", None)).await.unwrap();
    world
        .thins
        .orphan(half.clone(), "mkfs timed out")
        .await
        .unwrap();
    world.ground.set_mode(hearth_dm::thin::Mode::ReadOnly);
    world.thins.clear(half.id, |_| false).await.unwrap_err();
    assert_eq!(world.state(half.id).await, Some(ThinState::Orphaned));
    assert_eq!(world.ground.thin_ids(), [half.id]);
    world.ground.set_mode(hearth_dm::thin::Mode::ReadWrite);
    world.thins.settle().await.unwrap();
    assert_eq!(world.state(half.id).await, Some(ThinState::Orphaned));
    world.thins.clear(half.id, |_| false).await.unwrap();
    assert!(world.ground.thin_ids().is_empty());
}

#[tokio::test]
async fn the_ledger_is_made_anew_of_what_metadata_kernel_nodes_and_its_copy_tell() {
    let world = World::up().await;
    let path = |name: &str| world.folder.join(format!("{name}.img"));
    let placed = async |device: &ThinDevice, name: &str| {
        let number = world.thins.activate(device).await.unwrap();
        world.ground.place_node(&path(name), number, ALONE).unwrap();
    };
    let image = ready(&world, "image").await;
    let old = ready(&world, "vm-old").await;
    ready(&world, "gone").await;
    let half = world.thins.make(&wanted("half", None)).await.unwrap();
    let failed = world.thins.make(&wanted("failed", None)).await.unwrap();
    world.thins.orphan(failed, "mkfs timed out").await.unwrap();
    world.thins.survey(Depth::Kernel).await.unwrap();
    // Since then: a device of a VM that runs, one that a disk has another name for by now, one that nobody knows,
    // and one is not there any more.
    let late = world
        .thins
        .make(&wanted("vm-late", Some(image.id)))
        .await
        .unwrap();
    placed(&late, "late").await;
    world
        .thins
        .take_over(&old, None, "vm-renamed")
        .await
        .unwrap();
    let renamed = world.thins.find("vm-renamed").await.unwrap().unwrap();
    placed(&renamed, "renamed").await;
    world.ground.put_thin(77);
    world.ground.lose_thin(3);
    std::fs::write(path("file"), "a disk that is a file").unwrap();
    let names = ["late", "renamed", "file", "off"];
    let expected = names.map(|name| Expected {
        path: path(name),
        kind: ThinKind::VmRoot,
    });

    let ledger = std::sync::Arc::new(MemoryLedger::default());
    let ground = std::sync::Arc::new(world.ground.clone());
    let thins = Thins::new(world.pool.clone(), ground, ledger);
    let rebuilt = thins.rebuild(expected.to_vec()).await.unwrap().unwrap();
    let all = thins.devices().await.unwrap();
    let told: Vec<_> = all
        .iter()
        .map(|it| (it.id, it.name.as_str(), it.state, it.bytes))
        .collect();
    assert_eq!(
        told,
        [
            (image.id, "image", ThinState::Ready, MIB),
            (old.id, "vm-renamed", ThinState::Ready, MIB),
            (half.id, "half", ThinState::Orphaned, MIB),
            (5, "failed", ThinState::Orphaned, MIB),
            (late.id, "vm-late", ThinState::Ready, MIB),
            (77, "unknown-77", ThinState::Orphaned, 0),
        ]
    );
    assert_eq!((rebuilt.known.len(), rebuilt.orphans.len()), (3, 3));
    assert_eq!(rebuilt.lost, ["gone"]);
    assert_eq!((rebuilt.unknown, rebuilt.no_copy), (Vec::new(), None));
    let causes: Vec<_> = all.iter().filter_map(|it| it.cause.as_deref()).collect();
    assert!(causes[0].contains("it was filling"), "{causes:?}");
    assert_eq!(causes[1], "mkfs timed out");
    assert!(causes[2].contains("nothing says what it is"), "{causes:?}");
    // Nothing of it differs from what is there.
    assert!(thins.compare().await.unwrap().is_empty());
}

#[tokio::test]
async fn without_a_copy_only_what_runs_is_known_and_nothing_is_removed() {
    let mut world = World::up().await;
    let on = ready(&world, "vm-on").await;
    ready(&world, "vm-off").await;
    let number = world.thins.activate(&on).await.unwrap();
    let path = world.folder.join("on.img");
    // One that has not run since the boot before has a node, too: its number is another one's by now.
    let stale = world.folder.join("off.img");
    let expected = [&stale, &path].map(|path| {
        world.ground.place_node(path, number, ALONE).unwrap();
        Expected {
            path: path.clone(),
            kind: ThinKind::VmRoot,
        }
    });
    let expected = expected.to_vec();
    let anew = |world: &World| {
        let ground = std::sync::Arc::new(world.ground.clone());
        let ledger = std::sync::Arc::new(MemoryLedger::default());
        Thins::new(world.pool.clone(), ground, ledger)
    };
    std::fs::write(world.pool.place().dir.join("ledger.json"), "{ cut off").unwrap();
    let rebuilt = anew(&world)
        .rebuild(expected.clone())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(rebuilt.known[0].name, "vm-on");
    assert_eq!(rebuilt.orphans[0].name, "unknown-2");
    assert_eq!(rebuilt.unknown, [stale]);
    assert!(rebuilt.no_copy.unwrap().contains("ledger.json"));
    // After a reboot the node's number is nobody's, or another one's: it is put together, and nothing is guessed.
    world.reboot();
    let rebuilt = anew(&world)
        .rebuild(expected.clone())
        .await
        .unwrap()
        .unwrap();
    assert_eq!((rebuilt.known.len(), rebuilt.orphans.len()), (0, 2));
    let paths: Vec<_> = expected.iter().map(|disk| disk.path.clone()).collect();
    assert_eq!(rebuilt.unknown, paths);
    assert_eq!(world.ground.thin_ids(), [1, 2]);
    // Where no pool was set up there is nothing to be known.
    let none = World::new(hearth_pool::Choice::Auto);
    assert_eq!(anew(&none).rebuild(expected).await.unwrap(), None);
}
