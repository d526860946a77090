//! `hearth snapshot`: what it shows, asks and passes on.

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};

use hearth_types::problem::{Code, Problem};

use crate::fake::Fake;
use crate::objects;
use crate::runner::session;

/// The fake daemon's routes about snapshots.
pub(crate) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let all = async || axum::Json(json!({ "items": [before(), running()] }));
    Router::new()
        .route("/v1/snapshots", get(all))
        .route(
            "/v1/snapshots/{snapshot}",
            get(async || axum::Json(before())).delete(async || StatusCode::NO_CONTENT),
        )
        .route(
            "/v1/snapshots/{snapshot}/clone",
            post(async || (StatusCode::CREATED, axum::Json(objects::db()))),
        )
        .route(
            "/v1/vms/{vm}/snapshots",
            post(async || (StatusCode::CREATED, axum::Json(running()))),
        )
        .route("/v1/vms/{vm}/restore", post(restore))
}

async fn restore(body: axum::Json<Value>) -> Response {
    if body.0["stop"] == true {
        return axum::Json(objects::db()).into_response();
    }
    let problem = Problem::new(Code::Conflict, "db is running");
    let problem =
        problem.hint("stop it first: hearth stop db, or hearth snapshot restore --stop db before");
    (StatusCode::CONFLICT, axum::Json(problem)).into_response()
}

fn before() -> Value {
    json!({
        "id": "01950000-0000-7000-8000-0000000000e5", "name": "before",
        "vm": objects::DB, "vm_name": "db", "image": format!("sha256:{}", "ab".repeat(32)),
        "spec": {"name": "db", "image": "debian:12"},
        "disks": [{"bytes": 1_073_741_824}],
        "consistency": "stopped", "created_at": "2026-02-28T12:00:00Z", "state": "ready"
    })
}

fn running() -> Value {
    json!({
        "id": "01950000-0000-7000-8000-0000000000f6", "name": "web-1-0000000000f6",
        "vm": objects::WEB, "vm_name": "web-1", "image": format!("sha256:{}", "ab".repeat(32)),
        "spec": {"name": "web-1", "image": "localhost:5000/demo:1"},
        "disks": [{"bytes": 1_073_741_824}, {"volume": "data", "bytes": 536_870_912}],
        "consistency": "frozen", "frozen_ms": 42,
        "created_at": "2026-03-01T11:59:00Z", "state": "ready"
    })
}

#[test]
fn snapshots_as_table_and_json() {
    for format in ["table", "wide", "json"] {
        let fake = Fake::start();
        let text = session(&fake, &[&["snapshot", "ls", "-o", format]]);
        insta::assert_snapshot!(format!("snapshot-{format}"), text);
    }
}

#[test]
fn orders_and_refusals() {
    let fake = Fake::start();
    let text = session(
        &fake,
        &[
            &["snapshot", "create", "web-1"],
            &["snapshot", "create", "web-1", "--name", "now", "--pause"],
            &[
                "snapshot",
                "create",
                "web-1",
                "--pause",
                "--crash-consistent",
            ],
            &["snapshot", "ls", "-q", "web-1"],
            &["snapshot", "inspect", "before"],
            &["snapshot", "restore", "db", "before"],
            &["snapshot", "restore", "--stop", "db", "before"],
            &[
                "snapshot",
                "clone",
                "before",
                "--name",
                "db",
                "-p",
                "5432:5432",
                "--start",
            ],
            &["image", "from-snapshot", "before", "web:2"],
            &["snapshot", "rm", "before"],
        ],
    );
    insta::assert_snapshot!("snapshot-orders", text);
    let ports = r#"{"host_ip":"0.0.0.0","host_port":5432,"guest_port":5432,"protocol":"tcp"}"#;
    assert_eq!(
        fake.changes(),
        [
            r#"POST /v1/vms/web-1/snapshots {"name":null,"pause":false,"crash_consistent":false}"#
                .to_owned(),
            r#"POST /v1/vms/web-1/snapshots {"name":"now","pause":true,"crash_consistent":false}"#
                .to_owned(),
            r#"POST /v1/vms/db/restore {"snapshot":"before","stop":false}"#.to_owned(),
            r#"POST /v1/vms/db/restore {"snapshot":"before","stop":true}"#.to_owned(),
            format!(
                r#"POST /v1/snapshots/before/clone {{"name":"db","ports":[{ports}],"start":true}}"#
            ),
            r#"POST /v1/images/from-snapshot {"snapshot":"before","reference":"web:2","detach":false}"#
                .to_owned(),
            "DELETE /v1/snapshots/before".to_owned(),
        ]
    );
}
