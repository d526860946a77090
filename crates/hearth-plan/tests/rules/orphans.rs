//! What is ours and belongs to nobody.

use hearth_plan::{OpenIntent, OrphanAction, World};
use hearth_types::ids::IntentId;
use hearth_types::observe::{ObservedUnit, ProcessRole, UnitState};
use hearth_types::{InstallationId, Survey};

use super::world::*;

fn with_orphans() -> World {
    let mut world = running();
    processes(&mut world).push(process(vm_id(7), 70, ProcessRole::Vmm, -31));
    taps(&mut world).push(tap(vm_id(8)));
    dirs(&mut world).push(dir(vm_id(9)));
    // This database knew them all.
    world.journaled = (7..10).map(vm_id).collect();
    world
}

#[test]
fn what_the_journal_does_not_know_is_reported_where_it_runs_or_holds_data() {
    let mut world = with_orphans();
    world.journaled.clear();
    let plan = assert_steps(&world, &["remove_orphan_tap"]);
    assert!(notes(&plan).contains("1 VMM(s) that run"), "{plan:#?}");
    assert!(notes(&plan).contains("1 VM folder(s)"));
    world.policy.orphan_vmms = OrphanAction::Remove;
    world.policy.orphan_dirs = OrphanAction::Remove;
    let steps = ["kill_orphan", "remove_orphan_tap", "remove_orphan_dir"];
    assert_steps(&world, &steps);
    world.journaled = (7..10).map(vm_id).collect();
    world.policy.orphan_vmms = OrphanAction::Report;
    let plan = assert_steps(&world, &["remove_orphan_tap", "remove_orphan_dir"]);
    assert!(notes(&plan).contains("as configured"));
}

#[test]
fn a_vmm_that_is_only_reported_keeps_its_filters_and_its_network() {
    let mut world = running();
    processes(&mut world).push(process(vm_id(7), 70, ProcessRole::Vmm, -99));
    taps(&mut world).push(tap(vm_id(7)));
    let lost = hearth_types::net::GuestRule {
        tap: hearth_types::names::tap_name(vm_id(7)),
        mac: hearth_types::net::MacAddr::for_ipv4([10, 213, 0, 9].into()),
        ip: [10, 213, 0, 9].into(),
    };
    let Survey::Known(Some(rules)) = &mut world.observed.rules else {
        panic!("known")
    };
    rules.guests.insert(lost.clone());
    assert_steps(&world, &[]);
    // What is made anew for others has it in it, too.
    say(&mut world, hearth_types::status::Goal::Absent);
    processes(&mut world).retain(|p| p.identity.pid == 70);
    let plan = hearth_plan::plan(&world);
    let applied = plan.steps.iter().find_map(|planned| match &planned.step {
        hearth_plan::Step::ApplyRules(rules) => Some(rules.guests.iter().collect::<Vec<_>>()),
        _ => None,
    });
    assert_eq!(applied, Some(vec![&lost]), "{plan:#?}");
    // Its end is the end of them.
    processes(&mut world).clear();
    let plan = hearth_plan::plan(&world);
    let none = plan.steps.iter().any(
        |planned| matches!(&planned.step, hearth_plan::Step::ApplyRules(rules) if rules.guests.is_empty()),
    );
    assert!(none, "{plan:#?}");
}

#[test]
fn old_orphans_of_each_kind_are_removed() {
    let steps = ["kill_orphan", "remove_orphan_tap", "remove_orphan_dir"];
    assert_steps(&with_orphans(), &steps);
}

#[test]
fn young_orphans_are_left_until_the_grace_age() {
    let mut world = running();
    world.journaled = [vm_id(7), vm_id(9)].into();
    processes(&mut world).push(process(vm_id(7), 70, ProcessRole::Vmm, -29));
    let mut young = dir(vm_id(9));
    young.changed_at = at(-5);
    dirs(&mut world).push(young);
    let plan = assert_steps(&world, &[]);
    assert_eq!(plan.next_pass, Some(at(1)));
    assert!(notes(&plan).contains("2 object(s)"));
}

#[test]
fn an_open_intent_protects() {
    let mut world = with_orphans();
    for n in 7..10 {
        world.intents.push(OpenIntent {
            id: IntentId::new(),
            vm: Some(vm_id(n)),
            begun_at: at(-9999),
        });
    }
    let plan = assert_steps(&world, &[]);
    assert!(notes(&plan).contains("open journal entry"));
    assert_eq!(plan.next_pass, Some(at(1)));
}

#[test]
fn more_than_the_cap_are_left_and_the_operator_is_asked() {
    let mut world = with_orphans();
    world.policy.orphan_cap = 2;
    let plan = assert_steps(&world, &[]);
    assert!(notes(&plan).contains("3 objects of ours belong to no VM"));
}

#[test]
fn a_kind_that_is_only_reported_is_left_and_does_not_count_for_the_cap() {
    let mut world = with_orphans();
    world.policy.orphan_dirs = OrphanAction::Report;
    world.policy.orphan_cap = 2;
    let plan = assert_steps(&world, &["kill_orphan", "remove_orphan_tap"]);
    assert!(notes(&plan).contains("1 VM folder(s)"));
}

#[test]
fn what_an_orphaned_process_may_use_stays_until_it_is_gone() {
    let mut world = running();
    world.journaled = [vm_id(7)].into();
    processes(&mut world).push(process(vm_id(7), 70, ProcessRole::Vmm, -31));
    taps(&mut world).push(tap(vm_id(7)));
    dirs(&mut world).push(dir(vm_id(7)));
    assert_steps(&world, &["kill_orphan"]);
}

#[test]
fn a_shim_goes_by_itself_after_its_vmm() {
    let mut world = running();
    world.journaled = [vm_id(7)].into();
    processes(&mut world).push(process(vm_id(7), 69, ProcessRole::Shim, -99));
    processes(&mut world).push(process(vm_id(7), 70, ProcessRole::Vmm, -99));
    let plan = assert_steps(&world, &["kill_orphan"]);
    assert!(plan.steps[0].reason.contains("vmm"), "{plan:#?}");
}

#[test]
fn other_installations_and_the_name_server_are_no_orphans() {
    let mut world = with_orphans();
    let other = InstallationId::new();
    dirs(&mut world).truncate(1);
    for process in processes(&mut world).iter_mut().skip(2) {
        process.identity.mark.installation = other;
    }
    for tap in taps(&mut world).iter_mut().skip(1) {
        tap.mark.installation = other;
    }
    let mut names = process(vm_id(7), 71, ProcessRole::Names, -99);
    names.identity.mark = hearth_types::OwnerMark::shared(ours());
    processes(&mut world).push(names);
    assert_steps(&world, &[]);
}

#[test]
fn without_processes_no_orphan_is_removed() {
    let mut world = with_orphans();
    world.observed.processes = unknown();
    assert_steps(&world, &[]);
}

fn unit(n: u8, state: UnitState, since: Option<i64>) -> ObservedUnit {
    ObservedUnit {
        mark: hearth_types::OwnerMark::of_vm(ours(), vm_id(n)),
        state,
        since: since.map(at),
        limits: Survey::Known(Vec::new()),
    }
}

#[test]
fn units_of_no_vm_go_when_they_are_old_and_hold_no_process() {
    let mut world = running();
    processes(&mut world).push(process(vm_id(9), 70, ProcessRole::Shim, -5));
    let mut foreign = unit(10, UnitState::Failed, Some(-99));
    foreign.mark.installation = InstallationId::new();
    world.observed.units = Survey::Known(vec![
        unit(1, UnitState::Active, None),
        unit(5, UnitState::Failed, Some(-31)),
        unit(6, UnitState::Failed, Some(-29)),
        unit(7, UnitState::Deactivating, Some(-99)),
        unit(8, UnitState::Active, None),
        unit(9, UnitState::Active, Some(-99)),
        foreign,
    ]);
    let plan = assert_steps(&world, &["remove_orphan_unit"]);
    assert_eq!(plan.steps[0].step.vm(), Some(vm_id(5)));
    world.policy.orphan_units = OrphanAction::Report;
    assert!(notes(&assert_steps(&world, &[])).contains("1 units"));
    world.observed.units = Survey::Unknown("no bus".to_owned());
    assert!(notes(&assert_steps(&world, &[])).contains("units could not be surveyed"));
}

#[test]
fn units_and_processes_that_disagree_are_told() {
    use hearth_plan::units::{Disagreement, disagreements};
    let mut world = running();
    let id = world.vms[0].id;
    let mut say = |state| {
        world.observed.units = Survey::Known(vec![ObservedUnit {
            mark: hearth_types::OwnerMark::of_vm(ours(), id),
            state,
            since: None,
            limits: Survey::Known(Vec::new()),
        }]);
        disagreements(&world)
    };
    assert_eq!(say(UnitState::Active), []);
    assert_eq!(say(UnitState::Deactivating), []);
    assert_eq!(say(UnitState::Failed), [(id, Disagreement::Over)]);
    assert_eq!(say(UnitState::Inactive), [(id, Disagreement::Over)]);
    world.observed.processes = Survey::Known(Vec::new());
    world.observed.units = Survey::Known(vec![ObservedUnit {
        mark: hearth_types::OwnerMark::of_vm(ours(), id),
        state: UnitState::Active,
        since: None,
        limits: Survey::Known(Vec::new()),
    }]);
    assert_eq!(disagreements(&world), [(id, Disagreement::Empty)]);
    // A shim that writes its record is a process of the unit's.
    processes(&mut world).push(process(id, 9, ProcessRole::Shim, -99));
    assert_eq!(disagreements(&world), []);
    world.observed.processes = Survey::Unknown("busy".to_owned());
    assert_eq!(disagreements(&world), []);
}
