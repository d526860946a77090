//! Data volumes of their own: who may have which, and what protects them.

use hearth_store::{NewSpec, Store, StoreError, VmRow};
use hearth_types::ids::VolumeId;
use hearth_types::status::Goal;
use hearth_types::units::Bytes;
use hearth_types::volume::{Attachment, StorageKind, Volume, VolumeState};
use jiff::Timestamp;

use crate::common::{dir, new_vm, open, ranges};

fn volume(name: &str) -> Volume {
    Volume {
        id: VolumeId::new(),
        name: name.parse().unwrap(),
        size: Bytes::mib(64),
        storage: StorageKind::Files,
        snapshot_of: None,
        consistency: None,
        created_at: Timestamp::UNIX_EPOCH,
        state: VolumeState::Ready,
        disk: 1,
        draft: None,
    }
}

fn to(volume: &Volume, vm: &VmRow, mount: &str, read_only: bool) -> Attachment {
    Attachment {
        volume: volume.id,
        name: volume.name.clone(),
        vm: vm.id,
        vm_name: vm.spec.name.clone(),
        mount: mount.to_owned(),
        read_only,
    }
}

async fn vm(store: &Store, name: &str, own: &[&str]) -> VmRow {
    let mut new = new_vm(name);
    new.spec.volumes = own.iter().map(|text| text.parse().unwrap()).collect();
    let row = store.create_vm(new, ranges(), Timestamp::UNIX_EPOCH).await;
    row.unwrap()
}

async fn refused(store: &Store, new: Attachment) -> String {
    store.attach_volume(new).await.unwrap_err().to_string()
}

#[tokio::test]
async fn one_writes_or_many_read_and_nobody_loses_it() {
    let folder = dir();
    let store = open(&folder);
    let (a, b) = (vm(&store, "a", &[]).await, vm(&store, "b", &[]).await);
    let data = volume("data");
    store.begin_volume(data.clone()).await.unwrap();
    let named = store.begin_volume(volume("data")).await;
    assert!(matches!(named, Err(StoreError::VolumeNamed { .. })));

    let mine = to(&data, &a, "/srv", false);
    for _ in 0..2 {
        store.attach_volume(mine.clone()).await.unwrap();
    }
    assert!(
        refused(&store, to(&data, &a, "/other", false))
            .await
            .contains("/srv already")
    );
    for read_only in [false, true] {
        let words = refused(&store, to(&data, &b, "/srv", read_only)).await;
        assert!(words.contains("a writes to it"), "{words}");
    }
    let used = store.begin_volume_removal(data.id).await;
    assert!(
        matches!(used, Err(StoreError::VolumeUsed { .. })),
        "{used:?}"
    );
    assert!(store.detach_volume(data.id, a.id).await.unwrap());
    assert!(!store.detach_volume(data.id, a.id).await.unwrap());

    for row in [&a, &b] {
        store
            .attach_volume(to(&data, row, "/srv", true))
            .await
            .unwrap();
    }
    store.detach_volume(data.id, a.id).await.unwrap();
    let words = refused(&store, to(&data, &a, "/srv", false)).await;
    assert!(words.contains("b reads it"), "{words}");
    drop(store);
    // As of the last commit, and a VM that goes takes nothing along.
    let store = open(&folder);
    assert_eq!(
        store.attachments().await.unwrap(),
        [to(&data, &b, "/srv", true)]
    );
    store
        .set_goal(b.id, Goal::Absent, true, None, None)
        .await
        .unwrap();
    assert!(matches!(
        store.attach_volume(to(&data, &b, "/srv", true)).await,
        Err(StoreError::Leaving { .. })
    ));
    store.forget(b.id).await.unwrap();
    assert_eq!(store.attachments().await.unwrap(), []);
    assert_eq!(store.volumes().await.unwrap(), std::slice::from_ref(&data));
    let going = store.begin_volume_removal(data.id).await.unwrap().unwrap();
    assert_eq!(going.state, VolumeState::Deleting);
    let words = refused(&store, to(&data, &a, "/srv", true)).await;
    assert!(words.contains("being removed"), "{words}");
    store.forget_volume(data.id).await.unwrap();
    assert_eq!(store.begin_volume_removal(data.id).await.unwrap(), None);
}

#[tokio::test]
async fn snapshots_are_only_read_and_places_are_taken_once() {
    let folder = dir();
    let store = open(&folder);
    let own: Vec<String> = (0..15).map(|n| format!("own{n}:/own{n}:64MiB")).collect();
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    let (a, full) = (
        vm(&store, "a", &own[..1]).await,
        vm(&store, "full", &own).await,
    );
    let mut kept = volume("kept");
    kept.snapshot_of = Some("data".parse().unwrap());
    let other = volume("other");
    for it in [&kept, &other] {
        store.begin_volume(it.clone()).await.unwrap();
    }
    let words = refused(&store, to(&kept, &a, "/kept", false)).await;
    assert!(words.contains("read-only"), "{words}");
    for row in [&a, &full] {
        store
            .attach_volume(to(&kept, row, "/kept", true))
            .await
            .unwrap();
    }
    for taken in ["/own0", "/kept/"] {
        let words = refused(&store, to(&other, &a, taken, false)).await;
        assert!(words.contains("is mounted at"), "{words}");
    }
    let words = refused(&store, to(&other, &full, "/other", false)).await;
    assert!(words.contains("16 volumes"), "{words}");
    let unfinished = Volume {
        state: VolumeState::Creating,
        ..other.clone()
    };
    store.put_volume(unfinished).await.unwrap();
    let words = refused(&store, to(&other, &a, "/other", false)).await;
    assert!(words.contains("not whole"), "{words}");
}

#[tokio::test]
async fn a_specification_does_not_take_the_place_of_what_is_attached() {
    let folder = dir();
    let store = open(&folder);
    let a = vm(&store, "a", &[]).await;
    let data = volume("data");
    store.begin_volume(data.clone()).await.unwrap();
    let attached = to(&data, &a, "/srv", false);
    store.attach_volume(attached.clone()).await.unwrap();
    let replace = async |own: Vec<String>| {
        let mut spec = a.spec.clone();
        spec.volumes = own.iter().map(|text| text.parse().unwrap()).collect();
        let new = NewSpec {
            spec,
            image: a.image.clone(),
            kernel: None,
        };
        store.replace_spec(a.id, new, ranges(), None).await
    };
    for own in ["/srv", "/srv/", "//srv/."] {
        let refused = replace(vec![format!("own:{own}:64MiB")]).await.unwrap_err();
        assert!(matches!(refused, StoreError::Volumes { .. }), "{refused}");
        let words = refused.to_string();
        assert!(words.contains("volume own and volume data"), "{words}");
    }
    let many = (0..16).map(|n| format!("own{n}:/own{n}:64MiB"));
    let words = replace(many.collect()).await.unwrap_err().to_string();
    assert!(words.contains("17"), "{words}");
    assert_eq!(store.vm(a.id).await.unwrap().spec, a.spec);
    assert_eq!(store.attachments().await.unwrap(), [attached]);
    let row = replace(vec!["own:/srv/own:64MiB".to_owned()])
        .await
        .unwrap();
    assert_eq!(row.spec.volumes.len(), 1);
}
