//! What is counted and told of deaths and recoveries, in virtual time.

use std::time::Duration;

use hearth_sim::{Kind, SimUnit};
use hearth_types::OwnerMark;
use hearth_types::ids::VmId;
use hearth_types::observe::{ProcessRole, UnitState};
use hearth_types::process::ProcessExit;
use hearth_types::spec::RestartPolicy;
use hearth_types::status::{Goal, Phase};

use super::openmetrics::Scrape;
use super::told::Told;
use super::world::{Life, Place, World, root, spec};

const DETECTED: &str = "orphaned vm detected";
const ATTEMPT: &str = "attempting vm recovery";
const RECONNECTED: &str = "vm recovered via reconnection";
const RECOVERED: &str = "vm recovered successfully";
const FAILED: &str = "vm recovery failed";
const GIVEN_UP: &str = "vm recovery failed completely";

async fn scrape(life: &Life) -> Scrape {
    Scrape::read(&life.engine.scrape().await.unwrap())
}

fn kill(life: &Life, vm: VmId) {
    life.rooms.change(|host| {
        let pid = host.vmms(vm).next().unwrap().identity.pid;
        host.end(pid, ProcessExit::Signal(11), None);
    });
}

fn attempts(seen: &Scrape, outcome: &str) -> f64 {
    seen.value(&format!(
        "hearth_vm_recovery_attempts_total{{outcome=\"{outcome}\"}}"
    ))
}

/// Every line of the recovery names its VM and its reason.
fn all_name_their_vm(told: &Told, vm: VmId, messages: &[&str]) {
    for message in messages {
        let lines = told.of(message);
        assert!(!lines.is_empty(), "nobody said: {message}");
        for line in lines {
            assert_eq!(line.field("vm_id"), vm.to_string(), "{line:?}");
            assert_eq!(line.field("vm_name"), "web", "{line:?}");
            assert!(!line.field("reason").is_empty(), "{line:?}");
        }
    }
}

#[test]
fn a_vmm_that_crashes_is_detected_and_recovered() {
    if !root() {
        return;
    }
    World::new().live(async |life| {
        let told = Told::listen();
        let mut web = spec("web");
        web.restart = RestartPolicy::Always;
        let vm = life.create(web, Goal::Running).await;
        life.settled("it runs").await;
        assert_eq!(told.story("web"), [""; 0], "a first start is no recovery");
        kill(life, vm);
        life.until("it has ended", |rows, _| rows[0].status.last_end.is_some())
            .await;
        assert_eq!(
            scrape(life)
                .await
                .value(r#"hearth_vms_down{state="waiting"}"#),
            1.0
        );
        life.settled("it runs again").await;
        told.hears("web", &[DETECTED, ATTEMPT, RECOVERED]).await;
        all_name_their_vm(&told, vm, &[DETECTED, ATTEMPT, RECOVERED]);
        let seen = scrape(life).await;
        assert_eq!(
            seen.value(r#"hearth_vm_orphaned_total{reason="process_dead"}"#),
            1.0
        );
        assert_eq!(
            seen.value(r#"hearth_vm_run_ends_total{class="vmm_crashed"}"#),
            1.0
        );
        assert_eq!(
            seen.value(r#"hearth_process_restart_total{reason="vmm_crashed"}"#),
            1.0
        );
        assert_eq!(attempts(&seen, "restarted"), 1.0);
        assert_eq!(attempts(&seen, "failed"), 0.0);
        // The shim needs a moment for its record, and the back-off begins with a second.
        assert_eq!(seen.value("hearth_vm_time_to_detect_seconds_count"), 1.0);
        assert_eq!(seen.value("hearth_vm_time_to_recover_seconds_count"), 1.0);
        let recover = seen.value("hearth_vm_time_to_recover_seconds_sum");
        assert!(
            (0.7..30.0).contains(&recover),
            "{recover} s of virtual time"
        );
        assert!(seen.value("hearth_vm_time_to_detect_seconds_sum") < recover);
    });
}

#[test]
fn attempts_that_fail_are_counted_until_the_policy_gives_up() {
    if !root() {
        return;
    }
    World::new().live(async |life| {
        let told = Told::listen();
        let mut web = spec("web");
        web.restart = RestartPolicy::OnFailure(Some(2));
        let vm = life.create(web, Goal::Running).await;
        life.settled("it runs").await;
        life.rooms
            .change(|host| host.faults.insert("start_vmm", u32::MAX));
        kill(life, vm);
        life.until("it is given up", |rows, _| {
            rows[0].status.phase == Phase::Failed
        })
        .await;
        let expected = [DETECTED, ATTEMPT, FAILED, ATTEMPT, FAILED, GIVEN_UP];
        told.hears("web", &expected).await;
        all_name_their_vm(&told, vm, &[FAILED, GIVEN_UP]);
        assert!(
            told.of(FAILED)[0]
                .field("reason")
                .contains("simulated fault")
        );
        let seen = scrape(life).await;
        assert_eq!(attempts(&seen, "failed"), 2.0);
        assert_eq!(attempts(&seen, "restarted"), 0.0);
        assert_eq!(seen.value("hearth_vm_recovery_given_up_total"), 1.0);
        assert_eq!(
            seen.value(r#"hearth_vm_start_failures_total{step="start_vmm"}"#),
            2.0
        );
        assert_eq!(
            seen.value(r#"hearth_steps_total{kind="start_vmm",outcome="failed"}"#),
            2.0
        );
        assert_eq!(seen.value(r#"hearth_vms_down{state="given_up"}"#), 1.0);
        assert_eq!(seen.value("hearth_vms_flapping"), 1.0);
    });
}

#[test]
fn a_first_start_that_fails_is_recovered_without_a_death() {
    if !root() {
        return;
    }
    World::new().live(async |life| {
        let told = Told::listen();
        life.rooms
            .change(|host| host.faults.insert("ensure_tap", 1));
        let mut web = spec("web");
        web.restart = RestartPolicy::Always;
        life.create(web, Goal::Running).await;
        life.settled("it runs").await;
        told.hears("web", &[ATTEMPT, RECOVERED]).await;
        let seen = scrape(life).await;
        assert_eq!(
            seen.value(r#"hearth_vm_start_failures_total{step="ensure_tap"}"#),
            1.0
        );
        assert_eq!(
            seen.value(r#"hearth_process_restart_total{reason="start_failed"}"#),
            1.0
        );
        assert_eq!(seen.value("hearth_vm_time_to_recover_seconds_count"), 0.0);
    });
}

#[test]
fn a_network_that_is_not_ready_blocks_starts() {
    if !root() {
        return;
    }
    World::new().live(async |life| {
        life.rooms
            .change(|host| host.faults.insert("ensure_bridge", 1));
        let mut web = spec("web");
        web.restart = RestartPolicy::Always;
        life.create(web, Goal::Running).await;
        life.settled("it runs").await;
        let seen = scrape(life).await;
        assert_eq!(
            seen.value(r#"hearth_steps_total{kind="ensure_bridge",outcome="failed"}"#),
            1.0
        );
        let blocked = seen.value(r#"hearth_steps_total{kind="ensure_tap",outcome="blocked"}"#);
        assert_eq!(blocked, 1.0);
    });
}

#[test]
fn an_unrecorded_vmm_is_reconnected() {
    if !root() {
        return;
    }
    let mut world = World::new();
    let place = Place {
        side: "after",
        step: "launch",
        nth: 1,
    };
    let ended = world.live_until(place, async |life| {
        life.create(spec("web"), Goal::Running).await;
        life.settled("it runs").await;
    });
    assert!(ended.is_none(), "the daemon should have died");
    world.live(async |life| {
        let told = Told::listen();
        life.settled("it runs").await;
        let vm = life.vm("web").await.unwrap().id;
        told.hears("web", &[DETECTED, ATTEMPT, RECONNECTED]).await;
        all_name_their_vm(&told, vm, &[DETECTED, ATTEMPT, RECONNECTED]);
        let seen = scrape(life).await;
        assert_eq!(
            seen.value(r#"hearth_vm_orphaned_total{reason="unrecorded"}"#),
            1.0
        );
        assert_eq!(attempts(&seen, "reconnected"), 1.0);
        assert_eq!(
            seen.value(r#"hearth_process_restart_total{reason="unknown"}"#),
            0.0
        );
    });
}

#[test]
fn a_reboot_is_detected_and_recovered() {
    if !root() {
        return;
    }
    let mut world = World::new();
    world.live(async |life| {
        let mut web = spec("web");
        web.restart = RestartPolicy::Always;
        life.create(web, Goal::Running).await;
        life.settled("it runs").await;
    });
    world.host.reboot();
    world.live(async |life| {
        let told = Told::listen();
        life.settled("it runs again").await;
        told.hears("web", &[DETECTED, ATTEMPT, RECOVERED]).await;
        let seen = scrape(life).await;
        assert_eq!(
            seen.value(r#"hearth_vm_orphaned_total{reason="host_rebooted"}"#),
            1.0
        );
        assert_eq!(
            seen.value(r#"hearth_process_restart_total{reason="host_rebooted"}"#),
            1.0
        );
        // For how long the host was down nobody here knows.
        assert_eq!(seen.value("hearth_vm_time_to_detect_seconds_count"), 0.0);
        assert_eq!(seen.value("hearth_vm_time_to_recover_seconds_count"), 0.0);
    });
}

#[test]
fn orphans_are_counted_while_they_are_there_and_when_they_go() {
    if !root() {
        return;
    }
    let mut world = World::new();
    world.host.systemd = true;
    world.live(async |life| {
        life.create(spec("web"), Goal::Running).await;
        life.settled("it runs").await;
        let stray = VmId::new();
        life.rooms.change(|host| {
            let mark = OwnerMark::of_vm(host.installation, stray);
            host.spawn(mark, ProcessRole::Vmm, false);
            host.make_tap(stray).unwrap();
            let lone = VmId::new();
            let unit = SimUnit {
                mark: Some(OwnerMark::of_vm(host.installation, lone)),
                state: UnitState::Failed,
                since: host.now,
                changed: Vec::new(),
            };
            host.units.insert(lone, unit);
        });
        life.engine.look_at_everything();
        // Within the grace age it is seen and left alone.
        tokio::time::sleep(Duration::from_secs(5)).await;
        let seen = scrape(life).await;
        assert_eq!(seen.value(r#"hearth_orphans{kind="process"}"#), 1.0);
        assert_eq!(seen.value(r#"hearth_orphans{kind="tap"}"#), 1.0);
        assert_eq!(seen.value(r#"hearth_orphans{kind="unit"}"#), 1.0);
        assert_eq!(
            seen.value(r#"hearth_orphans_removed_total{kind="process"}"#),
            0.0
        );
        assert_eq!(seen.value("hearth_bridge_ports"), 2.0);
        life.until("it is gone", |_, host| {
            host.vmms(stray).count() == 0 && host.taps.len() == 1
        })
        .await;
        tokio::time::sleep(Duration::from_secs(120)).await;
        let seen = scrape(life).await;
        for kind in ["process", "unit", "tap"] {
            assert_eq!(
                seen.value(&format!("hearth_orphans{{kind=\"{kind}\"}}")),
                0.0
            );
            assert_eq!(
                seen.value(&format!("hearth_orphans_removed_total{{kind=\"{kind}\"}}")),
                1.0
            );
        }
        assert_eq!(seen.value("hearth_bridge_ports"), 1.0);
    });
}

#[test]
fn passes_and_blind_surveys_are_counted() {
    if !root() {
        return;
    }
    World::new().live(async |life| {
        life.create(spec("web"), Goal::Running).await;
        life.settled("it runs").await;
        let before = scrape(life).await;
        let count = r#"hearth_reconcile_duration_seconds_count{pass="full"}"#;
        let last = "hearth_reconcile_last_success_timestamp_seconds";
        assert_eq!(before.value("hearth_reconcile_interval_seconds"), 60.0);
        for kind in [
            "processes",
            "units",
            "taps",
            "dirs",
            "bridge",
            "rules",
            "names",
        ] {
            // A series that begins with its first event has no increase at that event.
            let series = format!("hearth_survey_unknown_total{{kind=\"{kind}\"}}");
            assert_eq!(before.value(&series), 0.0);
        }
        life.rooms.change(|host| host.unknown.insert(Kind::Taps));
        tokio::time::sleep(Duration::from_secs(600)).await;
        let after = scrape(life).await;
        assert!(after.value(r#"hearth_reconcile_duration_seconds_count{pass="quick"}"#) >= 1.0);
        assert!(after.value(count) >= before.value(count) + 9.0);
        assert!(after.value(last) >= before.value(last) + 500.0);
        assert!(after.value(r#"hearth_survey_unknown_total{kind="taps"}"#) >= 9.0);
        assert_eq!(
            after.value(r#"hearth_survey_unknown_total{kind="processes"}"#),
            0.0
        );
        assert_eq!(
            after.value(r#"hearth_reconcile_failures_total{pass="full"}"#),
            0.0
        );
    });
}
