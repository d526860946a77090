//! What people are shown of a plan.

use hearth_plan::view;
use hearth_types::observe::ProcessRole;
use hearth_types::status::{Goal, Phase};

use super::world::*;

#[test]
fn a_plan_is_shown_with_names_objects_reasons_and_what_is_destructive() {
    let mut world = running();
    say(&mut world, Goal::Stopped);
    world.journaled = [vm_id(7)].into();
    processes(&mut world).push(process(vm_id(7), 70, ProcessRole::Vmm, -99));
    let view = view::plan(&hearth_plan::plan(&world), &world);
    let shown: Vec<_> = view
        .steps
        .iter()
        .map(|step| {
            let name = step.name.as_deref();
            (
                step.step.as_str(),
                name,
                step.object.as_str(),
                step.destructive,
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            ("set_status", Some("web"), "status stopping", false),
            ("stop", Some("web"), "VMM with pid 10, by its agent", true),
            ("kill_orphan", None, "process 70", true),
        ]
    );
    assert!(view.steps.iter().all(|step| !step.reason.is_empty()));
    assert_eq!(view.next_pass, Some(at(10)));
}

#[test]
fn a_note_about_a_vm_begins_with_its_name() {
    let mut world = down(Phase::Backoff);
    world.vms[0].status.next_start = Some(at(7));
    let view = view::plan(&hearth_plan::plan(&world), &world);
    assert_eq!(view.notes.len(), 1);
    assert!(
        view.notes[0].starts_with("web: waits until"),
        "{:?}",
        view.notes
    );
}
