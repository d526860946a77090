//! What is written down of the pool and what is, compared with every survey; nodes that are gone.

use hearth_pool::Choice;
use hearth_types::orphan::{FateKind, Orphan, OrphanKind, OrphanList, OrphanState};
use hearth_types::thin::{PoolVolume, PoolVolumes, ThinKind};
use hearthd::pool::Comparer;
use serde_json::{Value, json};

use crate::rig::{IMAGE, Rig};

async fn events(rig: &Rig) -> Vec<String> {
    let events = rig.get("/v1/events").await.json();
    let codes = events["items"].as_array().unwrap().iter();
    let codes = codes.map(|event| event["code"].as_str().unwrap().to_owned());
    codes
        .filter(|code| code.starts_with("pool.dif") || code.starts_with("volume."))
        .collect()
}

async fn orphans(rig: &Rig) -> Vec<Orphan> {
    let list: OrphanList = serde_json::from_value(rig.get("/v1/orphans").await.json()).unwrap();
    list.items
}

#[tokio::test]
async fn a_difference_is_told_once_listed_and_counted_until_it_is_gone() {
    let rig = Rig::with_disks(Choice::Thin).await;
    rig.post("/v1/pool", json!({ "data": "256MiB" })).await;
    rig.running("web").await;
    let mut comparer = Comparer::new(rig.api.engine.clone(), rig.api.thins.clone());
    comparer.begin().await;
    assert_eq!(events(&rig).await, Vec::<String>::new());
    let root = rig.api.thins.devices().await.unwrap().pop().unwrap();
    rig.ground.suspend_thin(root.id);
    comparer.survey().await;
    assert_eq!(events(&rig).await, ["pool.difference"]);
    let listed = orphans(&rig).await;
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(listed[0].kind, OrphanKind::ThinDevice);
    assert_eq!(listed[0].id, format!("thin-suspended-{}", root.id));
    assert_eq!(listed[0].state, OrphanState::Missing);
    assert!(!listed[0].removable);
    let scraped = rig.scrape().await;
    assert!(scraped.contains("hearth_pool_differences{kind=\"suspended\"} 1"));
    let shown = rig.get("/v1/pool/volumes").await.json();
    assert_eq!(shown["differences"][0]["kind"], "suspended");
    // It is no moment: it goes on.
    comparer.survey().await;
    assert!(!rig.ground.any_suspended());
    assert_eq!(orphans(&rig).await, []);
    comparer.survey().await;
    comparer.survey().await;
    let told = events(&rig).await;
    let once = [
        "pool.difference",
        "pool.difference_repaired",
        "pool.differences_gone",
    ];
    assert_eq!(told, once);
    assert!(
        rig.scrape()
            .await
            .contains("hearth_pool_differences{kind=\"suspended\"} 0")
    );
}

#[tokio::test]
async fn in_mode_readonly_nothing_is_compared_because_nothing_could_be_repaired() {
    let rig = Rig::new().await;
    rig.post("/v1/pool", json!({ "data": "64MiB" })).await;
    rig.ground.put_thin(77);
    let mode = rig
        .send(crate::rig::request(
            axum::http::Method::PUT,
            "/v1/mode",
            axum::body::Body::from(json!({ "mode": "readonly", "reason": "a test" }).to_string()),
        ))
        .await;
    assert!(mode.status.is_success(), "{mode:?}");
    let mut comparer = Comparer::new(rig.api.engine.clone(), rig.api.thins.clone());
    comparer.begin().await;
    comparer.survey().await;
    assert_eq!(events(&rig).await, Vec::<String>::new());
    assert!(rig.api.thins.devices().await.unwrap().is_empty());
}

#[tokio::test]
async fn the_node_of_a_disk_in_the_pool_is_put_back_under_its_vm() {
    let rig = Rig::with_disks(Choice::Thin).await;
    rig.post("/v1/pool", json!({ "data": "256MiB" })).await;
    let vm = rig.running("web").await;
    let node = rig.vm_dir(vm.id).join("root.img");
    std::fs::remove_file(&node).unwrap();
    let listed = orphans(&rig).await;
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(listed[0].fate.what, FateKind::PutBack);
    assert!(listed[0].reason.contains("is in the pool"), "{listed:?}");
    let mut comparer = Comparer::new(rig.api.engine.clone(), rig.api.thins.clone());
    comparer.survey().await;
    assert!(node.exists());
    assert_eq!(events(&rig).await, ["volume.node_put_back"]);
    assert_eq!(orphans(&rig).await, []);
    // Who does not run gets it with the next start.
    rig.post("/v1/vms/web/stop?wait=true", Value::Null).await;
    std::fs::remove_file(&node).unwrap();
    comparer.survey().await;
    assert!(!node.exists());
    // A file that is gone is gone.
    let rig = Rig::new().await;
    let vm = rig.running("web").await;
    std::fs::remove_file(rig.vm_dir(vm.id).join("root.img")).unwrap();
    let listed = orphans(&rig).await;
    assert!(listed[0].fate.why.contains("is lost"), "{listed:?}");
}

async fn kinds(rig: &Rig) -> Vec<(String, String)> {
    let shown = rig.get("/v1/pool/volumes").await.json();
    let mut shown: PoolVolumes = serde_json::from_value(shown).unwrap();
    shown.volumes.sort_by_key(|volume| volume.id);
    let told = |volume: PoolVolume| (volume.kind.to_string(), volume.whose.unwrap_or_default());
    shown.volumes.into_iter().map(told).collect()
}

#[tokio::test]
async fn each_device_is_shown_as_what_it_is_and_whose() {
    let rig = Rig::with_disks(Choice::Thin).await;
    rig.post("/v1/pool", json!({ "data": "256MiB" })).await;
    let own = json!({ "volumes": [{ "name": "own", "mount": "/own", "size": "16MiB" }] });
    rig.create_with("web", own).await;
    rig.post("/v1/vms/web/start?wait=true", Value::Null).await;
    rig.post("/v1/vms/web/stop?wait=true&force=true", Value::Null)
        .await;
    rig.until("web", "it is down", |vm| vm.pid.is_none()).await;
    for (path, asked) in [
        ("/v1/volumes", json!({ "name": "pgdata", "size": "16MiB" })),
        ("/v1/volumes/pgdata/snapshots", json!({ "name": "kept" })),
        ("/v1/vms/web/snapshots", json!({ "name": "before" })),
        ("/v1/templates", json!({ "name": "base", "image": IMAGE })),
    ] {
        let made = rig.post(path, asked).await;
        assert!(made.status.is_success(), "{made:?}");
    }
    let wanted = [
        ("image", format!("image {IMAGE} (template base)")),
        ("vm-root", "vm web".to_owned()),
        ("vm-data", "vm web: own".to_owned()),
        ("volume", "volume pgdata".to_owned()),
        ("snapshot", "snapshot kept of volume pgdata".to_owned()),
        ("snapshot", "snapshot before of web: root".to_owned()),
        ("snapshot", "snapshot before of web: own".to_owned()),
    ];
    let wanted = wanted.map(|(kind, whose)| (kind.to_owned(), whose));
    assert_eq!(kinds(&rig).await, wanted);
    // Nobody needs to ask what is garbage: all of them have their records.
    let report = rig.get("/v1/gc").await.json();
    let items = report["items"].as_array().unwrap();
    assert!(
        items.iter().all(|item| item["kind"] != "thin_device"),
        "{items:?}"
    );
    // What an older daemon wrote down is put right, and nothing else of the entry.
    let thins = &rig.api.thins;
    let before = thins.devices().await.unwrap();
    thins.set_kinds(|_| Some(ThinKind::VmRoot)).await.unwrap();
    let mut comparer = Comparer::new(rig.api.engine.clone(), thins.clone());
    comparer.begin().await;
    let mut after = thins.devices().await.unwrap();
    // A volume's snapshot was made as a volume.
    assert_eq!(after[4].kind, ThinKind::Snapshot);
    after[4].kind = ThinKind::Volume;
    assert_eq!(after, before);
}
