//! A survey that failed is never read as "nothing there".

use hearth_types::Survey;
use hearth_types::observe::RunState;
use hearth_types::process::ProcessExit;
use hearth_types::status::{Goal, Phase};

use super::world::*;

#[test]
fn without_processes_nothing_is_done_for_any_vm() {
    let cases = [
        down(Phase::Starting),
        dead(ProcessExit::Signal(9), None),
        stopping(99, None),
    ];
    for mut world in cases {
        world.observed.processes = unknown();
        let plan = assert_steps(&world, &[]);
        assert!(notes(&plan).contains("processes could not be surveyed"));
        assert!(notes(&plan).contains("permission denied"));
    }
}

#[test]
fn without_taps_no_tap_is_touched_and_no_vm_that_needs_one_is_started() {
    let mut world = down(Phase::Starting);
    world.observed.taps = unknown();
    let plan = assert_steps(&world, &[]);
    assert!(notes(&plan).contains("TAPs could not be surveyed"));
}

#[test]
fn without_folders_no_disk_is_made_no_vm_is_started_and_no_end_is_recorded() {
    for mut world in [down(Phase::Starting), dead(ProcessExit::Signal(9), None)] {
        world.observed.dirs = unknown();
        let plan = assert_steps(&world, &[]);
        assert!(notes(&plan).contains("folders could not be surveyed"));
    }
}

#[test]
fn shared_things_that_are_unknown_are_left_alone_and_named() {
    let mut world = running();
    world.observed.bridge = unknown();
    world.observed.rules = unknown();
    world.observed.names = unknown();
    let plan = assert_steps(&world, &[]);
    for what in ["bridge", "rules", "name server"] {
        assert!(notes(&plan).contains(what), "{what}");
    }
}

#[test]
fn a_removal_needs_only_what_it_touches() {
    let mut world = down(Phase::Removing);
    world.vms[0].goal = Goal::Absent;
    world.observed.bridge = unknown();
    world.observed.names = unknown();
    assert_steps(&world, &["apply_rules", "remove_dir"]);
    world.observed.rules = unknown();
    dirs(&mut world).clear();
    let plan = assert_steps(&world, &[]);
    assert!(notes(&plan).contains("cannot be forgotten"));
}

/// A VMM that says nothing is not asked ten times a second, however long that goes on.
#[test]
fn a_pause_waits_for_a_vmm_that_does_not_say_its_state() {
    let mut world = running();
    world.vms[0].goal = Goal::Paused;
    world.observed.run_states = [(web(), unknown())].into();
    let plan = assert_steps(&world, &[]);
    assert_eq!(plan.next_pass, Some(at(5)));
    world.observed.run_states = [(web(), Survey::Known(RunState::Running))].into();
    assert_steps(&world, &["pause", "set_status"]);
}
