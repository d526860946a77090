//! Beyond our own rules: interfaces that look like ours, routes into the guests' subnet,
//! connections of addresses that no VM has.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use anyhow::Context as _;
use hearth_net::{Lookalike, NetError};
use hearth_plan::World;
use hearth_types::observe::Observed;
use hearth_types::orphan::{Fate, FateKind, Orphan, OrphanKind, OrphanState};

use super::{Found, unproven};
use crate::engine::Engine;

const CONNECTIONS: &str = "connections-";

impl Engine {
    /// What the survey of the network leaves out.
    pub(super) async fn beyond_the_rules(&self, world: &World) -> Found {
        let net = &self.parts.net;
        let (alike, free, tracked) =
            tokio::join!(net.lookalikes(), net.check(), self.loose_connections(world));
        let mut found = Found::default();
        let alike = alike.map(|alike| alike.into_iter().map(lookalike).collect());
        found.add("interfaces", alike.map_err(anyhow::Error::from));
        found.add("routes", routes(free));
        found.add("tracked connections", tracked);
        found
    }

    /// Connections of addresses that no VM has.
    async fn loose_connections(&self, world: &World) -> anyhow::Result<Vec<Orphan>> {
        let tracked = self.parts.net.connections().await?;
        if tracked.is_empty() {
            return Ok(Vec::new());
        }
        let vms = world.vms.iter().filter_map(|vm| vm.leases.ip);
        let used: BTreeSet<_> = vms.chain(filtered(&world.observed)?).collect();
        let loose = tracked.into_iter().filter(|(ip, _)| !used.contains(ip));
        Ok(loose.map(|(ip, count)| connections(ip, count)).collect())
    }

    /// Forgets the connections of an address, if still no VM has it.
    pub(super) async fn remove_connections(&self, id: &str) -> anyhow::Result<()> {
        let ip: Ipv4Addr = id
            .strip_prefix(CONNECTIONS)
            .and_then(|ip| ip.parse().ok())
            .context("it names no address")?;
        let observed = self.survey_all().await;
        let rows = self.parts.store.vms().await;
        let mut used = rows.iter().filter_map(|row| row.leases.ip);
        anyhow::ensure!(
            !used.any(|used| used == ip) && !filtered(&observed)?.contains(&ip),
            "a VM has {ip} now"
        );
        self.parts.net.flush_conntrack(ip).await?;
        let what = format!("of {ip}");
        self.orphan_removed("connections", &what).await;
        Ok(())
    }
}

/// Addresses that our filters let through: those of VMMs without a record are among them.
fn filtered(observed: &Observed) -> anyhow::Result<BTreeSet<Ipv4Addr>> {
    let rules = observed.rules.known();
    let rules = rules.context("the network rules are unknown, and a VMM may use its address")?;
    let guests = rules.iter().flat_map(|rules| &rules.guests);
    Ok(guests.map(|rule| rule.ip).collect())
}

fn connections(ip: Ipv4Addr, count: usize) -> Orphan {
    let fate = Fate {
        what: FateKind::Kept,
        at: None,
        why: "they are forgotten before the address is given to a VM".to_owned(),
    };
    Orphan {
        state: OrphanState::Unwanted,
        fate,
        ..unproven(
            format!("{CONNECTIONS}{ip}"),
            OrphanKind::Connections,
            format!("{count} of {ip}"),
            "no VM has this address of the guests' subnet".to_owned(),
            "",
        )
    }
}

fn lookalike(alike: Lookalike) -> Orphan {
    let reason = if alike.port {
        "it is a port of our bridge and does not carry our mark: the guests' filter does not hold it"
    } else {
        "its name is like that of a TAP of ours, and it carries no mark"
    };
    unproven(
        format!("interface-{}", alike.name),
        OrphanKind::Interface,
        alike.name,
        reason.to_owned(),
        "nothing proves that it is ours",
    )
}

fn routes(checked: Result<(), NetError>) -> anyhow::Result<Vec<Orphan>> {
    match checked {
        Ok(()) => Ok(Vec::new()),
        Err(NetError::Collision {
            subnet,
            route,
            interface,
        }) => Ok(vec![unproven(
            format!("route-{route}"),
            OrphanKind::Route,
            format!("{route} through {interface}"),
            format!("it leads elsewhere and overlaps with the guests' subnet {subnet}"),
            "it is the host's",
        )]),
        Err(error) => Err(error.into()),
    }
}
