//! Properties over generated lives: what users do, what befalls the host, crashes, failed surveys, faults.

#[cfg(test)]
#[path = "lives/action.rs"]
mod action;

use action::{Action, actions, run, world};
use hearth_sim::{EndState, Sim};
use hearth_types::spec::RestartPolicy;
use hearth_types::status::{Goal, Phase};
use proptest::prelude::*;

/// Passes until quiet: a stop ladder with four VMs, restarts and clean-up stay far below.
const LIMIT: usize = 400;

fn settled(mut sim: Sim) -> Sim {
    let quiet = sim.settle(LIMIT);
    let errors = &sim.errors;
    assert!(
        quiet.is_ok(),
        "not quiet after {LIMIT} passes: {quiet:#?}; errors {errors:?}"
    );
    sim
}

/// What the goals of all VMs mean for the host when it is quiet.
fn assert_as_wanted(sim: &Sim) {
    let end = sim.end_state();
    for (id, vm) in &sim.store.vms {
        let is = &end.vms[id];
        assert_ne!(vm.goal, Goal::Absent, "{id} should be forgotten");
        let up = matches!(vm.goal, Goal::Running | Goal::Paused);
        let given_up = matches!(is.phase, Phase::Exited | Phase::Failed);
        assert_eq!(
            is.vmms,
            usize::from(up && !given_up),
            "{id}: {is:?} with goal {:?}",
            vm.goal
        );
        if up && given_up {
            assert!(
                matches!(
                    vm.spec.restart,
                    RestartPolicy::No | RestartPolicy::OnFailure(_)
                ),
                "{id} was given up with policy {}",
                vm.spec.restart
            );
        }
        if is.vmms == 1 {
            assert_eq!(is.paused, vm.goal == Goal::Paused, "{id}");
            let live = sim.host.vmms(*id).next().map(|p| &p.identity);
            assert_eq!(
                vm.status.vmm.as_ref(),
                live,
                "{id}: the living VMM is the recorded one"
            );
        }
        let bridged = vm.leases.ip.is_some();
        assert_eq!(is.tap, is.vmms == 1 && bridged, "{id}: TAP");
        assert_eq!(vm.status.observed_generation, vm.generation, "{id}");
        assert_eq!(vm.status.stop, None, "{id}");
    }
    let used = sim.store.vms.values().any(|vm| vm.leases.ip.is_some());
    assert_eq!(end.bridge, used.then_some(true));
    assert_eq!(end.rules.is_some(), used);
    assert!(
        end.dirs.iter().all(|dir| end.vms.contains_key(dir)),
        "orphaned folder"
    );
}

fn assert_innocent(sim: &Sim) {
    assert_eq!(sim.host.violations, Vec::<String>::new());
    assert!(action::neighbours_are_well(sim), "a neighbour was touched");
}

/// 1,500 lives a run unless `PROPTEST_CASES` asks for more.
fn config() -> ProptestConfig {
    let default = ProptestConfig::default();
    ProptestConfig {
        cases: if std::env::var_os("PROPTEST_CASES").is_some() {
            default.cases
        } else {
            1500
        },
        failure_persistence: None,
        ..default
    }
}

/// Phases in which a VM rests are compared; times and counts are not.
fn comparable(sim: &Sim) -> EndState {
    sim.end_state()
}

proptest! {
    #![proptest_config(config())]

    /// (a) converges, (b) touches nothing foreign and nothing on Unknown, (c) stop wins,
    /// (d) no two VMMs, (e) no shared lease.
    #[test]
    fn every_life_ends_as_wanted(actions in actions(24)) {
        let mut sim = world();
        for action in &actions {
            run(&mut sim, action);
        }
        sim.host.unknown.clear();
        sim.host.faults.clear();
        sim.crash_in = None;
        let sim = settled(sim);
        assert_innocent(&sim);
        assert_as_wanted(&sim);
    }

    /// (b) A host of which nothing is known is left as it is.
    #[test]
    fn nothing_happens_on_unknown(actions in actions(12)) {
        let mut sim = world();
        for action in &actions {
            run(&mut sim, action);
        }
        sim.crash_in = None;
        action::blind(&mut sim);
        let before = sim.end_state();
        for _ in 0..5 {
            let _plan = sim.pass();
        }
        let after = sim.end_state();
        assert_innocent(&sim);
        prop_assert_eq!(before, after);
    }

    /// (f) A crash at any point, then new passes, lead to the same end.
    #[test]
    fn a_crash_changes_nothing_in_the_end(actions in actions(10), at in 0_u32..60) {
        let mut sim = world();
        for action in actions.iter().filter(|action| !matches!(action, Action::Crash(_))) {
            run(&mut sim, action);
        }
        sim.host.unknown.clear();
        sim.host.faults.clear();
        let straight = settled(sim.clone());
        sim.crash_in = Some(at);
        let crashed = settled(sim);
        assert_innocent(&crashed);
        prop_assert_eq!(comparable(&straight), comparable(&crashed));
    }
}

/// (f) Every single point of one whole life: started, killed, stopped, removed.
#[test]
fn a_crash_at_every_point_of_a_life_leads_to_the_same_end() {
    let life = |crash_in: Option<u32>| {
        let mut sim = world();
        sim.crash_in = crash_in;
        for chapter in action::a_whole_life() {
            for action in &chapter {
                run(&mut sim, action);
            }
            sim = settled(sim);
        }
        assert_innocent(&sim);
        sim
    };
    let straight = life(None);
    assert!(straight.points > 40, "only {} points", straight.points);
    for at in 0..straight.points {
        let crashed = life(Some(at));
        assert_eq!(
            straight.end_state(),
            crashed.end_state(),
            "crash at point {at}"
        );
    }
}
