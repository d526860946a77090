//! Limits of a VM's unit that somebody has changed.

use hearth_plan::Step;
use hearth_types::observe::{ChangedLimit, ObservedUnit, UnitState};
use hearth_types::survey::Survey;
use proptest::prelude::*;

use super::world::{assert_steps, identity, notes, ours, running, unknown, web};

fn limit(name: &str, fits: bool) -> ChangedLimit {
    ChangedLimit {
        name: name.to_owned(),
        wanted: "1000".to_owned(),
        found: "max".to_owned(),
        fits,
    }
}

fn unit(state: UnitState, limits: Survey<Vec<ChangedLimit>>) -> Survey<Vec<ObservedUnit>> {
    Survey::Known(vec![ObservedUnit {
        mark: hearth_types::OwnerMark::of_vm(ours(), web()),
        state,
        since: None,
        limits,
    }])
}

#[test]
fn a_changed_limit_is_put_back_unless_the_vmm_uses_more() {
    let mut world = running();
    let changed = vec![limit("cpu.max", true), limit("memory.max", false)];
    world.observed.units = unit(UnitState::Active, Survey::Known(changed));
    let plan = assert_steps(&world, &["ensure_limits"]);
    let expected = Step::EnsureLimits {
        vm: web(),
        identity: identity(web(), 10),
        limits: vec![limit("cpu.max", true)],
    };
    assert_eq!(plan.steps[0].step, expected);
    let reason = &plan.steps[0].reason;
    assert!(
        reason.contains("cpu.max is \"max\" and was \"1000\""),
        "{reason}"
    );
    assert!(notes(&plan).contains("memory.max is \"max\""), "{plan:#?}");
    let only_large = Survey::Known(vec![limit("memory.max", false)]);
    world.observed.units = unit(UnitState::Active, only_large);
    assert_steps(&world, &[]);
}

#[test]
fn with_automatic_repairs_off_it_is_only_said() {
    let mut world = running();
    let changed = Survey::Known(vec![limit("cpu.max", true)]);
    world.observed.units = unit(UnitState::Active, changed);
    world.policy.auto.drift = false;
    let plan = assert_steps(&world, &[]);
    assert_eq!(plan.held.len(), 1);
    assert_eq!(plan.held[0].by, "AUTO_DRIFT");
}

fn state() -> impl Strategy<Value = UnitState> {
    prop_oneof![
        Just(UnitState::Active),
        Just(UnitState::Deactivating),
        Just(UnitState::Failed),
        Just(UnitState::Inactive),
    ]
}

fn limits() -> impl Strategy<Value = Survey<Vec<ChangedLimit>>> {
    const NAMES: [&str; 4] = ["cpu.max", "memory.max", "pids.max", "io.max"];
    let some = prop::collection::vec((prop::sample::select(&NAMES), any::<bool>()), 0..4);
    prop_oneof![
        some.prop_map(|limits| {
            let limits = limits.into_iter();
            Survey::Known(limits.map(|(name, fits)| limit(name, fits)).collect())
        }),
        Just(Survey::Unknown("EIO".to_owned())),
    ]
}

proptest! {
    /// Nothing is touched unless the VMM lives, its unit is active, and its limits are known
    /// to be changed; and then nothing but those that fit.
    #[test]
    fn never_on_unknown(
        state in state(),
        limits in limits(),
        units_known in any::<bool>(),
        processes_known in any::<bool>(),
        foreign in any::<bool>(),
    ) {
        let mut world = running();
        world.observed.units = if units_known { unit(state, limits.clone()) } else { unknown() };
        if let (true, Survey::Known(units)) = (foreign, &mut world.observed.units) {
            units[0].mark.installation = hearth_types::ids::InstallationId::new();
        }
        if !processes_known {
            world.observed.processes = unknown();
        }
        let plan = hearth_plan::plan(&world);
        let put_back: Vec<_> = plan
            .steps
            .iter()
            .filter_map(|planned| match &planned.step {
                Step::EnsureLimits { limits, .. } => Some(limits.clone()),
                _ => None,
            })
            .collect();
        let seen = units_known && processes_known && !foreign && state == UnitState::Active;
        let fit = limits.known().map(|limits| {
            let fit = limits.iter().filter(|limit| limit.fits);
            fit.cloned().collect::<Vec<_>>()
        });
        let expected = fit.filter(|fit| seen && !fit.is_empty());
        prop_assert_eq!(put_back, expected.into_iter().collect::<Vec<_>>());
    }
}
