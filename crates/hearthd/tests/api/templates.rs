//! Templates: what VMs get from them and keep, and what they keep from removal.

use axum::http::StatusCode;
use hearth_types::template::{Template, TemplateList};
use hearth_types::units::Bytes;
use serde_json::{Value, json};

use crate::rig::{IMAGE, Rig};

fn escaped(image: &str) -> String {
    image.replace('/', "%2F")
}

async fn template(rig: &Rig, body: Value) -> Template {
    let answer = rig.post("/v1/templates", body).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
    serde_json::from_value(answer.json()).unwrap()
}

fn web() -> Value {
    let defaults = json!({ "vcpus": 2, "memory": "512MiB", "env": { "A": "1", "B": "1" }, "labels": { "tier": "web" },
        "volumes": [{ "name": "data", "mount": "/data", "size": "16MiB" }] });
    json!({ "name": "web", "image": IMAGE, "defaults": defaults })
}

#[tokio::test]
async fn a_vm_gets_what_its_template_has_and_keeps_it() {
    let rig = Rig::new().await;
    let made = template(&rig, web()).await;
    assert_eq!(made.changed_at, None);
    let body = json!({ "name": "one", "overrides": { "memory": "256MiB", "env": { "B": "2" } } });
    let answer = rig.post("/v1/templates/web/vms", body).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
    assert!(!answer.header("etag").is_empty());
    let one = answer.vm();
    assert_eq!((one.spec.vcpus, one.spec.memory), (2, Bytes::mib(256)));
    assert_eq!(one.spec.image, IMAGE);
    assert_eq!(one.spec.template, Some("web".parse().unwrap()));
    assert_eq!(json!(one.spec.env), json!({ "A": "1", "B": "2" }));
    assert_eq!(one.spec.volumes.len(), 1);

    // A template that is replaced, or gone, changes nothing of it.
    rig.post("/v1/templates", web())
        .await
        .problem(409, "conflict");
    let mut other = web();
    other["defaults"]["vcpus"] = json!(4);
    other["replace"] = json!(true);
    let replaced = template(&rig, other).await;
    assert_eq!(replaced.created_at, made.created_at);
    assert!(replaced.changed_at.is_some());
    assert_eq!(rig.get("/v1/vms/one").await.vm().spec, one.spec);
    let body = json!({ "name": "two", "start": true });
    let two = rig.post("/v1/templates/web/vms?wait=true", body).await.vm();
    assert_eq!((two.spec.vcpus, two.pid.is_some()), (4, true));
    let gone = rig.delete("/v1/templates/web").await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT, "{gone:?}");
    assert_eq!(rig.get("/v1/vms/one").await.vm().spec, one.spec);
    for missing in [
        rig.get("/v1/templates/web").await,
        rig.delete("/v1/templates/web").await,
    ] {
        missing.problem(404, "not_found");
    }
    let body = json!({ "name": "three" });
    let none = rig.post("/v1/templates/web/vms", body).await;
    none.problem(404, "not_found");
}

#[tokio::test]
async fn a_template_keeps_its_image_and_its_kernel() {
    let rig = Rig::new().await;
    let kernels = rig.get("/v1/kernels").await.json();
    let kernel = kernels["items"][0]["name"].as_str().unwrap().to_owned();
    let mut body = web();
    body["defaults"]["kernel"] = json!(kernel);
    let made = template(&rig, body).await;
    let image = rig.delete(&format!("/v1/images/{}", escaped(IMAGE))).await;
    let problem = image.problem(409, "in_use");
    assert!(
        problem["detail"].as_str().unwrap().contains("template web"),
        "{problem}"
    );
    let view = rig
        .get(&format!("/v1/images/{}", made.image_id))
        .await
        .json();
    assert_eq!(view["used_by"], json!(["template web"]));
    let kept = rig.delete(&format!("/v1/kernels/{kernel}")).await;
    kept.problem(409, "in_use");
    // Nor does a clean-up take it.
    let cleaned = rig
        .post("/v1/gc", json!({ "force": true, "kinds": ["image"] }))
        .await;
    assert_eq!(cleaned.status, StatusCode::OK, "{cleaned:?}");
    let there = rig.get(&format!("/v1/images/{}", made.image_id)).await;
    assert_eq!(there.status, StatusCode::OK);
    rig.delete("/v1/templates/web").await;
    let gone = rig.delete(&format!("/v1/images/{}", escaped(IMAGE))).await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT, "{gone:?}");
}

#[tokio::test]
async fn the_image_is_what_the_name_meant_when_the_template_was_made() {
    let rig = Rig::new().await;
    let made = template(&rig, web()).await;
    // The name leads elsewhere from now on.
    let disk = rig.dir.join("other.img");
    crate::rig::raw_disk(&disk);
    let file = std::fs::OpenOptions::new().write(true).open(&disk).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"another", 3 << 20).unwrap();
    let import = json!({ "path": disk, "reference": IMAGE, "kind": "disk" });
    rig.post("/v1/images/import", import).await;
    let now = rig
        .get(&format!("/v1/images/{}", escaped(IMAGE)))
        .await
        .json();
    assert_ne!(now["image"]["id"], json!(made.image_id));
    let body = json!({ "name": "one" });
    let one = rig.post("/v1/templates/web/vms", body).await.vm();
    let view = rig
        .get(&format!("/v1/images/{}", made.image_id))
        .await
        .json();
    assert_eq!(view["used_by"], json!(["one", "template web"]));
    assert_eq!(one.spec.image, IMAGE);
}

#[tokio::test]
async fn what_cannot_be_is_refused_and_nothing_is_written_down() {
    let rig = Rig::new().await;
    let refused = [
        (
            json!({ "name": "web", "image": "missing:1" }),
            404,
            "not_found",
        ),
        (
            json!({ "name": "web", "image": IMAGE, "defaults": { "vcpus": 0 } }),
            400,
            "invalid",
        ),
        (
            json!({ "name": "web", "image": IMAGE, "defaults": { "disk": "16MiB", "kernel": "none" } }),
            404,
            "not_found",
        ),
        (
            json!({ "name": "web", "image": IMAGE, "defaults": { "name": "x" } }),
            400,
            "invalid",
        ),
        (json!({ "name": "Web", "image": IMAGE }), 400, "invalid"),
    ];
    for (body, status, code) in refused {
        rig.post("/v1/templates", body).await.problem(status, code);
    }
    let list: TemplateList = serde_json::from_value(rig.get("/v1/templates").await.json()).unwrap();
    assert_eq!(list.items, []);
    template(&rig, web()).await;
    // What is said beside it is checked together with it.
    let body = json!({ "name": "one", "overrides": { "network": { "mode": "none" }, "ports": [{ "host_port": 48_124, "guest_port": 80 }] } });
    rig.post("/v1/templates/web/vms", body)
        .await
        .problem(400, "invalid");
    rig.post("/v1/templates/web/vms", json!({ "name": "one" }))
        .await;
    rig.post("/v1/templates/web/vms", json!({ "name": "one" }))
        .await
        .problem(409, "conflict");
    // The note of where a VM came from is no way to ask for one.
    let spec = json!({ "spec": { "name": "two", "image": IMAGE, "template": "web" } });
    rig.post("/v1/vms", spec).await.problem(400, "invalid");
}
