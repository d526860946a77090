//! A specification that is replaced: what is refused, and with which words.

use std::net::TcpListener;

use axum::body::Body;
use axum::http::{Method, StatusCode};
use hearth_store::NewVm;
use hearth_types::spec::VmSpec;
use hearth_types::status::Goal;
use serde_json::{Value, json};

use crate::rig::{Answer, IMAGE, Rig, raw_disk, request, spec};

async fn put(rig: &Rig, name: &str, fields: Value) -> Answer {
    let body = Body::from(spec(name, fields).to_string());
    let path = format!("/v1/vms/{name}/spec");
    rig.send(request(Method::PUT, &path, body)).await
}

#[tokio::test]
async fn the_network_of_a_vm_that_runs_stays_as_it_is() {
    let rig = Rig::new().await;
    let vm = rig.running("web").await;
    for network in [
        json!({ "mode": "none" }),
        json!({ "address": "10.213.7.7" }),
    ] {
        let refused = put(&rig, "web", json!({ "network": network })).await;
        let problem = refused.problem(409, "conflict");
        assert!(
            problem["hint"]
                .as_str()
                .unwrap()
                .contains("hearth stop web")
        );
    }
    assert_eq!(rig.get("/v1/vms/web").await.vm().leases.ip, vm.leases.ip);
    let labels = put(&rig, "web", json!({ "labels": { "tier": "front" } })).await;
    assert_eq!(labels.status, StatusCode::OK, "{labels:?}");
    rig.post("/v1/vms/web/stop?wait=true&force=true", Value::Null)
        .await;
    rig.until("web", "it is down", |vm| vm.pid.is_none()).await;
    let moved = put(
        &rig,
        "web",
        json!({ "network": { "address": "10.213.7.7" } }),
    )
    .await;
    assert_eq!(moved.status, StatusCode::OK, "{moved:?}");
    assert_eq!(moved.vm().leases.ip, Some("10.213.7.7".parse().unwrap()));
}

#[tokio::test]
async fn a_port_that_another_program_listens_on_is_not_added() {
    let rig = Rig::new().await;
    rig.create("web").await;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let ports =
        json!({ "ports": [{ "host_ip": "127.0.0.1", "host_port": port, "guest_port": 80 }] });
    let refused = put(&rig, "web", ports.clone()).await;
    refused.problem(409, "conflict");
    assert!(rig.get("/v1/vms/web").await.vm().spec.ports.is_empty());
    drop(listener);
    let added = put(&rig, "web", ports.clone()).await;
    assert_eq!(added.status, StatusCode::OK, "{added:?}");
    // Its own port is its own, whoever listens there by now.
    let _listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let kept = put(&rig, "web", ports).await;
    assert_eq!(kept.status, StatusCode::OK, "{kept:?}");
}

#[tokio::test]
async fn disks_keep_their_image_and_do_not_shrink() {
    let rig = Rig::new().await;
    let other = rig.dir.join("other.img");
    raw_disk(&other);
    let images = &rig.api.engine.parts.images;
    let kind = Some(hearth_types::api::ImportKind::Disk);
    let import = images.import(
        &other,
        "docker.io/library/other:1",
        kind,
        &hearth_image::NoProgress,
    );
    import.await.unwrap();
    rig.create_with("web", json!({ "disk": "64MiB" })).await;
    let image = json!({ "disk": "64MiB", "image": "docker.io/library/other:1" });
    let before = put(&rig, "web", image.clone()).await;
    assert_eq!(
        before.status,
        StatusCode::OK,
        "it has no disk yet: {before:?}"
    );
    let back = put(&rig, "web", json!({ "disk": "64MiB" })).await;
    assert_eq!(back.status, StatusCode::OK, "{back:?}");
    rig.post("/v1/vms/web/start?wait=true", Value::Null).await;
    let refused = put(&rig, "web", image).await;
    let problem = refused.problem(409, "conflict");
    assert!(
        problem["detail"].as_str().unwrap().contains(IMAGE),
        "{problem}"
    );
    let smaller = put(&rig, "web", json!({ "disk": "32MiB" })).await;
    let problem = smaller.problem(400, "invalid");
    assert_eq!(problem["errors"][0]["path"], "disk");
    let larger = put(&rig, "web", json!({ "disk": "96MiB" })).await;
    assert_eq!(larger.status, StatusCode::OK, "{larger:?}");
}

#[tokio::test]
async fn an_image_is_not_removed_while_a_vm_of_it_is_being_made() {
    let rig = Rig::new().await;
    let engine = &rig.api.engine;
    // As a creation holds it between its look at the image and its record.
    let creating = engine.image_use.read().await;
    let path = format!("/v1/images/{}", IMAGE.replace('/', "%2F"));
    let router = rig.router();
    let removing = tokio::spawn(async move {
        let delete = request(Method::DELETE, &path, Body::empty());
        crate::rig::read(router, delete).await
    });
    tokio::task::yield_now().await;
    let image = engine.parts.images.get(IMAGE).await.unwrap();
    let new = NewVm {
        spec: VmSpec::new("web".parse().unwrap(), IMAGE),
        goal: Goal::Stopped,
        image: image.id,
        kernel: None,
    };
    let (store, leases) = (&engine.parts.store, engine.settings.leases);
    store.create_vm(new, leases, engine.now()).await.unwrap();
    drop(creating);
    removing.await.unwrap().problem(409, "in_use");
    assert!(engine.parts.images.get(IMAGE).await.is_ok());
}
