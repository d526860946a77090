//! Snapshots of VMs' disks: made, restored, cloned, removed; what is refused, and with which words.

use axum::http::StatusCode;
use camino::Utf8PathBuf;
use hearth_types::api::Vm;
use hearth_types::snapshot::{Consistency, Snapshot, SnapshotList, SnapshotState};
use hearth_types::status::{Goal, Phase};
use serde_json::{Value, json};

use crate::content::{read, write};
use crate::rig::{Answer, IMAGE, Rig};

/// A VM with two disks that has run and is stopped.
async fn stopped(rig: &Rig) -> Vm {
    let fields = json!({ "volumes": [{ "name": "data", "mount": "/data", "size": "16MiB" }], "ports": [{ "host_ip": "127.0.0.1", "host_port": 48_123, "guest_port": 80 }] });
    rig.create_with("web", fields).await;
    let started = rig.post("/v1/vms/web/start?wait=true", Value::Null).await;
    assert_eq!(started.status, StatusCode::OK, "{started:?}");
    stop(rig, "web").await
}

async fn stop(rig: &Rig, name: &str) -> Vm {
    let path = format!("/v1/vms/{name}/stop?wait=true&force=true");
    rig.post(&path, Value::Null).await;
    rig.until(name, "it is down", |vm| vm.pid.is_none()).await
}

async fn snapshot(rig: &Rig, body: Value) -> Answer {
    rig.post("/v1/vms/web/snapshots", body).await
}

async fn made(rig: &Rig, name: &str) -> Snapshot {
    let answer = snapshot(rig, json!({ "name": name })).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
    serde_json::from_value(answer.json()).unwrap()
}

async fn all(rig: &Rig) -> Vec<Snapshot> {
    let list: SnapshotList = serde_json::from_value(rig.get("/v1/snapshots").await.json()).unwrap();
    list.items
}

fn disks(rig: &Rig, vm: &Vm) -> [Utf8PathBuf; 2] {
    let dir = rig.vm_dir(vm.id);
    [dir.join("root.img"), dir.join("volume-data.img")]
}

async fn codes(rig: &Rig) -> Vec<String> {
    let events = rig.get("/v1/events").await.json();
    let codes = events["items"].as_array().unwrap().iter();
    let codes = codes.map(|event| event["code"].as_str().unwrap().to_owned());
    codes.filter(|code| code.starts_with("snapshot.")).collect()
}

#[tokio::test]
async fn all_disks_go_back_to_what_they_were() {
    let rig = Rig::new().await;
    let vm = stopped(&rig).await;
    let disks = disks(&rig, &vm);
    disks.iter().for_each(|disk| write(disk, "first"));
    let one = made(&rig, "one").await;
    assert_eq!(one.state, SnapshotState::Ready);
    assert_eq!(one.consistency, Some(Consistency::Stopped));
    assert_eq!(one.frozen_ms, None);
    assert_eq!(one.disks.len(), 2);
    disks.iter().for_each(|disk| write(disk, "later"));
    // Again is another one, and a name is taken once.
    let unnamed = snapshot(&rig, Value::Null).await;
    assert_eq!(unnamed.status, StatusCode::CREATED, "{unnamed:?}");
    let unnamed: Snapshot = serde_json::from_value(unnamed.json()).unwrap();
    assert!(unnamed.name.as_str().starts_with("web-"), "{unnamed:?}");
    snapshot(&rig, json!({ "name": "one" }))
        .await
        .problem(409, "conflict");
    assert_eq!(all(&rig).await.len(), 2);

    let back = rig
        .post("/v1/vms/web/restore", json!({ "snapshot": "one" }))
        .await;
    assert_eq!(back.status, StatusCode::OK, "{back:?}");
    assert!(disks.iter().all(|disk| read(disk) == "first"));
    let dir = rig.vm_dir(vm.id);
    let left = dir.read_dir_utf8().unwrap().map(|entry| entry.unwrap());
    let left: Vec<_> = left.map(|entry| entry.file_name().to_owned()).collect();
    assert!(!left.iter().any(|name| name.contains("restor")), "{left:?}");
    // It starts with them, and what it writes does not reach the snapshot.
    let started = rig.post("/v1/vms/web/start?wait=true", Value::Null).await;
    assert_eq!(started.status, StatusCode::OK, "{started:?}");
    stop(&rig, "web").await;
    disks.iter().for_each(|disk| write(disk, "third"));
    let other = unnamed.id.to_string();
    let back = rig
        .post("/v1/vms/web/restore", json!({ "snapshot": other }))
        .await;
    assert_eq!(back.status, StatusCode::OK, "{back:?}");
    assert!(disks.iter().all(|disk| read(disk) == "later"));

    for snapshot in ["one", &other] {
        let gone = rig.delete(&format!("/v1/snapshots/{snapshot}")).await;
        assert_eq!(gone.status, StatusCode::NO_CONTENT, "{gone:?}");
        rig.delete(&format!("/v1/snapshots/{snapshot}"))
            .await
            .problem(404, "not_found");
    }
    let left = rig.dir.join("snapshots").read_dir_utf8().unwrap().count();
    assert_eq!(left, 0);
    assert!(disks.iter().all(|disk| read(disk) == "later"));
    let wanted = "created created restored restored removed removed";
    let told: Vec<_> = wanted
        .split(' ')
        .map(|word| format!("snapshot.{word}"))
        .collect();
    assert_eq!(codes(&rig).await, told);
}

#[tokio::test]
async fn a_clone_has_the_disks_and_nothing_that_only_one_can_have() {
    let rig = Rig::new().await;
    let vm = stopped(&rig).await;
    for disk in &disks(&rig, &vm) {
        write(disk, "first");
    }
    made(&rig, "one").await;
    let removed = rig.delete("/v1/vms/web?wait=true").await;
    assert_eq!(removed.status, StatusCode::OK, "{removed:?}");
    // It outlives its VM, and keeps the image.
    let image = rig
        .delete(&format!("/v1/images/{}", IMAGE.replace('/', "%2F")))
        .await;
    let problem = image.problem(409, "in_use");
    assert!(
        problem["detail"].as_str().unwrap().contains("snapshot one"),
        "{problem}"
    );

    let clone = rig
        .post("/v1/snapshots/one/clone", json!({ "name": "copy" }))
        .await;
    assert_eq!(clone.status, StatusCode::CREATED, "{clone:?}");
    let copy = clone.vm();
    assert_ne!(copy.id, vm.id);
    assert_eq!(copy.goal, Goal::Stopped);
    assert_eq!(copy.spec.volumes, vm.spec.volumes);
    assert!(copy.spec.ports.is_empty() && !vm.spec.ports.is_empty());
    assert!(disks(&rig, &copy).iter().all(|disk| read(disk) == "first"));
    rig.post("/v1/snapshots/one/clone", json!({ "name": "copy" }))
        .await
        .problem(409, "conflict");
    // Nothing holds the snapshot any more, and the clone runs without it.
    let gone = rig.delete("/v1/snapshots/one").await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT, "{gone:?}");
    let started = rig.post("/v1/vms/copy/start?wait=true", Value::Null).await;
    assert_eq!(started.status, StatusCode::OK, "{started:?}");
    assert!(disks(&rig, &copy).iter().all(|disk| read(disk) == "first"));
}

/// The image that the last line of a stream tells.
fn image_of(answer: &Answer) -> Value {
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    let text = std::str::from_utf8(&answer.bytes).unwrap();
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(last["type"], "image", "{last}");
    last["image"].clone()
}

#[tokio::test]
async fn a_snapshot_becomes_an_image_that_needs_it_no_more() {
    let rig = Rig::new().await;
    let vm = stopped(&rig).await;
    write(&disks(&rig, &vm)[0], "first");
    let one = made(&rig, "one").await;
    let asked = json!({ "snapshot": "one", "reference": "web:2" });
    let image = image_of(&rig.post("/v1/images/from-snapshot", asked).await);
    assert_eq!(image["source"], "snapshot");
    assert_eq!(image["references"], json!(["docker.io/library/web:2"]));
    assert_eq!(image["volume_bytes"], json!(one.disks[0].bytes));
    let origin = &image["origin"];
    assert_eq!(origin["snapshot"], json!(one.id));
    assert_eq!(origin["vm_name"], "web");
    assert_eq!(origin["image"], json!(one.image));
    let parent = rig.get(&format!("/v1/images/{}", one.image)).await.json();
    assert_eq!(image["config"], parent["image"]["config"]);
    // The same snapshot is the same image, by another name.
    let asked = json!({ "snapshot": one.id, "reference": "web:latest" });
    let again = image_of(&rig.post("/v1/images/from-snapshot", asked).await);
    assert_eq!(again["id"], image["id"]);
    assert_eq!(again["references"].as_array().unwrap().len(), 2);

    // Neither the VM nor the snapshot is needed from now on, nor the image that they were of.
    let gone = rig.delete("/v1/snapshots/one").await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT, "{gone:?}");
    let gone = rig.delete("/v1/vms/web?wait=true").await;
    assert_eq!(gone.status, StatusCode::OK, "{gone:?}");
    let gone = rig.delete(&format!("/v1/images/{}", one.image)).await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT, "{gone:?}");
    let new = rig.create_with("new", json!({ "image": "web:2" })).await;
    let started = rig.post("/v1/vms/new/start?wait=true", Value::Null).await;
    assert_eq!(started.status, StatusCode::OK, "{started:?}");
    assert_eq!(read(&disks(&rig, &new)[0]), "first");
    rig.delete("/v1/images/web:2").await.problem(409, "in_use");
    let jobs = rig.get("/v1/images/jobs").await.json();
    assert_eq!(jobs["items"].as_array().unwrap().len(), 2);
    assert_eq!(jobs["items"][0]["kind"], "from-snapshot");
    assert_eq!(jobs["items"][0]["state"], "ready");
}

#[tokio::test]
async fn what_is_no_whole_snapshot_becomes_no_image() {
    let rig = Rig::new().await;
    stopped(&rig).await;
    made(&rig, "one").await;
    let asked = json!({ "snapshot": "two", "reference": "web:2" });
    rig.post("/v1/images/from-snapshot", asked)
        .await
        .problem(404, "not_found");
    let asked = json!({ "snapshot": "one", "reference": "Not A Name" });
    rig.post("/v1/images/from-snapshot", asked)
        .await
        .problem(400, "invalid");
    assert_eq!(rig.get("/v1/images/jobs").await.json()["items"], json!([]));
    // One whose disk is gone fails in its stream, and leaves nothing.
    let one = &all(&rig).await[0];
    let folder = rig.dir.join("snapshots").join(one.id.to_string());
    std::fs::remove_file(folder.join("root.img")).unwrap();
    let asked = json!({ "snapshot": "one", "reference": "web:2" });
    let answer = rig.post("/v1/images/from-snapshot", asked).await;
    let text = std::str::from_utf8(&answer.bytes).unwrap();
    let last = text.lines().last().unwrap();
    assert!(
        last.contains("failed") && last.contains("root.img"),
        "{last}"
    );
    rig.get("/v1/images/web:2").await.problem(404, "not_found");
    let left = rig.dir.join("images/images").read_dir_utf8().unwrap();
    assert_eq!(left.count(), 1, "the one that the VM was made of");
}

#[tokio::test]
async fn the_kernel_of_a_snapshot_stays_as_long_as_it() {
    let rig = Rig::new().await;
    stopped(&rig).await;
    let one = made(&rig, "one").await;
    let kernel = format!("/v1/kernels/{}", one.kernel.as_deref().unwrap());
    let gone = rig.delete("/v1/vms/web?wait=true").await;
    assert_eq!(gone.status, StatusCode::OK, "{gone:?}");
    let problem = rig.delete(&kernel).await.problem(409, "in_use");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("snapshot one"), "{problem}");
    rig.delete("/v1/snapshots/one").await;
    let gone = rig.delete(&kernel).await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT, "{gone:?}");
}

#[tokio::test]
async fn what_cannot_be_is_refused_with_what_would_work() {
    let rig = Rig::new().await;
    rig.create("web").await;
    let never = snapshot(&rig, Value::Null).await.problem(409, "conflict");
    assert!(
        never["hint"].as_str().unwrap().contains("hearth start web"),
        "{never}"
    );
    rig.post("/v1/vms/web/start?wait=true", Value::Null).await;
    stop(&rig, "web").await;
    made(&rig, "one").await;
    snapshot(&rig, json!({ "pause": true, "crash_consistent": true }))
        .await
        .problem(400, "invalid");

    rig.post("/v1/vms/web/start?wait=true", Value::Null).await;
    let runs = rig
        .post("/v1/vms/web/restore", json!({ "snapshot": "one" }))
        .await;
    let problem = runs.problem(409, "conflict");
    assert!(
        problem["hint"].as_str().unwrap().contains("--stop"),
        "{problem}"
    );
    let stopped = json!({ "snapshot": "one", "stop": true });
    let answer = rig.post("/v1/vms/web/restore", stopped).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    assert_eq!((answer.vm().goal, answer.vm().pid), (Goal::Stopped, None));

    // Another VM's snapshot, and one that knows another volume.
    rig.create("other").await;
    let foreign = rig
        .post("/v1/vms/other/restore", json!({ "snapshot": "one" }))
        .await;
    let problem = foreign.problem(409, "conflict");
    assert!(
        problem["hint"]
            .as_str()
            .unwrap()
            .contains("snapshot clone one"),
        "{problem}"
    );
    let taken = rig
        .post("/v1/snapshots/one/clone", json!({ "name": "other" }))
        .await;
    taken.problem(409, "conflict");
    rig.post("/v1/vms/web/restore", json!({ "snapshot": "two" }))
        .await
        .problem(404, "not_found");
    assert_eq!(all(&rig).await.len(), 1, "a refusal leaves nothing");
}

#[tokio::test]
async fn a_vm_that_runs_stands_still_and_goes_on() {
    let rig = Rig::new().await;
    let vm = rig.running("web").await;
    let root = rig.vm_dir(vm.id).join("root.img");
    let probe = rig.dir.join("probe");
    let at_once = rig
        .api
        .engine
        .parts
        .disks
        .clones_at_once(&root, &probe)
        .await
        .unwrap();
    if !at_once {
        // Its disks have to be copied: not while it writes to them.
        for asked in [Value::Null, json!({ "crash_consistent": true })] {
            let refused = snapshot(&rig, asked).await.problem(409, "conflict");
            let hint = refused["hint"].as_str().unwrap();
            for way in ["hearth stop web", "--pause", "XFS", "thin pool"] {
                assert!(hint.contains(way), "{refused}");
            }
        }
        assert_eq!(all(&rig).await, []);
    }
    write(&root, "first");
    let paused = snapshot(&rig, json!({ "name": "one", "pause": true })).await;
    assert_eq!(paused.status, StatusCode::CREATED, "{paused:?}");
    let paused: Snapshot = serde_json::from_value(paused.json()).unwrap();
    assert_eq!(paused.consistency, Some(Consistency::Paused));
    assert!(paused.frozen_ms.is_some());
    let after = rig
        .until("web", "it goes on", |vm| vm.phase == Phase::Running)
        .await;
    assert_eq!(after.pid, vm.pid);
    // One that its user has paused stays so.
    rig.post("/v1/vms/web/pause?wait=true", Value::Null).await;
    let standing = snapshot(&rig, Value::Null).await;
    let standing: Snapshot = serde_json::from_value(standing.json()).unwrap();
    assert_eq!(standing.consistency, Some(Consistency::Paused));
    assert_eq!(standing.frozen_ms, None);
    assert_eq!(rig.get("/v1/vms/web").await.vm().phase, Phase::Paused);
}
