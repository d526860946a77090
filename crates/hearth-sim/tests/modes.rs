//! Modes over generated lives: what is decided is the same in each, and what may not be done
//! is not done.

#[cfg(test)]
#[path = "lives/action.rs"]
#[expect(dead_code, reason = "lives use more of it")]
mod action;

use std::time::Duration;

use action::{Action, actions, run, world};
use hearth_plan::mode::{Automatic, Origin, Switches, allowed};
use hearth_plan::{Plan, plan};
use hearth_sim::{Sim, SimProcess};
use hearth_types::mode::Mode;
use hearth_types::observe::ProcessRole;
use hearth_types::process::ProcessExit;
use hearth_types::status::{Goal, Phase};
use proptest::prelude::*;

/// Passes until quiet, as for lives.
const LIMIT: usize = 400;

fn enter(sim: &mut Sim, mode: Mode) {
    sim.policy.stance.mode = mode;
    sim.policy.stance.reason = (mode != Mode::Normal).then(|| "a test".to_owned());
}

fn lived(actions: &[Action]) -> Sim {
    let mut sim = world();
    for action in actions {
        run(&mut sim, action);
    }
    sim.host.unknown.clear();
    sim.host.faults.clear();
    sim.crash_in = None;
    sim
}

/// Every step that is due, let through or not.
fn due(plan: &Plan) -> Vec<String> {
    let held = plan.held.iter().map(|held| &held.planned);
    let mut steps: Vec<_> = plan
        .steps
        .iter()
        .chain(held)
        .map(|planned| format!("{:?}", planned.step))
        .collect();
    steps.sort();
    steps
}

/// Passes over an hour in which nothing is let through that this origin's kind has.
fn an_hour(sim: &mut Sim) {
    sim.host.attempts.clear();
    for _ in 0..60 {
        let plan = sim.pass().expect("no crash is set");
        let (stance, auto) = (&sim.policy.stance, sim.policy.auto);
        for planned in &plan.steps {
            assert!(allowed(stance, auto, planned.origin), "{planned:?}");
        }
        let next = sim.host.now + Duration::from_secs(60);
        sim.host.advance(next);
    }
}

fn config() -> ProptestConfig {
    let default = ProptestConfig::default();
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    ProptestConfig {
        cases: if asked { default.cases } else { 400 },
        failure_persistence: None,
        ..default
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn the_same_is_decided_in_every_mode(actions in actions(20)) {
        let mut sim = lived(&actions);
        let normal = due(&plan(&sim.world()));
        for mode in Mode::ALL {
            enter(&mut sim, mode);
            prop_assert_eq!(&normal, &due(&plan(&sim.world())));
        }
        enter(&mut sim, Mode::Normal);
        sim.policy.auto = Switches { restart: false, bootstrap: false, orphans: false, drift: false, cleanup: false };
        prop_assert_eq!(&normal, &due(&plan(&sim.world())));
    }

    /// The host stays as it is, whatever was under way, and ends are recorded all the same.
    /// After it, every word comes true.
    #[test]
    fn readonly_touches_nothing(actions in actions(20)) {
        let mut sim = lived(&actions);
        enter(&mut sim, Mode::Readonly);
        let (taps, dirs) = (sim.host.taps.clone(), sim.host.dirs.clone());
        let (bridge, rules) = (sim.host.bridge, sim.host.rules.clone());
        let vms: Vec<_> = sim.store.vms.keys().copied().collect();
        an_hour(&mut sim);
        prop_assert!(sim.host.attempts.is_empty(), "{:?}", sim.host.attempts);
        prop_assert_eq!(&sim.host.taps, &taps);
        // Shims write records by themselves.
        prop_assert!(sim.host.dirs.keys().eq(dirs.keys()));
        prop_assert_eq!((sim.host.bridge, &sim.host.rules), (bridge, &rules));
        prop_assert!(sim.store.vms.keys().eq(vms.iter()));
        for (id, vm) in &sim.store.vms {
            let recorded = vm.status.vmm.is_some();
            let waits = vm.status.ending_since.is_some();
            prop_assert_eq!(recorded && !waits, sim.host.vmms(*id).count() > 0 && !waits, "{}: {:?}", id, &vm.status);
        }
        enter(&mut sim, Mode::Normal);
        let quiet = sim.settle(LIMIT);
        prop_assert!(quiet.is_ok(), "{quiet:#?}");
        prop_assert_eq!(&sim.host.violations, &Vec::<String>::new());
    }

    /// What the user asks for comes true, and nothing else does.
    #[test]
    fn maintenance_obeys_and_does_nothing_by_itself(actions in actions(16), goal in prop_oneof![
        Just(Goal::Running), Just(Goal::Paused), Just(Goal::Stopped), Just(Goal::Absent),
    ]) {
        let mut sim = lived(&actions);
        prop_assert!(sim.settle(LIMIT).is_ok());
        enter(&mut sim, Mode::Maintenance);
        let ours = |p: &&SimProcess| !p.foreign && p.role == ProcessRole::Vmm;
        let vmms: Vec<_> = sim.host.processes.values().filter(ours).map(|p| p.identity.pid).collect();
        for pid in vmms {
            sim.host.end(pid, ProcessExit::Signal(11), None);
        }
        an_hour(&mut sim);
        prop_assert!(sim.host.attempts.is_empty(), "{:?}", sim.host.attempts);
        let Some(vm) = sim.store.vms.values().find(|vm| vm.goal != Goal::Absent).map(|vm| vm.id) else {
            return Ok(());
        };
        sim.store.set_goal(vm, goal, false);
        an_hour(&mut sim);
        let up = usize::from(matches!(goal, Goal::Running | Goal::Paused));
        prop_assert_eq!(sim.host.vmms(vm).count(), up, "{:#?}", sim.store.vms.get(&vm));
        if goal == Goal::Absent {
            prop_assert!(!sim.store.vms.contains_key(&vm));
        } else if goal == Goal::Paused {
            prop_assert_eq!(sim.store.vms[&vm].status.phase, Phase::Paused);
        }
        prop_assert_eq!(&sim.host.violations, &Vec::<String>::new());
    }

    /// A switch holds its own kind of steps and no other.
    #[test]
    fn a_switch_holds_its_kind(actions in actions(20), which in 0..Automatic::ALL.len()) {
        let kind = Automatic::ALL[which];
        let mut sim = lived(&actions);
        let auto = &mut sim.policy.auto;
        match kind {
            Automatic::Restart => auto.restart = false,
            Automatic::Bootstrap => auto.bootstrap = false,
            Automatic::Orphans => auto.orphans = false,
            Automatic::Drift => auto.drift = false,
            Automatic::Cleanup => auto.cleanup = false,
        }
        let plan = plan(&sim.world());
        for planned in &plan.steps {
            prop_assert_ne!(planned.origin, Origin::Automatic(kind), "{:?}", planned);
        }
        for held in &plan.held {
            prop_assert_eq!(&held.by, kind.key());
            prop_assert!(plan.notes.iter().any(|note| note.text.contains(kind.key())));
        }
    }
}
