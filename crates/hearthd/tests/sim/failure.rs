//! Steps that fail: why is stored and told, they are tried again with growing pauses, and the
//! user's next word is heard at once.

use std::time::Duration;

use hearth_types::spec::RestartPolicy;
use hearth_types::status::{Goal, Phase};

use super::world::{Life, World, root, spec};

const HOUR: Duration = Duration::from_secs(3600);
/// What is shared is tried every 5 s, and once more for each start.
const SHARED_TRIES_PER_HOUR: u32 = 720 + TRIES_PER_HOUR;
/// Any other step pauses for 30 s at most.
const STEPS_PER_HOUR: u32 = 125;
/// Five until the breaker opens, and trials after 5, 10 and 20 minutes; some to spare.
const TRIES_PER_HOUR: u32 = 10;

fn fail(life: &Life, step: &'static str, times: u32) {
    life.rooms.change(|host| {
        host.faults.insert(step, times);
        host.attempts.clear();
    });
}

fn tries(life: &Life, step: &str) -> u32 {
    life.rooms
        .change(|host| host.attempts.get(step).copied().unwrap_or(0))
}

/// A start that fails for an hour, a stop in between, and a start that works in the end.
fn start_fails(step: &'static str, most: u32) {
    if !root() {
        return;
    }
    World::new().live(async |life| {
        fail(life, step, u32::MAX);
        let mut web = spec("web");
        web.restart = RestartPolicy::Always;
        let vm = life.create(web, Goal::Running).await;
        tokio::time::sleep(HOUR).await;
        let (tried, row) = (tries(life, step), life.row(vm).await);
        println!(
            "{step}: {tried} tries, {} events",
            life.events("vm.start_failed").await
        );
        assert!(
            (7..=most).contains(&tried),
            "{step} was tried {tried} times"
        );
        assert_eq!(row.status.phase, Phase::Backoff);
        let reason = row.status.reason.unwrap();
        assert!(reason.contains("simulated fault"), "{reason}");
        let told = life.events("vm.start_failed").await;
        assert!(
            u32::try_from(told).unwrap() <= TRIES_PER_HOUR,
            "told {told} times"
        );
        life.set_goal(vm, Goal::Stopped).await;
        life.settled("it is stopped").await;
        let (stopped, _) = (tries(life, step), tokio::time::sleep(HOUR).await);
        if most == TRIES_PER_HOUR {
            assert_eq!(tries(life, step), stopped, "tried although it is stopped");
        }
        fail(life, step, 0);
        life.set_goal(vm, Goal::Running).await;
        life.settled("it runs").await;
        assert_eq!(life.row(vm).await.status.reason, None);
        life.set_goal(vm, Goal::Absent).await;
        life.clean().await;
    });
}

#[test]
fn disks() {
    start_fails("ensure_disks", TRIES_PER_HOUR);
}

#[test]
fn tap() {
    start_fails("ensure_tap", TRIES_PER_HOUR);
}

#[test]
fn launch() {
    start_fails("start_vmm", TRIES_PER_HOUR);
}

#[test]
fn bridge() {
    start_fails("ensure_bridge", SHARED_TRIES_PER_HOUR);
}

#[test]
fn rules() {
    start_fails("apply_rules", SHARED_TRIES_PER_HOUR);
}

#[test]
fn names() {
    start_fails("ensure_names", SHARED_TRIES_PER_HOUR);
}

/// A step of a VM that runs or goes fails for an hour, and works then.
fn step_fails(step: &'static str, at_first: Goal, then: Goal) {
    if !root() {
        return;
    }
    World::new().live(async |life| {
        let vm = life.create(spec("web"), at_first).await;
        life.settled("at first").await;
        fail(life, step, u32::MAX);
        life.set_goal(vm, then).await;
        tokio::time::sleep(HOUR).await;
        let (tried, events) = (tries(life, step), life.events("vm.step_failed").await);
        println!("{step}: {tried} tries, {events} events");
        assert!(
            (5..=STEPS_PER_HOUR).contains(&tried),
            "{step} was tried {tried} times"
        );
        assert!(
            (1..=STEPS_PER_HOUR as usize).contains(&events),
            "{events} events"
        );
        let row = life.row(vm).await;
        assert!(row.status.reason.unwrap().contains("simulated fault"));
        fail(life, step, 0);
        if then == Goal::Absent {
            life.clean().await;
        } else {
            life.settled("in the end").await;
        }
    });
}

#[test]
fn pause() {
    step_fails("pause", Goal::Running, Goal::Paused);
}

#[test]
fn resume() {
    step_fails("resume", Goal::Paused, Goal::Running);
}

#[test]
fn remove_tap() {
    step_fails("remove_tap", Goal::Running, Goal::Stopped);
}

#[test]
fn flush_conntrack() {
    step_fails("flush_conntrack", Goal::Stopped, Goal::Absent);
}
