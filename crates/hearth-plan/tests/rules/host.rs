//! The host's circuit breaker.

mod latched;

use std::collections::BTreeSet;

use hearth_plan::breaker::host::{HostBreaker, reset};
use hearth_plan::mode::{Automatic, Origin};
use hearth_plan::recovery::hold;
use hearth_plan::transition::ended;
use hearth_plan::transition::{start_failed, started};
use hearth_plan::{Plan, Step, World, plan};
use hearth_types::ids::VmId;
use hearth_types::mode::Mode;
use hearth_types::resources::Priority;
use hearth_types::spec::{NetworkMode, RestartPolicy};
use hearth_types::status::{Cause, EndClass, Goal, Phase, RunEnd};
use hearth_types::survey::Survey;
use proptest::prelude::*;

use super::world::*;

/// So many VMs without a network that should run and wait for their start.
fn host_of(count: u8) -> World {
    let mut world = down(Phase::Starting);
    // How fast starts follow each other is another test's affair.
    world.policy.storm.at_once = 0;
    let first = world.vms.remove(0);
    for n in 1..=count {
        let mut vm = first.clone();
        vm.id = vm_id(n);
        vm.spec.name = format!("vm-{n}").parse().unwrap();
        vm.spec.restart = RestartPolicy::Always;
        vm.spec.network.mode = NetworkMode::None;
        vm.leases.ip = None;
        world.vms.push(vm);
    }
    *dirs(&mut world) = (1..=count).map(|n| dir(vm_id(n))).collect();
    world
}

fn fails(world: &mut World, n: u8, cause: Cause, when: i64) {
    let policy = world.policy.clone();
    let vm = &mut world.vms[usize::from(n) - 1];
    vm.status = start_failed(&vm.status, vm.id, &vm.spec, "no", cause, at(when), &policy);
}

fn runs(world: &mut World, n: u8, since: i64) {
    let vm = &mut world.vms[usize::from(n) - 1];
    vm.status = started(&vm.status, identity(vm.id, n.into()), at(since), true);
    let process = process(
        vm.id,
        n.into(),
        hearth_types::observe::ProcessRole::Vmm,
        since,
    );
    processes(world).push(process);
}

fn starts(plan: &Plan) -> BTreeSet<VmId> {
    let steps = plan.steps.iter();
    steps
        .filter_map(|planned| match planned.step {
            Step::StartVmm { vm, .. } => Some(vm),
            _ => None,
        })
        .collect()
}

/// One pass at this time: what it remembers is remembered.
fn pass(world: &mut World, now: i64) -> Plan {
    world.now = at(now);
    let plan = plan(world);
    world.host = plan.host.clone();
    plan
}

fn judge(world: &mut World, now: i64) -> Option<HostBreaker> {
    pass(world, now).host_breaker
}

/// Ten VMs of which the first five have just failed for one cause; a pass has seen it.
fn opened() -> World {
    let mut world = host_of(10);
    for n in 1..=5 {
        fails(&mut world, n, Cause::Network, i64::from(n));
    }
    pass(&mut world, 10);
    world
}

/// The mode that the breaker asks for.
fn in_maintenance(world: &mut World) {
    let stance = &mut world.policy.stance;
    (stance.mode, stance.by_rule, stance.by_breaker) = (Mode::Maintenance, true, true);
    stance.reason = Some("the breaker".to_owned());
}

#[test]
fn five_vms_that_fail_for_one_cause_within_a_minute_open_it() {
    let mut world = opened();
    let plan = pass(&mut world, 10);
    let open = plan.host_breaker.clone().unwrap();
    assert_eq!((open.cause, open.vms.len()), (Cause::Network, 5));
    assert_eq!((open.opened_at, open.until), (at(5), at(65)));
    assert_eq!(starts(&plan), BTreeSet::new(), "no automatic start at all");
    assert!(plan.next_pass <= Some(at(65)));
    assert!(notes(&plan).contains("host breaker open (network): 5 VMs failed at once"));
}

#[test]
fn different_causes_one_vm_and_time_do_not_open_it() {
    let mut world = host_of(10);
    for (n, cause) in (1..=6).zip(Cause::SHARED) {
        fails(&mut world, n, cause, 0);
    }
    assert_eq!(judge(&mut world, 1), None, "each has a cause of its own");
    let mut world = host_of(10);
    for second in 0..9 {
        fails(&mut world, 1, Cause::Disk, second);
    }
    assert_eq!(judge(&mut world, 10), None, "one VM alone");
    let mut world = host_of(10);
    for n in 1..=10 {
        fails(&mut world, n, Cause::Disk, i64::from(n) * 20);
    }
    assert_eq!(judge(&mut world, 200), None, "three in any minute");
    let mut world = host_of(10);
    for n in 1..=10 {
        fails(&mut world, n, Cause::Own, 0);
    }
    let own = judge(&mut world, 1);
    assert_eq!(own, None, "what is their own affair is not the host's");
    let mut world = host_of(10);
    for n in 1..=10 {
        fails(&mut world, n, Cause::Disk, 0);
    }
    assert_eq!(judge(&mut world, 121), None, "it was long ago");
}

#[test]
fn half_of_a_small_host_is_enough_but_never_two() {
    for (count, failing, opens) in [
        (6, 3, true),
        (6, 2, false),
        (3, 3, true),
        (2, 2, false),
        (8, 3, false),
        (8, 4, true),
    ] {
        let mut world = host_of(count);
        for n in 1..=failing {
            fails(&mut world, n, Cause::Disk, 0);
        }
        let open = judge(&mut world, 1);
        assert_eq!(open.is_some(), opens, "{failing} of {count}");
    }
}

#[test]
fn it_is_latched_whatever_is_made_and_removed() {
    let mut world = host_of(4);
    for n in 1..=3 {
        fails(&mut world, n, Cause::Disk, 0);
    }
    let open = judge(&mut world, 1).unwrap();
    // Many more VMs: three are far from half of them.
    let more = host_of(40);
    world.vms.extend(more.vms.into_iter().skip(4));
    *dirs(&mut world) = (1..=40).map(|n| dir(vm_id(n))).collect();
    assert_eq!(judge(&mut world, 2), Some(open.clone()));
    // Those that failed are gone, and their failures with them.
    world.vms.drain(..3);
    let still = judge(&mut world, 59).unwrap();
    assert_eq!((still.opened_at, still.until), (open.opened_at, open.until));
    assert_eq!(starts(&pass(&mut world, 59)), BTreeSet::new());
    let half = pass(&mut world, 60);
    assert_eq!(starts(&half), [vm_id(4)].into(), "another one is tried");
}

#[test]
fn what_all_share_and_others_do_not_is_said() {
    let mut world = host_of(10);
    for n in 1..=5 {
        fails(&mut world, n, Cause::Disk, 0);
    }
    for vm in &mut world.vms[..6] {
        vm.spec.image = "broken:1".to_owned();
        vm.spec.kernel = Some("new".to_owned());
    }
    let open = judge(&mut world, 1).unwrap();
    assert_eq!(open.shared, ["image broken:1", "kernel new"]);
    let said = "all of them use image broken:1, kernel new";
    assert!(open.reason().contains(said), "{}", open.reason());
    world.vms[0].spec.image = "web:1".to_owned();
    let open = judge(&mut world, 2).unwrap();
    assert_eq!(open.shared, ["kernel new"]);
    for vm in &mut world.vms {
        vm.spec.kernel = None;
    }
    assert_eq!(judge(&mut world, 3).unwrap().shared, Vec::<String>::new());
}

#[test]
fn when_the_cool_down_is_over_one_vm_is_tried_and_the_others_wait_for_it() {
    let mut world = opened();
    world.vms[2].spec.resources.priority = Priority::High;
    assert_eq!(starts(&pass(&mut world, 65)), [vm_id(3)].into());
    world.vms[2].status = hold(&world.vms[2].status, None, at(60));
    let next = pass(&mut world, 65);
    assert_eq!(starts(&next), [vm_id(1)].into(), "else the oldest");
    // Chosen is chosen: a trial that is under way is not joined by a second one.
    world.vms[4].spec.resources.priority = Priority::High;
    assert_eq!(starts(&pass(&mut world, 65)), [vm_id(1)].into());
    world.load.starting.insert(vm_id(1));
    let under_way = pass(&mut world, 65);
    assert!(under_way.host_breaker.unwrap().on_trial);
    assert!(!starts(&plan(&world)).contains(&vm_id(5)));
    world.load.starting.clear();
    runs(&mut world, 1, 66);
    let waiting = pass(&mut world, 70);
    assert_eq!(starts(&waiting), BTreeSet::new());
    let open = waiting.host_breaker.as_ref().unwrap();
    assert!(open.on_trial && open.trial == Some(vm_id(1)));
    assert!(waiting.next_pass <= Some(at(96)));
    let closed = pass(&mut world, 96);
    assert_eq!(closed.host_breaker, None, "it has held");
    assert!(starts(&closed).len() > 1);
    // What had failed before does not open it again.
    assert_eq!(judge(&mut world, 97), None);
}

#[test]
fn the_trial_passes_the_mode_that_the_breaker_asked_for() {
    let mut world = opened();
    in_maintenance(&mut world);
    assert_eq!(starts(&pass(&mut world, 64)), BTreeSet::new());
    let half = pass(&mut world, 65);
    assert_eq!(starts(&half), [vm_id(1)].into());
    let trial = |origin| matches!(origin, Origin::Trial(Automatic::Restart));
    assert!(half.steps.iter().all(|planned| trial(planned.origin)));
    // A mode that a person set holds it, and the breaker stays half open meanwhile.
    world.policy.stance.by_breaker = false;
    let held = pass(&mut world, 66);
    assert_eq!(starts(&held), BTreeSet::new());
    assert!(held.held.iter().any(|held| trial(held.planned.origin)));
    assert!(judge(&mut world, 9_000).is_some());
    world.policy.stance = hearth_plan::mode::Stance::default();
    assert_eq!(starts(&pass(&mut world, 9_001)), [vm_id(1)].into());
}

#[test]
fn a_trial_that_fails_makes_the_next_wait_twice_as_long() {
    let mut world = opened();
    let mut failed_at = 5;
    for wait in [60, 120, 240, 480, 900, 900] {
        let open = judge(&mut world, failed_at + 1).unwrap();
        assert_eq!(open.until, at(failed_at + wait));
        failed_at += wait + 1;
        fails(&mut world, 1, Cause::Network, failed_at);
    }
}

#[test]
fn starts_that_were_under_way_when_it_opened_are_no_trials() {
    let mut world = opened();
    for n in 6..=9 {
        fails(&mut world, n, Cause::Network, 12);
    }
    let open = judge(&mut world, 13).unwrap();
    assert_eq!((open.failed_trials, open.vms.len()), (0, 9));
    assert_eq!(open.until, at(72), "the cause was there at 12");
    fails(&mut world, 10, Cause::Memory, 20);
    assert_eq!(judge(&mut world, 21), Some(open), "another cause is not it");
}

#[test]
fn a_trial_that_fails_for_another_cause_of_the_host_says_so() {
    let mut world = opened();
    pass(&mut world, 65);
    fails(&mut world, 1, Cause::Disk, 66);
    let open = judge(&mut world, 67).unwrap();
    assert_eq!((open.cause, open.failed_trials), (Cause::Disk, 1));
    assert_eq!(open.until, at(66 + 120));
}

fn ends(world: &mut World, n: u8, class: EndClass, when: i64) {
    let (policy, now) = (world.policy.clone(), at(when));
    let vm = &mut world.vms[usize::from(n) - 1];
    let end = RunEnd {
        class,
        exit_code: None,
        vmm: None,
        guest: None,
        failure: class != EndClass::Clean,
        reason: "over".to_owned(),
        at: now,
    };
    vm.status = ended(&vm.status, vm.id, &vm.spec, end, now, &policy, vm.goal);
    let id = vm.id;
    processes(world).retain(|process| process.identity.mark.vm() != Some(id));
}

#[test]
fn a_trial_that_starts_and_fails_for_its_own_sake_proves_the_host() {
    for (cause, class, closes) in [
        (Cause::Network, EndClass::WorkloadFailed, true),
        (Cause::Network, EndClass::Clean, true),
        (Cause::Network, EndClass::VmmCrashed, false),
        (Cause::Vmm, EndClass::WorkloadFailed, false),
        (Cause::Vmm, EndClass::VmmCrashed, false),
    ] {
        let mut world = host_of(10);
        for n in 1..=5 {
            fails(&mut world, n, cause, 5);
        }
        pass(&mut world, 10);
        pass(&mut world, 65);
        runs(&mut world, 1, 66);
        pass(&mut world, 66);
        ends(&mut world, 1, class, 70);
        let open = judge(&mut world, 71);
        assert_eq!(open.is_none(), closes, "{cause:?} {class:?}");
        let failed = open.map(|open| open.failed_trials);
        let crashed = class == EndClass::VmmCrashed;
        assert_eq!(failed, (!closes).then_some(u32::from(crashed)));
    }
}

#[test]
fn a_vmm_that_was_not_seen_proves_nothing() {
    let mut world = opened();
    pass(&mut world, 65);
    runs(&mut world, 1, 66);
    let alive = std::mem::take(processes(&mut world));
    assert!(judge(&mut world, 200).is_some());
    *processes(&mut world) = alive;
    assert_eq!(judge(&mut world, 200), None);
}

#[test]
fn there_is_no_trial_while_the_cause_is_seen() {
    let mut world = host_of(10);
    for n in 1..=5 {
        fails(&mut world, n, Cause::Memory, 5);
    }
    pass(&mut world, 10);
    world.load.memory_pressure = Some(20);
    let plan = pass(&mut world, 900);
    assert_eq!(starts(&plan), BTreeSet::new());
    assert!(notes(&plan).contains("no trial yet: memory pressure is 20 %"));
    world.load.memory_pressure = Some(19);
    assert_eq!(starts(&pass(&mut world, 901)), [vm_id(1)].into());
    let mut world = opened();
    let taps = std::mem::replace(&mut world.observed.taps, Survey::Unknown("no".to_owned()));
    assert!(judge(&mut world, 100).unwrap().still.is_some());
    world.observed.taps = taps;
    assert_eq!(starts(&pass(&mut world, 100)), [vm_id(1)].into());
}

#[test]
fn a_new_boot_is_tried_at_once() {
    let mut world = opened();
    world.host.open.as_mut().unwrap().failed_trials = 5;
    world.boot_id = "another".to_owned();
    let half = pass(&mut world, 11);
    assert_eq!(starts(&half), [vm_id(1)].into());
    fails(&mut world, 1, Cause::Network, 12);
    let open = judge(&mut world, 13).unwrap();
    assert_eq!((open.failed_trials, open.until), (1, at(12 + 120)));
}

#[test]
fn a_clock_that_is_set_back_does_not_keep_it_open() {
    let mut world = opened();
    let longest = 900;
    let back = -1_000_000;
    let open = judge(&mut world, back).unwrap();
    assert!(open.until <= at(back + longest));
    assert!(judge(&mut world, back + longest).unwrap().trial.is_some());
    fails(&mut world, 1, Cause::Network, back + longest + 1);
    let open = judge(&mut world, back + longest + 2).unwrap();
    assert_eq!(open.failed_trials, 1);
}

#[test]
fn the_users_start_is_carried_out_all_the_same() {
    let mut world = opened();
    world.vms[6].generation += 1;
    world.vms[6].goal = Goal::Running;
    assert_eq!(starts(&pass(&mut world, 10)), [vm_id(7)].into());
    // One of those that had failed is as good as a trial.
    runs(&mut world, 2, 20);
    assert!(judge(&mut world, 21).unwrap().on_trial);
    assert_eq!(judge(&mut world, 50), None);
}

#[test]
fn it_closes_when_nobody_waits() {
    let mut world = opened();
    for vm in &mut world.vms {
        vm.goal = Goal::Stopped;
    }
    assert!(judge(&mut world, 64).is_some());
    assert_eq!(judge(&mut world, 65), None);
    let mut world = opened();
    world.policy.auto.restart = false;
    world.policy.auto.bootstrap = false;
    assert_eq!(judge(&mut world, 65), None, "nothing is started anyway");
}

#[test]
fn the_operator_closes_it() {
    let mut world = opened();
    world.host = reset(&world.host, at(11));
    assert_eq!(judge(&mut world, 11), None, "what had failed is forgotten");
    for n in 1..=5 {
        fails(&mut world, n, Cause::Network, 12);
    }
    assert!(judge(&mut world, 13).is_some());
}

#[test]
fn it_can_be_switched_off() {
    let mut world = opened();
    world.policy.host_breaker.vms = 0;
    assert_eq!(judge(&mut world, 10), None);
    assert_eq!(world.host.open, None);
}
