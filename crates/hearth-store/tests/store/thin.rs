//! The ledger of thin devices.

use hearth_types::thin::{NewThin, ThinKind, ThinState};
use jiff::Timestamp;

use crate::common::{dir, open};

fn new(name: &str) -> NewThin {
    NewThin {
        name: name.to_owned(),
        kind: ThinKind::VmRoot,
        origin: None,
        bytes: 1 << 30,
        transaction_id: 1,
        created_at: Timestamp::UNIX_EPOCH,
    }
}

#[tokio::test]
async fn ids_are_handed_out_once_and_come_again_as_late_as_possible() {
    let folder = dir();
    let store = open(&folder);
    let first = store.begin_thin(new("a")).await.unwrap();
    assert_eq!((first.id, first.state), (1, ThinState::Creating));
    assert_eq!(store.begin_thin(new("b")).await.unwrap().id, 2);
    store.forget_thin(1).await.unwrap();
    store.forget_thin(1).await.unwrap();
    assert_eq!(store.begin_thin(new("a")).await.unwrap().id, 3);
    drop(store);
    // Also after a restart.
    let store = open(&folder);
    store.forget_thin(3).await.unwrap();
    assert_eq!(store.begin_thin(new("c")).await.unwrap().id, 4);
    let ids: Vec<_> = store.thin_devices().await.unwrap();
    let ids: Vec<_> = ids.iter().map(|device| device.id).collect();
    assert_eq!(ids, [2, 4]);
}

#[tokio::test]
async fn a_name_is_one_devices_until_that_is_on_its_way_out() {
    let folder = dir();
    let store = open(&folder);
    let mut first = store.begin_thin(new("a")).await.unwrap();
    assert!(store.begin_thin(new("a")).await.is_err());
    first.state = ThinState::Orphaned;
    first.cause = Some("no space".to_owned());
    store.put_thin(first.clone()).await.unwrap();
    let second = store.begin_thin(new("a")).await.unwrap();
    assert_eq!(store.thin_devices().await.unwrap(), [first, second.clone()]);
    // A refused one has used no id up.
    assert_eq!(second.id, 2);
}

#[tokio::test]
async fn the_end_of_the_ids_is_followed_by_their_beginning() {
    let folder = dir();
    let store = open(&folder);
    let last = new("last").with_id((1 << 24) - 1);
    store.put_thin(last).await.unwrap();
    drop(store);
    let hand = rusqlite::Connection::open(&folder.db).unwrap();
    hand.execute("UPDATE thin_cursor SET last = 16777214", [])
        .unwrap();
    drop(hand);
    let store = open(&folder);
    assert_eq!(store.begin_thin(new("a")).await.unwrap().id, 1);
    assert!(store.put_thin(new("b").with_id(1 << 24)).await.is_err());
    assert!(store.put_thin(new("b").with_id(0)).await.is_err());
}

#[tokio::test]
async fn a_ledger_of_before_layers_is_taken_over_and_takes_them() {
    let folder = dir();
    let old = rusqlite::Connection::open(&folder.db).unwrap();
    for script in [
        include_str!("../../src/migrations/0001.sql"),
        include_str!("../../src/migrations/0002.sql"),
        include_str!("../../src/migrations/0003.sql"),
        include_str!("../../src/migrations/0004.sql"),
        include_str!("../../src/migrations/0005.sql"),
        include_str!("../../src/migrations/0006.sql"),
    ] {
        old.execute_batch(script).unwrap();
    }
    old.execute_batch(&format!(
        "INSERT INTO meta (only, installation) VALUES (1, '{}');
         INSERT INTO thin_devices VALUES (7, 'a', 'vm-root', 3, 64, 'orphaned', 'why', 9, '1970-01-01T00:00:00Z');
         UPDATE thin_cursor SET last = 7;
         PRAGMA application_id = 0x48727468; PRAGMA user_version = 6",
        hearth_types::InstallationId::new()
    ))
    .unwrap();
    drop(old);
    let store = open(&folder);
    let all = store.thin_devices().await.unwrap();
    let kept = (all[0].id, all[0].origin, all[0].cause.as_deref());
    assert_eq!((all.len(), kept), (1, (7, Some(3), Some("why"))));
    let layer = NewThin {
        kind: ThinKind::Layer,
        ..new("layer-a")
    };
    let layer = store.begin_thin(layer).await.unwrap();
    assert_eq!((layer.id, layer.kind), (8, ThinKind::Layer));
    // A name is still one device's.
    assert!(store.begin_thin(new("layer-a")).await.is_err());
}

#[tokio::test]
async fn a_device_of_each_kind_can_be_written_down() {
    let folder = dir();
    let store = open(&folder);
    for kind in ThinKind::ALL {
        let device = NewThin {
            kind,
            ..new(kind.as_str())
        };
        let device = store.begin_thin(device).await.unwrap();
        assert_eq!(device.kind, kind);
    }
    let all = store.thin_devices().await.unwrap();
    let kinds: Vec<_> = all.iter().map(|device| device.kind).collect();
    assert_eq!(kinds, ThinKind::ALL);
}
