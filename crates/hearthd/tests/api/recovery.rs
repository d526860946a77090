//! The operator's words: hold, release, recover, reset-breaker, and why nothing is done.

use axum::body::Body;
use axum::http::Method;
use hearth_types::process::ProcessExit;
use hearth_types::status::{Goal, Phase};
use hearth_vmm::fake::{Call, Fault};
use serde_json::{Value, json};

use crate::rig::{Rig, request, spec};

fn broken(rig: &Rig, times: usize) {
    for _ in 0..times {
        let fault = Fault::Fails("no more firmware".to_owned());
        rig.vmm.fake.inject(Call::Launch, fault);
    }
}

/// A VM that should run, whose first start has failed, and that waits for the next one.
async fn waiting(rig: &Rig, name: &str) {
    broken(rig, 1);
    let body = json!({ "spec": spec(name, json!({ "restart": "always" })), "start": true });
    let made = rig.post("/v1/vms", body).await;
    assert!(made.status.is_success(), "{made:?}");
    rig.until(name, "it waits", |vm| vm.phase == Phase::Backoff)
        .await;
}

#[tokio::test]
async fn a_held_vm_refuses_all_but_stop_and_removal() {
    let rig = Rig::new().await;
    let running = rig.running("web").await;
    let body = json!({ "reason": "disk swap" });
    let held = rig.post("/v1/vms/web/hold", body).await.vm();
    assert_eq!(held.hold.unwrap().reason.as_deref(), Some("disk swap"));
    for action in ["start", "restart", "pause", "resume", "recover"] {
        let answer = rig
            .post(&format!("/v1/vms/web/{action}"), Value::Null)
            .await;
        let problem = answer.problem(409, "conflict");
        let (detail, hint) = (&problem["detail"], &problem["hint"]);
        assert!(detail.as_str().unwrap().contains("disk swap"), "{problem}");
        assert!(hint.as_str().unwrap().contains("hearth release web"));
    }
    let body = Body::from(spec("web", json!({})).to_string());
    let replace = request(Method::PUT, "/v1/vms/web/spec", body);
    rig.send(replace).await.problem(409, "conflict");
    // Its death is recorded and nothing done about it.
    rig.vmm.fake.crash(running.id, ProcessExit::Signal(9));
    rig.until("web", "its end is recorded", |vm| vm.pid.is_none())
        .await;
    let stopped = rig.post("/v1/vms/web/stop?wait=true", Value::Null).await;
    assert_eq!(stopped.vm().goal, Goal::Stopped);
    let again = rig.post("/v1/vms/web/start", Value::Null).await;
    again.problem(409, "conflict");
    let released = rig.post("/v1/vms/web/release", Value::Null).await.vm();
    assert_eq!(released.hold, None);
    let started = rig.post("/v1/vms/web/start?wait=true", Value::Null).await;
    assert_eq!(started.vm().phase, Phase::Running);
    rig.post("/v1/vms/web/hold", Value::Null).await.vm();
    let gone = rig.delete("/v1/vms/web?force=true&wait=true").await;
    assert!(gone.status.is_success(), "{gone:?}");
}

#[tokio::test]
async fn a_reason_is_one_short_line() {
    let rig = Rig::new().await;
    rig.create("web").await;
    for reason in ["x".repeat(201), "a\nb".to_owned()] {
        let answer = rig.post("/v1/vms/web/hold", json!({ "reason": reason }));
        answer.await.problem(400, "invalid");
    }
    let unknown = rig.post("/v1/vms/web/hold", json!({ "why": "x" })).await;
    unknown.problem(400, "invalid");
}

#[tokio::test]
async fn recover_starts_what_waits_and_says_what_it_did() {
    let rig = Rig::new().await;
    rig.running("web").await;
    rig.create("idle").await;
    broken(&rig, 1);
    let body = json!({ "spec": spec("once", json!({})), "start": true });
    rig.post("/v1/vms", body).await;
    rig.until("once", "it is given up", |vm| vm.phase == Phase::Failed)
        .await;
    let said = rig.post("/v1/recover", Value::Null).await.json();
    let detail = |said: &Value, name: &str| {
        let items = said["items"].as_array().unwrap();
        let item = items.iter().find(|item| item["name"] == name).unwrap();
        (item["done"].as_bool().unwrap(), item["detail"].to_string())
    };
    assert_eq!(said["items"].as_array().unwrap().len(), 3);
    assert!(detail(&said, "web").1.contains("it runs"));
    assert!(detail(&said, "idle").1.contains("should not run"));
    assert!(!detail(&said, "once").0, "{said}");
    let said = rig
        .post("/v1/vms/once/recover", json!({ "force": true }))
        .await;
    assert_eq!(said.json()["done"], true, "{said:?}");
    rig.until("once", "it runs", |vm| vm.phase == Phase::Running)
        .await;
}

#[tokio::test]
async fn reset_breaker_answers_with_the_vm_and_lets_it_start() {
    let rig = Rig::new().await;
    waiting(&rig, "web").await;
    let reset = rig.post("/v1/vms/web/reset-breaker", Value::Null).await;
    assert_eq!(reset.vm().breaker, None);
    rig.until("web", "it runs", |vm| vm.phase == Phase::Running)
        .await;
    let all = rig.post("/v1/reset-breakers", Value::Null).await.json();
    assert_eq!(all["items"], json!([]), "nothing is left to forget");
    let nobody = rig.post("/v1/vms/nobody/reset-breaker", Value::Null).await;
    nobody.problem(404, "not_found");
}

#[tokio::test]
async fn the_plan_of_one_vm_says_why() {
    let rig = Rig::new().await;
    rig.running("web").await;
    rig.post("/v1/vms/web/hold", Value::Null).await.vm();
    let plan = rig.get("/v1/vms/web/plan").await.json();
    assert_eq!((&plan["name"], &plan["steps"]), (&json!("web"), &json!([])));
    let reasons = plan["reasons"].as_array().unwrap();
    let topics: Vec<_> = reasons.iter().map(|reason| &reason["topic"]).collect();
    for topic in ["goal", "phase", "hold", "policy", "breaker", "mode"] {
        assert!(topics.contains(&&json!(topic)), "{topic}: {plan}");
    }
    rig.get("/v1/vms/nobody/plan")
        .await
        .problem(404, "not_found");
}

#[tokio::test]
async fn a_vm_shows_its_failures_with_their_causes_and_what_is_kept_of_its_crashes() {
    let rig = Rig::new().await;
    for (said, cause) in [
        ("no more firmware", "start"),
        ("cannot open /dev/kvm", "kvm"),
        ("cannot set up guest memory", "memory"),
    ] {
        let fault = Fault::Fails(said.to_owned());
        rig.vmm.fake.inject(Call::Launch, fault);
        let dumps = json!({ "crash_dump": { "vmm_core": true, "guest_memory": true } });
        let body = json!({ "spec": spec(cause, dumps), "start": true });
        let made = rig.post("/v1/vms", body).await;
        assert!(made.status.is_success(), "{made:?}");
        let vm = rig
            .until(cause, "it has failed", |vm| vm.phase == Phase::Failed)
            .await;
        let shown = rig.get(&format!("/v1/vms/{cause}")).await.json();
        assert_eq!(shown["failures"][0]["cause"], cause, "{shown}");
        assert_eq!(
            (&shown["dumps"], &shown["last_core"]),
            (&Value::Null, &Value::Null)
        );
        let folder = rig.vm_dir(vm.id).join("dumps");
        std::fs::create_dir_all(&folder).unwrap();
        let core = folder.join("vmm-20260101T000000.000Z.core");
        std::fs::write(&core, "core").unwrap();
        let shown = rig.get(&format!("/v1/vms/{cause}")).await.json();
        assert_eq!(shown["dumps"][0]["file"], core.as_str(), "{shown}");
        assert_eq!(shown["dumps"][0]["kind"], "vmm_core");
        let plan = rig.get(&format!("/v1/vms/{cause}/plan")).await.json();
        assert!(
            plan.to_string().contains(&format!("cause: {cause}")),
            "{plan}"
        );
    }
    let events = rig.get("/v1/events").await.json();
    let details = events.to_string();
    assert!(details.contains("\"cause\":\"kvm\""), "{details}");
    // Lists stay short.
    let list = rig.get("/v1/vms").await.json();
    assert_eq!(list["items"][0]["failures"], Value::Null);
}
