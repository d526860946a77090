//! Starting, stopping, pausing and waiting.

use axum::body::Body;
use axum::http::{Method, StatusCode};
use hearth_types::process::{GuestReport, ProcessExit};
use hearth_types::status::{Goal, Phase};
use hearth_vmm::fake::{Call, Fault};
use serde_json::{Value, json};

use crate::rig::{Rig, request, within};

fn ended_with(code: i32) -> GuestReport {
    GuestReport {
        exit: Some(ProcessExit::Code(code)),
        reason: "exited".to_owned(),
        message: None,
    }
}

#[tokio::test]
async fn a_vm_starts_pauses_resumes_restarts_and_stops() {
    let rig = Rig::new().await;
    let started = rig.running("web").await;
    assert_eq!(
        (started.phase, started.goal),
        (Phase::Running, Goal::Running)
    );
    for (action, phase) in [
        ("pause", Phase::Paused),
        ("resume", Phase::Running),
        ("restart", Phase::Running),
        ("stop", Phase::Exited),
    ] {
        let path = format!("/v1/vms/web/{action}?wait=true&timeout=50");
        let answer = rig.post(&path, Value::Null).await;
        assert_eq!(answer.status, StatusCode::OK, "{action}: {answer:?}");
        assert_eq!(answer.vm().phase, phase, "{action}");
    }
    assert!(rig.vmm.fake.alive().is_empty());
}

#[tokio::test]
async fn a_change_whose_client_hangs_up_is_made_and_acted_on() {
    let rig = Rig::new().await;
    rig.running("web").await;
    let stop = request(Method::POST, "/v1/vms/web/stop", Body::empty());
    let mut call = Box::pin(tower::ServiceExt::oneshot(rig.router(), stop));
    // It is on its way to the database.
    assert!(futures::poll!(&mut call).is_pending());
    drop(call);
    // Nothing but that change wakes the loop: the next look at everything is an hour away.
    rig.until("web", "it goes down", |vm| vm.phase == Phase::Exited)
        .await;
}

#[tokio::test]
async fn without_wait_the_answer_comes_at_once() {
    let rig = Rig::new().await;
    rig.create("web").await;
    let answer = rig.post("/v1/vms/web/start", Value::Null).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    assert_eq!(answer.vm().goal, Goal::Running);
    rig.until("web", "it runs", |vm| vm.phase == Phase::Running)
        .await;
    // Nothing to do is done at once.
    let again = rig.post("/v1/vms/web/start", Value::Null).await;
    assert_eq!(again.status, StatusCode::OK);
    let stop = rig.post("/v1/vms/web/stop", json!({ "force": true })).await;
    assert_eq!(stop.status, StatusCode::ACCEPTED);
    assert!(stop.headers.contains_key("etag"));
    rig.until("web", "it has ended", |vm| vm.phase == Phase::Exited)
        .await;
}

#[tokio::test]
async fn bodies_of_actions_may_be_absent_empty_or_null() {
    let rig = Rig::new().await;
    rig.create("web").await;
    for body in ["", "{}", "null"] {
        for action in ["stop", "start", "restart"] {
            let path = format!("/v1/vms/web/{action}?wait=true");
            let answer = rig
                .send(request(Method::POST, &path, Body::from(body)))
                .await;
            assert_eq!(
                answer.status,
                StatusCode::OK,
                "{action} {body:?}: {answer:?}"
            );
        }
    }
    let long = rig
        .post("/v1/vms/web/stop", json!({ "timeout": "2h" }))
        .await;
    long.problem(400, "invalid");
    let long = rig
        .post("/v1/vms/web/restart", json!({ "timeout": "2h" }))
        .await;
    long.problem(400, "invalid");
}

#[tokio::test]
async fn what_does_not_run_cannot_be_paused_copied_or_measured() {
    let rig = Rig::new().await;
    rig.create("web").await;
    for action in ["pause", "resume"] {
        let answer = rig
            .post(&format!("/v1/vms/web/{action}"), Value::Null)
            .await;
        let problem = answer.problem(409, "conflict");
        assert!(
            problem["hint"]
                .as_str()
                .unwrap()
                .contains("hearth start web")
        );
    }
    for path in ["stats", "archive?path=/etc"] {
        rig.get(&format!("/v1/vms/web/{path}"))
            .await
            .problem(409, "conflict");
    }
}

#[tokio::test]
async fn a_start_that_fails_says_why() {
    let rig = Rig::new().await;
    rig.vmm
        .fake
        .inject(Call::Launch, Fault::Fails("no more firmware".to_owned()));
    rig.create("web").await;
    let problem = rig
        .post("/v1/vms/web/start?wait=true", Value::Null)
        .await
        .problem(409, "conflict");
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("no more firmware"),
        "{problem}"
    );
    assert!(problem["hint"].as_str().unwrap().contains("hearth logs"));
}

#[tokio::test]
async fn a_start_that_ends_at_once_has_reached_its_goal_or_says_how_it_ended() {
    let rig = Rig::new().await;
    rig.vmm.fake.inject(Call::Launch, Fault::Dies);
    rig.create("web").await;
    let answer = rig
        .post("/v1/vms/web/start?wait=true&timeout=50", Value::Null)
        .await;
    assert!(matches!(answer.status.as_u16(), 200 | 409), "{answer:?}");
    let shown = rig
        .until("web", "it has ended", |vm| vm.last_end.is_some())
        .await;
    assert!(shown.last_end.unwrap().failure);
}

#[tokio::test]
async fn a_wait_gives_the_exit_code() {
    let rig = Rig::new().await;
    let vm = rig.running("web").await;
    let wait = rig.get("/v1/vms/web/wait?timeout=50");
    let end = async { rig.vmm.fake.guest_ends(vm.id, ended_with(42)) };
    let (answer, ()) = tokio::join!(wait, end);
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    assert_eq!(answer.json()["exit_code"], 42);
    let later = rig.get("/v1/vms/web/wait").await;
    assert_eq!(later.json()["exit_code"], 42);
}

#[tokio::test]
async fn a_wait_for_removal_stays_open_over_the_start_and_gives_the_runs_end() {
    let rig = Rig::new().await;
    let vm = rig
        .create_with("once", json!({ "auto_remove": true }))
        .await;
    let wait = rig.get("/v1/vms/once/wait?condition=removed");
    let live = async {
        let started = rig.post("/v1/vms/once/start?wait=true", Value::Null).await;
        assert_eq!(started.status, StatusCode::OK, "{started:?}");
        rig.vmm.fake.guest_ends(vm.id, ended_with(7));
    };
    let (answer, ()) = tokio::join!(wait, live);
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    assert_eq!(answer.json()["exit_code"], 7);
    rig.get("/v1/vms/once").await.problem(404, "not_found");
}

#[tokio::test]
async fn waits_and_actions_have_deadlines() {
    let rig = Rig::new().await;
    let vm = rig.running("web").await;
    let problem = rig
        .get("/v1/vms/web/wait?timeout=0")
        .await
        .problem(504, "guest_unreachable");
    assert!(
        problem["detail"].as_str().unwrap().contains("web"),
        "{problem}"
    );
    rig.vmm.fake.inject(Call::Pause, Fault::Hangs);
    let answer = rig
        .post("/v1/vms/web/pause?wait=true&timeout=0", Value::Null)
        .await;
    answer.problem(504, "guest_unreachable");
    assert!(
        rig.vmm
            .fake
            .alive()
            .iter()
            .any(|p| p.mark.vm() == Some(vm.id))
    );
}

#[tokio::test]
async fn who_waits_for_life_is_told_that_it_is_over() {
    let rig = Rig::new().await;
    let vm = rig.running("web").await;
    rig.vmm.fake.guest_ends(vm.id, ended_with(1));
    rig.until("web", "it has ended", |vm| vm.pid.is_none())
        .await;
    rig.get("/v1/vms/web/wait?condition=running")
        .await
        .problem(409, "conflict");
}

#[tokio::test]
async fn open_waits_end_with_the_daemon() {
    let rig = Rig::new().await;
    rig.running("web").await;
    let (answer, ()) = tokio::join!(rig.get("/v1/vms/web/wait"), async { rig.stop_daemon() });
    answer.problem(503, "unavailable");
}

#[tokio::test]
async fn a_stopped_wait_is_answered_at_once() {
    let rig = Rig::new().await;
    rig.create("web").await;
    let answer = within("an answer", rig.get("/v1/vms/web/wait")).await;
    assert_eq!(answer.json()["exit_code"], Value::Null);
}
