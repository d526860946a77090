//! The end of a VMM that was seen to die, without a survey of the host.

use hearth_plan::{Plan, World, plan, plan_end};
use hearth_types::observe::ProcessRole;
use hearth_types::process::ProcessExit;
use hearth_types::spec::RestartPolicy;
use hearth_types::status::{EndClass, Goal, Phase};

use super::super::world::*;

/// `web`'s VMM was killed and its shim has written that; nothing else of the host was looked at.
fn written() -> World {
    let mut world = dead(ProcessExit::Signal(9), None);
    world.vms[0].spec.restart = RestartPolicy::Always;
    world.observed.processes = unknown();
    world.observed.taps = unknown();
    world.observed.bridge = unknown();
    world
}

fn end_of(world: &World) -> Plan {
    plan_end(world, web(), &identity(web(), 10))
}

#[test]
fn its_record_is_enough_and_says_what_a_pass_would_say() {
    let mut world = written();
    for goal in [Goal::Running, Goal::Paused, Goal::Stopped, Goal::Absent] {
        world.vms[0].goal = goal;
        let end = end_of(&world);
        assert_eq!(kinds(&end), ["set_status"], "an end, and nothing else");
        let mut seen = world.clone();
        processes_are(&mut seen, &[]);
        let whole = plan(&seen).steps;
        let first = whole.iter().find(|step| step.step.kind() == "set_status");
        let (end, first) = (&end.steps[0], first.unwrap());
        assert_eq!((&end.step, end.origin), (&first.step, first.origin));
    }
    world.vms[0].goal = Goal::Running;
    let status = stored(&end_of(&world)).clone();
    assert_eq!((status.phase, status.vmm), (Phase::Backoff, None));
    assert!(status.next_start.is_some());
}

#[test]
fn without_a_record_it_is_told_when_nobody_is_left_to_write_one() {
    let mut world = written();
    dirs(&mut world)[0].exit = None;
    assert_eq!(kinds(&end_of(&world)), [""; 0], "a shim may be about to");
    for role in [ProcessRole::Shim, ProcessRole::Vmm] {
        processes_are(&mut world, &[role]);
        assert_eq!(kinds(&end_of(&world)), [""; 0], "{role:?}");
    }
    processes_are(&mut world, &[]);
    let end = end_of(&world);
    let class = stored(&end).last_end.as_ref().unwrap().class;
    assert_eq!(
        (kinds(&end), class),
        (vec!["set_status"], EndClass::Unknown)
    );
    world.observed.dirs = unknown();
    assert_eq!(
        kinds(&end_of(&world)),
        [""; 0],
        "whether there is a record is unknown"
    );
}

#[test]
fn who_is_not_the_recorded_vmm_ends_nothing() {
    let world = written();
    let other = plan_end(&world, web(), &identity(web(), 11));
    assert!(other.steps.is_empty());
    let stranger = plan_end(&world, vm_id(7), &identity(vm_id(7), 10));
    assert!(stranger.steps.is_empty());
    let mut rebooted = written();
    rebooted.boot_id = "boot-2".to_owned();
    assert!(
        end_of(&rebooted).steps.is_empty(),
        "a pass tells of reboots"
    );
}

fn processes_are(world: &mut World, roles: &[ProcessRole]) {
    let of = |role: &ProcessRole| process(web(), 9, *role, -3600);
    let found = roles.iter().map(of).collect();
    world.observed.processes = hearth_types::Survey::Known(found);
}
