//! The thin pool: what is answered, what is refused, what is told.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use hearth_pool::space::Room;
use hearth_safeguards::fake::FakeSigns;
use hearth_safeguards::{Health, OperationGuard, Settings, Thresholds, Whose};
use hearth_types::pool::{PoolState, PoolView};
use serde_json::json;

use crate::rig::Rig;

async fn pool(rig: &Rig) -> PoolView {
    let answer = rig.get("/v1/pool").await;
    assert!(answer.status.is_success(), "{answer:?}");
    serde_json::from_value(answer.json()).unwrap()
}

async fn codes(rig: &Rig) -> Vec<String> {
    let events = rig.get("/v1/events").await.json();
    let codes = events["items"].as_array().unwrap().iter();
    let codes = codes.map(|event| event["code"].as_str().unwrap().to_owned());
    codes.filter(|code| code.starts_with("pool.")).collect()
}

#[tokio::test]
async fn a_pool_from_its_setup_to_its_end() {
    let rig = Rig::new().await;
    assert_eq!(pool(&rig).await.state, PoolState::Absent);
    rig.post("/v1/pool/check", json!(null))
        .await
        .problem(404, "not_found");
    let made = rig.post("/v1/pool", json!({ "data": "128MiB" })).await;
    assert_eq!(made.status, StatusCode::OK, "{made:?}");
    let view = pool(&rig).await;
    assert_eq!(view.state, PoolState::Up);
    assert_eq!(view.data.unwrap().size, 128 << 20);
    assert_eq!(view.block, Some(64 << 10));
    // Again is a success, another size is none.
    assert!(rig.post("/v1/pool", json!(null)).await.status.is_success());
    rig.post("/v1/pool", json!({ "data": "1GiB" }))
        .await
        .problem(409, "conflict");

    let place = rig.api.pool.place().clone();
    rig.ground.store(&place, 7).unwrap();
    rig.ground.set_users(2);
    for path in ["/v1/pool", "/v1/pool?force=true"] {
        rig.delete(path).await.problem(409, "in_use");
    }
    rig.ground.set_users(0);
    let held = rig.delete("/v1/pool").await.problem(409, "conflict");
    assert!(held["hint"].as_str().unwrap().contains("--force"), "{held}");
    assert_eq!(rig.ground.stored(&place).unwrap(), 7);
    assert!(
        rig.post("/v1/pool/check", json!(null))
            .await
            .status
            .is_success()
    );
    let gone = rig.delete("/v1/pool?force=true").await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT);
    rig.delete("/v1/pool").await.problem(404, "not_found");
    assert_eq!(pool(&rig).await.state, PoolState::Absent);
    assert_eq!(
        codes(&rig).await,
        ["pool.set_up", "pool.up", "pool.destroyed"]
    );
}

#[tokio::test]
async fn it_grows_by_order_and_says_so() {
    let rig = Rig::new().await;
    rig.post("/v1/pool/extend", json!(null))
        .await
        .problem(404, "not_found");
    rig.post("/v1/pool", json!({ "data": "64MiB" })).await;
    rig.ground.set_room(Room::Files {
        free: 100 << 30,
        total: 100 << 30,
        allotted: 0,
    });
    let grown = rig
        .post("/v1/pool/extend", json!({ "by": "64MiB" }))
        .await
        .json();
    assert_eq!(grown["data"]["size"], 128 << 20, "{grown}");
    // A tenth of the host's file system is kept back.
    assert_eq!(grown["space"]["most"], 90_u64 << 30, "{grown}");
    rig.post("/v1/pool/extend", json!({ "data": "64MiB" }))
        .await
        .problem(400, "invalid");
    let large = rig
        .post("/v1/pool/extend", json!({ "data": "91GiB" }))
        .await
        .problem(507, "exhausted");
    let said = large["detail"].as_str().unwrap();
    assert!(said.contains("90 GiB are the most"), "{said}");
    assert_eq!(codes(&rig).await, ["pool.set_up", "pool.extended"]);
}

#[tokio::test]
async fn a_host_without_device_mapper_says_what_to_do() {
    let rig = Rig::new().await;
    rig.ground.set_unavailable(true);
    let refused = rig
        .post("/v1/pool", json!(null))
        .await
        .problem(503, "unavailable");
    let hint = refused["hint"].as_str().unwrap();
    assert!(hint.contains("modprobe dm_thin_pool"), "{refused}");
    assert_eq!(pool(&rig).await.state, PoolState::Unavailable);
    assert!(!rig.dir.join("pool").exists());
    // Nobody needs one: the doctor finds nothing wrong.
    let report = rig.get("/v1/doctor").await.json();
    let checks = report["checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["name"] == "pool").unwrap();
    assert_eq!(check["status"], "ok", "{check}");
}

#[tokio::test]
async fn damage_is_told_by_name_and_by_the_doctor() {
    let rig = Rig::new().await;
    rig.post("/v1/pool", json!({ "data": "64MiB" })).await;
    rig.ground.reboot();
    let metadata = rig.api.pool.place().metadata();
    let size = metadata.metadata().unwrap().len();
    std::fs::write(&metadata, vec![0; usize::try_from(size).unwrap()]).unwrap();
    let refused = rig
        .post("/v1/pool/check", json!(null))
        .await
        .problem(409, "conflict");
    assert!(refused["detail"].as_str().unwrap().contains("superblock"));
    assert!(
        refused["hint"]
            .as_str()
            .unwrap()
            .contains("hearth pool repair")
    );
    let view = pool(&rig).await;
    assert_eq!(view.state, PoolState::Damaged);
    assert_eq!(codes(&rig).await, ["pool.set_up", "pool.failed"]);
    let report = rig.get("/v1/doctor").await.json();
    let checks = report["checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["name"] == "pool").unwrap();
    assert_eq!(check["status"], "failed", "{check}");
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let rig = Rig::new().await;
    for body in [
        json!({ "data": "1MiB" }),
        json!({ "data": "100000GiB" }),
        json!({ "data": 5 }),
        json!({ "size": "1GiB" }),
    ] {
        rig.post("/v1/pool", body).await.problem(400, "invalid");
    }
    rig.delete("/v1/pool?force=maybe")
        .await
        .problem(400, "invalid");
    assert!(!rig.dir.join("pool").exists());
}

#[tokio::test]
async fn a_host_in_trouble_gets_no_new_pool_and_is_told_why() {
    let mut rig = Rig::new().await;
    let signs = FakeSigns::default();
    let limits = Thresholds {
        held_for: Duration::from_millis(300),
        budget: Duration::from_secs(60),
        ..Thresholds::default()
    };
    let nobody = Arc::new(|_: &_| Whose::Unknown);
    let health = Health::new(Arc::new(signs.clone()), limits, nobody);
    let guard = OperationGuard::new(Settings::default(), Some(health));
    rig.api.pool = rig.api.pool.clone().with_guard(guard);

    signs.set_memory(10);
    let refused = rig.post("/v1/pool", json!(null)).await;
    let refused = refused.problem(503, "unavailable");
    let said = refused["detail"].as_str().unwrap();
    assert!(
        said.contains("memory: 1.0 % available (threshold: 5 %)"),
        "{said}"
    );
    assert!(refused["hint"].as_str().unwrap().contains("stop VMs"));
    assert!(!rig.ground.has_device());
    assert_eq!(pool(&rig).await.state, PoolState::Absent);
    let report = rig.get("/v1/doctor").await.json();
    let checks = report["checks"].as_array().unwrap();
    let name = "device-mapper operations";
    let check = checks.iter().find(|check| check["name"] == name).unwrap();
    assert_eq!(check["status"], "failed", "{check}");

    signs.set_memory(500);
    assert!(rig.post("/v1/pool", json!(null)).await.status.is_success());
    // It is put together after a reboot whatever the memory is, but not while a thread hangs.
    rig.ground.reboot();
    signs.set_memory(10);
    let check = rig.post("/v1/pool/check", json!(null)).await;
    assert!(check.status.is_success(), "{check:?}");
    signs.hold("kworker/u8:1-dm-thin", "dm_pool_commit_metadata");
    let refused = rig.delete("/v1/pool").await.problem(503, "unavailable");
    let said = refused["detail"].as_str().unwrap();
    assert!(
        said.contains("d_state") && said.contains("dm_pool_commit_metadata"),
        "{said}"
    );
    assert_eq!(pool(&rig).await.state, PoolState::Up);
    let metrics = rig.scrape().await;
    for line in [
        "hearth_dm_refusals_total{check=\"memory\"} 1",
        "hearth_dm_queue{state=\"waiting\"} 0",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}
