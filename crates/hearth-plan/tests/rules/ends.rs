//! How a run ended and what comes next; reboots.

mod reboot;
mod seen;

use std::time::Duration;

use hearth_plan::transition::{backoff, classify, ended, reboot_end, restarts, start_failed};
use hearth_plan::{Policy, Step};
use hearth_types::observe::ProcessRole;
use hearth_types::process::{ConsoleEnd, Evidence, ExitRecord, GuestReport, ProcessExit};
use hearth_types::spec::RestartPolicy;
use hearth_types::status::{Cause, EndClass, Goal, Phase, RunEnd, StopRung};

use super::world::*;

const EXIT_0: Option<ProcessExit> = Some(ProcessExit::Code(0));
const EXIT_3: Option<ProcessExit> = Some(ProcessExit::Code(3));

#[test]
fn an_end_by_itself_is_recorded_with_the_entrypoints_code() {
    for (guest, code, phase) in [
        (ProcessExit::Code(0), 0, Phase::Exited),
        (ProcessExit::Code(3), 3, Phase::Failed),
        (ProcessExit::Signal(15), 143, Phase::Failed),
    ] {
        let plan = assert_steps(
            &dead(ProcessExit::Code(0), Some(guest)),
            &["set_status", "remove_tap"],
        );
        let status = stored(&plan);
        let end = status.last_end.as_ref().unwrap();
        assert_eq!((status.phase, end.exit_code), (phase, Some(code)));
        assert_eq!(status.vmm, None);
    }
}

#[test]
fn a_vmm_that_was_killed_is_a_failure_and_restarts_by_policy() {
    for (policy, phase) in [
        (RestartPolicy::No, Phase::Failed),
        (RestartPolicy::OnFailure(None), Phase::Backoff),
        (RestartPolicy::OnFailure(Some(1)), Phase::Backoff),
        (RestartPolicy::Always, Phase::Backoff),
        (RestartPolicy::UnlessStopped, Phase::Backoff),
    ] {
        let mut world = dead(ProcessExit::Signal(9), None);
        world.vms[0].spec.restart = policy;
        let status = stored(&hearth_plan::plan(&world)).clone();
        assert_eq!(status.phase, phase, "{policy}");
        assert_eq!(status.failures, 1);
    }
}

#[test]
fn a_record_of_another_process_is_not_this_ones() {
    let mut world = dead(ProcessExit::Code(0), EXIT_0);
    dirs(&mut world)[0]
        .exit
        .as_mut()
        .unwrap()
        .identity
        .start_time += 1;
    let plan = hearth_plan::plan(&world);
    let end = stored(&plan).last_end.clone().unwrap();
    assert_eq!(end.reason, "VMM ended without a record");
    assert!(end.failure);
}

#[test]
fn the_record_is_waited_for_while_the_shim_lives() {
    let mut world = dead(ProcessExit::Code(0), EXIT_0);
    dirs(&mut world)[0].exit = None;
    processes(&mut world).push(process(web(), 9, ProcessRole::Shim, -3600));
    let plan = assert_steps(&world, &["set_status"]);
    // A record comes within milliseconds; one that does not is asked for less often.
    assert_eq!(plan.next_pass, Some(at(0) + Duration::from_millis(100)));
    world.vms[0].status = stored(&plan).clone();
    world.now = at(29);
    let plan = assert_steps(&world, &[]);
    assert_eq!(plan.next_pass, Some(at(29) + Duration::from_millis(500)));
}

#[test]
fn a_shim_that_writes_no_record_is_killed_and_the_end_recorded_without() {
    let mut world = dead(ProcessExit::Code(0), EXIT_0);
    dirs(&mut world)[0].exit = None;
    processes(&mut world).push(process(web(), 9, ProcessRole::Shim, -3600));
    world.vms[0].status.ending_since = Some(at(-30));
    let plan = assert_steps(&world, &["kill_orphan", "set_status", "remove_tap"]);
    let status = stored(&plan);
    let end = status.last_end.as_ref().unwrap();
    assert_eq!(end.reason, "VMM ended without a record");
    assert_eq!((status.phase, status.vmm.as_ref()), (Phase::Failed, None));
    assert_eq!(status.ending_since, None);
}

#[test]
fn a_clock_that_was_set_back_does_not_kill_the_shim() {
    let mut world = dead(ProcessExit::Code(0), EXIT_0);
    dirs(&mut world)[0].exit = None;
    processes(&mut world).push(process(web(), 9, ProcessRole::Shim, -3600));
    world.vms[0].status.ending_since = Some(at(3600));
    let plan = assert_steps(&world, &["set_status"]);
    assert_eq!(stored(&plan).ending_since, Some(at(0)));
}

#[test]
fn always_restarts_after_status_0_and_waits_for_the_first_back_off() {
    let mut world = dead(ProcessExit::Code(0), EXIT_0);
    world.vms[0].spec.restart = RestartPolicy::Always;
    world.now = at(-1);
    let plan = assert_steps(&world, &["set_status"]);
    let status = stored(&plan);
    assert_eq!((status.phase, status.failures), (Phase::Backoff, 0));
    assert!(
        status.next_start > Some(at(-1)) && status.next_start < Some(at(0)),
        "{status:?}"
    );
    assert_eq!(plan.next_pass, status.next_start);
}

#[test]
fn on_failure_does_not_restart_after_status_0() {
    let mut world = dead(ProcessExit::Code(0), EXIT_0);
    world.vms[0].spec.restart = RestartPolicy::OnFailure(None);
    assert_eq!(stored(&hearth_plan::plan(&world)).phase, Phase::Exited);
}

#[test]
fn on_failure_n_starts_again_n_times_in_a_row() {
    let policy = RestartPolicy::OnFailure(Some(2));
    assert!(restarts(policy, true, 1));
    assert!(restarts(policy, true, 2));
    assert!(!restarts(policy, true, 3));
}

#[test]
fn a_long_run_clears_the_failures_before_it() {
    let mut world = dead(ProcessExit::Code(0), EXIT_3);
    world.vms[0].spec.restart = RestartPolicy::OnFailure(Some(3));
    world.vms[0].status.failures = 3;
    assert_eq!(stored(&hearth_plan::plan(&world)).failures, 1);
    world.vms[0].status.started_at = Some(at(-500));
    let short = hearth_plan::plan(&world);
    assert_eq!(stored(&short).failures, 4);
    assert_eq!(stored(&short).phase, Phase::Failed);
}

#[test]
fn an_end_during_a_stop_is_never_a_failure() {
    let mut world = dead(ProcessExit::Signal(9), None);
    world.vms[0].spec.restart = RestartPolicy::Always;
    world.vms[0].status.stop = stopping(2, Some(StopRung::Kill)).vms[0].status.stop.clone();
    say(&mut world, Goal::Stopped);
    let plan = assert_steps(&world, &["set_status", "set_status", "remove_tap"]);
    let status = stored(&plan);
    assert_eq!(status.phase, Phase::Exited);
    assert!(!status.last_end.as_ref().unwrap().failure);
    assert_eq!((status.failures, status.stop.clone()), (0, None));
}

#[test]
fn how_ends_are_classified() {
    let report = |exit, reason: &str| {
        Some(GuestReport {
            exit,
            reason: reason.to_owned(),
            message: None,
        })
    };
    let world = dead(ProcessExit::Code(0), None);
    let dirs = world.observed.dirs.known().unwrap();
    let record = dirs[0].exit.clone().unwrap();
    use EndClass::{Clean, GuestPoweredOff, VmmCrashed, WorkloadFailed};
    let code = ProcessExit::Code;
    for (vmm, guest, exit_code, class) in [
        (code(0), report(EXIT_0, "exited"), Some(0), Clean),
        (code(0), report(EXIT_3, "exited"), Some(3), WorkloadFailed),
        // The workload had ended well before its VMM was killed.
        (SIGKILLED, report(EXIT_0, "exited"), Some(0), Clean),
        (code(0), report(None, "shutdown"), None, Clean),
        (code(0), report(None, "failed"), None, WorkloadFailed),
        (code(0), None, None, GuestPoweredOff),
        (code(1), None, None, VmmCrashed),
        (ProcessExit::Signal(11), None, None, VmmCrashed),
        (SIGKILLED, None, None, EndClass::Killed),
        (ProcessExit::Signal(15), None, None, EndClass::Killed),
    ] {
        let record = ExitRecord {
            vmm,
            guest,
            ..record.clone()
        };
        let end = classify(Some(&record), false, at(0));
        let failure = !matches!(class, Clean | GuestPoweredOff);
        let seen = (end.exit_code, end.class, end.failure);
        assert_eq!(seen, (exit_code, class, failure), "{record:?}");
        assert!(!classify(Some(&record), true, at(0)).failure, "{record:?}");
    }
    assert!(classify(None, false, at(0)).failure);
    assert!(!classify(None, true, at(0)).failure);
}

const SIGKILLED: ProcessExit = ProcessExit::Signal(9);

#[test]
fn evidence_tells_ends_of_one_status_apart() {
    let world = dead(ProcessExit::Code(0), None);
    let dirs = world.observed.dirs.known().unwrap();
    let record = dirs[0].exit.clone().unwrap();
    let said = |console| Evidence {
        console: Some(console),
        ..Evidence::default()
    };
    let starved = Evidence {
        oom_kills: 1,
        ..Evidence::default()
    };
    let starved_by_others = Evidence {
        oom_host: true,
        ..starved
    };
    let stopped = Evidence {
        terminated: true,
        ..Evidence::default()
    };
    let off = ProcessExit::Code(0);
    for (vmm, evidence, class, failure) in [
        (off, said(ConsoleEnd::Panic), EndClass::GuestPanicked, true),
        (
            off,
            said(ConsoleEnd::Reboot),
            EndClass::GuestRebooted,
            false,
        ),
        (
            off,
            said(ConsoleEnd::PowerOff),
            EndClass::GuestPoweredOff,
            false,
        ),
        (SIGKILLED, starved, EndClass::OutOfMemory, true),
        (
            SIGKILLED,
            starved_by_others,
            EndClass::HostOutOfMemory,
            true,
        ),
        // Another process of the cgroup was killed for memory; the VMM went on and ended so.
        (ProcessExit::Signal(11), starved, EndClass::VmmCrashed, true),
        (off, starved, EndClass::GuestPoweredOff, false),
        (off, stopped, EndClass::Killed, true),
        // A panic that was said before somebody killed the VMM.
        (SIGKILLED, said(ConsoleEnd::Panic), EndClass::Killed, true),
    ] {
        let record = ExitRecord {
            vmm,
            guest: None,
            evidence,
            ..record.clone()
        };
        let end = classify(Some(&record), false, at(0));
        assert_eq!((end.class, end.failure), (class, failure), "{record:?}");
    }
}

#[test]
fn a_guest_that_reboots_is_started_again_unless_the_policy_is_no() {
    for (policy, phase) in [
        (RestartPolicy::No, Phase::Exited),
        (RestartPolicy::OnFailure(Some(1)), Phase::Backoff),
        (RestartPolicy::Always, Phase::Backoff),
    ] {
        let world = running();
        let vm = &world.vms[0];
        let spec = hearth_types::spec::VmSpec {
            restart: policy,
            ..vm.spec.clone()
        };
        let end = RunEnd {
            class: EndClass::GuestRebooted,
            failure: false,
            ..reboot_end(at(0))
        };
        let rules = Policy::default();
        let next = ended(&vm.status, vm.id, &spec, end, at(0), &rules, Goal::Running);
        assert_eq!((next.phase, next.failures), (phase, 0), "{policy:?}");
    }
}

#[test]
fn the_back_off_doubles_is_spread_and_capped() {
    let policy = Policy::default();
    for (failures, base) in [(0, 1), (1, 1), (2, 2), (3, 4), (8, 128)] {
        let wait = backoff(failures, &policy, web());
        assert!(
            wait >= seconds(base) * 7 / 10 && wait <= seconds(base) * 95 / 100,
            "{failures}: {wait:?}"
        );
        assert_eq!(wait, backoff(failures, &policy, web()));
    }
    for failures in [9, 10, 32, 33, u32::MAX] {
        let wait = backoff(failures, &policy, web());
        assert!(
            wait <= seconds(285) && wait >= seconds(210),
            "{failures}: {wait:?}"
        );
    }
    let waits: std::collections::BTreeSet<_> =
        (0..20).map(|n| backoff(5, &policy, vm_id(n))).collect();
    assert!(waits.len() > 10, "spread: {waits:?}");
}

#[test]
fn a_failed_start_counts_and_backs_off() {
    let mut world = down(Phase::Starting);
    let policy = Policy::default();
    let vm = &mut world.vms[0];
    let failed = start_failed(
        &vm.status,
        vm.id,
        &vm.spec,
        "no kernel",
        Cause::Start,
        at(0),
        &policy,
    );
    assert_eq!((failed.phase, failed.failures), (Phase::Failed, 1));
    assert_eq!(failed.reason.as_deref(), Some("no kernel"));
    vm.spec.restart = RestartPolicy::OnFailure(None);
    let failed = start_failed(
        &failed,
        vm.id,
        &vm.spec,
        "no kernel",
        Cause::Start,
        at(0),
        &policy,
    );
    assert_eq!((failed.phase, failed.failures), (Phase::Backoff, 2));
    assert!(failed.next_start > Some(at(1)) && failed.next_start < Some(at(2)));
}

#[test]
fn a_step_that_fails_beside_a_recorded_vmm_is_no_failed_start() {
    let world = running();
    let (vm, policy) = (&world.vms[0], Policy::default());
    let kept = start_failed(
        &vm.status,
        vm.id,
        &vm.spec,
        "no TAP",
        Cause::Network,
        at(0),
        &policy,
    );
    assert_eq!((kept.phase, kept.failures), (Phase::Running, 0));
    assert_eq!(kept.vmm, vm.status.vmm);
    assert_eq!(kept.reason.as_deref(), Some("no TAP"));
}

#[test]
fn a_vmm_that_a_signal_stopped_is_told_and_left_alone() {
    let mut world = running();
    let vmm = |world: &mut hearth_plan::World, suspended| {
        for process in processes(world) {
            process.suspended = suspended && process.role == ProcessRole::Vmm;
        }
    };
    vmm(&mut world, true);
    // It does not answer, either.
    world.observed.run_states.clear();
    let plan = assert_steps(&world, &["set_status"]);
    let status = stored(&plan).clone();
    let reason = status.reason.as_deref().unwrap();
    assert!(reason.contains("stopped by a signal"), "{reason}");
    assert!(reason.contains("kill -CONT"), "{reason}");
    world.vms[0].status = status;
    assert_steps(&world, &[]);
    vmm(&mut world, false);
    let plan = assert_steps(&world, &["set_status"]);
    assert_eq!(stored(&plan).reason, None);
}
