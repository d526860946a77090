//! VMs that are not well: stopped and started again where that is asked for, and only then.

use hearth_plan::mode::Switches;
use hearth_plan::{Ill, Plan, Step, World, plan, transition};
use hearth_types::mode::Mode;
use hearth_types::spec::RestartPolicy;
use hearth_types::status::{EndClass, Goal, Hold, Phase, StopRung, VmStatus};
use hearth_types::survey::Survey;

use super::world::{at, dead, identity, running, web};
use hearth_types::process::ProcessExit;

fn ill() -> World {
    let mut world = running();
    world.vms[0].spec.restart = RestartPolicy::Always;
    let ill = Ill {
        vmm: identity(web(), 10),
        since: at(-5),
        reason: "check http: it answers with 503".to_owned(),
    };
    world.ill.insert(web(), ill);
    world
}

fn stop(plan: &Plan) -> Option<StopRung> {
    plan.steps.iter().find_map(|planned| match &planned.step {
        Step::Stop { rung, .. } => Some(*rung),
        _ => None,
    })
}

fn status(plan: &Plan) -> Option<&VmStatus> {
    plan.steps.iter().find_map(|planned| match &planned.step {
        Step::SetStatus { status, .. } => Some(&**status),
        _ => None,
    })
}

#[test]
fn it_is_stopped_step_by_step_and_says_why() {
    let world = ill();
    let plan = plan(&world);
    assert_eq!(stop(&plan), Some(StopRung::Agent));
    let next = status(&plan).unwrap();
    assert_eq!(next.phase, Phase::Stopping);
    assert_eq!(
        next.unresponsive.as_deref(),
        Some("check http: it answers with 503")
    );
    assert!(
        plan.steps[0].reason.contains("503"),
        "{}",
        plan.steps[0].reason
    );
}

#[test]
fn once_begun_it_is_carried_through() {
    let mut world = ill();
    let begun = transition::put_down(&world.vms[0].status, 1, at(-60), Goal::Running, "it hung");
    world.vms[0].status = begun;
    // It answers again; the guest may be on its way down already.
    world.ill.clear();
    assert_eq!(stop(&plan(&world)), Some(StopRung::Kill));
}

#[test]
fn another_vmm_is_not_stopped_for_it() {
    let mut world = ill();
    world.ill.get_mut(&web()).unwrap().vmm = identity(web(), 11);
    assert!(plan(&world).steps.is_empty());
}

#[test]
fn what_is_not_to_be_started_again_is_left_alone() {
    let mut no = ill();
    no.vms[0].spec.restart = RestartPolicy::No;
    let mut paused = ill();
    paused.vms[0].goal = Goal::Paused;
    let mut held = ill();
    held.vms[0].status.recovery.hold = Some(Hold {
        reason: None,
        since: at(-60),
    });
    let mut unknown = ill();
    unknown.observed.processes = Survey::Unknown("no /proc".to_owned());
    for world in [no, paused, held, unknown] {
        assert_eq!(stop(&plan(&world)), None, "{:?}", world.vms[0]);
    }
}

#[test]
fn a_mode_or_a_switch_that_holds_restarts_holds_the_whole_of_it() {
    let mut maintenance = ill();
    maintenance.policy.stance.mode = Mode::Maintenance;
    let mut off = ill();
    off.policy.auto = Switches {
        restart: false,
        ..Switches::default()
    };
    for world in [maintenance, off] {
        let plan = plan(&world);
        assert!(plan.steps.is_empty(), "{:?}", plan.steps);
        assert!(!plan.held.is_empty());
    }
}

#[test]
fn its_end_is_a_failure_however_clean_and_its_policy_counts_it() {
    let mut world = dead(ProcessExit::Code(0), Some(ProcessExit::Code(0)));
    let vm = &mut world.vms[0];
    vm.spec.restart = RestartPolicy::OnFailure(Some(1));
    vm.goal = Goal::Running;
    vm.status = transition::put_down(&vm.status, 1, at(-3), Goal::Running, "it hung");
    let once = plan(&world);
    let next = status(&once).unwrap();
    let end = next.last_end.as_ref().unwrap();
    assert_eq!(end.class, EndClass::Unresponsive);
    assert!(end.failure && end.reason.contains("it hung"), "{end:?}");
    assert_eq!((next.phase, next.failures), (Phase::Backoff, 1));
    assert_eq!((&next.unresponsive, &next.stop), (&None, &None));

    // A run that was too short to be stable.
    world.vms[0].status.started_at = Some(at(-60));
    world.vms[0].status.failures = 1;
    let twice = plan(&world);
    assert_eq!(status(&twice).unwrap().phase, Phase::Failed);

    // The user has said meanwhile that it should end.
    world.vms[0].goal = Goal::Stopped;
    let plan = plan(&world);
    let end = status(&plan).unwrap().last_end.clone().unwrap();
    assert!(!end.failure, "{end:?}");
}
