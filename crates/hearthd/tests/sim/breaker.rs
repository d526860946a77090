//! Circuit breakers: starts of a VM that fails are bounded, a daemon that is started again
//! forgets nothing, and one start at a time finds out whether all is well again.

use std::time::Duration;

use hearth_plan::breaker;
use hearth_types::ids::VmId;
use hearth_types::process::ProcessExit;
use hearth_types::spec::RestartPolicy;
use hearth_types::status::{Goal, Phase};

use super::openmetrics::Scrape;
use super::world::{Life, World, root, spec};

const MINUTE: Duration = Duration::from_secs(60);

fn fail(life: &Life, step: &'static str, times: u32) {
    life.rooms.change(|host| {
        host.faults.insert(step, times);
    });
}

fn tries(life: &Life, step: &str) -> u32 {
    life.rooms
        .change(|host| host.attempts.get(step).copied().unwrap_or(0))
}

async fn web(life: &Life) -> VmId {
    let mut web = spec("web");
    web.restart = RestartPolicy::Always;
    life.create(web, Goal::Running).await
}

async fn open(life: &Life) {
    life.until("its breaker is open", |rows, _| {
        rows.iter().any(|row| {
            let breaker = row.status.recovery.breaker.as_ref();
            breaker.is_some_and(|breaker| breaker.trial.is_none())
        })
    })
    .await;
}

async fn scrape(life: &Life) -> Scrape {
    Scrape::read(&life.engine.scrape().await.unwrap())
}

#[test]
fn a_vm_that_cannot_start_is_tried_five_times_and_then_once_per_cool_down() {
    if !root() {
        return;
    }
    let mut world = World::new();
    let vm = world.live(async |life| {
        fail(life, "start_vmm", u32::MAX);
        let vm = web(life).await;
        open(life).await;
        assert_eq!(tries(life, "start_vmm"), 5);
        life.told("vm.breaker_opened", 1).await;
        let row = life.row(vm).await;
        assert_eq!(row.status.phase, Phase::Backoff);
        let reason = row.status.reason.unwrap();
        assert!(reason.starts_with("breaker open until "), "{reason}");
        assert!(reason.contains("5 failures in 10m"), "{reason}");
        let seen = scrape(life).await;
        assert_eq!(seen.value(r#"hearth_vms_breaker{state="open"}"#), 1.0);
        assert_eq!(seen.value("hearth_vm_breaker_opened_total"), 1.0);
        vm
    });
    // Another daemon knows it, too, and waits as long.
    world.live(async |life| {
        tokio::time::sleep(4 * MINUTE).await;
        assert_eq!(tries(life, "start_vmm"), 5, "a daemon forgot the breaker");
        tokio::time::sleep(2 * MINUTE).await;
        assert_eq!(tries(life, "start_vmm"), 6, "the first trial");
        tokio::time::sleep(54 * MINUTE).await;
        // After 10 and 20 minutes more; the next one is 40 minutes later.
        assert_eq!(tries(life, "start_vmm"), 8);
        let breaker = life.row(vm).await.status.recovery.breaker.unwrap();
        assert_eq!(breaker.opens, 4);
        life.set_goal(vm, Goal::Absent).await;
        life.clean().await;
    });
}

#[test]
fn a_trial_that_holds_closes_it() {
    if !root() {
        return;
    }
    World::new().live(async |life| {
        fail(life, "ensure_disks", 5);
        let vm = web(life).await;
        open(life).await;
        life.settled("the trial runs").await;
        life.told("vm.breaker_half_open", 1).await;
        assert!(life.row(vm).await.status.recovery.breaker.is_some());
        let seen = scrape(life).await;
        assert_eq!(seen.value(r#"hearth_vms_breaker{state="half_open"}"#), 1.0);
        tokio::time::sleep(11 * MINUTE).await;
        assert_eq!(life.row(vm).await.status.recovery.breaker, None);
        life.told("vm.breaker_closed", 1).await;
        assert_eq!(
            scrape(life)
                .await
                .value(r#"hearth_vms_breaker{state="half_open"}"#),
            0.0
        );
    });
}

#[test]
fn crashes_open_it_and_the_users_start_is_the_trial() {
    if !root() {
        return;
    }
    World::new().live(async |life| {
        let vm = web(life).await;
        for _ in 0..5 {
            life.settled("it runs").await;
            life.rooms.change(|host| {
                let pid = host.vmms(vm).next().unwrap().identity.pid;
                host.end(pid, ProcessExit::Signal(11), None);
            });
            let gone = |rows: &[hearth_store::VmRow], _: &_| rows[0].status.vmm.is_none();
            life.until("its end is recorded", gone).await;
        }
        open(life).await;
        life.set_goal(vm, Goal::Running).await;
        life.settled("the user's word holds").await;
        let breaker = life.row(vm).await.status.recovery.breaker.unwrap();
        assert!(breaker.trial.is_some(), "{breaker:?}");
    });
}

#[test]
fn the_operator_closes_it_by_hand() {
    if !root() {
        return;
    }
    World::new().live(async |life| {
        fail(life, "start_vmm", 5);
        let vm = web(life).await;
        open(life).await;
        let store = &life.engine.parts.store;
        let reset = store.change_status(vm, |row| breaker::reset(&row.status));
        reset.await.unwrap();
        life.engine.look_at(vm);
        let begun = tokio::time::Instant::now();
        life.settled("it runs").await;
        assert!(begun.elapsed() < MINUTE);
        let recovery = life.row(vm).await.status.recovery;
        assert!(recovery.breaker.is_none() && recovery.failures.is_empty());
    });
}
