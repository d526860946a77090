//! Every failure is a problem document.

use axum::body::Body;
use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::rig::{Rig, request, spec};

async fn post(rig: &Rig, path: &str, body: impl Into<Body>) -> crate::rig::Answer {
    rig.send(request(Method::POST, path, body.into())).await
}

#[tokio::test]
async fn unknown_paths_and_methods_are_said() {
    let rig = Rig::new().await;
    for path in ["/", "/v1", "/v1/nosuch", "/v2/vms", "/v1/vms/web/nosuch"] {
        rig.get(path).await.problem(404, "not_found");
    }
    let answer = rig
        .send(request(Method::PATCH, "/v1/vms", Body::empty()))
        .await;
    answer.problem(405, "method_not_allowed");
    assert!(answer.header("allow").contains("GET"));
}

#[tokio::test]
async fn every_route_of_a_vm_says_when_there_is_none() {
    let rig = Rig::new().await;
    let document: Value = serde_json::from_str(&hearthd::api::openapi()).unwrap();
    let mut asked = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        if !path.contains("{vm}") {
            continue;
        }
        for method in item.as_object().unwrap().keys() {
            let path = path.replace("{vm}", "nosuch");
            let path = if path.ends_with("archive") {
                format!("{path}?path=/")
            } else {
                path
            };
            let body = match path.rsplit('/').next() {
                Some("spec") => spec("nosuch", json!({})).to_string(),
                Some("restore") => json!({ "snapshot": "nosuch" }).to_string(),
                Some("migrate") => json!({ "to": "files" }).to_string(),
                _ => String::new(),
            };
            let method: Method = method.to_uppercase().parse().unwrap();
            let problem = rig
                .send(request(method, &path, Body::from(body)))
                .await
                .problem(404, "not_found");
            assert!(problem["hint"].is_string(), "{path}");
            asked += 1;
        }
    }
    assert!(asked >= 15, "{asked}");
}

#[tokio::test]
async fn json_that_cannot_be_read_is_said_with_its_place() {
    let rig = Rig::new().await;
    let problem = post(&rig, "/v1/vms", "{\"spec\":")
        .await
        .problem(400, "invalid");
    assert!(
        problem["detail"].as_str().unwrap().contains("EOF"),
        "{problem}"
    );
    // A body may be left out here, but blanks are no body that was left out.
    post(&rig, "/v1/gc", "\r").await.problem(400, "invalid");
    for (body, place) in [
        (
            json!({ "spec": spec("web", json!({ "memory": true })) }),
            "spec.memory",
        ),
        (
            json!({ "spec": spec("web", json!({ "ports": [{ "host_port": "x" }] })) }),
            "spec.ports[0].host_port",
        ),
        (
            json!({ "spec": spec("web", json!({ "nosuch": 1 })) }),
            "spec.nosuch",
        ),
    ] {
        let problem = post(&rig, "/v1/vms", body.to_string())
            .await
            .problem(400, "invalid");
        assert_eq!(problem["errors"][0]["path"], place, "{problem}");
    }
    let twice = format!("{0}{0}", json!({ "spec": spec("web", json!({})) }));
    post(&rig, "/v1/vms", twice).await.problem(400, "invalid");
    post(&rig, "/v1/vms", Body::empty())
        .await
        .problem(400, "invalid");
    post(&rig, "/v1/kernels", "[null, null]")
        .await
        .problem(400, "invalid");
    let deep = "[".repeat(100_000);
    post(&rig, "/v1/vms", deep).await.problem(400, "invalid");
}

#[tokio::test]
async fn a_body_has_a_limit() {
    let rig = Rig::new().await;
    let body = vec![b' '; (1 << 20) + 1];
    post(&rig, "/v1/vms", body).await.problem(413, "too_large");
}

#[tokio::test]
async fn query_parameters_are_checked() {
    let rig = Rig::new().await;
    rig.create("web").await;
    for path in [
        "/v1/vms/web/logs?tail=-1",
        "/v1/vms/web/logs?tail=1000001",
        "/v1/vms/web/wait?timeout=86401",
        "/v1/vms/web/logs?source=nosuch",
        "/v1/vms/web/wait?condition=nosuch",
        "/v1/vms/web/wait?timeout=x",
        "/v1/events?limit=0",
        "/v1/events?after=-1",
        "/v1/events?after=18446744073709551615",
    ] {
        rig.get(path).await.problem(400, "invalid");
    }
    post(&rig, "/v1/vms/web/start?wait=maybe", Body::empty())
        .await
        .problem(400, "invalid");
}

#[tokio::test]
async fn plain_answers_have_their_shape() {
    let rig = Rig::new().await;
    for path in [
        "/health",
        "/info",
        "/v1/version",
        "/v1/config",
        "/v1/plan",
        "/v1/doctor",
        "/v1/kernels",
        "/v1/images",
        "/v1/events",
        "/v1/vms",
    ] {
        let answer = rig.get(path).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {answer:?}");
        assert_eq!(answer.header("content-type"), "application/json", "{path}");
        assert!(answer.json().is_object(), "{path}");
    }
}
