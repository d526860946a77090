//! `hearth pool`: what it shows, asks and passes on.

use axum::Router;
use axum::extract::RawQuery;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};

use hearth_types::problem::{Code, Problem};

use crate::fake::Fake;
use crate::runner::session;

/// The fake daemon's routes of the pool.
pub(crate) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new()
        .route(
            "/v1/pool",
            get(async || axum::Json(up())).post(set_up).delete(destroy),
        )
        .route("/v1/pool/check", post(async || refused_check()))
        .route("/v1/pool/reset", post(async || axum::Json(up())))
        .route("/v1/pool/repair", post(async || axum::Json(repaired())))
        .route("/v1/pool/restore", post(async || axum::Json(repaired())))
        .route(
            "/v1/pool/backups",
            get(async || axum::Json(json!([backup()]))).post(async || axum::Json(backup())),
        )
        .route("/v1/pool/extend", post(async || axum::Json(low())))
        .route("/v1/pool/volumes", get(async || axum::Json(volumes())))
}

fn volumes() -> Value {
    let volume = |id: u32, name: &str, kind: &str, state: &str| {
        json!({
            "id": id, "name": name, "kind": kind, "state": state, "bytes": 536_870_912,
            "created_at": "2026-01-01T00:00:00Z",
        })
    };
    let with = |mut volume: Value, more: Value| {
        for (key, value) in more.as_object().unwrap() {
            volume[key] = value.clone();
        }
        volume
    };
    let image = volume(1, "sha256_9f0c-volume", "image", "ready");
    let root = volume(2, "web-root", "vm-root", "ready");
    let data = volume(3, "web-volume-data", "vm-data", "orphaned");
    let cause = "failed to create filesystem: mke2fs is not installed";
    json!({
        "volumes": [
            with(image, json!({"mapped": 39_845_888, "whose": "image demo:1"})),
            with(root, json!({"mapped": 42_991_616, "whose": "vm web", "origin": 1, "device": "/dev/dm-3"})),
            with(data, json!({"mapped": 0, "cause": cause})),
        ],
        "differences": [{
            "id": 2, "kind": "suspended", "repaired": true,
            "what": "thin device 2 was suspended; its requests go on now",
        }],
        "unknown": "the thin devices in the pool's metadata cannot be listed",
    })
}

#[test]
fn what_is_in_it() {
    let fake = Fake::start();
    let text = session(
        &fake,
        &[
            &["pool", "volumes"],
            &["pool", "volumes", "-o", "wide"],
            &["pool", "volumes", "-q"],
        ],
    );
    insta::assert_snapshot!("pool-volumes", text);
}

fn up() -> Value {
    let id = "01950000-0000-7000-8000-000000000001";
    json!({
        "state": "up", "name": format!("hearth-{id}-pool"), "uuid": format!("HEARTH-{id}-pool"),
        "device": "/dev/dm-0",
        "data": {"used": 734_003_200, "size": 2_147_483_648_u64},
        "metadata": {"used": 262_144, "size": 16_777_216},
        "block": 65_536, "transaction_id": 12, "users": 3,
        "folder": "/var/lib/hearth/pool", "made_at": "2026-02-28T12:00:00Z",
        "last_check": {"at": "2026-03-01T11:00:00Z", "took_ms": 41, "verdict": "good"}
    })
}

/// With its data on a logical volume, if one was named.
async fn set_up(asked: axum::Json<Value>) -> axum::Json<Value> {
    let mut pool = up();
    if let Some(device) = asked["device"].as_str() {
        let lasting = "/dev/disk/by-id/dm-uuid-LVM-4f2e";
        pool["data_device"] = json!({"path": lasting, "given": device, "volume": "vg0/pool"});
    }
    axum::Json(pool)
}

fn repaired() -> Value {
    json!({"kept": "hearth-pool-metadata.damaged-20260301T120000Z"})
}

fn backup() -> Value {
    json!({
        "at": "2026-03-01T02:00:00Z", "transaction_id": 12, "bytes": 4_096,
        "file": "metadata-20260301T020000Z-t12.xml.zst"
    })
}

/// Its host has little left.
fn low() -> Value {
    let mut pool = up();
    pool["space"] = json!({
        "provisioned": 5_368_709_120_u64, "most": 2_684_354_560_u64,
        "bound": "the host's file system has no more room for it", "overcommit_percent": 200,
        "overcommit_limit": 10, "writable": 134_217_728, "low": true, "metadata_low": false
    });
    pool
}

fn refused_check() -> Response {
    let problem = Problem::new(
        Code::InUse,
        "the pool is in use (3 devices stand on it or have it open)",
    );
    answer(problem.hint("take off what stands on it first (dmsetup ls --tree shows it)"))
}

async fn destroy(RawQuery(query): RawQuery) -> Response {
    if query.is_some_and(|query| query.contains("force=true")) {
        return StatusCode::NO_CONTENT.into_response();
    }
    let problem = Problem::new(Code::Conflict, "the pool holds 700 MiB of data");
    answer(problem.hint("what is in it is lost with it: hearth pool destroy --force"))
}

fn answer(problem: Problem) -> Response {
    let status = StatusCode::from_u16(problem.status).unwrap();
    let kind = [(header::CONTENT_TYPE, "application/problem+json")];
    (status, kind, serde_json::to_string(&problem).unwrap()).into_response()
}

#[test]
fn the_pool_as_table_and_json() {
    for format in ["table", "wide", "json"] {
        let fake = Fake::start();
        let text = session(&fake, &[&["pool", "status", "-o", format]]);
        insta::assert_snapshot!(format!("pool-{format}"), text);
    }
}

#[test]
fn orders_and_refusals() {
    let fake = Fake::start();
    let text = session(
        &fake,
        &[
            &["pool", "setup", "--data", "2GiB"],
            &["pool", "status", "-q"],
            &["pool", "check"],
            &["pool", "extend", "--by", "512MiB"],
            &["pool", "extend", "-o", "wide"],
            &["pool", "extend", "--data", "3GiB", "--by", "1GiB"],
            &["pool", "destroy"],
            &["pool", "destroy", "--force"],
            &["pool", "setup", "--data", "two"],
            &["pool", "setup", "--device", "/dev/vg0/pool"],
            &[
                "pool",
                "setup",
                "--device",
                "/dev/vg0/pool",
                "--force",
                "-q",
            ],
            &[
                "pool",
                "setup",
                "--device",
                "/dev/vg0/pool",
                "--data",
                "2GiB",
            ],
            &["pool", "setup", "--force"],
        ],
    );
    insta::assert_snapshot!("pool-orders", text);
    assert_eq!(
        fake.changes(),
        [
            r#"POST /v1/pool {"data":"2GiB"}"#,
            "POST /v1/pool/check",
            r#"POST /v1/pool/extend {"by":"512MiB"}"#,
            "POST /v1/pool/extend {}",
            "DELETE /v1/pool",
            "DELETE /v1/pool?force=true",
            r#"POST /v1/pool {"data":null,"device":"/dev/vg0/pool"}"#,
            r#"POST /v1/pool {"data":null,"device":"/dev/vg0/pool","force":true}"#,
        ]
    );
}

#[test]
fn metadata_is_repaired_backed_up_and_restored() {
    let fake = Fake::start();
    let file = "metadata-20260301T020000Z-t12.xml.zst";
    let text = session(
        &fake,
        &[
            &["pool", "repair"],
            &["pool", "backup"],
            &["pool", "backups"],
            &["pool", "backups", "-o", "json"],
            &["pool", "restore-metadata", file],
            &["pool", "restore-metadata", "--force", file],
            &["pool", "reset", "--force"],
        ],
    );
    insta::assert_snapshot!("pool-metadata", text);
    assert_eq!(
        fake.changes(),
        [
            "POST /v1/pool/repair".to_owned(),
            "POST /v1/pool/backups".to_owned(),
            format!(r#"POST /v1/pool/restore {{"file":"{file}"}}"#),
            "POST /v1/pool/reset?force=true".to_owned(),
        ]
    );
}
