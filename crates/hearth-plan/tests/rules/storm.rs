//! Automatic starts that are due at once are staggered.

use std::collections::BTreeSet;
use std::time::Duration;

use hearth_plan::{Plan, Step, World, plan};
use hearth_types::ids::VmId;
use hearth_types::observe::ProcessRole;
use hearth_types::resources::Priority;
use hearth_types::spec::{NetworkMode, RestartPolicy};
use hearth_types::status::{Goal, Phase};
use jiff::Timestamp;
use proptest::prelude::*;

use super::world::*;

/// So many VMs that are due for an automatic start.
fn due(count: u8) -> World {
    let mut world = down(Phase::Backoff);
    let first = world.vms.remove(0);
    for n in 1..=count {
        let mut vm = first.clone();
        vm.id = vm_id(n);
        vm.spec.name = format!("vm-{n}").parse().unwrap();
        vm.spec.restart = RestartPolicy::Always;
        vm.spec.network.mode = NetworkMode::None;
        vm.leases.ip = None;
        vm.status.started_at = None;
        world.vms.push(vm);
    }
    *dirs(&mut world) = (1..=count).map(|n| dir(vm_id(n))).collect();
    world
}

fn starts(plan: &Plan) -> Vec<VmId> {
    let steps = plan.steps.iter();
    steps
        .filter_map(|planned| match planned.step {
            Step::StartVmm { vm, .. } => Some(vm),
            _ => None,
        })
        .collect()
}

/// Carries the starts out at once.
fn carry_out(world: &mut World, started: &[VmId]) {
    let now = world.now;
    for (index, vm) in started.iter().enumerate() {
        let pid = 100 + i32::try_from(index + world.vms.len() * 2).unwrap();
        let desired = world
            .vms
            .iter_mut()
            .find(|desired| desired.id == *vm)
            .unwrap();
        let pid = pid + i32::try_from(now.as_second() % 1000).unwrap() * 100;
        let identity = identity(*vm, pid);
        desired.status =
            hearth_plan::transition::started(&desired.status, identity.clone(), now, true);
        let mut process = process(*vm, pid, ProcessRole::Vmm, 0);
        process.started_at = now;
        processes(world).push(process);
    }
}

#[test]
fn four_at_once_and_then_two_a_second() {
    let mut world = due(10);
    let mut seen = Vec::new();
    for _ in 0..40 {
        let plan = plan(&world);
        let started = starts(&plan);
        carry_out(&mut world, &started);
        seen.extend(
            started
                .iter()
                .map(|_| world.now.duration_since(at(0)).as_millis()),
        );
        if seen.len() == 10 {
            break;
        }
        world.now = plan.next_pass.unwrap();
    }
    assert_eq!(seen, [0, 0, 0, 0, 500, 1000, 1500, 2000, 2500, 3000]);
}

#[test]
fn priority_comes_first_and_then_age_and_the_rest_is_told() {
    let mut world = due(8);
    world.vms[7].spec.resources.priority = Priority::High;
    world.vms[0].spec.resources.priority = Priority::Low;
    let plan = plan(&world);
    let started: BTreeSet<_> = starts(&plan).into_iter().collect();
    assert_eq!(started, [vm_id(8), vm_id(2), vm_id(3), vm_id(4)].into());
    assert!(notes(&plan).contains("waits for its turn"), "{plan:#?}");
    let of_starts = ["ensure_disks", "ensure_tap", "start_vmm"];
    let waiting = plan.steps.iter().filter(|planned| {
        let vm = planned.step.vm();
        of_starts.contains(&planned.step.kind()) && vm.is_some_and(|vm| !started.contains(&vm))
    });
    assert_eq!(waiting.count(), 0, "no part of a start that waits is taken");
}

#[test]
fn starts_that_are_under_way_take_their_places() {
    let mut world = due(8);
    world.load.starting = [vm_id(1), vm_id(2), vm_id(3)].into();
    let started: BTreeSet<_> = starts(&plan(&world)).into_iter().collect();
    // The executor leaves out what is under way.
    let new: Vec<_> = started.difference(&world.load.starting).collect();
    assert_eq!(new, [&vm_id(4)]);
}

#[test]
fn the_users_start_waits_for_nobody() {
    let mut world = due(12);
    world.load.starting = (1..=4).map(vm_id).collect();
    world.load.memory_pressure = Some(99);
    world.vms[11].generation += 1;
    world.vms[11].goal = Goal::Running;
    let started = starts(&plan(&world));
    assert!(started.contains(&vm_id(12)), "{started:?}");
    assert!(!started.contains(&vm_id(11)));
}

#[test]
fn under_pressure_one_at_a_time_with_a_rest() {
    for memory in [true, false] {
        let mut world = due(4);
        if memory {
            world.load.memory_pressure = Some(20);
        } else {
            world.load.cpu_pressure = Some(80);
        }
        let first = plan(&world);
        assert_eq!(starts(&first), [vm_id(1)]);
        assert!(notes(&first).contains("pressure is"), "{first:#?}");
        carry_out(&mut world, &[vm_id(1)]);
        world.now = at(4);
        assert_eq!(starts(&plan(&world)), []);
        world.now = at(5);
        assert_eq!(starts(&plan(&world)), [vm_id(2)]);
    }
    let mut world = due(4);
    world.load.memory_pressure = Some(19);
    assert_eq!(starts(&plan(&world)).len(), 4, "below the threshold");
}

#[test]
fn limits_can_be_switched_off() {
    let mut world = due(50);
    world.policy.storm.per_second = 0;
    assert_eq!(starts(&plan(&world)).len(), 4);
    world.policy.storm.at_once = 0;
    assert_eq!(starts(&plan(&world)).len(), 50);
}

proptest! {
    /// In no stretch of time more starts than the bucket holds and is filled with in it, never
    /// more than may be under way at once, and all are started in the end.
    #[test]
    fn never_faster_than_the_bucket_and_never_stuck(
        count in 1_u8..40,
        at_once in 1_u32..8,
        per_second in 1_u32..6,
        delays in prop::collection::vec(0_u64..3000, 400),
    ) {
        let mut world = due(count);
        world.policy.storm.at_once = at_once;
        world.policy.storm.per_second = per_second;
        let mut times: Vec<Timestamp> = Vec::new();
        for delay in delays {
            let plan = plan(&world);
            let started = starts(&plan);
            prop_assert!(started.len() <= at_once as usize);
            carry_out(&mut world, &started);
            times.extend(started.iter().map(|_| world.now));
            if times.len() == usize::from(count) {
                break;
            }
            let next = plan.next_pass.unwrap();
            prop_assert!(next > world.now, "the next pass is in the past");
            world.now = next + Duration::from_millis(delay);
        }
        prop_assert_eq!(times.len(), usize::from(count), "some were never started");
        for (first, begun) in times.iter().enumerate() {
            for (last, end) in times.iter().enumerate().skip(first) {
                let millis = end.duration_since(*begun).as_millis();
                let most = i128::from(at_once) * 1000 + millis * i128::from(per_second);
                let starts = i128::try_from(last - first + 1).unwrap();
                prop_assert!(starts * 1000 <= most, "{starts} starts within {millis} ms");
            }
        }
    }
}
