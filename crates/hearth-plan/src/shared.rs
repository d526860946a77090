//! What all VMs share: bridge, rules, names.
//!
//! They are made before the first VM needs them and taken away after the last one that could
//! need them is forgotten. In between (only VMs that are being removed) they are left alone,
//! so that removing and making never take turns.

use std::collections::{BTreeMap, HashSet};
use std::net::Ipv4Addr;

use hearth_types::names::tap_name;
use hearth_types::net::{GuestRule, PublishedPort, RuleSet};
use hearth_types::observe::ObservedTap;
use hearth_types::spec::NetworkMode;
use hearth_types::status::Goal;
use hearth_types::survey::Survey;

use crate::index::{Index, effective_goal};
use crate::model::{DesiredVm, Plan, Step, World};

/// What the VMs of the database want of the shared network.
#[derive(Debug, Default)]
struct Wanted {
    /// Some VM that should stay uses the bridge.
    used: bool,
    /// Some VM of the database uses the bridge, even if it is being removed.
    known: bool,
    rules: RuleSet,
    names: BTreeMap<String, Ipv4Addr>,
}

pub(crate) fn bridged(vm: &DesiredVm) -> bool {
    vm.spec.network.mode == NetworkMode::Bridge
}

impl Wanted {
    fn of(world: &World, index: &Index<'_>) -> Self {
        let mut wanted = Self::default();
        let mut guests = Vec::with_capacity(world.vms.len());
        let mut names = Vec::with_capacity(world.vms.len());
        for vm in world.vms.iter().filter(|vm| bridged(vm)) {
            wanted.known = true;
            let stays = effective_goal(vm) != Goal::Absent;
            // On Unknown the VMM of a VM that goes may live: its filter stays.
            let may_live =
                world.observed.processes.known().is_none() || !index.of(vm.id).vmms.is_empty();
            if !stays && !may_live {
                continue;
            }
            wanted.used = true;
            let (Some(ip), Some(mac)) = (vm.leases.ip, vm.leases.mac) else {
                continue;
            };
            guests.push(GuestRule {
                tap: tap_name(vm.id),
                mac,
                ip,
            });
            names.push((vm.spec.name.as_str().to_owned(), ip));
            wanted.rules.ports.extend(ports(vm, ip));
        }
        // Collected at once: sorting beats inserting one by one.
        wanted.rules.guests = guests.into_iter().collect();
        wanted.names = names.into_iter().collect();
        wanted
    }
}

fn ports(vm: &DesiredVm, ip: Ipv4Addr) -> impl Iterator<Item = PublishedPort> + '_ {
    vm.spec.ports.iter().map(move |port| PublishedPort {
        protocol: port.protocol,
        host_ip: port.host_ip,
        host_port: port.host_port,
        guest_ip: ip,
        guest_port: port.guest_port,
    })
}

/// Steps that make what is missing. They come before all steps of VMs.
pub(crate) fn ensure(world: &World, index: &Index<'_>, plan: &mut Plan) {
    let wanted = Wanted::of(world, index);
    if !wanted.known {
        return;
    }
    match &world.observed.bridge {
        Survey::Unknown(why) => {
            plan.note(
                None,
                format!("the bridge is left alone: its state is unknown: {why}"),
            );
        }
        Survey::Known(bridge) => {
            let ready = bridge.as_ref().is_some_and(|bridge| bridge.ready);
            if wanted.used && !ready {
                let reason = if bridge.is_some() {
                    "the bridge is not set up as it should be"
                } else {
                    "VMs with bridge networking need it and it is missing"
                };
                plan.push(Step::EnsureBridge, reason);
            }
        }
    }
    match &world.observed.rules {
        Survey::Unknown(why) => {
            plan.note(
                None,
                format!("the network rules are left alone: their state is unknown: {why}"),
            );
        }
        Survey::Known(None) if wanted.used => {
            plan.push(Step::ApplyRules(wanted.rules), "the table is missing");
        }
        Survey::Known(Some(rules)) if *rules != wanted.rules => {
            plan.push(
                Step::ApplyRules(wanted.rules),
                "the table does not say what the VMs need",
            );
        }
        Survey::Known(_) => {}
    }
    match &world.observed.names {
        Survey::Unknown(why) => {
            plan.note(
                None,
                format!("the name server is left alone: its state is unknown: {why}"),
            );
        }
        Survey::Known(names) => {
            let served = names.running && names.hosts == wanted.names;
            if !served && !wanted.names.is_empty() {
                let reason = if names.running {
                    "the name server does not serve the names of the VMs"
                } else {
                    "the name server does not run"
                };
                plan.push(Step::EnsureNames(wanted.names), reason);
            }
        }
    }
}

/// Steps that take away what nobody uses. They come after all steps of VMs.
pub(crate) fn remove(world: &World, plan: &mut Plan) {
    if world.vms.iter().any(bridged) {
        return;
    }
    let observed = &world.observed;
    // A TAP that is left is an orphan that may still be in use: the network waits for it.
    let ours = |tap: &ObservedTap| tap.mark.installation == world.installation;
    let taps = observed.taps.known();
    let free = taps.is_some_and(|taps| !taps.iter().any(ours));
    if !free {
        return;
    }
    let reason = "no VM uses bridge networking";
    if observed.names.known().is_some_and(|names| names.running) {
        plan.push(Step::RemoveNames, reason);
    }
    if observed.rules.known().is_some_and(Option::is_some) {
        plan.push(Step::RemoveRules, reason);
    }
    if observed.bridge.known().is_some_and(Option::is_some) {
        plan.push(Step::RemoveBridge, reason);
    }
}

/// The TAPs and addresses that our rules name, for looking up.
#[derive(Debug)]
pub(crate) struct Named<'a> {
    taps: HashSet<&'a str>,
    addresses: HashSet<Ipv4Addr>,
}

impl<'a> Named<'a> {
    /// `None` when the rules are unknown. Built only when a VM is on its way out: nobody
    /// else asks.
    pub(crate) fn of(world: &'a World) -> Option<Self> {
        let rules = world.observed.rules.known()?.as_ref();
        let guests = rules.into_iter().flat_map(|rules| &rules.guests);
        let ports = rules.into_iter().flat_map(|rules| &rules.ports);
        Some(Self {
            taps: guests.clone().map(|rule| rule.tap.as_str()).collect(),
            addresses: guests
                .map(|rule| rule.ip)
                .chain(ports.map(|port| port.guest_ip))
                .collect(),
        })
    }

    /// Whether the rules still name this VM's TAP or address.
    pub(crate) fn names(&self, vm: &DesiredVm) -> bool {
        self.taps.contains(tap_name(vm.id).as_str())
            || vm.leases.ip.is_some_and(|ip| self.addresses.contains(&ip))
    }
}
