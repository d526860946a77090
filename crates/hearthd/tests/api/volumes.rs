//! Data volumes of their own: made, lent, grown, copied, moved, brought in and out, removed; what is refused, and
//! with which words.

use axum::http::StatusCode;
use camino::Utf8PathBuf;
use hearth_types::volume::{VolumeState, VolumeView};
use serde_json::{Value, json};

use crate::content::{read, write};
use crate::rig::{Answer, Rig};

/// A refusal says what to do.
fn hints(problem: &Value, what: &str) {
    assert!(
        problem["hint"].as_str().unwrap().contains(what),
        "{problem}"
    );
}

fn view(answer: &Answer) -> VolumeView {
    assert!(answer.status.is_success(), "{answer:?}");
    serde_json::from_value(answer.json()).unwrap()
}

async fn create(rig: &Rig, name: &str) -> VolumeView {
    let asked = json!({ "name": name, "size": "16MiB" });
    let answer = rig.post("/v1/volumes", asked).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
    view(&answer)
}

fn disk(rig: &Rig, view: &VolumeView) -> Utf8PathBuf {
    let volume = &view.volume;
    let folder = rig.dir.join("volumes").join(volume.id.to_string());
    folder.join(format!("disk-{}.img", volume.disk))
}

async fn start(rig: &Rig, name: &str) {
    let path = format!("/v1/vms/{name}/start?wait=true");
    let started = rig.post(&path, Value::Null).await;
    assert_eq!(started.status, StatusCode::OK, "{started:?}");
}

async fn stop(rig: &Rig, name: &str) {
    let path = format!("/v1/vms/{name}/stop?wait=true&force=true");
    rig.post(&path, Value::Null).await;
    rig.until(name, "it is down", |vm| vm.pid.is_none()).await;
}

async fn order(rig: &Rig, volume: &str, what: &str, asked: Value) -> Answer {
    rig.post(&format!("/v1/volumes/{volume}/{what}"), asked)
        .await
}

#[tokio::test]
async fn a_volume_outlives_the_vms_that_have_it() {
    let rig = Rig::new().await;
    let data = create(&rig, "data").await;
    assert_eq!(data.volume.state, VolumeState::Ready);
    let disk = disk(&rig, &data);
    let web = rig.create("web").await;
    let attached = order(&rig, "data", "attach", json!({ "vm": "web", "at": "/srv" })).await;
    let attached = view(&attached).attached;
    assert_eq!(
        (attached[0].vm, attached[0].mount.as_str()),
        (web.id, "/srv")
    );
    // Again it is a success; elsewhere it is none.
    view(&order(&rig, "data", "attach", json!({ "vm": "web", "at": "/srv" })).await);
    rig.create("other").await;
    let taken = order(&rig, "data", "attach", json!({ "vm": "other" })).await;
    let problem = taken.problem(409, "conflict");
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("web writes to it"),
        "{problem}"
    );
    let kept = rig.delete("/v1/volumes/data").await.problem(409, "in_use");
    assert!(
        kept["hint"]
            .as_str()
            .unwrap()
            .contains("volume detach web data"),
        "{kept}"
    );

    start(&rig, "web").await;
    let name = rig.vm_dir(web.id).join("attached-data.img");
    write(&name, "first");
    assert_eq!(read(&disk), "first", "it is the same disk");
    for (what, asked) in [
        ("detach", json!({ "vm": "web" })),
        ("attach", json!({ "vm": "web", "at": "/b" })),
    ] {
        let problem = order(&rig, "data", what, asked)
            .await
            .problem(409, "conflict");
        hints(&problem, "hearth stop web");
    }
    let removed = rig.delete("/v1/vms/web?wait=true&force=true").await;
    assert_eq!(removed.status, StatusCode::OK, "{removed:?}");
    assert!(!name.exists());
    assert_eq!(read(&disk), "first");

    view(
        &order(
            &rig,
            "data",
            "attach",
            json!({ "vm": "other", "read_only": true }),
        )
        .await,
    );
    start(&rig, "other").await;
    let other = rig.vm("other").await;
    let name = rig.vm_dir(other.id).join("attached-data.img");
    assert_eq!(read(&name), "first");
    stop(&rig, "other").await;
    view(&order(&rig, "data", "detach", json!({ "vm": "other" })).await);
    assert!(!name.exists());
    order(&rig, "data", "detach", json!({ "vm": "other" }))
        .await
        .problem(404, "not_found");
    let gone = rig.delete("/v1/volumes/data").await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT, "{gone:?}");
    assert_eq!(rig.dir.join("volumes").read_dir_utf8().unwrap().count(), 0);
    rig.get("/v1/volumes/data").await.problem(404, "not_found");
}

#[tokio::test]
async fn copies_and_snapshots_are_independent() {
    let rig = Rig::new().await;
    let data = create(&rig, "data").await;
    let source = disk(&rig, &data);
    write(&source, "first");
    let kept = view(&order(&rig, "data", "snapshots", json!({ "name": "kept" })).await);
    assert_eq!(kept.volume.snapshot_of, Some("data".parse().unwrap()));
    let unnamed = view(&order(&rig, "data", "snapshots", Value::Null).await);
    assert!(unnamed.volume.name.as_str().starts_with("data-"));
    write(&source, "later");
    let asked = json!({ "name": "copy", "from": "kept", "size": "32MiB" });
    let copy = view(&rig.post("/v1/volumes", asked).await);
    assert_eq!(
        (copy.volume.size, &copy.volume.snapshot_of),
        (hearth_types::Bytes::mib(32), &None)
    );
    assert_eq!(read(&disk(&rig, &copy)), "first");
    assert_eq!(read(&disk(&rig, &kept)), "first");
    rig.create("web").await;
    let problem = order(&rig, "kept", "attach", json!({ "vm": "web" }))
        .await
        .problem(409, "conflict");
    assert!(
        problem["detail"].as_str().unwrap().contains("read-only"),
        "{problem}"
    );
    let problem = order(&rig, "kept", "grow", json!({ "size": "1GiB" }))
        .await
        .problem(409, "conflict");
    hints(&problem, "--from kept");
    let smaller = json!({ "name": "small", "from": "copy", "size": "16MiB" });
    rig.post("/v1/volumes", smaller)
        .await
        .problem(400, "invalid");
    let gone = rig.delete("/v1/volumes/data").await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT, "{gone:?}");
    assert_eq!(read(&disk(&rig, &kept)), "first");
}

#[tokio::test]
async fn a_volume_grows_and_never_shrinks() {
    let rig = Rig::new().await;
    let data = create(&rig, "data").await;
    rig.create("web").await;
    view(&order(&rig, "data", "attach", json!({ "vm": "web" })).await);
    start(&rig, "web").await;
    let grown = order(&rig, "data", "grow", json!({ "size": "24MiB" })).await;
    assert_eq!(grown.status, StatusCode::OK, "{grown:?}");
    let grown = grown.json();
    assert_eq!(grown["volume"]["size"], "24MiB");
    assert_eq!(disk(&rig, &data).metadata().unwrap().len(), 24 << 20);
    // This VMM cannot, and says so.
    assert_eq!(grown["guests"][0]["vm"], "web");
    assert_eq!(grown["guests"][0]["growth"], "next_start");
    let problem = order(&rig, "data", "grow", json!({ "size": "16MiB" }))
        .await
        .problem(409, "conflict");
    hints(&problem, "never");
    order(&rig, "data", "grow", json!({ "size": 1 }))
        .await
        .problem(400, "invalid");
}

#[tokio::test]
async fn what_is_brought_comes_out_as_it_was() {
    let rig = Rig::new().await;
    let mut content = vec![0_u8; (17 << 20) + 100];
    content[5..10].copy_from_slice(b"begin");
    content[(16 << 20) + 7..(16 << 20) + 12].copy_from_slice(b"later");
    let put = |path: &'static str, content: Vec<u8>| rig.put_bytes(path, content);
    let made = put("/v1/volumes/brought/content", content.clone()).await;
    assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
    let made = view(&made);
    assert_eq!(
        made.volume.size.0,
        content.len().next_multiple_of(4096) as u64
    );
    let path = disk(&rig, &made);
    assert!(
        std::os::unix::fs::MetadataExt::blocks(&path.metadata().unwrap()) < 1000,
        "it is sparse"
    );
    let back = rig.get("/v1/volumes/brought/content").await;
    assert_eq!(back.status, StatusCode::OK);
    assert_eq!(&back.bytes[..content.len()], &content[..]);
    assert!(back.bytes[content.len()..].iter().all(|byte| *byte == 0));
    // Refused, and nothing of it is left.
    put("/v1/volumes/brought/content", content.clone())
        .await
        .problem(409, "conflict");
    put("/v1/volumes/small/content?size=16MiB", content.clone())
        .await
        .problem(400, "invalid");
    put("/v1/volumes/..%2fetc/content", content)
        .await
        .problem(400, "invalid");
    let list = rig.get("/v1/volumes").await.json();
    assert_eq!(list["items"].as_array().unwrap().len(), 1, "{list}");
    assert_eq!(rig.dir.join("volumes").read_dir_utf8().unwrap().count(), 1);
    // Nobody writes to it while it is read.
    rig.create("web").await;
    view(&order(&rig, "brought", "attach", json!({ "vm": "web" })).await);
    start(&rig, "web").await;
    let problem = rig
        .get("/v1/volumes/brought/content")
        .await
        .problem(409, "conflict");
    hints(&problem, "volume snapshot brought");
}

#[tokio::test]
async fn where_there_is_no_pool_nothing_is_moved() {
    let rig = Rig::new().await;
    create(&rig, "data").await;
    view(&order(&rig, "data", "migrate", json!({ "to": "files" })).await);
    let problem = order(&rig, "data", "migrate", json!({ "to": "thin" }))
        .await
        .problem(409, "conflict");
    hints(&problem, "pool setup");
    rig.create("web").await;
    let never = rig
        .post("/v1/vms/web/migrate", json!({ "to": "thin" }))
        .await;
    never.problem(409, "conflict");
    start(&rig, "web").await;
    let runs = rig
        .post("/v1/vms/web/migrate", json!({ "to": "thin" }))
        .await;
    let problem = runs.problem(409, "conflict");
    hints(&problem, "hearth stop web");
    stop(&rig, "web").await;
    rig.post("/v1/vms/web/migrate", json!({ "to": "thin" }))
        .await
        .problem(409, "conflict");
    let there = rig
        .post("/v1/vms/web/migrate", json!({ "to": "files" }))
        .await;
    assert_eq!(there.status, StatusCode::OK, "{there:?}");
}

#[tokio::test]
async fn words_and_refusals() {
    let rig = Rig::new().await;
    let data = create(&rig, "data").await;
    for wrong in [
        json!({ "name": "data", "size": "1KiB" }),
        json!({ "name": "new" }),
        json!({ "name": "UP", "size": "16MiB" }),
    ] {
        rig.post("/v1/volumes", wrong).await.problem(400, "invalid");
    }
    let taken = json!({ "name": "data", "size": "16MiB" });
    rig.post("/v1/volumes", taken)
        .await
        .problem(409, "conflict");
    let none = json!({ "name": "new", "from": "nothing" });
    rig.post("/v1/volumes", none)
        .await
        .problem(404, "not_found");
    rig.create("web").await;
    for at in ["srv", "/", "/a/../b"] {
        order(&rig, "data", "attach", json!({ "vm": "web", "at": at }))
            .await
            .problem(400, "invalid");
    }
    order(&rig, "data", "attach", json!({ "vm": "nobody" }))
        .await
        .problem(404, "not_found");
    // By the beginning of its id, too.
    let id = data.volume.id.to_string();
    let by_id = rig.get(&format!("/v1/volumes/{}", &id[..20])).await;
    assert_eq!(view(&by_id).volume.id, data.volume.id);
}

#[tokio::test]
async fn a_specification_that_clashes_with_what_is_attached_is_refused_and_nothing_changes() {
    let rig = Rig::new().await;
    create(&rig, "data").await;
    let web = rig.create("web").await;
    view(&order(&rig, "data", "attach", json!({ "vm": "web", "at": "/srv" })).await);
    let mut spec = serde_json::to_value(&web.spec).unwrap();
    let own = |name: &str, mount: &str| json!({ "name": name, "mount": mount, "size": "16MiB" });
    spec["volumes"] = json!([own("own", "/srv/")]);
    let put = async |spec: &Value| {
        let body = axum::body::Body::from(spec.to_string());
        let put = axum::http::Method::PUT;
        rig.send(crate::rig::request(put, "/v1/vms/web/spec", body))
            .await
    };
    let problem = put(&spec).await.problem(409, "conflict");
    for name in ["web", "own", "data"] {
        assert!(
            problem["detail"].as_str().unwrap().contains(name),
            "{problem}"
        );
    }
    hints(&problem, "hearth volume detach web");
    assert_eq!(rig.vm("web").await.spec, web.spec);
    // Two of its own at one place make no specification.
    spec["volumes"] = json!([own("a", "/a"), own("b", "//a/")]);
    put(&spec).await.problem(400, "invalid");
    assert_eq!(rig.vm("web").await.generation, web.generation);
}
