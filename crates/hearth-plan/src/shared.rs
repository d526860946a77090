//! What all VMs share: bridge, rules, names.
//!
//! They are made before the first VM needs them and taken away after the last one that could
//! need them is forgotten. In between (only VMs that are being removed) they are left alone,
//! so that removing and making never take turns.

use std::collections::{BTreeMap, HashSet};
use std::net::Ipv4Addr;

use hearth_types::ids::VmId;
use hearth_types::names::tap_name;
use hearth_types::net::{GuestRule, MacAddr, PublishedPort, RuleSet};
use hearth_types::observe::{ObservedTap, ProcessRole};
use hearth_types::spec::NetworkMode;
use hearth_types::status::Goal;
use hearth_types::survey::Survey;

use crate::index::{Index, effective_goal};
use crate::model::{DesiredVm, Plan, Step, World};

/// The name of a VM's TAP, as [`tap_name`] makes it, without an allocation: there are
/// thousands to compare in a pass that finds nothing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TapName([u8; 14]);

impl TapName {
    pub(crate) fn of(vm: VmId) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut name = *b"ht............";
        let pairs = name[2..].chunks_exact_mut(2);
        for (pair, byte) in pairs.zip(&vm.as_uuid().as_bytes()[10..]) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        Self(name)
    }

    pub(crate) fn is(&self, name: &str) -> bool {
        name.as_bytes() == self.0
    }
}

/// A VM of the database that takes part in the shared network.
#[derive(Debug)]
struct Guest<'a> {
    vm: &'a DesiredVm,
    ip: Ipv4Addr,
    mac: MacAddr,
}

/// What the VMs of the database want of the shared network.
#[derive(Debug, Default)]
struct Wanted<'a> {
    /// Some VM that should stay uses the bridge.
    used: bool,
    /// Some VM of the database uses the bridge, even if it is being removed.
    known: bool,
    guests: Vec<Guest<'a>>,
    /// What is there already of VMMs that run and have no record: they keep it while they live.
    lost: Vec<&'a GuestRule>,
    lost_ports: Vec<&'a PublishedPort>,
}

pub(crate) fn bridged(vm: &DesiredVm) -> bool {
    vm.spec.network.mode == NetworkMode::Bridge
}

impl<'a> Wanted<'a> {
    fn of(world: &'a World, index: &Index<'_>) -> Self {
        let mut wanted = Self {
            guests: Vec::with_capacity(world.vms.len()),
            ..Self::default()
        };
        let blind = world.observed.processes.known().is_none();
        for vm in world.vms.iter().filter(|vm| bridged(vm)) {
            wanted.known = true;
            let stays = effective_goal(vm) != Goal::Absent;
            // On Unknown the VMM of a VM that goes may live: its filter stays.
            if !stays && !blind && index.of(vm.id).vmms.is_empty() {
                continue;
            }
            wanted.used = true;
            if let (Some(ip), Some(mac)) = (vm.leases.ip, vm.leases.mac) {
                wanted.guests.push(Guest { vm, ip, mac });
            }
        }
        wanted.add_lost(world, index);
        wanted
    }

    /// Addresses that a VM of the database has are that VM's.
    fn add_lost(&mut self, world: &'a World, index: &Index<'_>) {
        if !index.strangers {
            return;
        }
        let processes = world.observed.processes.known();
        let vmms = processes.into_iter().flatten().filter_map(|process| {
            let vm = process.identity.mark.vm()?;
            let ours = process.identity.mark.installation == world.installation;
            let lost = ours && process.role == ProcessRole::Vmm && !index.of(vm).desired;
            lost.then(|| tap_name(vm))
        });
        let taps: HashSet<String> = vmms.collect();
        let given: HashSet<Ipv4Addr> = world.vms.iter().filter_map(|vm| vm.leases.ip).collect();
        let Some(Some(rules)) = world.observed.rules.known() else {
            return;
        };
        let keep = |rule: &&GuestRule| taps.contains(&rule.tap) && !given.contains(&rule.ip);
        self.lost = rules.guests.iter().filter(keep).collect();
        let kept: HashSet<Ipv4Addr> = self.lost.iter().map(|rule| rule.ip).collect();
        let own: HashSet<_> = self
            .ports()
            .map(|port| (port.protocol, port.host_port))
            .collect();
        let keep = |port: &&PublishedPort| {
            kept.contains(&port.guest_ip) && !own.contains(&(port.protocol, port.host_port))
        };
        self.lost_ports = rules.ports.iter().filter(keep).collect();
        self.used |= !self.lost.is_empty();
    }

    fn rules(&self) -> RuleSet {
        let guests = self.guests.iter().map(|guest| GuestRule {
            tap: tap_name(guest.vm.id),
            mac: guest.mac,
            ip: guest.ip,
        });
        RuleSet {
            guests: guests.chain(self.lost.iter().copied().cloned()).collect(),
            ports: self
                .ports()
                .chain(self.lost_ports.iter().copied().cloned())
                .collect(),
        }
    }

    fn ports(&self) -> impl Iterator<Item = PublishedPort> + '_ {
        self.guests
            .iter()
            .flat_map(|guest| ports(guest.vm, guest.ip))
    }

    fn names(&self) -> BTreeMap<String, Ipv4Addr> {
        let names = self.guests.iter();
        names
            .map(|guest| (guest.vm.spec.name.to_string(), guest.ip))
            .collect()
    }

    /// Whether the rules are the ones that [`Wanted::rules`] makes, without making them.
    fn are_rules(&self, rules: &RuleSet) -> bool {
        let guests = self.guests.iter();
        let mut wanted: Vec<_> = guests
            .map(|guest| (TapName::of(guest.vm.id), guest.mac, guest.ip))
            .collect();
        wanted.sort_unstable();
        wanted.dedup();
        // Those that are kept are there: they count on both sides.
        let lost = |rule: &&GuestRule| self.lost.contains(rule);
        let mut ports: Vec<_> = self.ports().collect();
        ports.extend(self.lost_ports.iter().copied().cloned());
        ports.sort_unstable();
        ports.dedup();
        wanted.len() + self.lost.len() == rules.guests.len()
            && wanted
                .iter()
                .zip(rules.guests.iter().filter(|rule| !lost(rule)))
                .all(|((tap, mac, ip), rule)| {
                    tap.is(&rule.tap) && *mac == rule.mac && *ip == rule.ip
                })
            && ports.iter().eq(&rules.ports)
    }

    /// Whether the names are the ones that [`Wanted::names`] makes, without making them.
    fn are_names(&self, names: &BTreeMap<String, Ipv4Addr>) -> bool {
        let guests = self.guests.iter();
        let mut wanted: Vec<_> = guests
            .map(|guest| (guest.vm.spec.name.as_str(), guest.ip))
            .collect();
        // Stable: of two VMs with one name, the last one counts, as in a map.
        wanted.sort_by_key(|(name, _)| *name);
        let last = |index: usize| {
            wanted
                .get(index + 1)
                .is_none_or(|next| next.0 != wanted[index].0)
        };
        let distinct = (0..wanted.len()).filter(|index| last(*index));
        distinct
            .map(|index| wanted[index])
            .eq(names.iter().map(|(name, ip)| (name.as_str(), *ip)))
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
            plan.push(Step::ApplyRules(wanted.rules()), "the table is missing");
        }
        Survey::Known(Some(rules)) if !wanted.are_rules(rules) => {
            plan.push(
                Step::ApplyRules(wanted.rules()),
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
            let served = names.running && wanted.are_names(&names.hosts);
            if !served && !wanted.guests.is_empty() {
                let reason = if names.running {
                    "the name server does not serve the names of the VMs"
                } else {
                    "the name server does not run"
                };
                plan.push(Step::EnsureNames(wanted.names()), reason);
            }
        }
    }
}

/// Why what all VMs share is not all there as it should be; `None` when it is.
pub(crate) fn unready(world: &World, index: &Index<'_>) -> Option<String> {
    let observed = &world.observed;
    let why = |what: &str, why: &String| Some(format!("{what} cannot be looked at: {why}"));
    match (&observed.bridge, &observed.rules, &observed.names) {
        (Survey::Unknown(unknown), _, _) => why("the bridge", unknown),
        (_, Survey::Unknown(unknown), _) => why("the network rules", unknown),
        (_, _, Survey::Unknown(unknown)) => why("the name server", unknown),
        _ => {
            let mut plan = Plan::default();
            ensure(world, index, &mut plan);
            let first = plan.steps.into_iter().next()?;
            let failure = world.facts.network_failure.as_ref();
            let failed = failure.map(|failure| format!(" ({failure})"));
            Some(format!("{}{}", first.reason, failed.unwrap_or_default()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_tap_is_the_one_of_the_types() {
        for _ in 0..100 {
            let vm = VmId::new();
            assert!(TapName::of(vm).is(&tap_name(vm)), "{vm}");
            assert!(!TapName::of(vm).is(&tap_name(VmId::new())), "{vm}");
        }
    }
}
