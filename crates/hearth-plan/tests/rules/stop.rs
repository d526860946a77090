//! Goal Stopped and Absent: the ladder and the tear-down.

use hearth_plan::transition::{rung_taken, skip_rung, stop_begun};
use hearth_plan::{Plan, Step};
use hearth_types::net::RuleSet;
use hearth_types::observe::{ProcessRole, RunState};
use hearth_types::status::{Goal, Phase, StopRung};
use hearth_types::survey::Survey;
use hearth_types::units::Span;

use super::world::*;

fn rung(plan: &Plan) -> Option<StopRung> {
    plan.steps.iter().find_map(|planned| match planned.step {
        Step::Stop { rung, .. } => Some(rung),
        _ => None,
    })
}

#[test]
fn a_stop_begins_with_the_agent() {
    let mut world = running();
    say(&mut world, Goal::Stopped);
    let plan = assert_steps(&world, &["set_status", "stop"]);
    let status = stored(&plan);
    assert_eq!(
        (status.phase, status.observed_generation),
        (Phase::Stopping, 2)
    );
    assert_eq!(status.stop.as_ref().unwrap().since, world.now);
    assert_eq!(rung(&plan), Some(StopRung::Agent));
    assert_eq!(plan.next_pass, Some(at(10)));
}

#[test]
fn each_rung_has_its_time_and_is_taken_once() {
    use StopRung::{Agent, Kill, PowerButton, Quit};
    // Stop timeout 10 s, power button 5 s, quit 3 s.
    for (seconds, taken, due, next) in [
        (0, None, Some(Agent), 10),
        (9, None, Some(Agent), 1),
        (9, Some(Agent), None, 1),
        (10, Some(Agent), Some(PowerButton), 5),
        (14, Some(PowerButton), None, 1),
        (15, Some(PowerButton), Some(Quit), 3),
        (17, Some(Quit), None, 1),
        (18, Some(Quit), Some(Kill), 3),
        // The last rung again, until it is dead.
        (99, Some(Kill), Some(Kill), 3),
        // A daemon that was away takes the rung that is due now.
        (99, Some(Agent), Some(Kill), 3),
    ] {
        let plan = hearth_plan::plan(&stopping(seconds, taken));
        assert_eq!(rung(&plan), due, "after {seconds} s with {taken:?}");
        assert_eq!(
            plan.next_pass,
            Some(at(next)),
            "after {seconds} s with {taken:?}"
        );
    }
}

#[test]
fn a_stop_timeout_of_the_stop_beats_the_specs() {
    let mut world = stopping(3, Some(StopRung::Agent));
    world.vms[0].stop_timeout = Some(Span::secs(2));
    assert_eq!(
        rung(&hearth_plan::plan(&world)),
        Some(StopRung::PowerButton)
    );
}

#[test]
fn force_kills_at_once() {
    let mut world = running();
    say(&mut world, Goal::Stopped);
    world.vms[0].force_stop = true;
    assert_eq!(rung(&hearth_plan::plan(&world)), Some(StopRung::Kill));
}

#[test]
fn a_paused_guest_is_resumed_so_that_it_can_shut_down() {
    let mut world = stopping(0, None);
    world.observed.run_states = [(web(), Survey::Known(RunState::Paused))].into();
    assert_steps(&world, &["resume", "stop"]);
    world.vms[0].force_stop = true;
    assert_steps(&world, &["stop"]);
}

#[test]
fn a_rung_that_cannot_work_is_skipped_and_the_deadlines_stay() {
    assert_eq!(skip_rung(StopRung::Agent), StopRung::PowerButton);
    let mut world = stopping(1, None);
    let status = rung_taken(&world.vms[0].status, skip_rung(StopRung::Agent));
    world.vms[0].status = status;
    let plan = assert_steps(&world, &[]);
    assert_eq!(
        plan.next_pass,
        Some(at(14)),
        "QMP quit after 15 s as before"
    );
}

#[test]
fn a_stop_that_began_in_the_future_begins_again() {
    let plan = assert_steps(
        &stopping(-500, Some(StopRung::Agent)),
        &["set_status", "stop"],
    );
    assert_eq!(stored(&plan).stop.as_ref().unwrap().since, at(0));
}

#[test]
fn stop_wins_over_the_back_off() {
    let mut world = down(Phase::Backoff);
    world.vms[0].status.next_start = Some(at(-1));
    say(&mut world, Goal::Stopped);
    let plan = assert_steps(&world, &["set_status"]);
    assert_eq!(stored(&plan).phase, Phase::Exited);
    assert_eq!(stored(&plan).next_start, None);
}

#[test]
fn a_stopped_vm_keeps_no_tap() {
    let mut world = down(Phase::Exited);
    world.vms[0].goal = Goal::Stopped;
    taps(&mut world).push(tap(web()));
    assert_steps(&world, &["remove_tap"]);
}

#[test]
fn a_vmm_adopted_with_goal_stopped_is_stopped() {
    let mut world = running();
    world.vms[0].status.vmm = None;
    say(&mut world, Goal::Stopped);
    let plan = assert_steps(&world, &["adopt", "set_status", "stop"]);
    assert_eq!(stored(&plan).vmm, Some(identity(web(), 10)));
}

#[test]
fn start_during_a_stop_lets_it_finish_and_starts_then() {
    let mut world = stopping(10, Some(StopRung::Agent));
    say(&mut world, Goal::Running);
    let plan = hearth_plan::plan(&world);
    assert_eq!(rung(&plan), Some(StopRung::PowerButton));
    // It has ended.
    world.observed.processes = Survey::Known(Vec::new());
    world.observed.run_states.clear();
    let plan = assert_steps(&world, &["set_status", "set_status", "start_vmm"]);
    assert_eq!(stored(&plan).phase, Phase::Starting);
    assert_eq!(stored(&plan).observed_generation, 3);
}

#[test]
fn restart_is_a_begun_stop_with_the_word_to_run() {
    let mut world = running();
    say(&mut world, Goal::Running);
    let vm = &mut world.vms[0];
    vm.status = stop_begun(&vm.status, vm.generation, at(0), Goal::Running);
    let plan = assert_steps(&world, &["stop"]);
    assert_eq!(rung(&plan), Some(StopRung::Agent));
}

#[test]
fn a_removed_vm_goes_step_by_step_and_is_forgotten_last() {
    let mut world = running();
    say(&mut world, Goal::Absent);
    let plan = assert_steps(&world, &["set_status", "stop"]);
    assert_eq!(stored(&plan).phase, Phase::Removing);

    let mut world = down(Phase::Removing);
    world.vms[0].goal = Goal::Absent;
    taps(&mut world).push(tap(web()));
    let plan = assert_steps(&world, &["apply_rules", "remove_tap", "remove_dir"]);
    assert_eq!(plan.steps[0].step, Step::ApplyRules(RuleSet::default()));
    assert_eq!(plan.next_pass, Some(world.now));

    taps(&mut world).clear();
    dirs(&mut world).clear();
    world.observed.rules = Survey::Known(Some(RuleSet::default()));
    assert_steps(&world, &["flush_conntrack", "forget"]);
}

#[test]
fn a_vm_is_not_forgotten_while_a_rule_names_its_address() {
    let mut world = down(Phase::Removing);
    world.vms[0].goal = Goal::Absent;
    dirs(&mut world).clear();
    assert_steps(&world, &["apply_rules"]);
}

#[test]
fn the_folder_stays_until_the_shim_has_gone() {
    let mut world = down(Phase::Removing);
    world.vms[0].goal = Goal::Absent;
    world.observed.rules = Survey::Known(Some(RuleSet::default()));
    processes(&mut world).push(process(web(), 9, ProcessRole::Shim, -1));
    assert_steps(&world, &[]);
}

#[test]
fn auto_remove_goes_when_it_has_ended_and_not_before() {
    let mut world = running();
    world.vms[0].spec.auto_remove = true;
    assert_steps(&world, &[]);
    let mut world = down(Phase::Starting);
    world.vms[0].spec.auto_remove = true;
    assert!(kinds(&hearth_plan::plan(&world)).contains(&"start_vmm"));
    let mut world = down(Phase::Exited);
    world.vms[0].spec.auto_remove = true;
    assert_steps(&world, &["apply_rules", "set_status", "remove_dir"]);
}
