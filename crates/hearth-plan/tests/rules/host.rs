//! The host's circuit breaker.

use std::collections::BTreeSet;

use hearth_plan::breaker::host::judge;
use hearth_plan::recovery::hold;
use hearth_plan::transition::{start_failed, started};
use hearth_plan::{Plan, Step, World, plan};
use hearth_types::ids::VmId;
use hearth_types::resources::Priority;
use hearth_types::spec::{NetworkMode, RestartPolicy};
use hearth_types::status::{Cause, Goal, Phase};
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

/// Ten VMs of which the first five have just failed for one cause.
fn opened() -> World {
    let mut world = host_of(10);
    for n in 1..=5 {
        fails(&mut world, n, Cause::Network, i64::from(n));
    }
    world.now = at(10);
    world
}

#[test]
fn five_vms_that_fail_for_one_cause_within_a_minute_open_it() {
    let world = opened();
    let open = judge(&world).unwrap();
    assert_eq!((open.cause, open.vms.len()), (Cause::Network, 5));
    assert_eq!((open.opened_at, open.until), (at(5), at(65)));
    let plan = plan(&world);
    assert_eq!(starts(&plan), BTreeSet::new(), "no automatic start at all");
    assert_eq!(plan.host_breaker, Some(open));
    assert!(notes(&plan).contains("host breaker open (network): 5 VMs failed at once"));
}

#[test]
fn different_causes_one_vm_and_time_do_not_open_it() {
    let mut world = host_of(10);
    for (n, cause) in (1..=6).zip(Cause::SHARED) {
        fails(&mut world, n, cause, 0);
    }
    world.now = at(1);
    assert_eq!(judge(&world), None, "each has a cause of its own");
    let mut world = host_of(10);
    for second in 0..9 {
        fails(&mut world, 1, Cause::Disk, second);
    }
    world.now = at(10);
    assert_eq!(judge(&world), None, "one VM alone");
    let mut world = host_of(10);
    for n in 1..=10 {
        fails(&mut world, n, Cause::Disk, i64::from(n) * 20);
    }
    world.now = at(200);
    assert_eq!(judge(&world), None, "three in any minute");
    let mut world = host_of(10);
    for n in 1..=10 {
        fails(&mut world, n, Cause::Own, 0);
    }
    world.now = at(1);
    assert_eq!(
        judge(&world),
        None,
        "what is their own affair is not the host's"
    );
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
        world.now = at(1);
        assert_eq!(judge(&world).is_some(), opens, "{failing} of {count}");
    }
}

#[test]
fn when_the_cool_down_is_over_one_vm_is_tried_and_the_others_wait_for_it() {
    let mut world = opened();
    world.now = at(65);
    world.vms[2].spec.resources.priority = Priority::High;
    assert_eq!(starts(&plan(&world)), [vm_id(3)].into());
    world.vms[2].status = hold(&world.vms[2].status, None, at(60));
    assert_eq!(starts(&plan(&world)), [vm_id(1)].into(), "else the oldest");
    runs(&mut world, 1, 65);
    world.now = at(70);
    let waiting = plan(&world);
    assert_eq!(starts(&waiting), BTreeSet::new());
    let open = waiting.host_breaker.as_ref().unwrap();
    assert!(open.on_trial && open.trial == Some(vm_id(1)));
    assert!(waiting.next_pass <= Some(at(95)));
    world.now = at(95);
    assert_eq!(judge(&world), None, "it has held");
    assert!(starts(&plan(&world)).len() > 1);
}

#[test]
fn a_trial_that_fails_makes_the_next_wait_twice_as_long() {
    let mut world = opened();
    let mut failed_at = 5;
    for wait in [60, 120, 240, 480, 900, 900] {
        let open = judge(&world).unwrap();
        assert_eq!(open.until, at(failed_at + wait));
        failed_at += wait + 1;
        fails(&mut world, 1, Cause::Network, failed_at);
        world.now = at(failed_at);
    }
}

#[test]
fn the_users_start_is_carried_out_all_the_same() {
    let mut world = opened();
    world.vms[6].generation += 1;
    world.vms[6].goal = Goal::Running;
    assert_eq!(starts(&plan(&world)), [vm_id(7)].into());
}

#[test]
fn it_is_forgotten_when_nobody_tries() {
    let mut world = opened();
    for vm in &mut world.vms {
        vm.goal = Goal::Stopped;
    }
    world.now = at(65 + 899);
    assert!(judge(&world).is_some());
    world.now = at(65 + 900);
    assert_eq!(judge(&world), None);
}

#[test]
fn it_can_be_switched_off() {
    let mut world = opened();
    world.policy.host_breaker.vms = 0;
    assert_eq!(judge(&world), None);
}

proptest! {
    /// While it is open no more than one VM is started automatically, and only one that had
    /// failed; whatever the failures, it closes or comes to a trial within its longest wait.
    #[test]
    fn at_most_one_start_at_a_time_while_it_is_open(
        failures in prop::collection::vec((1_u8..=10, 0_usize..6, 0_i64..600), 0..60),
        later in 0_i64..2000,
    ) {
        let mut world = host_of(10);
        let mut failures = failures;
        failures.sort_by_key(|(_, _, when)| *when);
        for (n, cause, when) in failures {
            fails(&mut world, n, Cause::SHARED[cause], when);
        }
        world.policy.breaker.failures = 0;
        world.now = at(600 + later);
        let plan = plan(&world);
        match &plan.host_breaker {
            Some(open) => {
                let started = starts(&plan);
                prop_assert!(started.len() <= 1);
                prop_assert!(started.is_subset(&open.vms));
                let longest = world.policy.host_breaker.cooldown_max;
                prop_assert!(open.until <= world.now + longest);
            }
            None => {
                let waits = |vm: &hearth_plan::DesiredVm| vm.status.next_start > Some(world.now);
                let due = world.vms.iter().filter(|vm| !waits(vm)).count();
                prop_assert_eq!(starts(&plan).len(), due);
            }
        }
    }
}
