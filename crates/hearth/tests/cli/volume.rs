//! `hearth volume`: what it shows, asks and passes on.

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};

use hearth_types::problem::{Code, Problem};

use crate::fake::Fake;
use crate::objects;
use crate::runner::session;

/// The fake daemon's routes about volumes.
pub(crate) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let all = async || axum::Json(json!({ "items": [data(), kept()] }));
    let answer = async || axum::Json(data());
    let made = async || (StatusCode::CREATED, axum::Json(data()));
    Router::new()
        .route("/v1/volumes", get(all).post(made))
        .route(
            "/v1/volumes/{volume}",
            get(answer).delete(async || StatusCode::NO_CONTENT),
        )
        .route("/v1/volumes/{volume}/grow", post(grow))
        .route("/v1/volumes/{volume}/attach", post(answer))
        .route("/v1/volumes/{volume}/detach", post(detach))
        .route(
            "/v1/volumes/{volume}/snapshots",
            post(async || (StatusCode::CREATED, axum::Json(kept()))),
        )
        .route("/v1/volumes/{volume}/content", get(content).put(brought))
        .route("/v1/volumes/{volume}/migrate", post(answer))
        .route(
            "/v1/vms/{vm}/migrate",
            post(async || axum::Json(objects::db())),
        )
}

async fn grow() -> axum::Json<Value> {
    axum::Json(json!({ "volume": data(), "guests": [
        {"vm": "web-1", "growth": "grown"},
        {"vm": "db", "growth": "device_grown", "why": "its agent does not answer"},
        {"vm": "old", "growth": "next_start", "why": "it was started without the volume"},
    ]}))
}

async fn detach() -> Response {
    let problem = Problem::new(
        Code::Conflict,
        "db runs, and its VMM takes and gives disks only at its start",
    );
    let problem = problem.hint(
        "stop it first: hearth stop db, then hearth volume detach db data, then hearth start db",
    );
    (StatusCode::CONFLICT, axum::Json(problem)).into_response()
}

async fn content() -> Vec<u8> {
    let mut bytes = vec![0; 1 << 19];
    bytes[300_000..300_004].copy_from_slice(b"data");
    bytes
}

/// Reads it to its end, as the daemon does: who answers before breaks off what the client still sends.
async fn brought(bytes: axum::body::Bytes) -> Response {
    if bytes[..] == content().await[..] {
        (StatusCode::CREATED, axum::Json(data())).into_response()
    } else {
        StatusCode::BAD_REQUEST.into_response()
    }
}

fn data() -> Value {
    json!({
        "id": "01950000-0000-7000-8000-0000000000a1", "name": "data", "size": "10GiB",
        "storage": "thin", "created_at": "2026-02-28T12:00:00Z", "state": "ready", "disk": 1,
        "attached": [{
            "volume": "01950000-0000-7000-8000-0000000000a1", "name": "data",
            "vm": objects::DB, "vm_name": "db", "mount": "/srv", "read_only": false,
        }],
    })
}

fn kept() -> Value {
    json!({
        "id": "01950000-0000-7000-8000-0000000000b2", "name": "data-0000000000b2", "size": "10GiB",
        "storage": "files", "snapshot_of": "data", "consistency": "frozen",
        "created_at": "2026-03-01T11:59:00Z", "state": "ready", "disk": 1, "attached": [],
    })
}

#[test]
fn volumes_as_table_and_json() {
    for format in ["table", "wide", "json"] {
        let fake = Fake::start();
        let text = session(&fake, &[&["volume", "ls", "-o", format]]);
        insta::assert_snapshot!(format!("volume-{format}"), text);
    }
}

#[test]
fn orders_and_refusals() {
    let fake = Fake::start();
    let text = session(
        &fake,
        &[
            &["volume", "create", "data", "--size", "10GiB"],
            &["volume", "create", "data"],
            &["volume", "create", "copy", "--from", "data"],
            &["volume", "ls", "-q"],
            &["volume", "inspect", "data"],
            &["volume", "grow", "data", "--size", "20GiB"],
            &["volume", "attach", "db", "data", "--at", "/srv"],
            &["volume", "attach", "db", "data", "--read-only"],
            &["volume", "detach", "db", "data"],
            &["volume", "snapshot", "data"],
            &["volume", "snapshot", "data", "--name", "now", "--pause"],
            &["volume", "migrate", "data", "--to", "files"],
            &["volume", "migrate", "--vm", "db", "--to", "thin"],
            &["volume", "migrate", "data", "--vm", "db", "--to", "thin"],
            &["volume", "migrate", "data", "--to", "tape"],
            &["volume", "rm", "data"],
        ],
    );
    insta::assert_snapshot!("volume-orders", text);
    assert_eq!(
        fake.changes(),
        [
            r#"POST /v1/volumes {"name":"data","size":"10GiB"}"#,
            r#"POST /v1/volumes {"name":"copy","from":"data"}"#,
            r#"POST /v1/volumes/data/grow {"size":"20GiB"}"#,
            r#"POST /v1/volumes/data/attach {"vm":"db","at":"/srv","read_only":false}"#,
            r#"POST /v1/volumes/data/attach {"vm":"db","read_only":true}"#,
            r#"POST /v1/volumes/data/detach {"vm":"db"}"#,
            r#"POST /v1/volumes/data/snapshots {"pause":false}"#,
            r#"POST /v1/volumes/data/snapshots {"name":"now","pause":true}"#,
            r#"POST /v1/volumes/data/migrate {"to":"files"}"#,
            r#"POST /v1/vms/db/migrate {"to":"thin"}"#,
            r"DELETE /v1/volumes/data",
        ]
    );
}

#[test]
fn content_goes_into_new_files_and_comes_from_files() {
    use std::os::unix::fs::MetadataExt as _;
    let (fake, folder) = (Fake::start(), tempfile::tempdir().unwrap());
    let path = folder.path().join("out.img");
    let out = path.to_str().unwrap();
    let text = session(&fake, &[&["volume", "export", "data", out]]);
    assert!(text.contains("out.img"), "{text}");
    let meta = path.metadata().unwrap();
    assert_eq!((meta.len(), meta.mode() & 0o777), (1 << 19, 0o600));
    assert!(meta.blocks() * 512 < 1 << 16, "it is sparse");
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(&bytes[300_000..300_004], b"data");
    // Nothing is written over.
    let again = session(&fake, &[&["volume", "export", "data", out]]);
    assert!(again.contains("nothing is written over"), "{again}");
    let came = session(
        &fake,
        &[&["volume", "import", "new", out, "--size", "1GiB"]],
    );
    assert!(came.contains("data"), "{came}");
    let none = session(&fake, &[&["volume", "import", "new", "/no/where.img"]]);
    assert!(none.contains("Cannot read /no/where.img"), "{none}");
    let changes = fake.changes();
    assert_eq!(changes.len(), 1, "{changes:?}");
    assert!(
        changes[0].starts_with("PUT /v1/volumes/new/content"),
        "{}",
        &changes[0][..60]
    );
}
