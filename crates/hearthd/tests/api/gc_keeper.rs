//! Garbage that is looked for by itself: told, or cleaned where the configuration names its kind.

use std::time::Duration;

use axum::body::Body;
use axum::http::Method;
use camino::Utf8PathBuf;
use hearth_plan::gc::schedule::Schedule;
use hearth_types::gc::GcKind;
use hearthd::gc::Ground;
use hearthd::gc::keeper::{GcPolicy, Keeper};
use serde_json::{Value, json};

use crate::gc::old_file;
use crate::rig::{Rig, request};

const HOURLY: Schedule = Schedule {
    every: Duration::from_secs(3600),
    low: 0,
};
/// No file system is that empty.
const LOW: Schedule = Schedule {
    every: Duration::ZERO,
    low: 100,
};

async fn keeper(rig: &Rig, schedule: Schedule, kinds: &[GcKind]) -> Keeper {
    let ground = Ground {
        engine: rig.api.engine.clone(),
        thins: rig.api.thins.clone(),
        jobs: rig.api.jobs.clone(),
    };
    let kinds = kinds.to_vec();
    Keeper::new(ground, GcPolicy { schedule, kinds }).await
}

/// What was told of garbage.
async fn told(rig: &Rig) -> Vec<Value> {
    let events = rig.get("/v1/events").await.json();
    let events = events["items"].as_array().unwrap().clone();
    let ours = |event: &Value| event["code"].as_str().unwrap().starts_with("gc.");
    events.into_iter().filter(ours).collect()
}

/// An old log and a draft of a VM.
async fn litter(rig: &Rig) -> [Utf8PathBuf; 2] {
    let web = rig.create("web").await.id;
    let files = ["console.log.9", "disks.json.new"].map(|name| rig.vm_dir(web).join(name));
    files.iter().for_each(|path| old_file(path, 2));
    files
}

#[tokio::test]
async fn what_no_key_names_is_told_once_and_stays() {
    let rig = Rig::new().await;
    let files = litter(&rig).await;
    for _ in 0..2 {
        // Each hour, and what was told before is told no more.
        let mut keeper = keeper(&rig, LOW, &[]).await;
        keeper.look().await;
        keeper.look().await;
    }
    let events = told(&rig).await;
    assert_eq!(events.len(), 2, "one of each daemon: {events:?}");
    assert_eq!(events[0]["code"], "gc.found");
    assert_eq!(events[0]["severity"], "warning");
    assert_eq!(events[0]["details"]["trigger"], "pressure");
    assert_eq!(events[0]["details"]["found"], 2);
    assert!(files.iter().all(|path| path.exists()));
}

#[tokio::test]
async fn only_kinds_that_the_key_names_are_cleaned_and_a_daemon_remembers_when() {
    let rig = Rig::new().await;
    let [log, draft] = litter(&rig).await;
    let young = rig.dir.join("images/blobs/sha256").join("b".repeat(64));
    old_file(&young, 0);
    let kinds = [GcKind::Log, GcKind::Download, GcKind::Image];
    keeper(&rig, HOURLY, &kinds).await.look().await;
    assert!(!log.exists() && draft.exists());
    assert!(young.exists(), "a pull that is tried again goes on with it");
    let images = rig.get("/v1/images").await.json();
    assert_eq!(
        images["items"].as_array().unwrap().len(),
        1,
        "new ones stay"
    );
    let events = told(&rig).await;
    assert_eq!(events[0]["code"], "gc.cleaned");
    assert_eq!(events[0]["details"]["cleaned"], 1);

    old_file(&log, 2);
    keeper(&rig, HOURLY, &kinds).await.look().await;
    assert!(log.exists(), "the hour is not over, whoever the daemon is");
    let text = rig.scrape().await;
    for line in [
        r#"hearth_gc_runs_total{trigger="interval",outcome="cleaned"} 1"#,
        r#"hearth_gc_pieces_total{kind="log",outcome="cleaned"} 1"#,
    ] {
        assert!(text.contains(line), "{line}");
    }
}

#[tokio::test]
async fn in_another_mode_than_normal_nothing_is_cleaned_by_itself() {
    let rig = Rig::new().await;
    let [log, _] = litter(&rig).await;
    let mode = json!({ "mode": "maintenance", "reason": "a test" });
    let mode = request(Method::PUT, "/v1/mode", Body::from(mode.to_string()));
    assert!(rig.send(mode).await.status.is_success());
    keeper(&rig, HOURLY, &[GcKind::Log]).await.look().await;
    assert!(log.exists());
    assert_eq!(told(&rig).await[0]["code"], "gc.found");
}
