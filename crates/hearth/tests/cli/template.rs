//! `hearth template`, and VMs of templates: what is shown, said and passed on.

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};

use hearth_types::problem::{Code, Problem};

use crate::fake::Fake;
use crate::objects;
use crate::runner::{run_with_input, session, show};

/// The fake daemon's routes about templates.
pub(crate) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let all = async || axum::Json(json!({ "items": [web(), bare()] }));
    Router::new()
        .route("/v1/templates", get(all).post(create))
        .route(
            "/v1/templates/{template}",
            get(async || axum::Json(web())).delete(async || StatusCode::NO_CONTENT),
        )
        .route(
            "/v1/templates/{template}/vms",
            post(async || (StatusCode::CREATED, axum::Json(objects::db()))),
        )
}

async fn create(body: axum::Json<Value>) -> Response {
    if body.0["replace"] == true {
        return (StatusCode::CREATED, axum::Json(web())).into_response();
    }
    let problem = Problem::new(Code::Conflict, "the name web is taken by another template");
    let problem = problem.hint("replace it with: hearth template create --replace web …");
    (StatusCode::CONFLICT, axum::Json(problem)).into_response()
}

fn web() -> Value {
    json!({
        "name": "web", "image": "localhost:5000/demo:1", "image_id": format!("sha256:{}", "ab".repeat(32)),
        "defaults": {"vcpus": 2, "memory": "512MiB", "ports": [{"host_port": 8080, "guest_port": 80}]},
        "created_at": "2026-02-28T12:00:00Z", "changed_at": "2026-03-01T11:00:00Z"
    })
}

fn bare() -> Value {
    json!({
        "name": "bare", "image": "debian:12", "image_id": format!("sha256:{}", "cd".repeat(32)),
        "defaults": {}, "created_at": "2026-03-01T11:59:00Z"
    })
}

#[test]
fn templates_as_table_and_json() {
    for format in ["table", "wide", "json"] {
        let fake = Fake::start();
        let text = session(&fake, &[&["template", "ls", "-o", format]]);
        insta::assert_snapshot!(format!("template-{format}"), text);
    }
}

#[test]
fn only_what_was_said_is_passed_on() {
    let fake = Fake::start();
    let text = session(
        &fake,
        &[
            &["template", "create", "web", "--image", "debian:12"],
            &[
                "template",
                "create",
                "web",
                "--replace",
                "--image",
                "debian:12",
                "--vcpus",
                "2",
                "-e",
                "A=1",
                "--cpu-weight",
                "50",
                "--",
                "sleep",
                "1",
            ],
            &["template", "ls", "-q"],
            &["template", "inspect", "web"],
            &["create", "--template", "web", "--name", "db"],
            &[
                "create",
                "--template",
                "web",
                "--name",
                "db",
                "-m",
                "1g",
                "--rm",
                "sleep",
                "2",
            ],
            &["create", "--name", "db"],
            &["template", "rm", "web"],
        ],
    );
    insta::assert_snapshot!("template-orders", text);
    assert_eq!(
        fake.changes(),
        [
            r#"POST /v1/templates {"name":"web","image":"debian:12","defaults":{},"replace":false}"#,
            r#"POST /v1/templates {"name":"web","image":"debian:12","defaults":{"vcpus":2,"env":{"A":"1"},"command":["sleep","1"],"resources":{"cpu_weight":50}},"replace":true}"#,
            r#"POST /v1/templates/web/vms {"name":"db","overrides":{},"start":false}"#,
            r#"POST /v1/templates/web/vms {"name":"db","overrides":{"memory":"1GiB","command":["sleep","2"],"auto_remove":true},"start":false}"#,
            "DELETE /v1/templates/web",
        ]
    );
}

#[test]
fn a_file_may_name_templates() {
    let fake = Fake::start();
    let args = ["apply", "-f", "-"];
    let file = br#"{"vm":[{"name":"fresh","template":"web","vcpus":3}]}"#;
    let output = run_with_input(&fake, &args, file);
    let made = show(Some(&fake), &args, &output);
    assert_eq!(
        fake.changes(),
        [r#"POST /v1/templates/web/vms {"name":"fresh","overrides":{"vcpus":3},"start":true}"#]
    );
    // One that is there, of an image that somebody named.
    let file = br#"{"vm":[{"name":"db","template":"web"}]}"#;
    let output = run_with_input(&fake, &args, file);
    let refused = show(Some(&fake), &args, &output);
    insta::assert_snapshot!("template-apply", format!("{made}\n{refused}"));
}
