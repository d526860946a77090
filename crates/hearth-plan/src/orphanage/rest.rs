//! What has no owner to look up: what all VMs share and none needs, elements of our tables,
//! journal entries, leases.

use std::net::Ipv4Addr;

use hearth_types::ids::VmId;
use hearth_types::names::tap_name;
use hearth_types::net::{GuestRule, PublishedPort, RuleSet};
use hearth_types::orphan::{Fate, FateKind, Orphan, OrphanKind, OrphanState};

use super::{List, kept};
use crate::model::{PlannedStep, Step};
use crate::shared::bridged;
use crate::transition::elapsed;

/// One that names no VM; what is known more is filled in by the caller.
fn bare(id: String, kind: OrphanKind, state: OrphanState, object: String, fate: Fate) -> Orphan {
    Orphan {
        id,
        kind,
        state,
        object,
        vm: None,
        name: None,
        image: None,
        since: None,
        bytes: None,
        reason: String::new(),
        fate,
        adoptable: false,
        removable: false,
    }
}

/// What the plan does, unless something holds it.
fn planned(what: FateKind, by: Option<&String>) -> Fate {
    Fate {
        what: by.map_or(what, |_| FateKind::Held),
        at: None,
        why: by.map_or_else(|| "the next pass does it".to_owned(), Clone::clone),
    }
}

impl<'a> List<'a> {
    pub(super) fn rest(&mut self) {
        self.shared();
        self.elements();
        self.journal();
        self.leases();
    }

    /// The plan's steps, taken and held, with what holds them.
    fn all_steps(&self) -> impl Iterator<Item = (&'a PlannedStep, Option<&'a String>)> + use<'a> {
        let plan = self.plan;
        let taken = plan.steps.iter().map(|step| (step, None));
        let held = plan.held.iter();
        taken.chain(held.map(|held| (&held.planned, Some(&held.by))))
    }

    /// What the plan takes away of what is shared, or of a VM that does not want it any more.
    fn shared(&mut self) {
        for (step, by) in self.all_steps() {
            let kind = match step.step {
                Step::RemoveBridge => OrphanKind::Bridge,
                Step::RemoveRules => OrphanKind::Rules,
                Step::RemoveNames => OrphanKind::Names,
                Step::RemoveTap { .. } => OrphanKind::Tap,
                _ => continue,
            };
            let vm = step.step.vm();
            let of = vm.map_or_else(|| "unused".to_owned(), |vm| vm.to_string());
            let (id, object) = (format!("{}-{of}", kind.as_str()), step.step.object());
            let fate = planned(FateKind::Removed, by);
            self.items.push(Orphan {
                vm,
                name: vm.and_then(|vm| self.named(vm)),
                reason: step.reason.clone(),
                ..bare(id, kind, OrphanState::Unwanted, object, fate)
            });
        }
    }

    fn named(&self, vm: VmId) -> Option<String> {
        let found = self.world.vms.iter().find(|desired| desired.id == vm);
        found.map(|vm| vm.spec.name.to_string())
    }

    /// Elements of our tables that should be other ones. While there is no table at all, its
    /// absence is listed and not each element's.
    fn elements(&mut self) {
        let Some(Some(there)) = self.world.observed.rules.known() else {
            return;
        };
        for (step, by) in self.all_steps() {
            let Step::ApplyRules(wanted) = &step.step else {
                continue;
            };
            let extra = difference(there, wanted);
            let fate = planned(FateKind::Removed, by);
            self.add_elements(&extra, OrphanState::Unwanted, &fate);
            let lacking = difference(wanted, there);
            let fate = planned(FateKind::PutBack, by);
            self.add_elements(&lacking, OrphanState::Missing, &fate);
        }
    }

    fn add_elements(&mut self, elements: &RuleSet, state: OrphanState, fate: &Fate) {
        let (missing, reason) = match state {
            OrphanState::Missing => ("missing-", "a VM needs it and our table lacks it"),
            _ => ("", "it is in our table and no VM needs it"),
        };
        let guests = elements.guests.iter();
        let guests = guests.map(|rule| (guest_id(rule), guest_words(rule), rule.ip));
        let ports = elements.ports.iter();
        let ports = ports.map(|port| (port_id(port), port_words(port), port.guest_ip));
        for (id, object, ip) in guests.chain(ports) {
            let mut vms = self.world.vms.iter();
            let of = vms.find(|vm| vm.leases.ip == Some(ip));
            let id = format!("{missing}rule-{id}");
            self.items.push(Orphan {
                vm: of.map(|vm| vm.id),
                name: of.map(|vm| vm.spec.name.to_string()),
                reason: reason.to_owned(),
                ..bare(id, OrphanKind::Rule, state, object, fate.clone())
            });
        }
    }

    /// Open entries that are older than steps usually take.
    fn journal(&mut self) {
        let grace = self.world.policy.orphan_grace;
        for intent in &self.world.intents {
            if elapsed(intent.begun_at, self.world.now) < grace {
                continue;
            }
            let reason = match intent.vm.filter(|vm| !self.desired.contains(vm)) {
                Some(vm) => format!("it is open, and no VM {vm} is in the database"),
                None => "it is open, and its step was begun long ago".to_owned(),
            };
            let fate = kept("a whole survey closes it, unless its step goes on");
            let id = format!("journal_entry-{}", intent.id);
            let object = format!("journal entry {}", intent.id);
            let (kind, state) = (OrphanKind::JournalEntry, OrphanState::Unwanted);
            self.items.push(Orphan {
                vm: intent.vm,
                name: intent.vm.and_then(|vm| self.named(vm)),
                since: Some(intent.begun_at),
                reason,
                ..bare(id, kind, state, object, fate)
            });
        }
    }

    /// VMs that want an address and have none. The other way round cannot be: a lease goes with
    /// its VM's record.
    fn leases(&mut self) {
        for vm in &self.world.vms {
            if !bridged(vm) || (vm.leases.ip.is_some() && vm.leases.mac.is_some()) {
                continue;
            }
            let fate = Fate {
                what: FateKind::Reported,
                at: None,
                why: "a change of its network with hearth apply gives it one".to_owned(),
            };
            let id = format!("missing-lease-{}", vm.spec.name);
            let object = format!("the address behind {}", tap_name(vm.id));
            self.items.push(Orphan {
                vm: Some(vm.id),
                name: Some(vm.spec.name.to_string()),
                reason: "it is of the shared network and has no address".to_owned(),
                ..bare(id, OrphanKind::Lease, OrphanState::Missing, object, fate)
            });
        }
    }
}

/// What is in the first and not in the second.
fn difference(first: &RuleSet, second: &RuleSet) -> RuleSet {
    RuleSet {
        guests: first.guests.difference(&second.guests).cloned().collect(),
        ports: first.ports.difference(&second.ports).cloned().collect(),
    }
}

fn guest_id(rule: &GuestRule) -> String {
    format!("guest-{}-{}", rule.tap, rule.ip)
}

fn guest_words(rule: &GuestRule) -> String {
    format!("{} may send as {} and {}", rule.tap, rule.mac, rule.ip)
}

fn port_id(port: &PublishedPort) -> String {
    let (protocol, number) = (port.protocol, port.host_port);
    match port.host_ip {
        Ipv4Addr::UNSPECIFIED => format!("port-{protocol}-{number}"),
        ip => format!("port-{ip}-{protocol}-{number}"),
    }
}

fn port_words(port: &PublishedPort) -> String {
    format!(
        "{} {}:{} leads to {}:{}",
        port.protocol, port.host_ip, port.host_port, port.guest_ip, port.guest_port
    )
}
