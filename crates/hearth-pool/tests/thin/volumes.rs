//! Volumes in the pool: the contract that files keep, too, and what is the pool's own.

use camino::{Utf8Path, Utf8PathBuf};
use hearth_disk::contract::{Ground as _, InFolder, contract};
use hearth_disk::{DiskError, Made, Volumes};
use hearth_pool::Choice;
use hearth_pool::space::Room;
use hearth_types::pool::PoolState;
use hearth_types::thin::{ThinKind, ThinState};
use hearth_types::units::Bytes;
use hearth_types::volume::StorageKind;

use super::world::World;

/// A node is another name of its device's content, so it is read as a file is.
impl InFolder for World {
    fn folder(&self) -> &Utf8Path {
        &self.folder
    }
}

const SIZE: Bytes = Bytes::mib(4);
const AT: u64 = 70_000;

fn owner() -> u32 {
    let own = rustix::process::geteuid();
    if own.is_root() { 34567 } else { own.as_raw() }
}

async fn cloned(world: &World, name: &str) -> Utf8PathBuf {
    let (source, path) = (world.path("image"), world.path(name));
    if !source.exists() {
        world.put(&source, SIZE, AT, b"image");
    }
    world
        .volumes
        .clone_from(&source, &path, SIZE, owner())
        .await
        .unwrap();
    path
}

#[tokio::test]
async fn the_contract_of_volumes() {
    let world = World::up().await;
    contract(&world.volumes, &world, owner()).await;
    // Nothing is left of all that, neither in the pool nor in the ledger.
    assert!(world.ground.thin_ids().is_empty());
    assert!(world.thins.devices().await.unwrap().is_empty());
}

#[tokio::test]
async fn the_same_contract_where_volumes_are_files() {
    for choice in [Choice::Files, Choice::Auto] {
        let world = World::new(choice);
        world.ground.set_unavailable(true);
        contract(&world.volumes, &world, owner()).await;
        assert!(!world.pool.place().dir.exists());
    }
}

#[tokio::test]
async fn an_image_is_filled_once_and_roots_are_its_snapshots() {
    let world = World::up().await;
    let (first, second) = tokio::join!(cloned(&world, "first"), cloned(&world, "second"));
    for path in [&first, &second] {
        assert_eq!(world.read(path, AT, 5), b"image");
    }
    let all = world.thins.devices().await.unwrap();
    let image = all.iter().find(|it| it.kind == ThinKind::Image).unwrap();
    let roots = all.iter().filter(|it| it.origin == Some(image.id));
    assert_eq!((roots.count(), all.len()), (2, 3));
    assert!(!world.ground.active_ids().contains(&image.id));
}

#[tokio::test]
async fn an_image_of_a_volume_is_a_device_of_its_own_that_is_off() {
    let mut world = World::up().await;
    let root = cloned(&world, "root.img").await;
    world.write(&root, AT, b"guest");
    let image = world.path("made.img");
    let made = world.volumes.image_of(&root, &image, SIZE).await;
    assert_eq!(made.unwrap(), Made::Snapshot);
    let all = world.thins.devices().await.unwrap();
    let device = all.iter().find(|it| it.name.ends_with("-made")).unwrap();
    assert_eq!(
        (device.kind, device.state),
        (ThinKind::Image, ThinState::Ready)
    );
    // It has no node, and the kernel has not got it: nobody opens an image.
    assert!(!image.exists());
    assert!(!world.ground.active_ids().contains(&device.id));
    world.reboot();
    world.volumes.remove(&root).await.unwrap();
    let copy = world.path("copy.img");
    let made = world
        .volumes
        .clone_from(&image, &copy, Bytes::mib(8), owner())
        .await;
    assert_eq!(made.unwrap(), Made::Snapshot);
    assert_eq!(world.read(&copy, AT, 5), b"guest");
    world.volumes.forget_source(&image).await.unwrap();
    let left = world.thins.find("vm-made").await.unwrap();
    assert_eq!(left, None);
}

#[tokio::test]
async fn a_node_of_before_the_reboot_is_renewed_before_anybody_opens_it() {
    let mut world = World::up().await;
    let path = cloned(&world, "root.img").await;
    world.write(&path, AT, b"guest");
    world.reboot();
    assert!(!world.volumes.is_lost(&path).await.unwrap());
    // Nobody has put the pool together yet: this does.
    let before = world.volumes.ready(&path, owner()).await.unwrap();
    assert_eq!(world.pool.view().await.state, PoolState::Up);
    assert_eq!(world.read(&path, AT, 5), b"guest");
    // The node itself may be gone; what it leads to is not.
    std::fs::remove_file(&path).unwrap();
    assert!(!world.volumes.is_lost(&path).await.unwrap());
    let again = world.volumes.ready(&path, owner()).await.unwrap();
    assert_eq!(again, before);
    assert_eq!(world.read(&path, AT, 5), b"guest");
}

#[tokio::test]
async fn what_a_volume_is_does_not_follow_from_what_new_ones_are() {
    let world = World::new(Choice::Files);
    let file = cloned(&world, "old.img").await;
    assert_eq!(
        world.volumes.ready(&file, owner()).await.unwrap().device,
        None
    );
    assert!(!world.pool.place().dir.exists());

    let world = World::up().await;
    let path = world.path("root.img");
    world.put(&path, SIZE, AT, b"a file");
    let source = world.path("image");
    world.put(&source, SIZE, AT, b"image");
    let kept = world
        .volumes
        .clone_from(&source, &path, SIZE, owner())
        .await;
    assert_eq!(kept.unwrap(), Made::Present);
    assert_eq!(world.read(&path, AT, 6), b"a file");
    world.volumes.grow(&path, Bytes::mib(8)).await.unwrap();
    assert_eq!(world.size(&path), Some(Bytes::mib(8)));
    world.volumes.remove(&path).await.unwrap();
    assert!(!path.exists());
}

#[tokio::test]
async fn the_first_volume_sets_the_pool_up_and_a_lost_pool_is_not_replaced() {
    let mut world = World::new(Choice::Auto);
    let path = cloned(&world, "root.img").await;
    assert_eq!(world.pool.view().await.state, PoolState::Up);
    world.volumes.remove(&path).await.unwrap();
    // Gone, with its folder: what was in it cannot be told, and the ledger knows of it.
    world.reboot();
    std::fs::remove_dir_all(&world.pool.place().dir).unwrap();
    let source = world.path("image");
    let made = world
        .volumes
        .clone_from(&source, &path, SIZE, owner())
        .await;
    assert!(matches!(made, Err(DiskError::Ground { .. })), "{made:?}");
    assert!(!world.pool.place().dir.exists());
}

#[tokio::test]
async fn a_filling_that_was_cut_off_begins_anew_on_the_same_device() {
    let mut world = World::up().await;
    let source = world.path("image");
    world.put(&source, SIZE, AT, b"image");
    let path = world.path("root.img");
    // Cut off in each step until it succeeds: what is made is the same.
    for cut in 0..40 {
        world.ground.cut_at(cut, false);
        let made = world
            .volumes
            .clone_from(&source, &path, SIZE, owner())
            .await;
        world.reboot();
        if made.is_ok() {
            break;
        }
    }
    world.volumes.ready(&path, owner()).await.unwrap();
    assert_eq!(world.read(&path, AT, 5), b"image");
    let all = world.thins.devices().await.unwrap();
    assert!(
        all.iter().all(|device| device.state == ThinState::Ready),
        "{all:?}"
    );
    assert_eq!(all.len(), 2);
}

#[tokio::test]
async fn a_filling_that_fails_is_left_with_its_cause() {
    let world = World::up().await;
    let path = world.path("volume-data.img");
    // mke2fs makes no file system in so little.
    let made = world
        .volumes
        .create_ext4(&path, Bytes(8192), "data", owner())
        .await;
    assert!(matches!(made, Err(DiskError::Tool { .. })), "{made:?}");
    let all = world.thins.devices().await.unwrap();
    assert_eq!(all[0].state, ThinState::Orphaned);
    assert!(all[0].cause.as_ref().unwrap().contains("filesystem"));
    // Left active, and nothing of the VM's removal takes it along.
    world.volumes.clear(&world.folder).await.unwrap();
    assert_eq!(world.ground.active_ids(), [all[0].id]);
    assert_eq!(world.state(all[0].id).await, Some(ThinState::Orphaned));
}

#[tokio::test]
async fn a_folder_is_cleared_also_while_the_pool_is_down() {
    let mut world = World::up().await;
    cloned(&world, "root.img").await;
    world
        .volumes
        .create_ext4(&world.path("volume-a.img"), SIZE, "a", owner())
        .await
        .unwrap();
    world.reboot();
    world.volumes.clear(&world.folder).await.unwrap();
    assert_eq!(world.ground.thin_ids().len(), 3, "they go when they can");
    world.thins.up().await.unwrap();
    world.thins.compare().await.unwrap();
    assert!(world.ground.thin_ids().is_empty());
    assert!(world.thins.devices().await.unwrap().is_empty());
}

#[tokio::test]
async fn an_image_without_room_is_refused_before_anything_is_written() {
    let world = World::up().await;
    let source = world.path("image");
    world.put(&source, Bytes::mib(512), 0, &vec![1; 200 << 20]);
    // Nor may the pool grow by what would be missing.
    world.ground.set_room(Room::Files {
        free: 0,
        total: 1 << 40,
        allotted: 0,
    });
    let made = world
        .volumes
        .clone_from(&source, &world.path("root.img"), Bytes::mib(512), owner())
        .await;
    assert!(matches!(made, Err(DiskError::NoSpace { .. })), "{made:?}");
    assert!(world.ground.thin_ids().is_empty());
}

/// The power is cut at each step of a replacement, and it is asked for again: the new volume is there,
/// whole, and nothing of the old one is.
#[tokio::test]
async fn a_replacement_that_is_cut_off_anywhere_is_gone_on_with() {
    use StorageKind::{Files, Thin};
    for (old, new) in [(Thin, Thin), (Files, Thin), (Thin, Files)] {
        let mut done = false;
        for cut in 0..60 {
            let mut world = World::up().await;
            let (path, draft) = (world.path("root.img"), world.path("restored-root.new"));
            let file = world.path("file");
            for (content, at, kind) in [(b"old", &path, old), (b"new", &draft, new)] {
                world.put(&file, SIZE, AT, content);
                world
                    .volumes
                    .convert(&file, at, kind, owner())
                    .await
                    .unwrap();
                std::fs::remove_file(&file).unwrap();
            }
            world.ground.cut_at(cut / 2, cut % 2 == 1);
            done = world.volumes.replace(&path, &draft).await.is_ok();
            world.reboot();
            world.volumes.replace(&path, &draft).await.unwrap();
            world.volumes.ready(&path, owner()).await.unwrap();
            assert_eq!(world.read(&path, AT, 3), b"new", "{old} {new} {cut}");
            assert_eq!(world.volumes.kind(&path).await.unwrap(), new);
            assert_eq!(world.names(), ["root.img"], "{old} {new} {cut}");
            // One device, or none.
            world.thins.up().await.unwrap();
            world.thins.settle().await.unwrap();
            let count = usize::from(new == Thin);
            assert_eq!(world.thins.devices().await.unwrap().len(), count);
            if done {
                break;
            }
        }
        assert!(done, "it never came to its end");
    }
}

/// The power is cut at each step of a copy into the pool: the source is as it was, and begun anew the
/// copy is of what the source is by then.
#[tokio::test]
async fn a_copy_into_the_pool_that_is_cut_off_is_begun_anew() {
    let mut done = false;
    for cut in 0..80 {
        let mut world = World::up().await;
        let (source, path) = (world.path("source"), world.path("copy.img"));
        world.put(&source, SIZE, AT, b"first");
        world.ground.cut_at(cut / 2, cut % 2 == 1);
        let copy = world
            .volumes
            .convert(&source, &path, StorageKind::Thin, owner());
        done = copy.await.is_ok();
        world.reboot();
        assert_eq!(world.read(&source, AT, 5), b"first");
        std::fs::remove_file(&source).unwrap();
        // What was there may not be any more.
        world.put(&source, SIZE, AT + 100_000, b"later");
        world.volumes.remove(&path).await.unwrap();
        let copy = world
            .volumes
            .convert(&source, &path, StorageKind::Thin, owner());
        copy.await.unwrap();
        world.volumes.ready(&path, owner()).await.unwrap();
        assert_eq!(world.read(&path, AT, 5), [0; 5]);
        assert_eq!(world.read(&path, AT + 100_000, 5), b"later");
        world.thins.up().await.unwrap();
        world.thins.settle().await.unwrap();
        assert_eq!(world.thins.devices().await.unwrap().len(), 1);
        if done {
            break;
        }
    }
    assert!(done, "it never came to its end");
}
