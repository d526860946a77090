//! What is done about the VMs after a reboot of the host, and in which order.

use std::collections::{BTreeMap, BTreeSet};

use hearth_plan::bootstrap::{Tally, Verdict, judge, tally};
use hearth_plan::recovery::recover;
use hearth_plan::{Step, World, plan};
use hearth_types::api::Health;
use hearth_types::ids::VmId;
use hearth_types::observe::ProcessRole;
use hearth_types::resources::Priority;
use hearth_types::spec::{BootstrapPolicy, NetworkMode, RestartPolicy};
use hearth_types::status::{Awaited, Fate, Goal, Hold, Phase};
use hearth_types::survey::Survey;
use proptest::prelude::*;

use super::world::*;

/// `web` ran until the host was rebooted; all that VMs share is there again.
fn rebooted(policy: BootstrapPolicy) -> World {
    let mut world = down(Phase::Running);
    world.vms[0].status.vmm = Some(identity(web(), 10));
    world.vms[0].spec.restart = RestartPolicy::UnlessStopped;
    world.boot_id = "boot-2".to_owned();
    world.policy.bootstrap = policy;
    world
}

fn left(world: &World) -> String {
    match judge(world, &world.vms[0]) {
        Verdict::Left { reason, .. } => reason,
        other => panic!("it is not left: {other:?}"),
    }
}

#[test]
fn manual_leaves_it_with_a_reason_and_says_so_in_the_plan() {
    let mut world = rebooted(BootstrapPolicy::Manual);
    let made = assert_steps(&world, &["set_status"]);
    let status = stored(&made).clone();
    let reason = "left stopped after the reboot by policy manual";
    assert_eq!(
        (status.phase, status.reason.as_deref()),
        (Phase::Exited, Some(reason))
    );
    assert_eq!(status.bootstrap.as_ref().unwrap().fate, Fate::Left);
    world.vms[0].status = status;
    assert_steps(&world, &[]);
    let told = hearth_plan::view::vm(&plan(&world), &world, web()).unwrap();
    let told = told
        .reasons
        .iter()
        .find(|r| r.topic == "bootstrap")
        .unwrap();
    assert_eq!(
        told.text,
        format!("{reason}, until hearth start web or hearth recover web")
    );
    // Either word starts it.
    let said = recover(&world.vms[0].status, Goal::Running, false, at(5));
    let mut recovered = world.clone();
    recovered.vms[0].status = said.status.unwrap();
    assert_steps(&recovered, &["ensure_tap", "start_vmm"]);
    say(&mut world, Goal::Running);
    assert_steps(&world, &["set_status", "ensure_tap", "start_vmm"]);
}

#[test]
fn its_own_policy_comes_before_the_hosts() {
    let mut world = rebooted(BootstrapPolicy::Manual);
    world.vms[0].spec.bootstrap = Some(BootstrapPolicy::RestartAll);
    assert_eq!(judge(&world, &world.vms[0]), Verdict::Start);
    let mut world = rebooted(BootstrapPolicy::RestartAll);
    world.vms[0].spec.bootstrap = Some(BootstrapPolicy::Manual);
    assert!(left(&world).ends_with("by policy manual"));
}

#[test]
fn restart_healthy_leaves_what_was_failing() {
    let world = rebooted(BootstrapPolicy::RestartHealthy);
    assert_eq!(judge(&world, &world.vms[0]), Verdict::Start);
    let mut failing = world.clone();
    failing.vms[0].status.failures = 2;
    // An old failure that a long run has outlived is none.
    assert_eq!(judge(&failing, &failing.vms[0]), Verdict::Start);
    failing.vms[0].status.started_at = Some(at(-60));
    assert!(left(&failing).ends_with("it was failing, 2 failures in a row"));
    let mut ill = world.clone();
    ill.vms[0].status.unhealthy = true;
    assert!(left(&ill).ends_with("it was unhealthy"));
    let mut waited = world;
    waited.vms[0].status.vmm = None;
    waited.vms[0].status.phase = Phase::Backoff;
    waited.vms[0].status.failures = 1;
    assert!(left(&waited).ends_with("it was failing, 1 failure in a row"));
}

#[test]
fn a_word_of_the_user_that_nobody_has_heard_is_carried_out_under_every_policy() {
    for policy in BootstrapPolicy::ALL {
        let mut world = rebooted(policy);
        say(&mut world, Goal::Running);
        assert_eq!(judge(&world, &world.vms[0]), Verdict::Start, "{policy}");
        say(&mut world, Goal::Stopped);
        assert_eq!(judge(&world, &world.vms[0]), Verdict::Stopped, "{policy}");
    }
}

#[test]
fn restart_policy_always_starts_a_stopped_vm_under_restart_all_only() {
    for policy in BootstrapPolicy::ALL {
        let mut world = down(Phase::Exited);
        world.vms[0].goal = Goal::Stopped;
        world.vms[0].spec.restart = RestartPolicy::Always;
        world.policy.bootstrap = policy;
        world.boot_id = "boot-2".to_owned();
        let plan = plan(&world);
        let raised = plan
            .steps
            .iter()
            .any(|p| matches!(p.step, Step::SetGoal { .. }));
        assert_eq!(raised, policy == BootstrapPolicy::RestartAll, "{policy}");
    }
}

#[test]
fn a_network_that_is_not_there_is_made_and_looked_at_before_the_first_start() {
    let mut world = rebooted(BootstrapPolicy::RestartAll);
    world.observed.bridge = Survey::Known(None);
    world.observed.rules = Survey::Known(None);
    let made = assert_steps(
        &world,
        &["ensure_bridge", "apply_rules", "set_status", "set_status"],
    );
    assert_eq!(
        made.next_pass,
        Some(world.now),
        "it is looked at right after"
    );
    let status = stored(&made).clone();
    assert_eq!(status.wait.as_ref().unwrap().on, Awaited::Network);
    assert_eq!((status.phase, status.failures), (Phase::Starting, 0));
    // It is made for the bootstrap's sake, whatever is said of drift.
    world.policy.auto.drift = false;
    assert_eq!(plan(&world).held, []);
    world.vms[0].status = status;
    world.facts.network_failure = Some("no permission".to_owned());
    let reason = stored(&plan(&world)).reason.clone().unwrap();
    assert!(
        reason.starts_with("waits for the network: ") && reason.ends_with("(no permission)"),
        "{reason}"
    );
    let good = rebooted(BootstrapPolicy::RestartAll).observed;
    world.observed = good;
    assert_steps(&world, &["set_status", "ensure_tap", "start_vmm"]);
    // A restart within a boot does not wait: its start makes what it needs.
    let mut later = down(Phase::Backoff);
    later.vms[0].spec.restart = RestartPolicy::Always;
    later.observed.bridge = Survey::Known(None);
    assert_steps(&later, &["ensure_bridge", "ensure_tap", "start_vmm"]);
}

#[test]
fn disks_that_were_there_and_are_not_are_waited_for() {
    let mut world = rebooted(BootstrapPolicy::RestartAll);
    world.facts.missing_disks = [(web(), "volume-data.img is missing".to_owned())].into();
    let status = stored(&assert_steps(&world, &["set_status", "set_status"])).clone();
    assert_eq!(status.wait.as_ref().unwrap().on, Awaited::Disks);
    world.facts.missing_disks.clear();
    dirs(&mut world).clear();
    let made = assert_steps(&world, &["set_status", "set_status"]);
    assert!(
        notes(&made).contains("its folder is missing"),
        "{}",
        notes(&made)
    );
    // The user's own start makes new ones.
    say(&mut world, Goal::Running);
    assert_steps(
        &world,
        &[
            "set_status",
            "set_status",
            "ensure_disks",
            "ensure_tap",
            "start_vmm",
        ],
    );
}

#[test]
fn the_breaker_of_a_specification_is_its_own() {
    use hearth_plan::transition::start_failed;
    use hearth_types::status::Cause;
    let mut world = down(Phase::Starting);
    world.vms[0].spec.restart = RestartPolicy::Always;
    world.vms[0].spec.breaker =
        serde_json::from_str(r#"{"failures":2,"window":"1m","cooldown":"7s"}"#).unwrap();
    let fails = |status: &hearth_types::status::VmStatus, when| {
        let spec = &world.vms[0].spec;
        start_failed(
            status,
            web(),
            spec,
            "no disk",
            Cause::Disk,
            at(when),
            &world.policy,
        )
    };
    let apart = fails(&fails(&world.vms[0].status, 0), 61);
    assert_eq!(apart.recovery.breaker, None, "the window is a minute");
    let opened = fails(&fails(&world.vms[0].status, 0), 59);
    assert_eq!(opened.recovery.breaker.unwrap().until, at(59 + 7));
    world.vms[0].spec.breaker = serde_json::from_str(r#"{"failures":0}"#).unwrap();
    let mut never = world.vms[0].status.clone();
    for second in 0..10 {
        let spec = &world.vms[0].spec;
        never = start_failed(
            &never,
            web(),
            spec,
            "no disk",
            Cause::Disk,
            at(second),
            &world.policy,
        );
    }
    assert_eq!(never.recovery.breaker, None);
}

/// What a VM was when the host went down.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Was {
    Up,
    UpAndFailing,
    BackingOff,
    Ended,
    Stopped,
    Held,
}

#[derive(Debug, Clone)]
struct Want {
    was: Was,
    restart: RestartPolicy,
    own: Option<BootstrapPolicy>,
    priority: Priority,
    /// Whom it is started after: of those before it, so that there is no circle.
    after: u8,
    /// It never becomes healthy.
    mute: bool,
    /// Its user starts or stops it at this pass.
    word: Option<(u8, bool)>,
}

fn wants() -> impl Strategy<Value = Vec<Want>> {
    let was = prop_oneof![
        4 => Just(Was::Up), 1 => Just(Was::UpAndFailing), 1 => Just(Was::BackingOff),
        1 => Just(Was::Ended), 1 => Just(Was::Stopped), 1 => Just(Was::Held),
    ];
    let restart = prop_oneof![
        1 => Just(RestartPolicy::No), 1 => Just(RestartPolicy::OnFailure(None)),
        3 => Just(RestartPolicy::UnlessStopped),
    ];
    let own = prop_oneof![3 => Just(None), 1 => prop::sample::select(BootstrapPolicy::ALL.to_vec()).prop_map(Some)];
    let priority = prop::sample::select(vec![Priority::Low, Priority::Normal, Priority::High]);
    let word = prop::option::weighted(0.2, (0_u8..12, any::<bool>()));
    let one = (
        was,
        restart,
        own,
        priority,
        any::<u8>(),
        prop::bool::weighted(0.15),
        word,
    );
    let one = one.prop_map(|(was, restart, own, priority, after, mute, word)| Want {
        was,
        restart,
        own,
        priority,
        after,
        mute,
        word,
    });
    prop::collection::vec(one, 1..9)
}

fn world_of(wants: &[Want], policy: BootstrapPolicy) -> World {
    let mut world = rebooted(policy);
    let first = world.vms.remove(0);
    for (n, want) in (1_u8..).zip(wants) {
        let mut vm = first.clone();
        vm.id = vm_id(n);
        vm.spec.name = format!("vm-{n}").parse().unwrap();
        vm.spec.network.mode = NetworkMode::None;
        vm.leases.ip = None;
        vm.spec.restart = want.restart;
        vm.spec.bootstrap = want.own;
        vm.spec.resources.priority = want.priority;
        let named = (1..n).filter(|other| want.after >> ((other - 1) % 8) & 1 == 1);
        vm.spec.after = named
            .map(|other| format!("vm-{other}").parse().unwrap())
            .collect();
        let status = &mut vm.status;
        status.vmm = Some(identity(vm.id, i32::from(n)));
        status.started_at = Some(at(-60));
        match want.was {
            Was::Up => {}
            Was::UpAndFailing => status.failures = 2,
            Was::Held => {
                status.recovery.hold = Some(Hold {
                    since: at(-50),
                    reason: None,
                })
            }
            Was::BackingOff => {
                (status.vmm, status.phase, status.failures) = (None, Phase::Backoff, 1);
            }
            Was::Ended => (status.vmm, status.phase) = (None, Phase::Exited),
            Was::Stopped => {
                (status.vmm, status.phase) = (None, Phase::Exited);
                vm.goal = Goal::Stopped;
            }
        }
        world.vms.push(vm);
    }
    // Whatever the order in which they were written.
    world.vms.reverse();
    let ids: Vec<VmId> = world.vms.iter().map(|vm| vm.id).collect();
    *dirs(&mut world) = ids.into_iter().map(dir).collect();
    world
}

/// Carries a plan out, as the executor would; what was started by the daemon's own decision.
fn carry_out(world: &mut World, made: &hearth_plan::Plan) -> BTreeSet<VmId> {
    let mut by_itself = BTreeSet::new();
    for planned in &made.steps {
        let Some(id) = planned.step.vm() else {
            continue;
        };
        let index = world.vms.iter().position(|vm| vm.id == id).unwrap();
        match &planned.step {
            Step::SetStatus { status, .. } => world.vms[index].status = (**status).clone(),
            Step::StartVmm { restart, .. } => {
                if !world.vms[index].status.asked {
                    by_itself.insert(id);
                }
                let mut identity = identity(id, 500 + i32::try_from(index).unwrap());
                identity.boot_id = world.boot_id.clone();
                let status = &world.vms[index].status;
                let status =
                    hearth_plan::transition::started(status, identity.clone(), world.now, *restart);
                world.vms[index].status = status;
                let mut seen = process(id, identity.pid, ProcessRole::Vmm, 0);
                seen.identity = identity;
                seen.started_at = world.now;
                processes(world).push(seen);
            }
            Step::Stop { .. } => {
                processes(world).retain(|p| p.identity.mark.vm() != Some(id));
            }
            _ => {}
        }
    }
    by_itself
}

/// Guests come up within three seconds, but those that never do.
fn look_at_health(world: &mut World, mute: &BTreeSet<VmId>) {
    let now = world.now;
    let health = world.vms.iter().filter_map(|vm| {
        vm.status.vmm.as_ref()?;
        let since = vm.status.started_at.unwrap();
        let up = now.duration_since(since) >= jiff::SignedDuration::from_secs(3);
        let health = if mute.contains(&vm.id) || !up {
            Health::Starting
        } else {
            Health::Healthy
        };
        Some((vm.id, health))
    });
    world.facts.health = health.collect::<BTreeMap<_, _>>();
}

proptest! {
    /// Whatever the VMs were, whatever the policies and the order, and whatever users say
    /// meanwhile: nothing is started that its policy forbids, nobody before those that it comes
    /// after unless they had their time, and in the end everybody runs who may.
    #[test]
    fn a_bootstrap_forbids_orders_and_ends(
        wants in wants(), policy in prop::sample::select(BootstrapPolicy::ALL.to_vec()),
    ) {
        let mut world = world_of(&wants, policy);
        let want = |id: VmId| (1_u8..).zip(&wants).find(|(n, _)| vm_id(*n) == id).unwrap().1;
        let mute: BTreeSet<VmId> = world.vms.iter().map(|vm| vm.id).filter(|id| want(*id).mute).collect();
        let verdicts: BTreeMap<VmId, Verdict> = world.vms.iter().map(|vm| (vm.id, judge(&world, vm))).collect();
        let may = |vm: &hearth_plan::DesiredVm| {
            verdicts[&vm.id] == Verdict::Start && vm.status.recovery.hold.is_none()
        };
        let mut spoken = BTreeSet::new();
        let mut counted = Tally::default();
        for pass in 0..600_u32 {
            for index in 0..world.vms.len() {
                let id = world.vms[index].id;
                if let Some((when, start)) = want(id).word && u32::from(when) == pass && want(id).was != Was::Held {
                    world.vms[index].goal = if start { Goal::Running } else { Goal::Stopped };
                    world.vms[index].generation += 1;
                    spoken.insert(id);
                }
            }
            look_at_health(&mut world, &mute);
            let before = world.clone();
            let made = plan(&world);
            for id in carry_out(&mut world, &made) {
                prop_assert!(verdicts[&id] == Verdict::Start, "{id} was started against its policy");
                let vm = before.vms.iter().find(|vm| vm.id == id).unwrap();
                for name in &vm.spec.after {
                    let other = before.vms.iter().find(|other| other.spec.name == *name).unwrap();
                    if !may(other) || spoken.contains(&other.id) || other.goal != Goal::Running {
                        continue;
                    }
                    let up = before.facts.health.get(&other.id) == Some(&Health::Healthy);
                    let since = vm.status.wait.as_ref().map(|wait| wait.since);
                    let waited = since.is_some_and(|at| world.now.duration_since(at).as_secs() >= 300);
                    let had_time = other.status.vmm.is_some() && other.status.started_at.is_some_and(|at| world.now.duration_since(at).as_secs() >= 300);
                    prop_assert!(up || waited || had_time, "{} before {name}", vm.spec.name);
                }
            }
            counted = tally(&world, false);
            if made.steps.is_empty() && counted.settled && pass > 12 {
                break;
            }
            let soon = world.now + seconds(1);
            // A guest that has come up wakes the loop.
            world.now = made.next_pass.map_or(soon, |at| at.min(soon)).max(world.now + seconds(0));
            if world.now == before.now && made.steps.is_empty() {
                world.now = soon;
            }
        }
        prop_assert!(counted.settled, "{counted:?} is not settled");
        for vm in &world.vms {
            let stopped = vm.goal != Goal::Running;
            let word = spoken.contains(&vm.id);
            let runs = vm.status.vmm.is_some();
            if stopped {
                prop_assert!(!runs, "{} runs", vm.spec.name);
            } else if may(vm) || word {
                prop_assert!(runs, "{} does not run: {:?}", vm.spec.name, vm.status);
            } else {
                prop_assert!(!runs, "{} runs: {:?}", vm.spec.name, verdicts[&vm.id]);
            }
        }
    }

    /// VMs that wait for each other in a circle, which an older database may have, are started
    /// all the same.
    #[test]
    fn a_circle_that_was_stored_somehow_ends(count in 2_u8..6) {
        let up = Want {
            was: Was::Up, restart: RestartPolicy::UnlessStopped, own: None,
            priority: Priority::Normal, after: 0, mute: false, word: None,
        };
        let mut world = world_of(&vec![up; usize::from(count)], BootstrapPolicy::RestartAll);
        let names: Vec<_> = world.vms.iter().map(|vm| vm.spec.name.clone()).collect();
        for (index, vm) in world.vms.iter_mut().enumerate() {
            vm.spec.after = vec![names[(index + 1) % names.len()].clone()];
        }
        for _ in 0..400 {
            look_at_health(&mut world, &BTreeSet::new());
            let made = plan(&world);
            carry_out(&mut world, &made);
            world.now += seconds(1);
        }
        prop_assert!(world.vms.iter().all(|vm| vm.status.vmm.is_some()));
    }
}
