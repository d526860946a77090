//! A pool whose data is on a block device: what is answered, and what its keeper does when the device comes late or
//! becomes larger.

use std::time::Duration;

use hearth_types::pool::{PoolState, PoolView};
use hearthd::pool::Keeper;
use serde_json::{Value, json};

use crate::rig::Rig;

const DISK: &str = "/dev/vg/pool";
const GIB: u64 = 1 << 30;
/// What a device keeps free of data.
const ENDS: u64 = 2 << 20;

async fn pool(rig: &Rig) -> PoolView {
    serde_json::from_value(rig.get("/v1/pool").await.json()).unwrap()
}

async fn codes(rig: &Rig) -> Vec<String> {
    let events = rig.get("/v1/events").await.json();
    let codes = events["items"].as_array().unwrap().iter();
    let codes = codes.map(|event| event["code"].as_str().unwrap().to_owned());
    codes.filter(|code| code.starts_with("pool.")).collect()
}

/// With a pool on a device of a GiB.
async fn with_pool() -> Rig {
    let rig = Rig::new().await;
    rig.ground.attach(DISK, GIB + ENDS);
    let made = rig.post("/v1/pool", json!({ "device": DISK })).await;
    assert!(made.status.is_success(), "{made:?}");
    rig
}

fn keeper(rig: &Rig) -> Keeper {
    Keeper::new(rig.api.engine.clone(), rig.api.pool.clone(), Duration::ZERO)
}

#[tokio::test]
async fn what_a_device_is_good_for_is_answered() {
    let rig = Rig::new().await;
    rig.ground.attach(DISK, GIB + ENDS);
    let asked = async |body: Value, status: u16, code: &str| {
        let said = rig.post("/v1/pool", body).await.problem(status, code);
        assert!(said["hint"].is_string(), "{said}");
        said["detail"].as_str().unwrap().to_owned()
    };
    let both = json!({ "device": DISK, "data": "1GiB" });
    asked(both, 400, "invalid").await;
    asked(json!({ "device": "/dev/none" }), 400, "invalid").await;
    let used = |user: Option<&str>| {
        let user = user.map(str::to_owned);
        rig.ground.with_disk(DISK, |disk| disk.user = user);
    };
    used(Some("is mounted at /srv"));
    for force in [false, true] {
        let body = json!({ "device": DISK, "force": force });
        let said = asked(body, 409, "in_use").await;
        assert!(said.contains("/srv"), "{said}");
    }
    used(None);
    let held = |disk: &mut hearth_pool::fake::FakeDisk| disk.holds = Some("swap".to_owned());
    rig.ground.with_disk(DISK, held);
    let said = asked(json!({ "device": DISK }), 409, "conflict").await;
    assert!(said.contains("holds swap"), "{said}");
    assert_eq!(pool(&rig).await.state, PoolState::Absent);
    let made = rig
        .post("/v1/pool", json!({ "device": DISK, "force": true }))
        .await;
    let view: PoolView = serde_json::from_value(made.json()).unwrap();
    assert_eq!(view.data.unwrap().size, GIB);
    assert_eq!(view.data_device.unwrap().volume.unwrap(), "vg/pool");
    rig.ground.attach("/dev/other", GIB);
    let other = json!({ "device": "/dev/other" });
    asked(other, 409, "conflict").await;
    assert_eq!(codes(&rig).await, ["pool.set_up"]);
}

#[tokio::test]
async fn a_device_that_comes_late_is_waited_for() {
    let rig = with_pool().await;
    rig.ground.store(rig.api.pool.place(), 7).unwrap();
    rig.ground.reboot();
    let disk = rig.ground.detach(DISK).unwrap();
    let mut keeper = keeper(&rig);
    for _ in 0..2 {
        keeper.look().await;
        let view = pool(&rig).await;
        assert_eq!(view.state, PoolState::Unknown);
        assert!(view.data_device.unwrap().missing);
    }
    let refused = rig.post("/v1/pool", json!(null)).await;
    refused.problem(503, "unavailable");
    rig.ground.attach_again("/dev/sdq", disk);
    keeper.look().await;
    assert_eq!(pool(&rig).await.state, PoolState::Up);
    assert_eq!(rig.ground.stored(rig.api.pool.place()).unwrap(), 7);
    assert_eq!(codes(&rig).await, ["pool.set_up", "pool.up"]);
}

#[tokio::test]
async fn a_device_that_has_become_larger_is_taken_by_itself_and_one_that_is_low_says_how() {
    let rig = with_pool().await;
    let mut keeper = keeper(&rig);
    keeper.look().await;
    let larger = |disk: &mut hearth_pool::fake::FakeDisk| disk.bytes = 2 * GIB + ENDS;
    rig.ground.with_disk(DISK, larger);
    keeper.look().await;
    assert_eq!(pool(&rig).await.data.unwrap().size, 2 * GIB);
    assert_eq!(codes(&rig).await, ["pool.set_up", "pool.extended"]);
    rig.ground.set_full(2 * GIB / 65536 - 2000, 11);
    keeper.look().await;
    let events = rig.get("/v1/events").await.json();
    for (code, word) in [
        ("pool.extended", "its device was seen to be larger"),
        ("pool.low", "lvextend --size +10G vg/pool"),
    ] {
        let mut all = events["items"].as_array().unwrap().iter();
        let told = all.find(|event| event["code"] == code).unwrap();
        let said = told["message"].as_str().unwrap();
        assert!(said.contains(word), "{said}");
    }
}
