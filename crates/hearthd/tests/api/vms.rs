//! Creating, listing, changing and deleting.

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use serde_json::{Value, json};

use crate::rig::{Rig, request, spec};

fn with(method: Method, path: &str, header: (&str, &str), body: &Value) -> Request<Body> {
    let mut request = request(method, path, Body::from(body.to_string()));
    let name: axum::http::HeaderName = header.0.parse().unwrap();
    request
        .headers_mut()
        .insert(name, header.1.parse().unwrap());
    request
}

#[tokio::test]
async fn a_vm_is_created_shown_and_deleted() {
    let rig = Rig::new().await;
    let vm = rig.create("web").await;
    let shown = rig.get("/v1/vms/web").await;
    assert_eq!(shown.header("etag"), format!("\"{}\"", vm.generation));
    assert_eq!(shown.vm().id, vm.id);
    let gone = rig.delete("/v1/vms/web?wait=true").await;
    assert_eq!(gone.status, StatusCode::OK);
    rig.get("/v1/vms/web").await.problem(404, "not_found");
    assert!(!rig.vm_dir(vm.id).exists());
}

#[tokio::test]
async fn a_name_is_taken_once() {
    let rig = Rig::new().await;
    rig.create("web").await;
    let second = rig
        .post("/v1/vms", json!({ "spec": spec("web", json!({})) }))
        .await;
    let problem = second.problem(409, "conflict");
    assert!(problem["hint"].as_str().unwrap().contains("hearth rm web"));
}

#[tokio::test]
async fn wrong_fields_are_named() {
    let rig = Rig::new().await;
    let body = json!({ "spec": spec("web", json!({ "vcpus": 0, "ports": [{ "host_port": 0, "guest_port": 80 }] })) });
    let problem = rig.post("/v1/vms", body).await.problem(400, "invalid");
    let fields: Vec<_> = problem["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["path"].as_str().unwrap())
        .collect();
    assert!(fields.contains(&"vcpus"), "{fields:?}");
    assert!(
        fields.iter().any(|f| f.starts_with("ports[0]")),
        "{fields:?}"
    );
}

#[tokio::test]
async fn a_disk_smaller_than_its_image_is_refused() {
    let rig = Rig::new().await;
    let body = json!({ "spec": spec("web", json!({ "disk": "1MiB" })) });
    let problem = rig.post("/v1/vms", body).await.problem(400, "invalid");
    assert_eq!(problem["errors"][0]["path"], "disk");
}

#[tokio::test]
async fn unknown_images_and_kernels_are_not_found() {
    let rig = Rig::new().await;
    for fields in [
        json!({ "image": "nosuch:1" }),
        json!({ "kernel": "nosuch" }),
    ] {
        let body = json!({ "spec": spec("web", fields) });
        let problem = rig.post("/v1/vms", body).await.problem(404, "not_found");
        assert!(problem["hint"].is_string(), "{problem}");
    }
    assert_eq!(rig.get("/v1/vms").await.json()["items"], json!([]));
}

#[tokio::test]
async fn pages_follow_each_other() {
    let rig = Rig::new().await;
    for name in ["c", "a", "e", "b", "d"] {
        rig.create(name).await;
    }
    let (mut seen, mut path) = (Vec::new(), "/v1/vms?limit=2".to_owned());
    loop {
        let page = rig.get(&path).await.json();
        let items = page["items"].as_array().unwrap();
        assert!((1..=2).contains(&items.len()));
        seen.extend(
            items
                .iter()
                .map(|vm| vm["spec"]["name"].as_str().unwrap().to_owned()),
        );
        match page["next"].as_str() {
            Some(next) => path = format!("/v1/vms?limit=2&after={next}"),
            None => break,
        }
    }
    assert_eq!(seen, ["a", "b", "c", "d", "e"]);
    for limit in ["0", "1001", "-1", "x"] {
        rig.get(&format!("/v1/vms?limit={limit}"))
            .await
            .problem(400, "invalid");
    }
}

#[tokio::test]
async fn labels_select() {
    let rig = Rig::new().await;
    rig.create_with("a", json!({ "labels": { "tier": "web", "env": "prod" } }))
        .await;
    rig.create_with("b", json!({ "labels": { "tier": "db", "env": "prod" } }))
        .await;
    rig.create("c").await;
    for (selector, wanted) in [
        ("tier", vec!["a", "b"]),
        ("tier=db", vec!["b"]),
        ("env=prod,tier=web", vec!["a"]),
        ("tier=", vec![]),
        ("nosuch", vec![]),
    ] {
        let page = rig.get(&format!("/v1/vms?label={selector}")).await.json();
        let names: Vec<_> = page["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|vm| vm["spec"]["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, wanted, "{selector}");
    }
    rig.get("/v1/vms?label=%0A").await.problem(400, "invalid");
}

#[tokio::test]
async fn a_change_needs_the_current_etag() {
    let rig = Rig::new().await;
    let vm = rig.create("web").await;
    let (current, wrong) = (format!("\"{}\"", vm.generation), "\"99\"");
    let body = spec("web", json!({ "vcpus": 2 }));
    let put = |etag: &str| with(Method::PUT, "/v1/vms/web/spec", ("if-match", etag), &body);
    rig.send(put(wrong))
        .await
        .problem(412, "precondition_failed");
    rig.send(put("later")).await.problem(400, "invalid");
    let changed = rig.send(put(&current)).await;
    assert_eq!(changed.status, StatusCode::OK, "{changed:?}");
    assert_eq!(changed.vm().spec.vcpus, 2);
    assert_ne!(changed.header("etag"), current);
    rig.send(put(&current))
        .await
        .problem(412, "precondition_failed");
    assert_eq!(rig.send(put("*")).await.status, StatusCode::OK);
    let start = with(
        Method::POST,
        "/v1/vms/web/start",
        ("if-match", wrong),
        &Value::Null,
    );
    rig.send(start).await.problem(412, "precondition_failed");
    let delete = with(
        Method::DELETE,
        "/v1/vms/web",
        ("if-match", wrong),
        &Value::Null,
    );
    rig.send(delete).await.problem(412, "precondition_failed");
    assert_eq!(
        rig.get("/v1/vms/web").await.vm().goal,
        hearth_types::status::Goal::Stopped
    );
}

#[tokio::test]
async fn a_repeated_creation_answers_with_the_first_vm() {
    let rig = Rig::new().await;
    let body = json!({ "spec": spec("web", json!({})) });
    let post = |body: &Value| with(Method::POST, "/v1/vms", ("idempotency-key", "once"), body);
    let first = rig.send(post(&body)).await;
    assert_eq!(first.status, StatusCode::CREATED);
    let again = rig.send(post(&body)).await;
    assert_eq!(again.status, StatusCode::CREATED, "{again:?}");
    assert_eq!(again.vm().id, first.vm().id);
    let other = json!({ "spec": spec("other", json!({})) });
    rig.send(post(&other))
        .await
        .problem(422, "idempotency_mismatch");
    assert_eq!(
        rig.get("/v1/vms").await.json()["items"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(
        rig.delete("/v1/vms/web?wait=true").await.status,
        StatusCode::OK
    );
    rig.send(post(&body)).await.problem(404, "not_found");
    let long = "k".repeat(256);
    let bad = with(Method::POST, "/v1/vms", ("idempotency-key", &long), &body);
    rig.send(bad).await.problem(400, "invalid");
}

#[tokio::test]
async fn a_running_vm_is_deleted_by_force_only() {
    let rig = Rig::new().await;
    rig.running("web").await;
    rig.delete("/v1/vms/web").await.problem(409, "conflict");
    let gone = rig.delete("/v1/vms/web?force=true&wait=true").await;
    assert_eq!(gone.status, StatusCode::OK, "{gone:?}");
    assert!(rig.vmm.fake.alive().is_empty());
}

#[tokio::test]
async fn vms_that_would_wait_for_each_other_are_refused_with_the_path() {
    let rig = Rig::new().await;
    let after =
        |name: &str, after: &[&str]| json!({ "spec": spec(name, json!({ "after": after })) });
    // Whoever is named may come later.
    for (name, others) in [("web", ["api", "later"]), ("api", ["db", "later"])] {
        let made = rig.post("/v1/vms", after(name, &others)).await;
        assert_eq!(made.status, StatusCode::CREATED);
    }
    let closed = rig.post("/v1/vms", after("db", &["web"])).await;
    let problem = closed.problem(400, "invalid");
    assert_eq!(problem["errors"][0]["path"], "after");
    let message = problem["errors"][0]["message"].as_str().unwrap();
    assert!(
        message.starts_with("db → web → api → db is a circle"),
        "{message}"
    );
    rig.get("/v1/vms/db").await.problem(404, "not_found");
    rig.create("db").await;
    let body = Body::from(spec("db", json!({ "after": ["web"] })).to_string());
    let replaced = rig
        .send(request(Method::PUT, "/v1/vms/db/spec", body))
        .await;
    assert_eq!(
        replaced.problem(400, "invalid")["errors"][0]["path"],
        "after"
    );
    let own = rig.post("/v1/vms", after("own", &["own"])).await;
    assert_eq!(own.problem(400, "invalid")["errors"][0]["path"], "after[0]");
    // Who is removed wedges nobody.
    rig.delete("/v1/vms/db?wait=true").await;
    let plan = rig.get("/v1/vms/api/plan").await;
    let told = plan.json()["reasons"].to_string();
    assert!(
        told.contains("db is not waited for: there is no such VM"),
        "{told}"
    );
}

#[tokio::test]
async fn what_a_vm_says_of_its_recovery_is_kept_and_checked() {
    let rig = Rig::new().await;
    let own = json!({
        "bootstrap": "restart-healthy", "breaker": { "failures": 3, "window": "1m", "cooldown": "30s" },
    });
    let made = rig
        .post("/v1/vms", json!({ "spec": spec("web", own.clone()) }))
        .await;
    let kept = made.json();
    assert_eq!(kept["spec"]["bootstrap"], own["bootstrap"]);
    assert_eq!(kept["spec"]["breaker"]["failures"], 3);
    for (field, wrong) in [
        ("breaker.failures", json!({ "breaker": { "failures": 17 } })),
        ("breaker.window", json!({ "breaker": { "window": "10ms" } })),
    ] {
        let made = rig
            .post("/v1/vms", json!({ "spec": spec("other", wrong) }))
            .await;
        assert_eq!(made.problem(400, "invalid")["errors"][0]["path"], field);
    }
    let unknown = json!({ "spec": spec("other", json!({ "bootstrap": "sometimes" })) });
    rig.post("/v1/vms", unknown).await.problem(400, "invalid");
}
