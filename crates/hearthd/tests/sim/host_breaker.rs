//! When the host is the patient: automatic starts stop, one VM finds out, and then all come back.

use std::time::Duration;

use hearth_types::spec::RestartPolicy;
use hearth_types::status::{Goal, Phase};

use super::openmetrics::Scrape;
use super::world::{Life, World, root, spec};

const MINUTE: Duration = Duration::from_secs(60);
const VMS: usize = 12;

fn fail(life: &Life, step: &'static str, times: u32) {
    life.rooms.change(|host| {
        host.faults.insert(step, times);
    });
}

fn tries(life: &Life, step: &str) -> u32 {
    life.rooms
        .change(|host| host.attempts.get(step).copied().unwrap_or(0))
}

/// Five it takes, however many there are yet: the VMs are made one after the other.
fn world() -> World {
    let mut world = World::new();
    world.policy.host_breaker.least = 5;
    world
}

#[test]
fn a_host_that_cannot_start_vms_tries_one_at_a_time_and_then_starts_all() {
    if !root() {
        return;
    }
    world().live(async |life| {
        fail(life, "ensure_disks", u32::MAX);
        for n in 0..VMS {
            let mut vm = spec(&format!("vm-{n}"));
            vm.restart = RestartPolicy::Always;
            life.create(vm, Goal::Running).await;
        }
        life.told("host.breaker_opened", 1).await;
        let open = life.engine.host_breaker().unwrap();
        assert!(open.reason().contains("(disk)"), "{}", open.reason());
        let seen = Scrape::read(&life.engine.scrape().await.unwrap());
        assert_eq!(seen.value(r#"hearth_host_breaker_open{cause="disk"}"#), 1.0);
        assert_eq!(
            seen.value(r#"hearth_host_breaker_open{cause="network"}"#),
            0.0
        );
        // Each VM's first start was its user's word; after that one trial each 1, 2, 4, 8, 15 min.
        tokio::time::sleep(MINUTE / 2).await;
        let at_first = tries(life, "ensure_disks");
        tokio::time::sleep(30 * MINUTE).await;
        let trials = tries(life, "ensure_disks") - at_first;
        assert!((3..=6).contains(&trials), "{trials} trials in half an hour");
        assert_eq!(life.events("host.breaker_opened").await, 1);
        fail(life, "ensure_disks", 0);
        life.settled("all run").await;
        life.told("host.breaker_closed", 1).await;
        assert_eq!(life.engine.host_breaker(), None);
    });
}

#[test]
fn the_users_start_goes_past_it_and_a_new_daemon_knows_it() {
    if !root() {
        return;
    }
    let mut world = world();
    world.live(async |life| {
        fail(life, "start_vmm", u32::MAX);
        for n in 0..VMS {
            let mut vm = spec(&format!("vm-{n}"));
            vm.restart = RestartPolicy::Always;
            life.create(vm, Goal::Running).await;
        }
        life.told("host.breaker_opened", 1).await;
        let waits = |rows: &[hearth_store::VmRow], _: &_| {
            rows.iter().all(|row| row.status.phase == Phase::Backoff)
        };
        life.until("all wait", waits).await;
        fail(life, "start_vmm", 0);
    });
    world.live(async |life| {
        life.told("host.breaker_opened", 2).await;
        tokio::time::sleep(MINUTE / 3).await;
        assert_eq!(life.rooms.change(|host| host.processes.len()), 0);
        let vm = life.vm("vm-7").await.unwrap().id;
        life.set_goal(vm, Goal::Running).await;
        let up = |_: &[hearth_store::VmRow], host: &hearth_sim::SimHost| host.vmms(vm).count() == 1;
        life.until("the user's word holds", up).await;
        life.settled("and as it holds, all are started").await;
    });
}
