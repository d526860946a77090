//! A held VM is left alone whatever happens, and a word that comes while a plan is under way
//! holds.

use std::time::Duration;

use hearth_plan::recovery::{hold, recover, release};
use hearth_types::ids::VmId;
use hearth_types::process::ProcessExit;
use hearth_types::spec::RestartPolicy;
use hearth_types::status::{Goal, Phase, VmStatus};
use jiff::Timestamp;

use super::world::{Life, World, root, spec};

const MINUTE: Duration = Duration::from_secs(60);

async fn say(life: &Life, vm: VmId, word: fn(&VmStatus, Timestamp) -> VmStatus) {
    let (store, now) = (&life.engine.parts.store, life.engine.now());
    let said = store.change_status(vm, move |row| word(&row.status, now));
    said.await.unwrap();
    life.engine.look_at(vm);
}

fn held(status: &VmStatus, now: Timestamp) -> VmStatus {
    hold(status, Some("test".to_owned()), now)
}

async fn web(life: &Life) -> VmId {
    let mut web = spec("web");
    web.restart = RestartPolicy::Always;
    let vm = life.create(web, Goal::Running).await;
    life.settled("it runs").await;
    vm
}

fn crash(life: &Life, vm: VmId) {
    life.rooms.change(|host| {
        let pid = host.vmms(vm).next().unwrap().identity.pid;
        host.end(pid, ProcessExit::Signal(11), None);
    });
}

fn launches(life: &Life) -> u32 {
    life.rooms
        .change(|host| host.attempts.get("start_vmm").copied().unwrap_or(0))
}

#[test]
fn a_held_vm_that_dies_stays_down_through_a_new_daemon_until_it_is_released() {
    if !root() {
        return;
    }
    let mut world = World::new();
    let vm = world.live(async |life| {
        let vm = web(life).await;
        say(life, vm, held).await;
        crash(life, vm);
        life.until("its end is recorded", |rows, _| {
            rows[0].status.phase == Phase::Backoff
        })
        .await;
        tokio::time::sleep(10 * MINUTE).await;
        assert_eq!(launches(life), 1);
        vm
    });
    world.live(async |life| {
        tokio::time::sleep(10 * MINUTE).await;
        assert_eq!(launches(life), 1, "a new daemon forgot the hold");
        // Its TAP was left, too.
        assert!(life.rooms.change(|host| !host.taps.is_empty()));
        say(life, vm, |status, _| release(status)).await;
        life.settled("it runs again").await;
    });
}

#[test]
fn a_hold_that_comes_while_a_start_is_under_way_ends_it_there() {
    if !root() {
        return;
    }
    let mut world = World::new();
    let vm = world.live(async |life| {
        let vm = life.create(spec("web"), Goal::Running).await;
        // Before the loop has had a turn: its plan is older than this word.
        say(life, vm, held).await;
        tokio::time::sleep(MINUTE).await;
        assert_eq!(life.rooms.change(|host| host.vmms(vm).count()), 0);
        assert!(life.row(vm).await.status.recovery.hold.is_some());
        vm
    });
    world.live(async |life| {
        say(life, vm, |status, _| release(status)).await;
        life.settled("the user's word comes true").await;
    });
}

#[test]
fn the_users_removal_works_on_a_held_vm() {
    if !root() {
        return;
    }
    World::new().live(async |life| {
        let vm = web(life).await;
        say(life, vm, held).await;
        life.set_goal(vm, Goal::Absent).await;
        life.clean().await;
    });
}

#[test]
fn recover_skips_the_back_off() {
    if !root() {
        return;
    }
    let mut world = World::new();
    world.policy.backoff_first = 4 * MINUTE;
    world.live(async |life| {
        let vm = web(life).await;
        crash(life, vm);
        life.until("it waits", |rows, _| rows[0].status.phase == Phase::Backoff)
            .await;
        tokio::time::sleep(MINUTE).await;
        assert_eq!(launches(life), 1);
        let begun = tokio::time::Instant::now();
        say(life, vm, |status, now| {
            recover(status, Goal::Running, false, now).status.unwrap()
        })
        .await;
        life.settled("it runs").await;
        assert!(begun.elapsed() < MINUTE);
    });
}
