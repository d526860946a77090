//! A held VM is observed and left alone; what the operator's words change.

use hearth_plan::recovery::{hold, recover, release};
use hearth_plan::{Plan, Step, World, plan, view};
use hearth_types::observe::{ProcessRole, RunState};
use hearth_types::process::ProcessExit;
use hearth_types::spec::RestartPolicy;
use hearth_types::status::{Breaker, Goal, Phase, StopProgress, VmStatus};
use hearth_types::survey::Survey;
use proptest::prelude::*;

use super::world::*;

fn held(mut world: World) -> World {
    let status = &mut world.vms[0].status;
    *status = hold(status, Some("looking into it".to_owned()), at(-10));
    world
}

/// Steps that change anything but what is written down.
fn acts(plan: &Plan) -> Vec<&'static str> {
    let records = |step: &Step| matches!(step, Step::SetStatus { .. } | Step::Adopt { .. });
    let of_vm = plan.steps.iter().filter(|p| p.step.vm() == Some(web()));
    of_vm
        .filter(|planned| !records(&planned.step))
        .map(|planned| planned.step.kind())
        .collect()
}

#[test]
fn a_held_vm_is_not_started_and_a_note_says_so() {
    let plan = assert_steps(&held(down(Phase::Starting)), &[]);
    let notes = notes(&plan);
    assert!(notes.contains("is held since"), "{notes}");
    assert!(notes.contains("(looking into it)") && notes.contains("hearth release web"));
}

#[test]
fn its_end_is_written_down_and_nothing_else_done() {
    let mut world = held(dead(ProcessExit::Signal(11), None));
    world.vms[0].spec.restart = RestartPolicy::Always;
    let plan = assert_steps(&world, &["set_status"]);
    let status = stored(&plan).clone();
    assert_eq!((status.phase, status.failures), (Phase::Backoff, 1));
    assert!(status.recovery.hold.is_some());
    world.vms[0].status = status;
    world.now = at(3600);
    assert_steps(&world, &[]);
    world.vms[0].status = release(&world.vms[0].status);
    assert_eq!(acts(&hearth_plan::plan(&world)), ["start_vmm"]);
}

#[test]
fn a_vmm_of_a_held_vm_is_adopted_but_its_tap_and_its_twin_are_left() {
    let mut world = held(running());
    world.vms[0].status.vmm = None;
    taps(&mut world).clear();
    processes(&mut world).push(process(web(), 77, ProcessRole::Vmm, -5));
    let plan = assert_steps(&world, &["adopt"]);
    assert!(notes(&plan).contains("second VMM"));
}

#[test]
fn with_rm_a_held_vm_stays_after_its_end() {
    let mut world = held(dead(ProcessExit::Code(0), Some(ProcessExit::Code(0))));
    world.vms[0].spec.auto_remove = true;
    let plan = assert_steps(&world, &["set_status"]);
    world.vms[0].status = stored(&plan).clone();
    assert_steps(&world, &[]);
    world.vms[0].status = release(&world.vms[0].status);
    assert!(acts(&hearth_plan::plan(&world)).contains(&"remove_dir"));
}

#[test]
fn the_users_stop_and_removal_are_no_acts_of_the_daemons_own() {
    let mut world = held(running());
    say(&mut world, Goal::Stopped);
    assert_eq!(acts(&plan(&world)), ["stop"]);
    world.vms[0].goal = Goal::Absent;
    assert_eq!(acts(&plan(&world)), ["stop"]);
}

#[test]
fn a_new_boot_of_the_host_starts_no_held_vm() {
    let mut world = held(down(Phase::Exited));
    world.vms[0].spec.restart = RestartPolicy::Always;
    world.boot_id = "boot-2".to_owned();
    world.vms[0].goal = Goal::Running;
    assert_steps(&world, &[]);
}

#[test]
fn a_reboot_is_summed_up_once() {
    let mut world = running();
    world.boot_id = "boot-2".to_owned();
    processes(&mut world).clear();
    let sum = |world: &World| {
        let found = hearth_plan::recovery::rebooted(world);
        found.map(|found| (found.ran.len(), found.again.len(), found.left.len()))
    };
    assert_eq!(sum(&world), Some((1, 0, 1)), "policy no");
    world.vms[0].spec.restart = RestartPolicy::Always;
    assert_eq!(sum(&world), Some((1, 1, 0)));
    assert_eq!(sum(&held(world.clone())), Some((1, 0, 1)));
    world.vms[0].goal = Goal::Stopped;
    assert_eq!(sum(&world), Some((1, 0, 0)));
    world.vms[0].status = stored(&plan(&world)).clone();
    assert_eq!(sum(&world), None, "it is recorded");
    assert_eq!(sum(&running()), None);
}

#[test]
fn words_grow_with_each_word() {
    let status = VmStatus::default();
    let once = hold(&status, None, at(0));
    let twice = hold(&once, None, at(9));
    assert_eq!(twice.recovery.hold.as_ref().unwrap().since, at(0));
    assert_eq!((once.recovery.word, twice.recovery.word), (1, 2));
    assert_eq!(release(&twice).recovery.word, 3);
}

fn waits(phase: Phase) -> VmStatus {
    VmStatus {
        phase,
        failures: 3,
        next_start: Some(at(100)),
        reason: Some("no disk".to_owned()),
        ..VmStatus::default()
    }
}

fn open(status: VmStatus) -> VmStatus {
    let mut status = status;
    status.recovery.breaker = Some(Breaker {
        opened_at: at(0),
        until: at(300),
        opens: 1,
        trial: None,
        reason: "5 failures in 10m, last: no disk".to_owned(),
    });
    status
}

#[test]
fn recover_starts_what_waits_now() {
    let mut world = down(Phase::Backoff);
    world.vms[0].spec.restart = RestartPolicy::Always;
    world.vms[0].status.next_start = Some(at(100));
    assert_steps(&world, &[]);
    let said = recover(&world.vms[0].status, Goal::Running, false, at(0));
    world.vms[0].status = said.status.unwrap();
    assert_steps(&world, &["ensure_tap", "start_vmm"]);
}

#[test]
fn recover_respects_what_it_is_not_told_to_force() {
    let refused = |status: &VmStatus, goal| {
        let said = recover(status, goal, false, at(0));
        assert_eq!(said.status, None, "{}", said.detail);
        said.detail
    };
    let waiting = waits(Phase::Backoff);
    assert!(refused(&open(waiting.clone()), Goal::Running).contains("breaker open until"));
    assert!(refused(&waits(Phase::Failed), Goal::Running).contains("given it up"));
    assert!(refused(&waiting, Goal::Stopped).contains("stopped it"));
    assert!(refused(&hold(&waiting, None, at(0)), Goal::Running).contains("held"));
    assert!(refused(&running().vms[0].status, Goal::Running).contains("runs"));
    assert!(refused(&waits(Phase::Exited), Goal::Running).contains("ended well"));
}

#[test]
fn forced_it_sets_the_breaker_on_trial_and_starts_what_was_given_up() {
    let forced = |status: &VmStatus| recover(status, Goal::Running, true, at(0)).status.unwrap();
    let trial = forced(&open(waits(Phase::Backoff)));
    assert_eq!(trial.recovery.breaker.as_ref().unwrap().trial, Some(at(0)));
    assert!(trial.asked && trial.next_start.is_none());
    let failed = forced(&waits(Phase::Failed));
    assert_eq!((failed.phase, failed.failures), (Phase::Starting, 0));
    let held = hold(&waits(Phase::Failed), None, at(0));
    assert_eq!(recover(&held, Goal::Running, true, at(0)).status, None);
}

#[test]
fn the_plan_for_one_vm_answers_every_question() {
    let mut world = held(down(Phase::Backoff));
    world.vms[0].spec.restart = RestartPolicy::OnFailure(Some(9));
    world.vms[0].status = open(world.vms[0].status.clone());
    let plan = plan(&world);
    let shown = view::vm(&plan, &world, web()).unwrap();
    let topics: Vec<_> = shown.reasons.iter().map(|r| r.topic.as_str()).collect();
    for topic in ["goal", "phase", "hold", "policy", "breaker", "mode", "note"] {
        assert!(topics.contains(&topic), "{topic}: {shown:#?}");
    }
    assert!(shown.steps.is_empty());
    assert_eq!(view::vm(&plan, &world, vm_id(9)), None);
}

/// Worlds of one VM in any state that a survey and a database can show.
fn any_world() -> impl Strategy<Value = World> {
    let phase = prop_oneof![
        Just(Phase::Created),
        Just(Phase::Starting),
        Just(Phase::Running),
        Just(Phase::Paused),
        Just(Phase::Stopping),
        Just(Phase::Exited),
        Just(Phase::Failed),
        Just(Phase::Backoff),
    ];
    let restart = prop_oneof![
        Just(RestartPolicy::No),
        Just(RestartPolicy::OnFailure(Some(2))),
        Just(RestartPolicy::Always),
        Just(RestartPolicy::UnlessStopped),
    ];
    let facts = prop::collection::vec(any::<bool>(), 10);
    (phase, restart, 0..4_usize, facts).prop_map(|(phase, restart, state, facts)| {
        let mut world = if facts[0] { running() } else { down(phase) };
        world.vms[0].spec.restart = restart;
        world.vms[0].status.phase = phase;
        let states = [RunState::Running, RunState::Paused, RunState::Ended];
        match states.get(state) {
            Some(state) if facts[0] => {
                world.observed.run_states = [(web(), Survey::Known(*state))].into();
            }
            _ => world.observed.run_states.clear(),
        }
        if facts[1] {
            world.vms[0].goal = Goal::Paused;
        }
        if facts[2] {
            world.vms[0].generation += 1;
        }
        if facts[3] {
            taps(&mut world).clear();
        }
        if facts[4] {
            world.boot_id = "boot-2".to_owned();
        }
        if facts[5] {
            processes(&mut world).push(process(web(), 77, ProcessRole::Vmm, -5));
        }
        if facts[6] {
            processes(&mut world).push(process(web(), 78, ProcessRole::Shim, -500));
        }
        if facts[7] {
            world.vms[0].spec.auto_remove = true;
        }
        if facts[8] {
            world.vms[0].status.stop = Some(StopProgress {
                since: at(-100),
                rung: None,
            });
        }
        if facts[9] {
            dirs(&mut world).clear();
        }
        world
    })
}

proptest! {
    /// Whatever its state: nothing is done to a held VM, and once all is written down
    /// the plan comes to rest.
    #[test]
    fn nothing_is_ever_done_to_a_held_vm(world in any_world()) {
        let mut world = held(world);
        for _ in 0..4 {
            let plan = plan(&world);
            prop_assert_eq!(acts(&plan), Vec::<&str>::new());
            for planned in &plan.steps {
                match &planned.step {
                    Step::SetStatus { status, .. } => {
                        prop_assert!(status.recovery.hold.is_some());
                        world.vms[0].status = VmStatus::clone(status);
                    }
                    Step::Adopt { identity, .. } => {
                        let status = &world.vms[0].status;
                        world.vms[0].status =
                            hearth_plan::transition::adopted(status, identity.clone(), at(0));
                    }
                    _ => {}
                }
            }
            world.now += seconds(1);
        }
        let of_vm = |p: &&hearth_plan::PlannedStep| p.step.vm() == Some(web());
        let last = plan(&world);
        prop_assert_eq!(last.steps.iter().filter(of_vm).count(), 0, "{:#?}", last);
    }
}
