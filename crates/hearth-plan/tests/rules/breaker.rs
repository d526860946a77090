//! A VM's circuit breaker.

use hearth_plan::breaker::{Change, change, reset};
use hearth_plan::transition::{ended, start_failed, started};
use hearth_plan::{Policy, Step, World, plan};
use hearth_types::spec::RestartPolicy;
use hearth_types::status::{
    Breaker, Cause, EndClass, Failure, Goal, Phase, RunEnd, StopProgress, VmStatus,
};
use proptest::prelude::*;

use super::world::*;

const MINUTE: i64 = 60;

fn end(class: EndClass, failure: bool, when: i64) -> RunEnd {
    RunEnd {
        class,
        exit_code: None,
        vmm: None,
        guest: None,
        failure,
        reason: "VMM crashed with signal 11".to_owned(),
        at: at(when),
    }
}

fn always() -> World {
    let mut world = down(Phase::Starting);
    world.vms[0].spec.restart = RestartPolicy::Always;
    world
}

/// The status after a start that failed at this second.
fn fails(world: &World, status: &VmStatus, when: i64) -> VmStatus {
    let spec = &world.vms[0].spec;
    let policy = &world.policy;
    start_failed(
        status,
        web(),
        spec,
        "no disk",
        Cause::Disk,
        at(when),
        policy,
    )
}

/// The status after a run that began and crashed at these seconds.
fn crashes(world: &World, status: &VmStatus, begun: i64, when: i64) -> VmStatus {
    let runs = started(status, identity(web(), 10), at(begun), true);
    let (spec, policy) = (&world.vms[0].spec, &world.policy);
    let end = end(EndClass::VmmCrashed, true, when);
    ended(&runs, web(), spec, end, at(when), policy, Goal::Running)
}

/// `web` has failed five times within a few seconds.
fn opened() -> World {
    let mut world = always();
    let mut status = world.vms[0].status.clone();
    for second in -5..=-1 {
        status = fails(&world, &status, second);
    }
    world.vms[0].status = status;
    world
}

fn breaker(status: &VmStatus) -> &Breaker {
    status
        .recovery
        .breaker
        .as_ref()
        .expect("the breaker is open")
}

#[test]
fn the_fifth_failure_in_the_window_opens_it() {
    let world = always();
    let mut status = world.vms[0].status.clone();
    for second in 0..4 {
        status = fails(&world, &status, second * MINUTE);
        assert_eq!(
            status.recovery.breaker,
            None,
            "after {} failures",
            second + 1
        );
    }
    let last = fails(&world, &status, 4 * MINUTE);
    assert_eq!(breaker(&last).until, at(9 * MINUTE));
    assert_eq!(
        (last.phase, last.next_start),
        (Phase::Backoff, Some(at(9 * MINUTE)))
    );
    let reason = last.reason.as_deref().unwrap();
    assert!(reason.starts_with("breaker open until "), "{reason}");
    assert!(
        reason.ends_with("5 failures in 10m, last: no disk"),
        "{reason}"
    );
    assert_eq!(change(&status, &last), Some(Change::Opened));
}

#[test]
fn failures_outside_of_the_window_do_not_count() {
    let world = always();
    let mut status = world.vms[0].status.clone();
    for nth in 0..20 {
        status = fails(&world, &status, nth * 3 * MINUTE);
        assert_eq!(status.recovery.breaker, None);
    }
    assert!(status.recovery.failures.len() <= 16);
}

#[test]
fn crashes_and_failed_starts_count_alike() {
    let world = always();
    let mut status = world.vms[0].status.clone();
    for second in 0..4 {
        status = if second % 2 == 0 {
            fails(&world, &status, second * 10)
        } else {
            crashes(&world, &status, second * 10 - 5, second * 10)
        };
    }
    assert_eq!(status.recovery.breaker, None);
    assert!(crashes(&world, &status, 41, 42).recovery.breaker.is_some());
}

#[test]
fn an_open_breaker_forbids_the_start_until_its_cool_down_is_over() {
    let mut world = opened();
    let until = breaker(&world.vms[0].status).until;
    let waiting = assert_steps(&world, &[]);
    assert!(
        notes(&waiting).contains("breaker open until"),
        "{waiting:#?}"
    );
    world.now = until;
    let plan = assert_steps(&world, &["set_status", "ensure_tap", "start_vmm"]);
    assert_eq!(breaker(stored(&plan)).trial, Some(until));
    assert_eq!(
        change(&world.vms[0].status, stored(&plan)),
        Some(Change::HalfOpen)
    );
}

#[test]
fn a_trial_that_a_crash_of_the_daemon_cut_off_is_taken_up_again() {
    let mut world = opened();
    world.now = breaker(&world.vms[0].status).until;
    world.vms[0].status = stored(&plan(&world)).clone();
    world.now += seconds(7);
    assert_steps(&world, &["ensure_tap", "start_vmm"]);
}

#[test]
fn a_trial_that_fails_opens_it_again_for_twice_as_long_up_to_an_hour() {
    let world = opened();
    let mut status = world.vms[0].status.clone();
    let mut waits = Vec::new();
    for _ in 0..6 {
        let until = breaker(&status).until;
        let runs = started(&status, identity(web(), 10), until, true);
        let end = RunEnd {
            at: until + seconds(1),
            ..end(EndClass::VmmCrashed, true, 0)
        };
        let (spec, policy) = (&world.vms[0].spec, &world.policy);
        status = ended(
            &runs,
            web(),
            spec,
            end,
            until + seconds(1),
            policy,
            Goal::Running,
        );
        let wait = breaker(&status).until.duration_since(until + seconds(1));
        waits.push(wait.as_secs() / MINUTE);
    }
    assert_eq!(waits, [10, 20, 40, 60, 60, 60]);
}

#[test]
fn a_stable_run_closes_it() {
    let mut world = running();
    let status = &mut world.vms[0].status;
    status.recovery = opened().vms[0].status.recovery.clone();
    status.recovery.breaker.as_mut().unwrap().trial = Some(at(-599));
    status.started_at = Some(at(-599));
    let plan = assert_steps(&world, &[]);
    assert_eq!(plan.next_pass, Some(at(1)));
    world.now = at(1);
    let plan = assert_steps(&world, &["set_status"]);
    assert_eq!(stored(&plan).recovery.breaker, None);
    assert_eq!(
        change(&world.vms[0].status, stored(&plan)),
        Some(Change::Closed)
    );
}

#[test]
fn a_run_on_trial_that_ends_well_closes_it_and_the_users_stop_does_not() {
    let world = opened();
    let runs = started(&world.vms[0].status, identity(web(), 10), at(0), true);
    assert!(breaker(&runs).trial.is_some());
    let (spec, policy) = (&world.vms[0].spec, &world.policy);
    let well = end(EndClass::Clean, false, 5);
    let next = ended(
        &runs,
        web(),
        spec,
        well.clone(),
        at(5),
        policy,
        Goal::Running,
    );
    assert_eq!(next.recovery.breaker, None);
    let stopping = VmStatus {
        stop: Some(StopProgress {
            since: at(4),
            rung: None,
        }),
        ..runs.clone()
    };
    let next = ended(&stopping, web(), spec, well, at(5), policy, Goal::Stopped);
    assert!(next.recovery.breaker.is_some());
    let reboot = end(EndClass::GuestRebooted, false, 5);
    let next = ended(&runs, web(), spec, reboot, at(5), policy, Goal::Running);
    assert!(breaker(&next).trial.is_some(), "a reboot is neither");
}

#[test]
fn the_users_start_is_a_word_of_its_own_and_counts_as_the_trial() {
    let mut world = opened();
    say(&mut world, Goal::Running);
    let plan = assert_steps(&world, &["set_status", "ensure_tap", "start_vmm"]);
    let runs = started(stored(&plan), identity(web(), 10), at(0), false);
    assert_eq!(breaker(&runs).trial, Some(at(0)));
    let failed = fails(&world, stored(&plan), 1);
    assert_eq!(breaker(&failed).until, at(1 + 10 * MINUTE));
}

#[test]
fn it_never_opens_where_the_policy_asks_for_no_start() {
    let mut world = down(Phase::Starting);
    for restart in [RestartPolicy::No, RestartPolicy::OnFailure(Some(2))] {
        world.vms[0].spec.restart = restart;
        let mut status = world.vms[0].status.clone();
        for second in 0..12 {
            status = fails(&world, &status, second);
        }
        assert_eq!(status.phase, Phase::Failed);
        assert_eq!(status.recovery.breaker, None, "{restart}");
    }
}

#[test]
fn it_outlives_a_reboot_of_the_host() {
    let mut world = opened();
    world.boot_id = "boot-2".to_owned();
    world.vms[0].status.boot_id = Some(BOOT.to_owned());
    let first = plan(&world);
    let status = stored(&first).clone();
    assert_eq!(status.phase, Phase::Backoff);
    assert!(
        !first
            .steps
            .iter()
            .any(|p| matches!(p.step, Step::StartVmm { .. }))
    );
    world.vms[0].status = status;
    assert_steps(&world, &[]);
}

#[test]
fn the_operator_closes_it_and_what_waits_starts() {
    let mut world = opened();
    let before = world.vms[0].status.clone();
    world.vms[0].status = reset(&before);
    assert_eq!(change(&before, &world.vms[0].status), Some(Change::Closed));
    assert_eq!(world.vms[0].status.recovery.word, before.recovery.word + 1);
    assert_eq!(world.vms[0].status.reason, None);
    assert_steps(&world, &["ensure_tap", "start_vmm"]);
}

#[test]
fn a_wait_that_no_cool_down_can_have_made_means_that_the_clock_was_set_back() {
    let mut world = opened();
    world.vms[0].status.recovery.breaker.as_mut().unwrap().until = at(86_400);
    world.vms[0].status.next_start = Some(at(86_400));
    assert_steps(&world, &["set_status", "ensure_tap", "start_vmm"]);
}

#[test]
fn none_at_all_is_kept_when_the_policy_says_so() {
    let mut world = always();
    world.policy.breaker.failures = 0;
    let mut status = world.vms[0].status.clone();
    for second in 0..50 {
        status = fails(&world, &status, second);
    }
    assert_eq!(status.recovery.breaker, None);
}

/// What befalls a VM at its next start.
#[derive(Debug, Clone, Copy)]
enum Fate {
    StartFails,
    CrashesAfter(u16),
    EndsWellAfter(u16),
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        Just(Fate::StartFails),
        (0_u16..1200).prop_map(Fate::CrashesAfter),
        (0_u16..1200).prop_map(Fate::EndsWellAfter),
    ]
}

/// The planner's own starts of a VM with these fates: when, and whether it had failed then.
fn lives(fates: &[Fate], policy: &Policy) -> Vec<(jiff::Timestamp, bool)> {
    let mut world = always();
    world.policy = policy.clone();
    world.vms[0].status.asked = true;
    let mut starts = Vec::new();
    for fate in fates {
        loop {
            let plan = plan(&world);
            let starting = plan
                .steps
                .iter()
                .any(|p| matches!(p.step, Step::StartVmm { .. }));
            if plan
                .steps
                .iter()
                .any(|p| matches!(p.step, Step::SetStatus { .. }))
            {
                world.vms[0].status = stored(&plan).clone();
            }
            if starting {
                break;
            }
            let due = plan.next_pass.expect("a pass is due");
            assert!(due > world.now, "the planner waits for the past");
            world.now = due;
        }
        let vm = &world.vms[0];
        let (spec, status) = (&vm.spec, &vm.status);
        starts.push((world.now, status.asked));
        let run = |after: u16, class, failure| {
            let runs = started(status, identity(web(), 10), world.now, true);
            let at = world.now + seconds(after.into());
            let end = RunEnd {
                at,
                ..end(class, failure, 0)
            };
            (
                at,
                ended(&runs, web(), spec, end, at, policy, Goal::Running),
            )
        };
        let (now, next) = match *fate {
            Fate::StartFails => {
                let next = start_failed(status, web(), spec, "no", Cause::Disk, world.now, policy);
                (world.now, next)
            }
            Fate::CrashesAfter(secs) => run(secs, EndClass::VmmCrashed, true),
            Fate::EndsWellAfter(secs) => run(secs, EndClass::Clean, false),
        };
        world.now = now;
        world.vms[0].status = next;
    }
    starts
}

proptest! {
    /// However it fails, no more automatic starts fall into any window than the breaker
    /// lets through: its failures, and the trial at the window's end.
    #[test]
    fn the_breaker_bounds_the_starts_of_a_vm_that_fails(
        fates in prop::collection::vec(
            prop_oneof![
                2 => Just(Fate::StartFails),
                1 => (0_u16..400).prop_map(Fate::CrashesAfter),
            ],
            1..60,
        ),
        failures in 1_u32..8,
    ) {
        let mut policy = Policy::default();
        policy.breaker.failures = failures;
        let starts = lives(&fates, &policy);
        for (index, (begun, _)) in starts.iter().enumerate() {
            let window = policy.breaker.window;
            let within = starts[index..]
                .iter()
                .take_while(|(at, _)| at.duration_since(*begun) < jiff::SignedDuration::try_from(window).unwrap())
                .count();
            prop_assert!(
                within <= failures as usize + 1,
                "{within} starts within {window:?} from {begun}"
            );
        }
    }

    /// Whatever happens, the VM is started again sooner or later, and never without a rest.
    #[test]
    fn every_vm_is_tried_again_and_never_without_a_rest(fates in prop::collection::vec(fate(), 1..60)) {
        let policy = Policy::default();
        let starts = lives(&fates, &policy);
        prop_assert_eq!(starts.len(), fates.len());
        for pair in starts.windows(2) {
            let gap = pair[1].0.duration_since(pair[0].0);
            prop_assert!(gap >= jiff::SignedDuration::try_from(policy.backoff_first * 7 / 10).unwrap(), "{gap:?}");
            prop_assert!(gap <= jiff::SignedDuration::from_secs(3600 + 1200 + 1), "{gap:?}");
        }
    }

    /// The memory of failures is bounded and in order.
    #[test]
    fn what_is_remembered_is_bounded(times in prop::collection::vec(-100_000_i64..100_000, 1..100)) {
        let world = always();
        let mut status = world.vms[0].status.clone();
        for time in times {
            status = fails(&world, &status, time);
            let remembered = &status.recovery.failures;
            prop_assert!(remembered.len() <= 16);
            let is_old = |failure: &Failure| failure.at > at(time);
            prop_assert!(!remembered.iter().any(is_old), "failures of the future");
        }
    }
}
