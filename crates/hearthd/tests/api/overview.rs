//! `/v1/overview`: all that a dashboard shows, as the other routes tell it.

use hearth_types::api::Overview;
use hearth_types::mode::Mode;
use hearth_types::pool::PoolState;
use hearth_types::status::Phase;
use serde_json::{Value, json};

use crate::rig::Rig;

async fn overview(rig: &Rig) -> Overview {
    serde_json::from_value(rig.get("/v1/overview").await.json()).unwrap()
}

#[tokio::test]
async fn it_says_what_the_other_routes_say() {
    let rig = Rig::new().await;
    let empty = overview(&rig).await;
    assert!(empty.vms.is_empty() && empty.under_way.is_empty());
    rig.running("web").await;
    rig.create("db").await;
    let seen = overview(&rig).await;
    let names: Vec<&str> = seen.vms.iter().map(|vm| vm.name.as_str()).collect();
    assert_eq!(names, ["db", "web"]);
    let [db, web] = &seen.vms[..] else {
        panic!("two VMs: {seen:?}")
    };
    for glance in [db, web] {
        let vm = rig.get(&format!("/v1/vms/{}", glance.name)).await.vm();
        assert_eq!((glance.id, glance.phase), (vm.id, vm.phase));
        assert_eq!(glance.started_at, vm.started_at);
        assert_eq!(glance.memory, vm.spec.memory.0);
        assert!(!glance.breaker && !glance.held);
    }
    assert_eq!(web.phase, Phase::Running);
    // It never ran: nothing of it can be read.
    assert_eq!((db.cpu_millis, db.rss, db.started_at), (None, None, None));
    assert_eq!(seen.pool.unwrap().state, PoolState::Absent);
    let events = rig.get("/v1/events").await.json();
    let newest = events["items"].as_array().unwrap().last().unwrap()["seq"].as_u64();
    assert_eq!(Some(seen.last_event.0), newest);
    assert!(seen.last_event > empty.last_event && seen.at >= empty.at);
}

#[tokio::test]
async fn it_tells_of_holds_and_of_the_mode() {
    let rig = Rig::new().await;
    rig.running("web").await;
    assert!(
        rig.post("/v1/vms/web/hold", json!({}))
            .await
            .status
            .is_success()
    );
    let body = json!({ "mode": "maintenance", "reason": "the fan is loud" });
    let put = crate::rig::request(
        axum::http::Method::PUT,
        "/v1/mode",
        axum::body::Body::from(body.to_string()),
    );
    assert!(rig.send(put).await.status.is_success());
    let seen = overview(&rig).await;
    assert!(seen.vms[0].held);
    assert_eq!(seen.mode, Mode::Maintenance);
    assert!(seen.mode_reason.unwrap().contains("the fan is loud"));
    assert_eq!(seen.host_breaker, None);
    let stopped = rig
        .post("/v1/vms/web/stop?wait=true&timeout=50", Value::Null)
        .await;
    assert!(stopped.status.is_success());
    let gone = &overview(&rig).await.vms[0];
    assert_eq!(
        (gone.cpu_millis, gone.rss, gone.started_at),
        (None, None, None)
    );
}
