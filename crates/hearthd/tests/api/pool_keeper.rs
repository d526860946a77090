//! The pool's keeper: it grows in time, says what changes, backs up, and has VMs wait.

use std::time::Duration;

use axum::body::Body;
use axum::http::Method;
use hearth_plan::PoolRoom;
use hearth_pool::Limits;
use hearth_pool::space::Room;
use hearthd::pool::Keeper;
use serde_json::json;

use crate::rig::{Rig, request};

/// Blocks of 64 KiB in the pool of these tests.
const BLOCKS: u64 = 1024;
const NEVER: Duration = Duration::ZERO;

async fn codes(rig: &Rig) -> Vec<String> {
    let events = rig.get("/v1/events").await.json();
    let codes = events["items"].as_array().unwrap().iter();
    let codes = codes.map(|event| event["code"].as_str().unwrap().to_owned());
    codes
        .filter(|code| code.starts_with("pool.") && code != "pool.set_up")
        .collect()
}

async fn with_pool(free: u64) -> Rig {
    let rig = Rig::new().await;
    rig.post("/v1/pool", json!({ "data": "64MiB" })).await;
    rig.ground.set_room(Room::Files {
        free,
        total: 100 << 30,
        allotted: 64 << 20,
    });
    rig
}

fn keeper(rig: &Rig, limits: Limits, backups: Duration) -> Keeper {
    let pool = rig.api.pool.clone().with_limits(limits);
    Keeper::new(rig.api.engine.clone(), pool, backups)
}

#[tokio::test]
async fn low_water_is_followed_by_more_room() {
    let rig = with_pool(100 << 30).await;
    let mut keeper = keeper(&rig, Limits::default(), NEVER);
    let calm = keeper.look().await;
    assert!(codes(&rig).await.is_empty());
    rig.ground.set_full(BLOCKS - 50, 11);
    keeper.look().await;
    assert_eq!(codes(&rig).await, ["pool.extended"]);
    assert_eq!(
        rig.ground.size(rig.api.pool.place()),
        Some((64 << 20) + (1 << 30))
    );
    assert_eq!(keeper.look().await, calm);
    let scraped = rig.get("/metrics").await;
    let text = String::from_utf8(scraped.bytes.to_vec()).unwrap();
    for line in [
        "hearth_pool_extensions_total{outcome=\"done\"} 1",
        "hearth_pool_state{state=\"up\"} 1",
        "hearth_pool_bytes{part=\"data\"} 1140850688",
    ] {
        assert!(text.contains(line), "{line} is missing in\n{text}");
    }
}

#[tokio::test]
async fn without_room_it_says_so_once_and_vms_wait() {
    // A tenth of 100 GiB is kept back, so there is none.
    let rig = with_pool(10 << 30).await;
    let mut keeper = keeper(&rig, Limits::default(), NEVER);
    keeper.look().await;
    assert_eq!(rig.api.engine.pool_room(), PoolRoom::Enough);
    rig.ground.set_full(BLOCKS - 80, 11);
    let soon = keeper.look().await;
    assert!(soon <= Duration::from_secs(1));
    keeper.look().await;
    assert_eq!(codes(&rig).await, ["pool.low"]);
    assert!(!rig.api.engine.pool_room().is_tight());
    rig.ground.set_full(BLOCKS - 10, 11);
    for _ in 0..3 {
        keeper.look().await;
    }
    assert_eq!(codes(&rig).await, ["pool.low", "pool.tight"]);
    assert!(rig.api.engine.pool_room().is_tight());
    // A little more than VMs stopped at is not enough; room on the host is.
    rig.ground.set_full(BLOCKS - 60, 11);
    keeper.look().await;
    assert!(rig.api.engine.pool_room().is_tight());
    rig.ground.set_room(Room::Files {
        free: 50 << 30,
        total: 100 << 30,
        allotted: 64 << 20,
    });
    keeper.look().await;
    assert_eq!(rig.api.engine.pool_room(), PoolRoom::Enough);
    assert_eq!(
        codes(&rig).await,
        ["pool.low", "pool.tight", "pool.extended", "pool.room"]
    );
}

#[tokio::test]
async fn a_growth_that_fails_is_told_once_and_tried_again() {
    let rig = with_pool(100 << 30).await;
    let mut keeper = keeper(&rig, Limits::default(), NEVER);
    rig.ground.set_full(BLOCKS - 50, 11);
    rig.ground.set_refuses(true);
    for _ in 0..3 {
        keeper.look().await;
    }
    assert_eq!(codes(&rig).await, ["pool.extension_failed", "pool.low"]);
    rig.ground.set_refuses(false);
    keeper.look().await;
    let size = rig.ground.size(rig.api.pool.place());
    assert_eq!(size, Some((64 << 20) + (1 << 30)));
}

#[tokio::test]
async fn in_mode_readonly_it_only_tells() {
    let rig = with_pool(100 << 30).await;
    let mut keeper = keeper(&rig, Limits::default(), Duration::from_secs(1));
    let word = json!({ "mode": "readonly", "reason": "test" }).to_string();
    let set = rig
        .send(request(Method::PUT, "/v1/mode", Body::from(word)))
        .await;
    assert!(set.status.is_success(), "{set:?}");
    rig.ground.set_full(BLOCKS - 50, 11);
    keeper.look().await;
    assert_eq!(rig.ground.size(rig.api.pool.place()), Some(64 << 20));
    assert_eq!(codes(&rig).await, ["pool.low"]);
}

#[tokio::test]
async fn backups_are_made_when_they_are_due() {
    let rig = with_pool(100 << 30).await;
    let mut keeper = keeper(&rig, Limits::default(), Duration::from_secs(3600));
    let mut changes = rig.api.engine.changes();
    keeper.look().await;
    tokio::time::timeout(Duration::from_secs(30), async {
        while codes(&rig).await.is_empty() {
            changes.changed().await.unwrap();
        }
    })
    .await
    .unwrap();
    assert_eq!(codes(&rig).await, ["pool.backed_up"]);
    keeper.look().await;
    let listed = rig.get("/v1/pool/backups").await.json();
    assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
    let another = rig.post("/v1/pool/backups", json!(null)).await;
    assert!(another.status.is_success(), "{another:?}");
}

#[tokio::test]
async fn repair_restore_and_reset_by_order() {
    let rig = with_pool(100 << 30).await;
    rig.ground.store(rig.api.pool.place(), 7).unwrap();
    let backup = rig.post("/v1/pool/backups", json!(null)).await.json();
    rig.post("/v1/pool/restore", json!({ "file": "../../etc/passwd" }))
        .await
        .problem(404, "not_found");
    let restored = rig
        .post("/v1/pool/restore", json!({ "file": backup["file"] }))
        .await
        .json();
    assert!(restored["kept"].is_string(), "{restored}");
    assert_eq!(
        rig.post("/v1/pool/repair", json!(null)).await.json(),
        json!({})
    );
    rig.post("/v1/pool/reset", json!(null))
        .await
        .problem(409, "conflict");
    let reset = rig
        .post("/v1/pool/reset?force=true", json!(null))
        .await
        .json();
    assert_eq!(reset["state"], "up", "{reset}");
    assert_eq!(rig.ground.formatted(), 2);
}
