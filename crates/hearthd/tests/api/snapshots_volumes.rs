//! Volumes that are attached to a VM, in its snapshots: taken, restored, cloned, left out, and refused.

use axum::http::StatusCode;
use camino::Utf8PathBuf;
use hearth_types::api::Vm;
use hearth_types::snapshot::Snapshot;
use hearth_types::volume::VolumeView;
use serde_json::{Value, json};

use crate::content::{read, write};
use crate::rig::{Answer, Rig};

async fn order(rig: &Rig, path: &str, asked: Value) -> Value {
    let answer = rig.post(path, asked).await;
    assert!(answer.status.is_success(), "{answer:?}");
    answer.json()
}

async fn start_and_stop(rig: &Rig, name: &str) -> Vm {
    order(rig, &format!("/v1/vms/{name}/start?wait=true"), Value::Null).await;
    let stop = format!("/v1/vms/{name}/stop?wait=true&force=true");
    rig.post(&stop, Value::Null).await;
    rig.until(name, "it is down", |vm| vm.pid.is_none()).await
}

/// `web` writes to `pgdata` and reads `shared`.
async fn web(rig: &Rig) -> Vm {
    for name in ["pgdata", "shared"] {
        order(rig, "/v1/volumes", json!({ "name": name, "size": "16MiB" })).await;
    }
    rig.create("web").await;
    attach(rig, "web", "pgdata", "/srv", false).await;
    attach(rig, "web", "shared", "/shared", true).await;
    start_and_stop(rig, "web").await
}

async fn attach(rig: &Rig, vm: &str, volume: &str, at: &str, read_only: bool) {
    let asked = json!({ "vm": vm, "at": at, "read_only": read_only });
    order(rig, &format!("/v1/volumes/{volume}/attach"), asked).await;
}

async fn disk(rig: &Rig, name: &str) -> Utf8PathBuf {
    let view = rig.get(&format!("/v1/volumes/{name}")).await.json();
    let view: VolumeView = serde_json::from_value(view).unwrap();
    let folder = rig.dir.join("volumes").join(view.volume.id.to_string());
    folder.join(format!("disk-{}.img", view.volume.disk))
}

async fn snapshot(rig: &Rig, asked: Value) -> Snapshot {
    let made = order(rig, "/v1/vms/web/snapshots", asked).await;
    serde_json::from_value(made).unwrap()
}

async fn restore(rig: &Rig, asked: Value) -> Answer {
    rig.post("/v1/vms/web/restore", asked).await
}

#[tokio::test]
async fn what_a_vm_writes_to_goes_back_with_its_own_disks() {
    let rig = Rig::new().await;
    let vm = web(&rig).await;
    let root = rig.vm_dir(vm.id).join("root.img");
    write(&root, "first");
    write(&disk(&rig, "pgdata").await, "first");
    write(&disk(&rig, "shared").await, "first");
    let one = snapshot(&rig, json!({ "name": "one" })).await;
    let names: Vec<_> = one.disks.iter().map(|disk| disk.name()).collect();
    assert_eq!(names, ["root", "pgdata"], "what is only read is not in it");
    let attached: Vec<_> = one.attached.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(attached, ["pgdata", "shared"]);
    for name in ["pgdata", "shared"] {
        write(&disk(&rig, name).await, "later");
    }
    write(&root, "later");
    // It has grown since: it stays as large.
    order(&rig, "/v1/volumes/pgdata/grow", json!({ "size": "24MiB" })).await;
    let before = disk(&rig, "pgdata").await;

    let back = restore(&rig, json!({ "snapshot": "one" })).await;
    assert_eq!(back.status, StatusCode::OK, "{back:?}");
    let now = disk(&rig, "pgdata").await;
    assert_eq!((read(&root), read(&now)), ("first".into(), "first".into()));
    assert_eq!(now.metadata().unwrap().len(), 24 << 20);
    assert!(now != before && !before.exists(), "the old disk is gone");
    assert_eq!(read(&disk(&rig, "shared").await), "later");
    start_and_stop(&rig, "web").await;
    let lent = rig.vm_dir(vm.id).join("attached-pgdata.img");
    assert_eq!(read(&lent), "first");
    // What it writes does not reach the snapshot.
    write(&lent, "third");
    let back = restore(&rig, json!({ "snapshot": "one" })).await;
    assert_eq!(back.status, StatusCode::OK, "{back:?}");
    assert_eq!(read(&disk(&rig, "pgdata").await), "first");
    // The VM's own disks alone.
    write(&disk(&rig, "pgdata").await, "later");
    write(&root, "later");
    let asked = json!({ "snapshot": "one", "keep_volumes": true });
    let back = restore(&rig, asked).await;
    assert_eq!(back.status, StatusCode::OK, "{back:?}");
    assert_eq!(read(&root), "first");
    assert_eq!(read(&disk(&rig, "pgdata").await), "later");
}

#[tokio::test]
async fn a_volume_that_is_another_ones_by_now_is_not_touched() {
    let rig = Rig::new().await;
    let vm = web(&rig).await;
    let root = rig.vm_dir(vm.id).join("root.img");
    write(&disk(&rig, "pgdata").await, "first");
    snapshot(&rig, json!({ "name": "one" })).await;
    order(&rig, "/v1/volumes/pgdata/detach", json!({ "vm": "web" })).await;
    rig.create("other").await;
    attach(&rig, "other", "pgdata", "/srv", false).await;
    write(&disk(&rig, "pgdata").await, "other");
    write(&root, "later");
    let problem = restore(&rig, json!({ "snapshot": "one" })).await;
    let problem = problem.problem(409, "conflict");
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("volume pgdata, which web"),
        "{problem}"
    );
    assert!(
        problem["hint"].as_str().unwrap().contains("--keep-volumes"),
        "{problem}"
    );
    assert_eq!(read(&disk(&rig, "pgdata").await), "other");
    assert_eq!(read(&root), "later", "all of it, or nothing");
    let asked = json!({ "snapshot": "one", "keep_volumes": true });
    let back = restore(&rig, asked).await;
    assert_eq!(back.status, StatusCode::OK, "{back:?}");
    assert_eq!(read(&disk(&rig, "pgdata").await), "other");
}

#[tokio::test]
async fn a_clone_has_copies_of_its_own_and_reads_what_was_read() {
    let rig = Rig::new().await;
    web(&rig).await;
    write(&disk(&rig, "pgdata").await, "first");
    snapshot(&rig, json!({ "name": "one" })).await;
    write(&disk(&rig, "pgdata").await, "later");
    let clone = json!({ "name": "copy" });
    let clone = rig.post("/v1/snapshots/one/clone", clone).await;
    assert_eq!(clone.status, StatusCode::CREATED, "{clone:?}");
    let copy = clone.vm();
    let own: Vec<_> = copy.spec.volumes.iter().collect();
    assert_eq!(
        (own[0].name.as_str(), own[0].mount.as_str()),
        ("pgdata", "/srv")
    );
    let own = rig.vm_dir(copy.id).join("volume-pgdata.img");
    assert_eq!(read(&own), "first");
    let shared = rig.get("/v1/volumes/shared").await.json();
    let shared: VolumeView = serde_json::from_value(shared).unwrap();
    assert_eq!(shared.attached.len(), 2);
    assert!(shared.attached.iter().all(|it| it.read_only));
    // Neither knows of the other.
    start_and_stop(&rig, "copy").await;
    write(&own, "third");
    assert_eq!(read(&disk(&rig, "pgdata").await), "later");
}

#[tokio::test]
async fn what_is_left_out_is_named_and_stays_as_it_is() {
    let rig = Rig::new().await;
    web(&rig).await;
    let asked = json!({ "name": "one", "without_volumes": true });
    let one = snapshot(&rig, asked).await;
    assert_eq!((one.disks.len(), one.attached.len()), (1, 2));
    write(&disk(&rig, "pgdata").await, "later");
    let back = restore(&rig, json!({ "snapshot": "one" })).await;
    assert_eq!(back.status, StatusCode::OK, "{back:?}");
    assert_eq!(read(&disk(&rig, "pgdata").await), "later");
    let clone = rig.post("/v1/snapshots/one/clone", json!({ "name": "copy" }));
    assert!(clone.await.vm().spec.volumes.is_empty());
    let events = rig.get("/v1/events").await.json();
    let events = events["items"].as_array().unwrap();
    let told = |event: &&Value| {
        let words = event["message"].as_str().unwrap();
        words.contains("copy does not have volume pgdata")
    };
    assert_eq!(events.iter().filter(told).count(), 1);
}
