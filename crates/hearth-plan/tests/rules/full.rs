//! A guest that finds no room on the host is left to wait for it; one that its VMM cannot let
//! go on is ended, and that is a failure.

use hearth_plan::{Ill, Step, World, plan, transition};
use hearth_types::mode::Mode;
use hearth_types::observe::RunState;
use hearth_types::process::{ExitRecord, ProcessExit};
use hearth_types::spec::RestartPolicy;
use hearth_types::status::{EndClass, Goal, Phase, StopRung};
use hearth_types::survey::Survey;

use super::world::{at, dirs, identity, kinds, running, say, seconds, stored, web};

fn says(world: &mut World, state: RunState) {
    world.observed.run_states = [(web(), Survey::Known(state))].into();
}

fn full() -> World {
    let mut world = running();
    says(&mut world, RunState::DiskFull);
    world
}

/// Time goes on with the status that the plan has stored.
fn go_on(world: &mut World, seconds: i64) {
    let planned = plan(world);
    for step in &planned.steps {
        if let Step::SetStatus { status, .. } = &step.step {
            world.vms[0].status = (**status).clone();
        }
    }
    if kinds(&planned).contains(&"resume") {
        world.vms[0].status = transition::told_to_go_on(&world.vms[0].status, world.now);
    }
    world.now = at(seconds);
}

#[test]
fn a_guest_without_room_is_told_of_and_never_ended() {
    let mut world = full();
    let first = plan(&world);
    assert_eq!(kinds(&first), ["set_status"], "{first:#?}");
    let said = stored(&first);
    assert_eq!(said.phase, Phase::Paused);
    assert!(said.reason.as_ref().unwrap().contains("no room"));
    let mut tries = 0;
    for second in 0..3600 {
        world.now = at(second);
        let steps = kinds(&plan(&world));
        assert!(!steps.contains(&"stop"), "at {second} s: {steps:?}");
        tries += steps.iter().filter(|step| **step == "resume").count();
        go_on(&mut world, second);
    }
    assert!((100..=130).contains(&tries), "{tries} tries in an hour");
    assert_eq!(world.vms[0].status.phase, Phase::Paused);
    let full = world.vms[0].status.disk_full.as_ref().unwrap();
    assert_eq!(full.since, at(0));
}

#[test]
fn in_mode_readonly_it_is_told_of_and_in_mode_normal_it_goes_on() {
    let mut world = full();
    world.policy.stance.mode = Mode::Readonly;
    for second in 0..60 {
        world.now = at(second);
        let steps = kinds(&plan(&world));
        assert!(
            !steps.contains(&"stop") && !steps.contains(&"resume"),
            "{steps:?}"
        );
        go_on(&mut world, second);
    }
    assert!(world.vms[0].status.disk_full.is_some());
    world.policy.stance.mode = Mode::Normal;
    assert_eq!(kinds(&plan(&world)), ["resume"]);
    go_on(&mut world, 60);
    says(&mut world, RunState::Running);
    assert_eq!(
        kinds(&plan(&world)),
        [""; 0],
        "it may be stopped again at once"
    );
    world.now = at(65);
    let planned = plan(&world);
    let status = stored(&planned);
    assert_eq!((status.phase, &status.reason), (Phase::Running, &None));
    assert_eq!(status.disk_full, None);
}

#[test]
fn its_silence_is_not_held_against_it() {
    let mut world = full();
    let ill = Ill {
        vmm: identity(web(), 10),
        since: at(-60),
        reason: "its agent does not answer".to_owned(),
    };
    world.ill = [(web(), ill)].into();
    go_on(&mut world, 100);
    assert_eq!(kinds(&plan(&world)), ["resume"]);
}

#[test]
fn its_users_stop_and_pause_hold() {
    let mut world = full();
    go_on(&mut world, 100);
    say(&mut world, Goal::Paused);
    assert!(!kinds(&plan(&world)).contains(&"resume"));
    say(&mut world, Goal::Stopped);
    assert_eq!(kinds(&plan(&world)), ["set_status", "resume", "stop"]);
}

#[test]
fn an_internal_error_ends_the_run_as_a_failure() {
    let mut world = running();
    world.vms[0].spec.restart = RestartPolicy::OnFailure(None);
    says(&mut world, RunState::Broken);
    let planned = plan(&world);
    assert_eq!(kinds(&planned), ["set_status", "stop"], "{planned:#?}");
    assert!(planned.steps.iter().any(|planned| matches!(
        planned.step,
        Step::Stop {
            rung: StopRung::Quit,
            ..
        }
    )));
    let status = stored(&planned).clone();
    world.vms[0].status = transition::rung_taken(&status, StopRung::Quit);
    // QEMU quits with status 0.
    world.observed.processes = Survey::Known(Vec::new());
    world.observed.run_states.clear();
    dirs(&mut world)[0].exit = Some(ExitRecord {
        identity: identity(web(), 10),
        vmm: ProcessExit::Code(0),
        guest: None,
        evidence: hearth_types::process::Evidence::default(),
        ended_at: at(1),
    });
    world.now = at(1) + seconds(1);
    let planned = plan(&world);
    let status = stored(&planned);
    let end = status.last_end.as_ref().unwrap();
    assert!(end.failure, "{end:?}");
    assert_eq!(end.class, EndClass::Unresponsive);
    assert!(end.reason.contains("internal error"), "{end:?}");
    assert_eq!(status.phase, Phase::Backoff);
}
