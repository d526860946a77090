//! Images and kernels.

use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::rig::{Answer, IMAGE, Rig, raw_disk};

/// The last line of a progress stream.
fn last_line(answer: &Answer) -> Value {
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    assert_eq!(answer.header("content-type"), "application/x-ndjson");
    let text = std::str::from_utf8(&answer.bytes).unwrap();
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    lines.last().unwrap().clone()
}

#[tokio::test]
async fn an_image_is_imported_shown_and_removed() {
    let rig = Rig::new().await;
    let disk = rig.dir.join("other.img");
    raw_disk(&disk);
    let done = rig
        .post(
            "/v1/images/import",
            json!({ "path": disk, "reference": "other:1", "kind": "disk" }),
        )
        .await;
    let done = last_line(&done);
    assert!(done.to_string().contains("sha256:"), "{done}");
    assert_eq!(
        rig.get("/v1/images").await.json()["items"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    assert_eq!(rig.get("/v1/images/other:1").await.status, StatusCode::OK);
    assert_eq!(
        rig.delete("/v1/images/other:1").await.status,
        StatusCode::NO_CONTENT
    );
    rig.get("/v1/images/other:1")
        .await
        .problem(404, "not_found");
    rig.delete("/v1/images/other:1")
        .await
        .problem(404, "not_found");
}

#[tokio::test]
async fn imports_fail_in_their_stream_or_before_it() {
    let rig = Rig::new().await;
    let relative = rig
        .post(
            "/v1/images/import",
            json!({ "path": "x.img", "reference": "x:1" }),
        )
        .await;
    relative.problem(400, "invalid");
    for (path, code) in [
        ("/nosuch", "invalid"),
        ("/dev/zero", "invalid"),
        ("/etc/passwd", "invalid"),
    ] {
        let answer = rig
            .post(
                "/v1/images/import",
                json!({ "path": path, "reference": "x:1" }),
            )
            .await;
        let line = last_line(&answer);
        let found = line.to_string();
        assert!(found.contains("\"problem\""), "{path}: {line}");
        assert!(
            found.contains(code) || found.contains("not_found"),
            "{path}: {line}"
        );
        assert!(!found.contains("root:"), "{line}");
    }
    assert_eq!(
        rig.get("/v1/images").await.json()["items"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test]
async fn an_image_in_use_stays() {
    let rig = Rig::new().await;
    rig.create("web").await;
    let path = format!("/v1/images/{}", IMAGE.replace('/', "%2F"));
    let shown = rig.get(&path).await.json();
    assert_eq!(shown["used_by"], json!(["web"]));
    let problem = rig.delete(&path).await.problem(409, "in_use");
    assert!(problem["detail"].as_str().unwrap().contains("web"));
    assert_eq!(rig.get(&path).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_pull_that_cannot_be_says_so() {
    let rig = Rig::new().await;
    rig.post("/v1/images/pull", json!({}))
        .await
        .problem(400, "invalid");
    let request = json!({ "reference": "127.0.0.1:1/nosuch:1", "plain_http": true });
    let line = last_line(&rig.post("/v1/images/pull", request).await);
    assert!(line.to_string().contains("upstream"), "{line}");
}

#[tokio::test]
async fn kernels_are_imported_chosen_and_removed() {
    let rig = Rig::new().await;
    let file = rig.dir.join("vmlinux");
    let done = rig
        .post("/v1/kernels", json!({ "path": file, "name": "mine" }))
        .await;
    assert!(last_line(&done).to_string().contains("mine"));
    let chosen = rig.post("/v1/kernels/mine/default", Value::Null).await;
    assert_eq!(chosen.json()["default"], true, "{chosen:?}");
    rig.create("web").await;
    rig.delete("/v1/kernels/mine").await.problem(409, "in_use");
    assert_eq!(
        rig.delete("/v1/kernels/6.1.0-rig").await.status,
        StatusCode::NO_CONTENT
    );
    rig.delete("/v1/kernels/6.1.0-rig")
        .await
        .problem(404, "not_found");
    let relative = rig.post("/v1/kernels", json!({ "path": "vmlinux" })).await;
    relative.problem(400, "invalid");
    for name in ["..", "%2e%2e%2fimages", ".", "%00"] {
        let answer = rig.delete(&format!("/v1/kernels/{name}")).await;
        assert!(
            matches!(answer.status.as_u16(), 400 | 404),
            "{name}: {answer:?}"
        );
    }
    assert!(rig.dir.join("images").is_dir());
}
