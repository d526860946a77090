//! What a VM or an image may be called by.

use axum::http::StatusCode;
use serde_json::json;

use crate::rig::{IMAGE, Rig, spec};

#[tokio::test]
async fn a_vm_is_found_by_name_id_prefix_and_short_id() {
    let rig = Rig::new().await;
    let vm = rig.create("web").await;
    let id = vm.id.to_string();
    for text in [
        "web",
        &id,
        &id[..20],
        &vm.id.short(),
        &vm.id.short()[..6],
        &id.to_uppercase(),
    ] {
        let found = rig.get(&format!("/v1/vms/{text}")).await;
        assert_eq!(found.status, StatusCode::OK, "{text}: {found:?}");
        assert_eq!(found.vm().id, vm.id);
    }
}

#[tokio::test]
async fn a_name_is_taken_before_the_beginning_of_an_id() {
    let rig = Rig::new().await;
    let first = rig.create("web").await;
    let named = rig.create(&first.id.short()).await;
    assert_eq!(
        rig.get(&format!("/v1/vms/{}", first.id.short()))
            .await
            .vm()
            .id,
        named.id
    );
}

#[tokio::test]
async fn what_could_mean_several_is_a_conflict_that_names_them() {
    let rig = Rig::new().await;
    let first = rig.create("one").await;
    rig.create("two").await;
    // The first digits are a clock.
    let prefix = &first.id.to_string()[..4];
    let problem = rig
        .get(&format!("/v1/vms/{prefix}"))
        .await
        .problem(409, "conflict");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("one") && detail.contains("two"), "{detail}");
}

#[tokio::test]
async fn odd_references_find_nothing() {
    let rig = Rig::new().await;
    rig.create("web").await;
    for text in [
        "..", "%2e%2e", "web%2f..", "%00", "web%0a", "-", "%20", "web%20",
    ] {
        let answer = rig.get(&format!("/v1/vms/{text}/logs")).await;
        answer.problem(404, "not_found");
    }
    // Not text at all.
    rig.get("/v1/vms/%ff").await.problem(400, "invalid");
}

#[tokio::test]
async fn an_image_is_found_by_reference_and_beginning_of_its_id() {
    let rig = Rig::new().await;
    let images = rig.get("/v1/images").await.json();
    let id = images["items"][0]["image"]["id"]
        .as_str()
        .unwrap_or_else(|| images["items"][0]["id"].as_str().unwrap())
        .to_owned();
    let hex = id.strip_prefix("sha256:").unwrap();
    for text in [&hex[..12], hex, &id, "small:1", &IMAGE.replace('/', "%2F")] {
        let found = rig.get(&format!("/v1/images/{text}")).await;
        assert_eq!(found.status, StatusCode::OK, "{text}: {found:?}");
        let fields = json!({ "image": text.replace("%2F", "/") });
        let name = format!("vm-{}", text.len());
        let made = rig
            .post("/v1/vms", json!({ "spec": spec(&name, fields) }))
            .await;
        assert_eq!(made.status, StatusCode::CREATED, "{text}: {made:?}");
    }
    for text in ["nosuch:1", "..%2f..", "%20", &hex[..3]] {
        rig.get(&format!("/v1/images/{text}"))
            .await
            .problem(404, "not_found");
    }
}
