//! `/metrics`: the text is OpenMetrics, and its numbers follow what happens.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use axum::http::StatusCode;
use hearth_types::api::Health;
use hearth_types::process::{GuestReport, ProcessExit};
use hearth_types::status::Phase;
use hearth_vmm::fake::{Call, Fault};
use serde_json::{Value, json};

use crate::openmetrics::Scrape;
use crate::rig::{Rig, within};

/// How often a number is looked at when nobody says that something changed.
const LOOK: Duration = Duration::from_millis(500);

async fn text(rig: &Rig) -> String {
    let answer = rig.get("/metrics").await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    String::from_utf8(answer.bytes.to_vec()).unwrap()
}

async fn scrape(rig: &Rig) -> Scrape {
    Scrape::read(&text(rig).await)
}

/// Waits until a number is reached: counting follows what it counts.
async fn reaches(rig: &Rig, series: &str, least: f64) -> Scrape {
    let mut changes = rig.api.engine.changes();
    within(series, async {
        loop {
            let seen = scrape(rig).await;
            if seen.value(series) >= least {
                return seen;
            }
            // Either is a reason to look again.
            let _either = tokio::time::timeout(LOOK, changes.changed()).await;
        }
    })
    .await
}

/// What Prometheus' own reference reader says; `None` where it is not installed.
fn reference_reader(text: &str) -> Option<Result<usize, String>> {
    const PROGRAM: &str = "
import sys
try:
    from prometheus_client.openmetrics.parser import text_string_to_metric_families as read
except ImportError:
    sys.exit(77)
print(len(list(read(sys.stdin.read()))))
";
    // Debian's module belongs to Debian's Python, whichever else comes first in PATH.
    let debian = "/usr/bin/python3";
    let python = if std::path::Path::new(debian).exists() {
        debian
    } else {
        "python3"
    };
    let mut child = Command::new(python)
        .args(["-c", PROGRAM])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .ok()?;
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    match output.status.code() {
        Some(77) => None,
        Some(0) => {
            let count = String::from_utf8_lossy(&output.stdout).trim().parse();
            Some(Ok(count.unwrap()))
        }
        _ => Some(Err(String::from_utf8_lossy(&output.stderr).into_owned())),
    }
}

#[tokio::test]
async fn the_text_is_openmetrics() {
    let rig = Rig::new().await;
    rig.running("web").await;
    let answer = rig.get("/metrics").await;
    assert_eq!(
        answer.header("content-type"),
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    );
    let text = String::from_utf8(answer.bytes.to_vec()).unwrap();
    let scrape = Scrape::read(&text);
    for name in scrape.samples.keys() {
        assert!(
            name.starts_with("hearth_") || name.starts_with("process_"),
            "{name}"
        );
    }
    match reference_reader(&text) {
        Some(read) => assert_eq!(read, Ok(scrape.families.len())),
        None => println!("SKIP: the reference reader needs python3-prometheus-client"),
    }
}

#[tokio::test]
async fn vms_add_no_series_and_their_names_are_not_told() {
    let rig = Rig::new().await;
    let before = text(&rig).await;
    for name in ["secret-a", "secret-b"] {
        let vm = rig.running(name).await;
        rig.vmm.fake.crash(vm.id, ProcessExit::Signal(9));
        rig.until(name, "it has ended", |vm| vm.last_end.is_some())
            .await;
    }
    let after = text(&rig).await;
    let series = |text| Scrape::read(text).samples.into_keys().collect::<Vec<_>>();
    assert_eq!(series(&before), series(&after));
    assert!(!after.contains("secret"), "{after}");
}

#[tokio::test]
async fn numbers_follow_what_happens() {
    let rig = Rig::new().await;
    rig.create("web").await;
    let seen = scrape(&rig).await;
    assert_eq!(seen.value(r#"hearth_vms{phase="created"}"#), 1.0);
    assert_eq!(seen.value(r#"hearth_leases_used{kind="address"}"#), 1.0);
    assert_eq!(
        seen.value(r#"hearth_leases_limit{kind="address"}"#),
        65533.0
    );
    assert!(seen.value(r#"hearth_store_commits_total{outcome="done"}"#) >= 1.0);
    assert!(seen.value("hearth_reconcile_last_success_timestamp_seconds") > 1.0e9);
    assert!(seen.value("process_resident_memory_bytes") > 1.0e6);
    assert!(seen.value("process_open_fds") < seen.value("process_max_fds"));

    let started = rig.post("/v1/vms/web/start?wait=true", Value::Null).await;
    let vm = started.vm();
    let taken = r#"hearth_steps_total{kind="start_vmm",outcome="done"}"#;
    let seen = reaches(&rig, taken, 1.0).await;
    assert_eq!(seen.value(r#"hearth_vms{phase="running"}"#), 1.0);
    assert_eq!(seen.value(r#"hearth_vms{phase="created"}"#), 0.0);

    let report = GuestReport {
        exit: Some(ProcessExit::Code(3)),
        reason: "exited".to_owned(),
        message: None,
    };
    rig.vmm.fake.guest_ends(vm.id, report);
    rig.until("web", "it has ended", |vm| vm.phase == Phase::Failed)
        .await;
    let seen = reaches(
        &rig,
        r#"hearth_vm_orphaned_total{reason="process_dead"}"#,
        1.0,
    )
    .await;
    assert_eq!(
        seen.value(r#"hearth_vm_run_ends_total{class="workload_failed"}"#),
        1.0
    );
    assert_eq!(seen.value("hearth_vm_time_to_detect_seconds_count"), 1.0);
    assert_eq!(seen.value(r#"hearth_vms{phase="failed"}"#), 1.0);
    // Its restart policy is `no`: nothing was tried, and nobody is called.
    assert_eq!(seen.value(r#"hearth_vms_down{state="given_up"}"#), 0.0);
    assert_eq!(seen.value("hearth_vm_recovery_given_up_total"), 0.0);
    assert_eq!(
        seen.value(r#"hearth_process_restart_total{reason="workload_failed"}"#),
        0.0
    );
}

#[tokio::test]
async fn a_stop_by_the_user_is_no_failure() {
    let rig = Rig::new().await;
    rig.running("web").await;
    rig.post("/v1/vms/web/stop?wait=true", json!({ "force": true }))
        .await;
    let seen = scrape(&rig).await;
    for reason in ["process_dead", "host_rebooted", "unrecorded"] {
        assert_eq!(
            seen.value(&format!("hearth_vm_orphaned_total{{reason=\"{reason}\"}}")),
            0.0
        );
    }
    for state in ["waiting", "given_up"] {
        assert_eq!(
            seen.value(&format!("hearth_vms_down{{state=\"{state}\"}}")),
            0.0
        );
    }
}

#[tokio::test]
async fn downtime_lasts_until_the_guest_answers() {
    let rig = Rig::new().await;
    if !rig.vmm.agents.allow() {
        return;
    }
    rig.create_with("web", json!({ "restart": "always" })).await;
    rig.post("/v1/vms/web/start?wait=true", Value::Null).await;
    let healthy = |vm: &hearth_types::api::Vm| vm.health == Health::Healthy;
    let vm = rig.until("web", "it is healthy", healthy).await;
    rig.vmm.agents.end(&rig.vm_dir(vm.id));
    rig.vmm.fake.crash(vm.id, ProcessExit::Signal(11));
    let seen = reaches(&rig, "hearth_vm_downtime_seconds_count", 1.0).await;
    assert_eq!(
        seen.value(r#"hearth_vm_recovery_attempts_total{outcome="restarted"}"#),
        1.0
    );
    assert_eq!(
        seen.value(r#"hearth_process_restart_total{reason="vmm_crashed"}"#),
        1.0
    );
    let (down, recover) = (
        seen.value("hearth_vm_downtime_seconds_sum"),
        seen.value("hearth_vm_time_to_recover_seconds_sum"),
    );
    assert!(down >= recover && recover > 0.0, "{down} {recover}");
}

#[tokio::test]
async fn a_guest_that_falls_silent_fails_its_checks() {
    let rig = Rig::new().await;
    if !rig.vmm.agents.allow() {
        return;
    }
    rig.running("web").await;
    let healthy = |vm: &hearth_types::api::Vm| vm.health == Health::Healthy;
    let vm = rig.until("web", "it is healthy", healthy).await;
    let seen = reaches(&rig, r#"hearth_vm_health_checks_total{check="agent"}"#, 1.0).await;
    assert_eq!(
        seen.value(r#"hearth_vm_health_check_failures_total{check="agent"}"#),
        0.0
    );
    rig.vmm.agents.end(&rig.vm_dir(vm.id));
    rig.vmm.agents.forbid();
    // The next check is due in half a minute of this clock.
    tokio::time::pause();
    let seen = reaches(
        &rig,
        r#"hearth_vm_health_check_failures_total{check="agent"}"#,
        3.0,
    )
    .await;
    assert!(seen.value(r#"hearth_vm_health_checks_total{check="agent"}"#) >= 4.0);
    assert_eq!(seen.value(r#"hearth_vms_health{health="unhealthy"}"#), 1.0);
}

#[tokio::test]
async fn a_guest_that_is_being_stopped_may_be_silent() {
    let rig = Rig::new().await;
    if !rig.vmm.agents.allow() {
        return;
    }
    rig.running("web").await;
    let healthy = |vm: &hearth_types::api::Vm| vm.health == Health::Healthy;
    let vm = rig.until("web", "it is healthy", healthy).await;
    rig.vmm.agents.end(&rig.vm_dir(vm.id));
    rig.vmm.agents.forbid();
    rig.vmm.fake.inject(Call::PowerButton, Fault::Hangs);
    let stop = json!({ "timeout": "10m" });
    rig.post("/v1/vms/web/stop", stop).await;
    rig.until("web", "it is stopping", |vm| vm.phase == Phase::Stopping)
        .await;
    tokio::time::pause();
    // As many checks as would make it unhealthy, were any made.
    tokio::time::sleep(Duration::from_secs(300)).await;
    let seen = scrape(&rig).await;
    assert_eq!(seen.value(r#"hearth_vms_health{health="unhealthy"}"#), 0.0);
    assert_eq!(
        seen.value(r#"hearth_vm_health_check_failures_total{check="agent"}"#),
        0.0
    );
}
