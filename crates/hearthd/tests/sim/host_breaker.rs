//! When the host is the patient: automatic starts stop, one VM finds out, and then all come back.

use std::time::Duration;

use hearth_types::mode::{Mode, ModeBy, ModeRule, SetMode};
use hearth_types::spec::RestartPolicy;
use hearth_types::status::{Goal, Phase};

use super::openmetrics::Scrape;
use super::world::{LIMIT, Life, Place, World, root, spec};

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

async fn make(life: &Life, count: usize) {
    for n in 0..count {
        let mut vm = spec(&format!("vm-{n}"));
        vm.restart = RestartPolicy::Always;
        life.create(vm, Goal::Running).await;
    }
}

async fn all_wait(life: &Life) {
    let waits = |rows: &[hearth_store::VmRow], _: &_| {
        let mut rows = rows.iter();
        rows.all(|row| matches!(row.status.phase, Phase::Backoff))
    };
    life.until("all wait", waits).await;
}

fn mode(life: &Life) -> (Mode, ModeBy) {
    let view = life.engine.modes.view();
    (view.mode, view.by)
}

const BY_RULE: (Mode, ModeBy) = (Mode::Maintenance, ModeBy::Rule);

#[test]
fn a_host_that_cannot_start_vms_tries_one_at_a_time_and_then_starts_all() {
    if !root() {
        return;
    }
    World::new().live(async |life| {
        fail(life, "ensure_disks", u32::MAX);
        make(life, VMS).await;
        life.told("host.breaker_opened", 1).await;
        let open = life.engine.host_breaker().unwrap();
        assert!(open.reason().contains("(disk)"), "{}", open.reason());
        let seen = Scrape::read(&life.engine.scrape().await.unwrap());
        assert_eq!(seen.value(r#"hearth_host_breaker_open{cause="disk"}"#), 1.0);
        assert_eq!(
            seen.value(r#"hearth_host_breaker_open{cause="network"}"#),
            0.0
        );
        assert_eq!(seen.value(r#"hearth_mode_rule{rule="host_breaker"}"#), 1.0);
        assert_eq!(mode(life), BY_RULE);
        // Each VM's first start was its user's word; after that one trial each 1, 2, 4, 8, 15 min.
        tokio::time::sleep(MINUTE / 2).await;
        let at_first = tries(life, "ensure_disks");
        tokio::time::sleep(30 * MINUTE).await;
        let trials = tries(life, "ensure_disks") - at_first;
        assert!((3..=6).contains(&trials), "{trials} trials in half an hour");
        let failed = life.events("host.breaker_trial_failed").await;
        assert_eq!(failed, usize::try_from(trials).unwrap());
        let seen = Scrape::read(&life.engine.scrape().await.unwrap());
        let told = seen.value("hearth_host_breaker_failed_trials");
        assert_eq!(told, f64::from(trials));
        assert_eq!(life.events("host.breaker_opened").await, 1);
        assert_eq!(mode(life), BY_RULE);
        fail(life, "ensure_disks", 0);
        life.settled("all run").await;
        life.told("host.breaker_closed", 1).await;
        assert_eq!(life.engine.host_breaker(), None);
        assert_eq!(life.engine.modes.mode(), Mode::Normal);
        // In and out: the mode does not flicker on the way.
        life.told("daemon.mode_changed", 2).await;
    });
}

#[test]
fn it_does_not_flicker_while_vms_are_made_and_removed() {
    if !root() {
        return;
    }
    World::new().live(async |life| {
        fail(life, "start_vmm", u32::MAX);
        make(life, 3).await;
        life.told("host.breaker_opened", 1).await;
        // Three are far from half of what comes now.
        fail(life, "start_vmm", 0);
        for n in 0..20 {
            life.create(spec(&format!("new-{n}")), Goal::Running).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!(mode(life), BY_RULE);
        }
        for n in 0..3 {
            let vm = life.vm(&format!("vm-{n}")).await.unwrap().id;
            life.set_goal(vm, Goal::Absent).await;
        }
        life.until("they are gone", |rows, _| rows.len() == 20)
            .await;
        tokio::time::sleep(MINUTE / 3).await;
        assert!(life.engine.host_breaker().is_some(), "its time is not up");
        // Nobody waits for it, so it ends with its cool-down.
        life.told("host.breaker_closed", 1).await;
        assert_eq!(life.events("host.breaker_opened").await, 1);
        life.told("daemon.mode_changed", 2).await;
    });
}

#[test]
fn the_users_start_goes_past_it_and_a_new_daemon_knows_it() {
    if !root() {
        return;
    }
    let mut world = World::new();
    world.live(async |life| {
        fail(life, "start_vmm", u32::MAX);
        make(life, VMS).await;
        life.told("host.breaker_opened", 1).await;
        all_wait(life).await;
        fail(life, "start_vmm", 0);
    });
    world.live(async |life| {
        tokio::time::sleep(MINUTE / 3).await;
        assert_eq!(mode(life), BY_RULE);
        assert!(life.engine.host_breaker().is_some());
        let opened = life.events("host.breaker_opened").await;
        assert_eq!(opened, 1, "it was never closed");
        assert_eq!(life.rooms.change(|host| host.processes.len()), 0);
        let vm = life.vm("vm-7").await.unwrap().id;
        life.set_goal(vm, Goal::Running).await;
        let up = |_: &[hearth_store::VmRow], host: &hearth_sim::SimHost| host.vmms(vm).count() == 1;
        life.until("the user's word holds", up).await;
        life.settled("and as it holds, all are started").await;
    });
}

#[test]
fn a_daemon_that_dies_on_trial_leaves_no_deadlock() {
    if !root() {
        return;
    }
    for side in ["before", "after"] {
        let mut world = World::new();
        world.live(async |life| {
            fail(life, "start_vmm", u32::MAX);
            make(life, VMS).await;
            life.told("host.breaker_opened", 1).await;
            all_wait(life).await;
            fail(life, "start_vmm", 0);
        });
        let (step, nth) = ("start_vmm", 1);
        let died = world.live_until(Place { side, step, nth }, async |_| {
            tokio::time::sleep(LIMIT).await;
        });
        assert!(died.is_none(), "the trial came");
        world.live(async |life| {
            assert!(life.rooms.change(|host| host.processes.len()) <= 2);
            life.settled("all run").await;
            life.told("host.breaker_closed", 1).await;
            assert_eq!(life.engine.modes.mode(), Mode::Normal);
        });
    }
}

#[test]
fn a_reboot_is_a_trial_of_its_own() {
    if !root() {
        return;
    }
    let mut world = World::new();
    world.live(async |life| {
        fail(life, "ensure_tap", u32::MAX);
        make(life, VMS).await;
        life.told("host.breaker_opened", 1).await;
        all_wait(life).await;
        fail(life, "ensure_tap", 0);
    });
    world.host.reboot();
    world.live(async |life| {
        let began = tokio::time::Instant::now();
        life.settled("all run").await;
        assert!(began.elapsed() < MINUTE, "{:?}", began.elapsed());
    });
}

#[test]
fn a_mode_that_was_set_by_hand_is_not_overridden() {
    if !root() {
        return;
    }
    World::new().live(async |life| {
        fail(life, "start_vmm", u32::MAX);
        make(life, VMS).await;
        life.told("host.breaker_opened", 1).await;
        all_wait(life).await;
        let word = |mode| SetMode { mode, reason: None };
        life.engine.set_mode(word(Mode::Maintenance)).await;
        assert_eq!(mode(life), (Mode::Maintenance, ModeBy::Hand));
        let before = tries(life, "start_vmm");
        tokio::time::sleep(60 * MINUTE).await;
        assert_eq!(tries(life, "start_vmm"), before, "not even a trial");
        assert!(life.engine.host_breaker().is_some());
        // Normal by hand sets the rule aside; the breaker still restrains what is automatic.
        life.engine.set_mode(word(Mode::Normal)).await;
        let rules = life.engine.modes.view().rules;
        assert_eq!(rules[0].rule, ModeRule::HostBreaker);
        assert!(rules[0].set_aside);
        tokio::time::sleep(MINUTE / 2).await;
        let trials = tries(life, "start_vmm") - before;
        assert_eq!(trials, 1, "one on trial");
        assert_eq!(life.engine.modes.mode(), Mode::Normal);
        fail(life, "start_vmm", 0);
        life.settled("all run").await;
    });
}

#[test]
fn the_operator_closes_it_and_all_are_started() {
    if !root() {
        return;
    }
    World::new().live(async |life| {
        fail(life, "ensure_tap", u32::MAX);
        make(life, VMS).await;
        life.told("host.breaker_opened", 1).await;
        all_wait(life).await;
        fail(life, "ensure_tap", 0);
        assert!(life.engine.reset_host_breaker().await);
        assert_eq!(life.engine.modes.mode(), Mode::Normal);
        let began = tokio::time::Instant::now();
        life.settled("all run").await;
        assert!(began.elapsed() < MINUTE, "{:?}", began.elapsed());
        assert!(!life.engine.reset_host_breaker().await);
        life.told("host.breaker_closed", 1).await;
    });
}
