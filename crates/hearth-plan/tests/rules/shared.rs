//! Bridge, rules and names.

use hearth_plan::Step;
use hearth_types::observe::{ObservedBridge, ObservedNames};
use hearth_types::spec::NetworkMode;
use hearth_types::status::{Goal, Phase};
use hearth_types::survey::Survey;

use super::world::*;

#[test]
fn what_is_shared_is_made_before_the_first_vm() {
    let mut world = down(Phase::Starting);
    world.observed.bridge = Survey::Known(None);
    world.observed.rules = Survey::Known(None);
    world.observed.names = Survey::Known(ObservedNames::default());
    let steps = [
        "ensure_bridge",
        "apply_rules",
        "ensure_names",
        "ensure_tap",
        "start_vmm",
    ];
    assert_steps(&world, &steps);
}

#[test]
fn a_bridge_that_is_not_ready_is_put_right() {
    let mut world = running();
    world.observed.bridge = Survey::Known(Some(ObservedBridge { ready: false }));
    assert_steps(&world, &["ensure_bridge"]);
}

#[test]
fn rules_name_every_vm_and_its_published_ports() {
    let mut world = running();
    world.vms[0].spec.ports = vec!["127.0.0.1:8080:80".parse().unwrap()];
    let plan = assert_steps(&world, &["apply_rules"]);
    let Step::ApplyRules(rules) = &plan.steps[0].step else {
        panic!("{plan:#?}")
    };
    let port = rules.ports.first().unwrap();
    assert_eq!(
        (port.host_port, port.guest_ip, port.guest_port),
        (8080, ip(), 80)
    );
    assert_eq!(rules.guests.len(), 1);
}

#[test]
fn the_rules_of_a_vm_that_is_removed_stay_while_its_vmm_lives() {
    let mut world = running();
    say(&mut world, Goal::Absent);
    let plan = hearth_plan::plan(&world);
    assert!(!kinds(&plan).contains(&"apply_rules"), "{plan:#?}");
}

#[test]
fn names_are_served_again_when_the_server_died_or_serves_others() {
    let mut world = running();
    world.observed.names = Survey::Known(ObservedNames::default());
    assert_steps(&world, &["ensure_names"]);
    let hosts = [("old".to_owned(), ip())].into();
    world.observed.names = Survey::Known(ObservedNames {
        running: true,
        hosts,
    });
    assert_steps(&world, &["ensure_names"]);
}

#[test]
fn the_network_goes_when_no_vm_uses_it_and_no_tap_is_left() {
    let mut world = running();
    world.vms[0].spec.network.mode = NetworkMode::None;
    // The TAP goes in this pass; only the next one proves it.
    assert_steps(&world, &["remove_tap"]);
    taps(&mut world).clear();
    assert_steps(&world, &["remove_names", "remove_rules", "remove_bridge"]);
    world.observed.taps = unknown();
    assert_steps(&world, &[]);
}

#[test]
fn a_stopped_vm_keeps_the_network() {
    let mut world = down(Phase::Exited);
    world.vms[0].goal = Goal::Stopped;
    assert_steps(&world, &[]);
}
