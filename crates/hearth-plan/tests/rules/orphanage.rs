//! The list of orphans for people.

use hearth_plan::{OpenIntent, World, orphanage, plan};
use hearth_types::ids::IntentId;
use hearth_types::names::tap_name;
use hearth_types::net::{GuestRule, MacAddr, Protocol, PublishedPort, RuleSet};
use hearth_types::observe::ProcessRole;
use hearth_types::orphan::{FateKind, Orphan, OrphanKind, OrphanState};
use hearth_types::survey::Survey;

use super::world::*;

fn listed(world: &World) -> Vec<Orphan> {
    orphanage::list(world, &plan(world))
}

fn ids(world: &World, kind: OrphanKind) -> Vec<String> {
    let mut ids: Vec<_> = listed(world)
        .into_iter()
        .filter(|orphan| orphan.kind == kind)
        .map(|orphan| orphan.id)
        .collect();
    ids.sort();
    ids
}

fn rules(world: &mut World) -> &mut RuleSet {
    match &mut world.observed.rules {
        Survey::Known(Some(rules)) => rules,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_host_as_it_should_be_has_none() {
    assert_eq!(listed(&running()), []);
}

#[test]
fn each_element_of_a_table_that_is_too_much_or_missing_is_told() {
    let mut world = running();
    world.vms[0].spec.ports = vec!["127.0.0.1:8080:80".parse().unwrap()];
    let stray = GuestRule {
        tap: tap_name(vm_id(9)),
        mac: MacAddr::for_ipv4([10, 213, 0, 9].into()),
        ip: [10, 213, 0, 9].into(),
    };
    rules(&mut world).guests.insert(stray);
    rules(&mut world).ports.insert(PublishedPort {
        protocol: Protocol::Udp,
        host_ip: std::net::Ipv4Addr::UNSPECIFIED,
        host_port: 53,
        guest_ip: ip(),
        guest_port: 53,
    });
    let expected = [
        "missing-rule-port-127.0.0.1-tcp-8080".to_owned(),
        format!("rule-guest-{}-10.213.0.9", tap_name(vm_id(9))),
        "rule-port-udp-53".to_owned(),
    ];
    assert_eq!(ids(&world, OrphanKind::Rule), expected);
    for rule in listed(&world) {
        let (state, what) = (rule.state, rule.fate.what);
        match state {
            OrphanState::Unwanted => assert_eq!(what, FateKind::Removed, "{rule:?}"),
            _ => assert_eq!(what, FateKind::PutBack, "{rule:?}"),
        }
        assert!(!orphanage::removable(&rule, &world), "{rule:?}");
    }
    world.policy.auto.drift = false;
    let held = listed(&world);
    assert!(held.iter().all(|it| it.fate.what == FateKind::Held));
    // Without a table its absence is told, not that of each element.
    world.observed.rules = Survey::Known(None);
    assert!(ids(&world, OrphanKind::Rule).is_empty());
    assert_eq!(
        ids(&world, OrphanKind::Rules),
        ["missing-rules-all-VMs".to_owned()]
    );
    world.observed.rules = unknown();
    assert_eq!(listed(&world), []);
}

#[test]
fn what_nobody_shares_any_more_is_told_before_it_goes() {
    let mut world = running();
    world.vms[0].spec.network.mode = hearth_types::spec::NetworkMode::None;
    let taps_of_vms = listed(&world);
    assert_eq!(taps_of_vms.len(), 1, "{taps_of_vms:?}");
    assert_eq!(taps_of_vms[0].name.as_deref(), Some("web"));
    assert!(
        !orphanage::removable(&taps_of_vms[0], &world),
        "the loop does it"
    );
    taps(&mut world).clear();
    let kinds: Vec<_> = listed(&world).iter().map(|it| it.kind).collect();
    assert_eq!(
        kinds,
        [OrphanKind::Names, OrphanKind::Rules, OrphanKind::Bridge]
    );
}

#[test]
fn journal_entries_are_told_when_no_step_takes_that_long() {
    let mut world = running();
    for (vm, begun) in [(web(), -5), (web(), -7200), (vm_id(9), -7200)] {
        world.intents.push(OpenIntent {
            id: IntentId::new(),
            vm: Some(vm),
            begun_at: at(begun),
        });
    }
    let told = listed(&world);
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(told[0].name.as_deref(), Some("web"));
    assert!(told[1].reason.contains("no VM"), "{:?}", told[1]);
    for entry in told {
        assert_eq!(entry.kind, OrphanKind::JournalEntry);
        assert!(entry.since.is_some());
    }
}

#[test]
fn a_vm_without_an_address_is_told() {
    let mut world = running();
    world.vms[0].leases.ip = None;
    assert_eq!(
        ids(&world, OrphanKind::Lease),
        ["missing-lease-web".to_owned()]
    );
}

#[test]
fn only_what_no_vm_has_can_be_removed_by_hand() {
    let mut world = running();
    processes(&mut world).push(process(vm_id(7), 70, ProcessRole::Vmm, -31));
    let told = listed(&world);
    let vmm = told.iter().find(|it| it.kind == OrphanKind::Vmm).unwrap();
    assert!(orphanage::removable(vmm, &world));
    let of_vm = Orphan {
        vm: Some(web()),
        ..vmm.clone()
    };
    assert!(!orphanage::removable(&of_vm, &world));
    let unproven = Orphan {
        state: OrphanState::Unproven,
        ..vmm.clone()
    };
    assert!(!orphanage::removable(&unproven, &world));
}
