//! `hearth db`: what it shows and asks.

use axum::Router;
use axum::routing::{get, post};
use serde_json::{Value, json};

use crate::fake::Fake;
use crate::runner::session;

/// The fake daemon's routes of the database.
pub(crate) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new()
        .route("/v1/db", get(async || axum::Json(view())))
        .route(
            "/v1/db/backup",
            post(async || axum::Json(backup("2026-03-01T12:00:00Z", "20260301T120000Z"))),
        )
}

fn backup(at: &str, name: &str) -> Value {
    json!({"file": format!("/var/lib/hearth/backups/hearth-{name}.db"), "at": at, "bytes": 1_400_000})
}

fn view() -> Value {
    json!({
        "file": "/var/lib/hearth/hearth.db", "bytes": 1_500_000, "schema": 5,
        "backups": [backup("2026-02-28T12:00:00Z", "20260228T120000Z"), backup("2026-02-27T12:00:00Z", "20260227T120000Z")],
        "interval_secs": 86_400, "keep": 7,
        "failure": {"at": "2026-03-01T11:55:00Z", "damaged": false, "reason": "no space is left on the disk"}
    })
}

#[test]
fn backups_are_listed_and_made() {
    let fake = Fake::start();
    let text = session(
        &fake,
        &[
            &["db", "status"],
            &["db", "backup"],
            &["db", "backup", "-o", "json"],
        ],
    );
    insta::assert_snapshot!("db", text);
    assert_eq!(fake.changes(), ["POST /v1/db/backup", "POST /v1/db/backup"]);
}
