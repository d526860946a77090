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

#[tokio::test]
async fn imports_are_jobs_that_can_be_looked_at_cancelled_and_tried_again() {
    let rig = Rig::new().await;
    let disk = rig.dir.join("late.img");
    let import = json!({ "path": disk, "reference": "late:1", "kind": "disk" });
    let failed = last_line(&rig.post("/v1/images/import", import).await);
    assert_eq!(failed["type"], "failed", "{failed}");
    let jobs = rig.get("/v1/images/jobs").await.json();
    let job = &jobs["items"][0];
    assert_eq!(job["state"], "aborted", "{job}");
    assert_eq!(job["name"], "docker.io/library/late:1");
    assert_eq!(job["failure"]["reason"], "not_found", "{job}");
    let id = job["id"].as_str().unwrap().to_owned();

    // The file is there now: the same job goes on.
    raw_disk(&disk);
    let path = format!("/v1/images/jobs/{id}/retry");
    let done = last_line(&rig.post(&path, json!({})).await);
    assert_eq!(done["type"], "image", "{done}");
    let job = rig.get("/v1/images/jobs/late:1").await.json();
    assert_eq!((&job["state"], &job["id"]), (&json!("ready"), &json!(id)));
    // What has ended stays as it is.
    let path = format!("/v1/images/jobs/{id}/cancel");
    assert_eq!(rig.post(&path, json!({})).await.json()["state"], "ready");
    let path = format!("/v1/images/jobs/{id}/retry");
    rig.post(&path, json!({})).await.problem(400, "invalid");
    rig.get("/v1/images/jobs/nosuch")
        .await
        .problem(404, "not_found");

    let events = || async { rig.get("/v1/events").await.json()["items"].clone() };
    let mut codes = Vec::new();
    for _ in 0..1000 {
        let items = events().await;
        codes = items.as_array().unwrap().clone();
        if codes.iter().any(|event| event["code"] == "image.imported") {
            break;
        }
        tokio::task::yield_now().await;
    }
    let of = |code: &str| codes.iter().find(|event| event["code"] == code);
    let failed = of("image.failed").unwrap();
    assert_eq!(failed["severity"], "error");
    // The kind was named, so nothing had to look at the file before.
    assert_eq!(failed["details"]["state"], "unpack", "{failed}");
    assert_eq!(failed["details"]["reason"], "not_found", "{failed}");
    assert!(of("image.imported").is_some());
    let text = rig.get("/metrics").await;
    let text = std::str::from_utf8(&text.bytes).unwrap();
    for line in [
        r#"hearth_image_failures_total{state="unpack",reason="not_found"} 1"#,
        r#"hearth_image_jobs{state="ready"} 1"#,
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
}

#[tokio::test]
async fn a_detached_import_is_left_to_the_daemon() {
    let rig = Rig::new().await;
    let disk = rig.dir.join("other.img");
    raw_disk(&disk);
    let import = json!({ "path": disk, "reference": "other:1", "detach": true });
    let line = last_line(&rig.post("/v1/images/import", import).await);
    assert_eq!(line["type"], "job", "{line}");
    assert_eq!(line["job"]["detached"], true);
    let id = line["job"]["id"].as_str().unwrap();
    let path = format!("/v1/images/jobs/{id}");
    while rig.get(&path).await.json()["state"] != "ready" {
        tokio::task::yield_now().await;
    }
    assert_eq!(rig.get("/v1/images/other:1").await.status, StatusCode::OK);
}
