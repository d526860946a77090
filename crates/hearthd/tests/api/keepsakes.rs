//! What folders keep of volumes, snapshots and templates, for the day on which the database is lost.

use camino::{Utf8Path, Utf8PathBuf};
use hearth_types::snapshot::Snapshot;
use hearth_types::volume::VolumeView;
use serde_json::{Value, json};

use crate::rig::{IMAGE, Rig};

fn kept(path: &Utf8Path) -> Value {
    let text = std::fs::read(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_slice(&text).unwrap()
}

async fn order(rig: &Rig, path: &str, asked: Value) -> Value {
    let answer = rig.post(path, asked).await;
    assert!(answer.status.is_success(), "{answer:?}");
    answer.json()
}

async fn volume(rig: &Rig, asked: Value) -> Utf8PathBuf {
    let made: VolumeView = serde_json::from_value(order(rig, "/v1/volumes", asked).await).unwrap();
    let folder = rig.dir.join("volumes").join(made.volume.id.to_string());
    folder.join("volume.json")
}

#[tokio::test]
async fn what_changes_is_kept_and_what_goes_is_not() {
    let rig = Rig::new().await;
    let data = volume(&rig, json!({ "name": "data", "size": "16MiB" })).await;
    assert_eq!(kept(&data)["record"]["name"], "data");
    assert_eq!(kept(&data)["record"]["attached"], json!([]));
    let web = rig
        .create_with("web", json!({ "env": { "TOKEN": "hunter2" } }))
        .await;
    order(
        &rig,
        "/v1/volumes/data/attach",
        json!({ "vm": "web", "at": "/srv" }),
    )
    .await;
    assert_eq!(kept(&data)["record"]["attached"][0]["vm"], json!(web.id));
    order(&rig, "/v1/volumes/data/grow", json!({ "size": "24MiB" })).await;
    assert_eq!(kept(&data)["record"]["size"], "24MiB");
    order(&rig, "/v1/vms/web/start?wait=true", Value::Null).await;
    rig.post("/v1/vms/web/stop?wait=true&force=true", Value::Null)
        .await;
    rig.until("web", "it is down", |vm| vm.pid.is_none()).await;

    let made = order(&rig, "/v1/vms/web/snapshots", json!({ "name": "one" })).await;
    let made: Snapshot = serde_json::from_value(made).unwrap();
    let folder = rig.dir.join("snapshots").join(made.id.to_string());
    let one = folder.join("snapshot.json");
    assert_eq!(kept(&one)["record"]["vm"], json!(web.id));
    assert_eq!(kept(&one)["environment"], json!(["TOKEN"]));
    assert!(!kept(&one).to_string().contains("hunter2"));
    let defaults = json!({ "env": { "PASSWORD": "hunter2" } });
    let asked = json!({ "name": "base", "image": IMAGE, "defaults": defaults });
    order(&rig, "/v1/templates", asked).await;
    let base = rig.dir.join("templates/base.json");
    assert_eq!(kept(&base)["record"]["name"], "base");
    assert_eq!(kept(&base)["environment"], json!(["PASSWORD"]));
    assert!(!kept(&base).to_string().contains("hunter2"));

    order(&rig, "/v1/volumes/data/detach", json!({ "vm": "web" })).await;
    assert_eq!(kept(&data)["record"]["attached"], json!([]));
    for (path, file) in [
        ("/v1/volumes/data", &data),
        ("/v1/snapshots/one", &one),
        ("/v1/templates/base", &base),
    ] {
        let gone = rig.delete(path).await;
        assert!(gone.status.is_success(), "{gone:?}");
        assert!(!file.exists(), "{file}");
    }
}
