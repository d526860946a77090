//! `/v1/mode`, and what it does to other requests.

use axum::body::Body;
use axum::http::{Method, StatusCode};
use hearth_types::mode::ModeRule;
use serde_json::{Value, json};

use crate::rig::{Answer, Rig, request};

async fn put(rig: &Rig, body: Value) -> Answer {
    rig.send(request(
        Method::PUT,
        "/v1/mode",
        Body::from(body.to_string()),
    ))
    .await
}

#[tokio::test]
async fn what_would_change_something_is_refused() {
    let rig = Rig::new().await;
    rig.create("web").await;
    let set = put(&rig, json!({"mode": "readonly", "reason": " new disks "})).await;
    assert_eq!(set.status, StatusCode::OK);
    assert_eq!(set.json()["hand"]["stored"], true);
    for (method, path) in [
        (Method::POST, "/v1/vms"),
        (Method::POST, "/v1/vms/web/start"),
        (Method::POST, "/v1/vms/nobody/stop"),
        (Method::DELETE, "/v1/vms/web"),
        (Method::PUT, "/v1/vms/web/spec"),
        (Method::PUT, "/v1/vms/web/archive"),
        (Method::POST, "/v1/images/pull"),
        (Method::POST, "/v1/kernels"),
    ] {
        let answer = rig.send(request(method, path, Body::empty())).await;
        let problem = answer.problem(503, "read_only");
        assert_eq!(problem["detail"], "the mode is readonly: new disks");
        assert_eq!(problem["hint"], "leave it with: hearth mode normal");
    }
    for path in [
        "/v1/vms",
        "/v1/vms/web",
        "/v1/plan",
        "/v1/images",
        "/v1/doctor",
    ] {
        assert_eq!(rig.get(path).await.status, StatusCode::OK, "{path}");
    }
    assert_eq!(put(&rig, json!({"mode": "normal"})).await.status, 200);
    assert_eq!(rig.delete("/v1/vms/web").await.status, 202);
}

#[tokio::test]
async fn the_mode_is_shown_everywhere() {
    let rig = Rig::new().await;
    for path in ["/health", "/info", "/v1/version", "/v1/mode"] {
        assert_eq!(rig.get(path).await.json()["mode"], "normal", "{path}");
    }
    put(&rig, json!({"mode": "maintenance", "reason": "new switch"})).await;
    for path in ["/health", "/info", "/v1/version", "/v1/mode"] {
        assert_eq!(rig.get(path).await.json()["mode"], "maintenance", "{path}");
    }
    let health = rig.get("/health").await;
    assert_eq!(health.status, StatusCode::OK);
    assert_eq!(health.json()["mode_reason"], "new switch");
    let doctor = rig.get("/v1/doctor").await.json();
    let checks = doctor["checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["name"] == "mode").unwrap();
    assert_eq!(check["status"], "warning");
    let metrics = rig.get("/metrics").await;
    let text = String::from_utf8(metrics.bytes.to_vec()).unwrap();
    for line in [
        "hearth_mode{mode=\"maintenance\"} 1",
        "hearth_mode{mode=\"normal\"} 0",
        "hearth_mode_rule{rule=\"disk_full\"} 0",
    ] {
        assert!(text.lines().any(|it| it == line), "{line}\n{text}");
    }
    let events = rig.get("/v1/events").await.json();
    let events = events["items"].as_array().unwrap();
    let told = events
        .iter()
        .find(|event| event["code"] == "daemon.mode_changed");
    let details = &told.unwrap()["details"];
    assert_eq!(
        *details,
        json!({"from": "normal", "to": "maintenance", "by": "hand", "reason": "new switch"})
    );
}

#[tokio::test]
async fn a_refusal_says_how_it_ends() {
    let rig = Rig::new().await;
    let engine = &rig.api.engine;
    let full = || Some("no room".to_owned());
    engine.mode_rule(ModeRule::DatabaseUnwritable, full()).await;
    let problem = rig.delete("/v1/vms/web").await.problem(503, "read_only");
    assert!(problem["hint"].as_str().unwrap().contains("by itself"));
    // Nothing sets this rule aside.
    let set = put(&rig, json!({"mode": "normal"})).await.json();
    assert_eq!(
        (&set["mode"], &set["by"]),
        (&json!("readonly"), &json!("rule"))
    );
}

#[tokio::test]
async fn impossible_words_are_refused() {
    let rig = Rig::new().await;
    for body in [
        json!({"mode": "sometimes"}),
        json!({"mode": "normal", "for": "1h"}),
        json!({"reason": "x"}),
        json!({"mode": "readonly", "reason": "two\nlines"}),
        json!({"mode": "readonly", "reason": "x".repeat(501)}),
    ] {
        put(&rig, body).await.problem(400, "invalid");
    }
    assert_eq!(rig.get("/v1/mode").await.json()["mode"], "normal");
}
