//! A host that is slow: a start that a deadline held up is tried again and costs a VM nothing,
//! until it has taken too long.

use std::time::Duration;

use hearth_types::spec::RestartPolicy;
use hearth_types::status::{Goal, Phase};
use tokio::time::Instant;

use super::world::{Life, World, root, spec};

/// What is given to a slow host.
const PATIENCE: Duration = Duration::from_secs(120);

fn slow(life: &Life, step: &'static str, times: u32) {
    life.rooms.change(|host| {
        host.slow.insert(step, times);
        host.attempts.clear();
    });
}

/// A VM that is never restarted meets a step that overruns its deadline three times.
fn waits(step: &'static str) {
    if !root() {
        return;
    }
    World::new().live(async |life| {
        slow(life, step, 3);
        let mut web = spec("web");
        web.restart = RestartPolicy::No;
        let vm = life.create(web, Goal::Running).await;
        life.until("it says what it waits for", |rows, _| {
            let status = &rows[0].status;
            let reason = status.reason.as_deref().unwrap_or_default();
            status.phase == Phase::Starting
                && reason.starts_with("waits for the host")
                && reason.contains("deadline")
        })
        .await;
        life.settled("it runs").await;
        let status = life.row(vm).await.status;
        assert_eq!((status.failures, status.restarts), (0, 0));
        assert_eq!(status.reason, None);
        life.told("vm.start_waits", 1).await;
        life.told("vm.started", 1).await;
        assert_eq!(life.events("vm.start_failed").await, 0);
        life.set_goal(vm, Goal::Absent).await;
        life.clean().await;
    });
}

#[test]
fn bridge() {
    waits("ensure_bridge");
}

#[test]
fn rules() {
    waits("apply_rules");
}

#[test]
fn names() {
    waits("ensure_names");
}

#[test]
fn tap() {
    waits("ensure_tap");
}

#[test]
fn launch() {
    waits("start_vmm");
}

/// A host that never gets well: the VM is failed after the time that is given, not before
/// and not much later, and the number of tries is bounded.
#[test]
fn patience_ends() {
    if !root() {
        return;
    }
    World::new().live(async |life| {
        slow(life, "apply_rules", u32::MAX);
        let mut web = spec("web");
        web.restart = RestartPolicy::No;
        let begun = Instant::now();
        let vm = life.create(web, Goal::Running).await;
        life.until("it is given up", |rows, _| {
            rows[0].status.phase == Phase::Failed
        })
        .await;
        let took = begun.elapsed();
        assert!(
            took >= PATIENCE && took < PATIENCE * 2,
            "given up after {took:?}"
        );
        let tried = life.rooms.change(|host| host.attempts["apply_rules"]);
        assert!((10..=60).contains(&tried), "{tried} tries");
        let reason = life.row(vm).await.status.reason.unwrap();
        assert!(reason.contains("deadline"), "{reason}");
        life.told("vm.start_failed", 1).await;
        // A new word begins anew, and a host that is well again lets it run.
        life.set_goal(vm, Goal::Running).await;
        life.until("it waits again", |rows, _| {
            rows[0].status.phase == Phase::Starting && rows[0].status.reason.is_some()
        })
        .await;
        slow(life, "apply_rules", 0);
        life.settled("it runs").await;
        life.set_goal(vm, Goal::Absent).await;
        life.clean().await;
    });
}

/// What is refused is refused: it fails at once, as before.
#[test]
fn a_refusal_is_not_waited_for() {
    if !root() {
        return;
    }
    World::new().live(async |life| {
        life.rooms.change(|host| {
            host.faults.insert("apply_rules", 1);
        });
        let mut web = spec("web");
        web.restart = RestartPolicy::No;
        life.create(web, Goal::Running).await;
        life.until("it has failed", |rows, _| {
            rows[0].status.phase == Phase::Failed
        })
        .await;
        assert_eq!(life.events("vm.start_waits").await, 0);
        life.told("vm.start_failed", 1).await;
    });
}

/// A VM that crashed while the host is slow is restarted, and that counts as one restart.
#[test]
fn a_restart_waits_and_stays_one() {
    if !root() {
        return;
    }
    World::new().live(async |life| {
        let mut web = spec("web");
        web.restart = RestartPolicy::OnFailure(Some(1));
        let vm = life.create(web, Goal::Running).await;
        life.settled("it runs").await;
        slow(life, "ensure_tap", 5);
        slow(life, "start_vmm", 5);
        life.rooms.change(|host| {
            let pid = host.vmms(vm).next().unwrap().identity.pid;
            let killed = hearth_types::process::ProcessExit::Signal(9);
            host.end(pid, killed, None);
        });
        life.told("vm.restarted", 1).await;
        life.settled("it runs again").await;
        let status = life.row(vm).await.status;
        assert_eq!((status.failures, status.restarts), (1, 1));
        assert_eq!(life.events("vm.start_failed").await, 0);
    });
}

/// A TAP of a VM that runs met a slow host long ago: that is no part of a later start's time.
#[test]
fn what_was_slow_long_ago_does_not_count() {
    if !root() {
        return;
    }
    World::new().live(async |life| {
        let mut web = spec("web");
        web.restart = RestartPolicy::OnFailure(Some(1));
        let vm = life.create(web, Goal::Running).await;
        life.settled("it runs").await;
        slow(life, "ensure_tap", 1);
        life.rooms.change(|host| host.taps.clear());
        life.engine.look_at(vm);
        life.told("vm.start_waits", 1).await;
        life.settled("its TAP is back").await;
        tokio::time::sleep(PATIENCE * 2).await;
        slow(life, "start_vmm", 2);
        life.rooms.change(|host| {
            let pid = host.vmms(vm).next().unwrap().identity.pid;
            let killed = hearth_types::process::ProcessExit::Signal(9);
            host.end(pid, killed, None);
        });
        life.told("vm.restarted", 1).await;
        life.settled("it runs again").await;
        assert_eq!(life.events("vm.start_failed").await, 0);
    });
}

/// A stop is heard while a start waits.
#[test]
fn a_stop_ends_the_waiting() {
    if !root() {
        return;
    }
    World::new().live(async |life| {
        slow(life, "start_vmm", u32::MAX);
        let vm = life.create(spec("web"), Goal::Running).await;
        life.told("vm.start_waits", 1).await;
        life.set_goal(vm, Goal::Stopped).await;
        life.settled("it is stopped").await;
        let tried = life.rooms.change(|host| host.attempts["start_vmm"]);
        tokio::time::sleep(PATIENCE).await;
        let now = life.rooms.change(|host| host.attempts["start_vmm"]);
        assert_eq!(now, tried, "tried although it is stopped");
    });
}
