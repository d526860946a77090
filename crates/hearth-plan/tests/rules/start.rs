//! Goal Running and Paused; adoption; twins.

use hearth_plan::{Plan, Step, plan, plan_for, plan_vm};
use hearth_types::observe::{ProcessRole, RunState};
use hearth_types::spec::{NetworkMode, RestartPolicy};
use hearth_types::status::{Goal, Phase, StopRung};
use hearth_types::survey::Survey;

use super::world::*;

#[test]
fn a_converged_world_needs_nothing_until_the_resync() {
    let world = running();
    let plan = assert_steps(&world, &[]);
    assert_eq!(plan.next_pass, Some(at(60)));
    assert_eq!(plan.notes, []);
}

#[test]
fn a_plan_is_the_same_when_it_is_made_again() {
    let mut world = dead(hearth_types::process::ProcessExit::Signal(9), None);
    world.vms[0].spec.restart = RestartPolicy::Always;
    assert_eq!(plan(&world), plan(&world));
}

#[test]
fn a_new_vm_is_accepted_and_started_with_all_it_needs() {
    let mut world = down(Phase::Created);
    world.vms[0].status = Default::default();
    dirs(&mut world).clear();
    let steps = ["set_status", "ensure_disks", "ensure_tap", "start_vmm"];
    let plan = assert_steps(&world, &steps);
    let status = stored(&plan);
    assert_eq!(status.phase, Phase::Starting);
    assert_eq!(status.observed_generation, 1);
    assert!(matches!(
        plan.steps[3].step,
        Step::StartVmm { restart: false, .. }
    ));
}

#[test]
fn a_start_that_a_crash_cut_off_is_taken_up_again() {
    assert_steps(&down(Phase::Starting), &["ensure_tap", "start_vmm"]);
}

#[test]
fn a_disk_that_is_not_whole_is_made_again() {
    let mut world = down(Phase::Starting);
    dirs(&mut world)[0].has_disk = false;
    assert_steps(&world, &["ensure_disks", "ensure_tap", "start_vmm"]);
}

#[test]
fn without_network_no_tap_is_made() {
    let mut world = down(Phase::Starting);
    world.vms[0].spec.network.mode = NetworkMode::None;
    let plan = plan_vm(&world, &world.vms[0]);
    assert_eq!(kinds(&plan), ["start_vmm"]);
}

#[test]
fn bridge_networking_without_a_lease_is_not_started() {
    let mut world = down(Phase::Starting);
    world.vms[0].leases.ip = None;
    let plan = plan_vm(&world, &world.vms[0]);
    assert_eq!(kinds(&plan), <[&str; 0]>::default());
    assert!(notes(&plan).contains("no address is leased"));
}

#[test]
fn an_ended_vm_with_policy_no_stays_ended_without_a_new_word() {
    assert_steps(&down(Phase::Exited), &[]);
    assert_steps(&down(Phase::Failed), &[]);
}

#[test]
fn a_new_word_starts_whatever_ended_and_begins_the_counts_at_0() {
    let mut world = down(Phase::Failed);
    world.vms[0].status.failures = 5;
    world.vms[0].status.restarts = 4;
    say(&mut world, Goal::Running);
    let plan = assert_steps(&world, &["set_status", "ensure_tap", "start_vmm"]);
    let status = stored(&plan);
    assert_eq!((status.failures, status.restarts), (0, 0));
    assert_eq!(status.observed_generation, 2);
}

#[test]
fn a_new_word_cuts_a_back_off_short() {
    let mut world = down(Phase::Backoff);
    world.vms[0].status.next_start = Some(at(100));
    say(&mut world, Goal::Running);
    assert_steps(&world, &["set_status", "ensure_tap", "start_vmm"]);
}

#[test]
fn a_back_off_is_waited_for_and_then_a_restart() {
    let mut world = down(Phase::Backoff);
    world.vms[0].status.next_start = Some(at(7));
    let plan = assert_steps(&world, &[]);
    assert_eq!(plan.next_pass, Some(at(7)));
    world.now = at(7);
    let plan = assert_steps(&world, &["ensure_tap", "start_vmm"]);
    assert!(matches!(
        plan.steps[1].step,
        Step::StartVmm { restart: true, .. }
    ));
}

#[test]
fn a_back_off_that_ends_after_the_longest_wait_means_that_the_clock_was_set_back() {
    let mut world = down(Phase::Backoff);
    world.vms[0].status.next_start = Some(at(86_400));
    assert_steps(&world, &["ensure_tap", "start_vmm"]);
}

#[test]
fn a_living_vmm_that_is_not_recorded_is_adopted() {
    let mut world = running();
    world.vms[0].status.vmm = None;
    world.vms[0].status.phase = Phase::Starting;
    let plan = assert_steps(&world, &["adopt"]);
    assert!(
        matches!(&plan.steps[0].step, Step::Adopt { identity: found, .. } if *found == identity(web(), 10))
    );
}

#[test]
fn another_identity_than_the_recorded_one_is_adopted() {
    let mut world = running();
    world.vms[0].status.vmm = Some(identity(web(), 77));
    assert_steps(&world, &["adopt"]);
}

#[test]
fn of_two_vmms_the_recorded_one_stays_even_if_it_is_younger() {
    let mut world = running();
    processes(&mut world).push(process(web(), 5, ProcessRole::Vmm, -9999));
    let plan = assert_steps(&world, &["kill_orphan"]);
    assert!(matches!(&plan.steps[0].step, Step::KillOrphan { identity: twin } if twin.pid == 5));
}

#[test]
fn of_two_unrecorded_vmms_the_oldest_stays() {
    let mut world = running();
    world.vms[0].status.vmm = None;
    processes(&mut world).push(process(web(), 5, ProcessRole::Vmm, -10));
    let plan = assert_steps(&world, &["kill_orphan", "adopt"]);
    assert!(matches!(&plan.steps[0].step, Step::KillOrphan { identity: twin } if twin.pid == 5));
    assert!(matches!(&plan.steps[1].step, Step::Adopt { identity, .. } if identity.pid == 10));
}

#[test]
fn another_installations_vmm_with_the_same_vm_id_is_nobody() {
    let mut world = running();
    let mut other = process(web(), 5, ProcessRole::Vmm, -9999);
    other.identity.mark.installation = hearth_types::InstallationId::new();
    processes(&mut world).push(other);
    assert_steps(&world, &[]);
}

#[test]
fn a_vmm_that_runs_is_paused_only_when_its_state_is_known() {
    let mut world = running();
    say(&mut world, Goal::Paused);
    let plan = assert_steps(&world, &["set_status", "pause", "set_status"]);
    assert_eq!(stored(&plan).phase, Phase::Paused);
    world.vms[0].status.observed_generation = 2;
    world.observed.run_states = [(web(), unknown())].into();
    assert_steps(&world, &[]);
}

#[test]
fn a_paused_vmm_is_resumed() {
    let mut world = running();
    world.observed.run_states = [(web(), Survey::Known(RunState::Paused))].into();
    world.vms[0].status.phase = Phase::Paused;
    let plan = assert_steps(&world, &["resume", "set_status"]);
    assert_eq!(stored(&plan).phase, Phase::Running);
}

#[test]
fn a_vmm_whose_guest_has_ended_is_looked_at_again_soon() {
    let mut world = running();
    world.observed.run_states = [(web(), Survey::Known(RunState::Ended))].into();
    let plan = assert_steps(&world, &["set_status"]);
    assert_eq!(stored(&plan).ending_since, Some(at(0)));
    assert!(plan.next_pass < Some(at(1)));
}

#[test]
fn a_vmm_that_stays_after_its_guest_is_asked_to_quit_once_and_killed_then() {
    let mut world = running();
    world.observed.run_states = [(web(), Survey::Known(RunState::Ended))].into();
    world.vms[0].status.ending_since = Some(at(0));
    world.now = at(2);
    assert_steps(&world, &[]);
    world.now = at(3);
    let plan = assert_steps(&world, &["stop", "set_status"]);
    assert_eq!(rung(&plan), StopRung::Quit);
    world.vms[0].status = stored(&plan).clone();
    assert_eq!(world.vms[0].status.phase, Phase::Stopping);
    let plan = assert_steps(&world, &[]);
    assert!(plan.next_pass <= Some(at(6)));
    world.now = at(6);
    let plan = assert_steps(&world, &["stop"]);
    assert_eq!(rung(&plan), StopRung::Kill);
}

fn rung(plan: &Plan) -> StopRung {
    let rung = plan.steps.iter().find_map(|planned| match &planned.step {
        Step::Stop { rung, .. } => Some(*rung),
        _ => None,
    });
    rung.unwrap()
}

#[test]
fn a_tap_that_fell_off_the_bridge_is_put_right() {
    let mut world = running();
    taps(&mut world)[0].attached = false;
    assert_steps(&world, &["ensure_tap"]);
}

#[test]
fn a_start_waits_for_the_shim_of_the_run_before() {
    let mut world = down(Phase::Starting);
    processes(&mut world).push(process(web(), 9, ProcessRole::Shim, -5));
    let plan = assert_steps(&world, &[]);
    assert!(plan.next_pass < Some(at(1)));
}

#[test]
fn a_shim_that_does_not_go_is_killed_after_the_grace_age() {
    let mut world = down(Phase::Starting);
    processes(&mut world).push(process(web(), 9, ProcessRole::Shim, -31));
    assert_steps(&world, &["kill_orphan"]);
}

#[test]
fn a_quick_pass_for_one_vm_leaves_the_others_and_the_orphans() {
    let mut world = down(Phase::Starting);
    let mut other = world.vms[0].clone();
    other.id = vm_id(2);
    other.spec.network.mode = NetworkMode::None;
    world.vms.push(other);
    taps(&mut world).push(tap(vm_id(7)));
    let quick = plan_for(&world, &[vm_id(2)]);
    assert_eq!(kinds(&quick), ["ensure_disks", "start_vmm"]);
    assert!(
        quick
            .steps
            .iter()
            .all(|planned| planned.step.vm() == Some(vm_id(2)))
    );
}
