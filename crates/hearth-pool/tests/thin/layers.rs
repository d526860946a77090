//! Layers of images in the pool: each written to once, and what is cut off is nobody's.

use hearth_disk::{Made, Volumes};
use hearth_pool::layer_name;
use hearth_types::thin::{ThinDevice, ThinKind, ThinState};
use hearth_types::units::Bytes;

use super::world::World;

fn keys() -> [String; 3] {
    ["aa", "bb", "cc"].map(|byte| format!("sha256:{}", byte.repeat(32)))
}

async fn layer(world: &World, key: &str) -> ThinDevice {
    let found = world.thins.find(&layer_name(key)).await.unwrap();
    found.unwrap()
}

/// Makes a layer that holds these bytes at this place.
async fn unpacked(world: &World, key: &str, below: Option<&str>, at: u64, text: &str) {
    let begun = world.volumes.begin_layer(key, below, Bytes::mib(2).0).await;
    let begun = begun.unwrap();
    hearth_disk::contract::Ground::write(world, begun.node(), at, text.as_bytes());
    begun.seal().await.unwrap();
}

fn read(world: &World, path: &camino::Utf8Path, at: u64, length: usize) -> String {
    let bytes = hearth_disk::contract::Ground::read(world, path, at, length);
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn images_share_the_layers_below_them() {
    let mut world = World::up().await;
    let [base, one, two] = keys();
    let chain = |top: &String| vec![base.clone(), top.clone()];
    assert_eq!(world.volumes.layers_of(&chain(&one)).await.unwrap(), 0);
    unpacked(&world, &base, None, 0, "base").await;
    unpacked(&world, &one, Some(&base), 100, "one").await;
    unpacked(&world, &two, Some(&base), 100, "two").await;
    assert_eq!(world.volumes.layers_of(&chain(&one)).await.unwrap(), 2);
    let below = layer(&world, &base).await;
    assert_eq!(
        (below.kind, below.state),
        (ThinKind::Layer, ThinState::Ready)
    );
    assert_eq!(layer(&world, &two).await.origin, Some(below.id));
    assert!(world.ground.active_ids().is_empty(), "none is on");
    for (key, text) in [(&one, "one"), (&two, "two")] {
        let (image, root) = (
            world.folder.join(format!("{text}.img")),
            world.folder.join(format!("{text}-root.img")),
        );
        let size = world.volumes.image_of_layer(key, &image).await.unwrap();
        assert_eq!(size, Bytes::mib(2));
        assert!(world.volumes.has(&image).await.unwrap());
        let made = world.volumes.clone_from(&image, &root, size, 0).await;
        assert_eq!(made.unwrap(), Made::Snapshot);
        assert_eq!(read(&world, &root, 0, 4), "base");
        assert_eq!(read(&world, &root, 100, 3), text);
    }
    let image = world.thins.find("vm-one").await.unwrap().unwrap();
    assert_eq!(image.kind, ThinKind::Image);
    world.reboot();
    assert_eq!(world.volumes.layers_of(&chain(&one)).await.unwrap(), 2);
    world.thins.up().await.unwrap();
    assert!(world.thins.compare().await.unwrap().is_empty());
    // An image that goes leaves its layers to the others.
    let image = world.folder.join("one.img");
    world.volumes.forget_source(&image).await.unwrap();
    assert!(!world.volumes.has(&image).await.unwrap());
    assert_eq!(world.volumes.layers_of(&chain(&one)).await.unwrap(), 2);
}

#[tokio::test]
async fn a_layer_that_was_cut_off_is_no_layer_and_is_begun_anew() {
    let mut world = World::up().await;
    let [base, one, two] = keys();
    unpacked(&world, &base, None, 0, "base").await;
    let begun = world.volumes.begin_layer(&one, Some(&base), 0).await;
    let begun = begun.unwrap();
    hearth_disk::contract::Ground::write(&world, begun.node(), 0, b"half");
    let half = layer(&world, &one).await;
    assert_eq!(half.state, ThinState::Filling);
    let chain = [base.clone(), one.clone()];
    assert_eq!(world.volumes.layers_of(&chain).await.unwrap(), 1);
    // Another one that is begun meanwhile leaves it alone.
    unpacked(&world, &two, Some(&base), 0, "two").await;
    assert_eq!(layer(&world, &one).await.id, half.id);
    drop(begun);
    // The daemon dies.
    world.reboot();
    unpacked(&world, &one, Some(&base), 100, "one").await;
    let whole = layer(&world, &one).await;
    assert_ne!(whole.id, half.id);
    assert!(!world.ground.thin_ids().contains(&half.id));
    let image = world.folder.join("image.img");
    let size = world.volumes.image_of_layer(&one, &image).await.unwrap();
    let root = world.folder.join("root.img");
    world
        .volumes
        .clone_from(&image, &root, size, 0)
        .await
        .unwrap();
    assert_eq!(read(&world, &root, 0, 4), "base", "nothing of the half one");
    assert!(world.thins.compare().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_layer_grows_and_one_that_came_to_nothing_goes() {
    let world = World::up().await;
    let [base, one, _] = keys();
    let begun = world
        .volumes
        .begin_layer(&base, None, Bytes::mib(2).0)
        .await;
    let begun = begun.unwrap();
    begun.grow(Bytes::mib(4).0).await.unwrap();
    assert_eq!(begun.bytes().await, Bytes::mib(4).0);
    assert_eq!(begun.node().metadata().unwrap().len(), Bytes::mib(4).0);
    begun.seal().await.unwrap();
    let above = world
        .volumes
        .begin_layer(&one, Some(&base), 0)
        .await
        .unwrap();
    assert_eq!(above.bytes().await, Bytes::mib(4).0);
    above.give_up().await;
    assert_eq!(world.thins.find(&layer_name(&one)).await.unwrap(), None);
    assert_eq!(world.ground.thin_ids().len(), 1);
    let image = world.folder.join("image.img");
    let lost = world.volumes.image_of_layer(&one, &image).await;
    assert!(lost.unwrap_err().to_string().contains("image.img"));
}
