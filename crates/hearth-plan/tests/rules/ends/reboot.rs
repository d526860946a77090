//! Ends with the host: after a reboot, and in a shutdown.

use super::*;

fn rebooted() -> hearth_plan::World {
    let mut world = down(Phase::Running);
    world.vms[0].status.vmm = Some(identity(web(), 10));
    world.boot_id = "boot-2".to_owned();
    world
}

#[test]
fn after_a_reboot_policy_no_stays_down() {
    let plan = assert_steps(&rebooted(), &["set_status"]);
    let status = stored(&plan);
    assert_eq!(status.phase, Phase::Exited);
    assert_eq!(status.last_end.as_ref().unwrap().reason, "host rebooted");
    assert_eq!(status.boot_id.as_deref(), Some("boot-2"));
}

#[test]
fn after_a_reboot_all_other_policies_start_again() {
    for policy in [
        RestartPolicy::OnFailure(None),
        RestartPolicy::OnFailure(Some(1)),
        RestartPolicy::Always,
        RestartPolicy::UnlessStopped,
    ] {
        let mut world = rebooted();
        world.vms[0].spec.restart = policy;
        let plan = assert_steps(&world, &["set_status", "ensure_tap", "start_vmm"]);
        assert_eq!(stored(&plan).failures, 0);
        assert!(matches!(
            plan.steps[2].step,
            Step::StartVmm { restart: true, .. }
        ));
    }
}

#[test]
fn an_end_that_was_recorded_before_the_reboot_is_not_lost() {
    let mut world = rebooted();
    let record = dirs(&mut dead(ProcessExit::Code(0), EXIT_3))[0]
        .exit
        .clone();
    dirs(&mut world)[0].exit = record;
    let plan = hearth_plan::plan(&world);
    assert_eq!(stored(&plan).last_end.as_ref().unwrap().exit_code, Some(3));
}

#[test]
fn a_back_off_ends_with_the_boot() {
    let mut world = down(Phase::Backoff);
    world.vms[0].spec.restart = RestartPolicy::Always;
    world.vms[0].status.next_start = Some(at(100));
    world.boot_id = "boot-2".to_owned();
    assert_steps(&world, &["set_status", "ensure_tap", "start_vmm"]);
}

#[test]
fn stopped_vms_stay_stopped_after_a_reboot_except_with_policy_always() {
    for policy in [
        RestartPolicy::No,
        RestartPolicy::OnFailure(None),
        RestartPolicy::UnlessStopped,
    ] {
        let mut world = down(Phase::Exited);
        world.vms[0].goal = Goal::Stopped;
        world.vms[0].spec.restart = policy;
        world.boot_id = "boot-2".to_owned();
        let plan = assert_steps(&world, &["set_status"]);
        assert_eq!(stored(&plan).phase, Phase::Exited, "{policy}");
    }
    let mut world = down(Phase::Exited);
    world.vms[0].goal = Goal::Stopped;
    world.vms[0].spec.restart = RestartPolicy::Always;
    assert_steps(&world, &[]);
    world.boot_id = "boot-2".to_owned();
    let plan = assert_steps(&world, &["set_goal"]);
    let wanted = Step::SetGoal {
        vm: web(),
        goal: Goal::Running,
        generation: 1,
    };
    assert_eq!(plan.steps[0].step, wanted);
    assert_eq!(plan.next_pass, Some(world.now));
}

#[test]
fn a_stop_that_was_said_after_the_reboot_holds_even_with_policy_always() {
    let mut world = down(Phase::Exited);
    world.vms[0].spec.restart = RestartPolicy::Always;
    world.boot_id = "boot-2".to_owned();
    say(&mut world, Goal::Stopped);
    let plan = hearth_plan::plan(&world);
    assert!(!kinds(&plan).contains(&"set_goal"), "{plan:#?}");
}

#[test]
fn a_vmm_that_the_hosts_shutdown_killed_went_down_with_the_host() {
    let mut world = dead(ProcessExit::Signal(15), None);
    world.boot_id = "boot-2".to_owned();
    world.vms[0].spec.restart = RestartPolicy::OnFailure(None);
    let plan = hearth_plan::plan(&world);
    let end = stored(&plan).last_end.clone().unwrap();
    assert_eq!((end.class, end.failure), (EndClass::HostRebooted, false));
    assert_eq!(end.vmm, Some(ProcessExit::Signal(15)));
    // What the guest said before still counts.
    let mut world = dead(SIGKILLED, Some(ProcessExit::Code(3)));
    world.boot_id = "boot-2".to_owned();
    let plan = hearth_plan::plan(&world);
    let end = stored(&plan).last_end.clone().unwrap();
    assert_eq!(
        (end.class, end.exit_code),
        (EndClass::WorkloadFailed, Some(3))
    );
}

/// A run whose shim was told to end, and whose guest went down in order.
fn told(host_down: bool) -> ExitRecord {
    let shutdown = GuestReport {
        exit: Some(ProcessExit::Signal(15)),
        reason: "shutdown".to_owned(),
        message: None,
    };
    let world = dead(ProcessExit::Code(0), None);
    let record = world.observed.dirs.known().unwrap()[0].exit.clone();
    ExitRecord {
        guest: Some(shutdown),
        evidence: Evidence {
            terminated: true,
            host_down,
            ..Evidence::default()
        },
        ..record.unwrap()
    }
}

#[test]
fn a_guest_that_went_down_with_the_host_is_no_failure_and_comes_back() {
    let end = classify(Some(&told(true)), false, at(0));
    assert_eq!((end.class, end.failure), (EndClass::HostRebooted, false));
    assert!(end.guest.is_some(), "what it reported is kept");
    for (policy, phase) in [
        (RestartPolicy::No, Phase::Exited),
        (RestartPolicy::OnFailure(Some(1)), Phase::Backoff),
        (RestartPolicy::Always, Phase::Backoff),
    ] {
        let mut vm = running().vms.remove(0);
        vm.spec.restart = policy;
        // Seen in the same boot: by a daemon that outlives its VMs.
        let next = ended(
            &vm.status,
            vm.id,
            &vm.spec,
            end.clone(),
            at(0),
            &Policy::default(),
            Goal::Running,
        );
        assert_eq!((next.phase, next.failures), (phase, 0), "{policy}");
    }
    // Seen after the reboot.
    let end = hearth_plan::transition::ended_in_earlier_boot(Some(&told(true)), false, at(0));
    assert_eq!((end.class, end.failure), (EndClass::HostRebooted, false));
    assert_eq!(end.reason, "host rebooted");
}

#[test]
fn a_guest_whose_unit_was_stopped_was_ended_by_somebody() {
    let end = classify(Some(&told(false)), false, at(0));
    assert_eq!((end.class, end.failure), (EndClass::Killed, true));
    assert!(end.reason.contains("unit was stopped"), "{}", end.reason);
    assert!(
        !classify(Some(&told(false)), true, at(0)).failure,
        "asked for"
    );
    // Nobody of us saw it, and then the host went down: the likelier story is one story.
    let end = hearth_plan::transition::ended_in_earlier_boot(Some(&told(false)), false, at(0));
    assert_eq!((end.class, end.failure), (EndClass::HostRebooted, false));
    assert!(end.guest.is_some());
}
