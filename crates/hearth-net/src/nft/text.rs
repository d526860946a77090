//! The tables as nft reads them. Each function's text is one transaction.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use hearth_types::net::{GuestRule, PublishedPort, RuleSet};

use super::Shape;

/// A rule set that publishes one port of the host twice.
#[derive(Debug, thiserror::Error)]
#[error(
    "{}:{}/{} is published for {} and for {}: unpublish one of them",
    first.host_ip, first.host_port, first.protocol, first.guest_ip, second.guest_ip
)]
pub(crate) struct DuplicatePort {
    first: PublishedPort,
    second: PublishedPort,
}

/// Puts new tables in place of whatever is there under our name. Connection tracking is
/// not part of a table: connections that exist live on.
pub(crate) fn replacement(shape: &Shape, rules: &RuleSet) -> Result<String, DuplicatePort> {
    check_ports(&rules.ports)?;
    let table = &shape.table;
    let mut out = String::new();
    for family in ["bridge", "inet"] {
        // `add` makes the `delete` succeed when there is none.
        line(&mut out, &format!("add table {family} {table}"));
        line(&mut out, &format!("delete table {family} {table}"));
    }
    out.push_str(&static_part(shape));
    elements(&mut out, "add", shape, &rules.guests, &rules.ports);
    Ok(out)
}

/// Changes `old` into `new`; the empty text when they are equal.
pub(crate) fn delta(shape: &Shape, old: &RuleSet, new: &RuleSet) -> Result<String, DuplicatePort> {
    check_ports(&new.ports)?;
    fn less<T: Ord + Clone>(a: &BTreeSet<T>, b: &BTreeSet<T>) -> BTreeSet<T> {
        a.difference(b).cloned().collect()
    }
    let mut out = String::new();
    // Deletions first: a port that moves to another guest has the same key.
    let (guests, ports) = (less(&old.guests, &new.guests), less(&old.ports, &new.ports));
    elements(&mut out, "delete", shape, &guests, &ports);
    let (guests, ports) = (less(&new.guests, &old.guests), less(&new.ports, &old.ports));
    elements(&mut out, "add", shape, &guests, &ports);
    Ok(out)
}

/// Marks the static part as whole: `fingerprint` is what nft read back.
pub(crate) fn seal(shape: &Shape, fingerprint: u64) -> String {
    format!(
        "add set inet {} {}{fingerprint:016x} {{ type mark; }}\n",
        shape.table,
        shape.seal_prefix()
    )
}

/// Both tables without their elements and without the seal.
pub(super) fn static_part(shape: &Shape) -> String {
    let Shape {
        table,
        bridge,
        subnet,
        group,
        ..
    } = shape;
    let owner = shape.owner_set();
    format!(
        r#"table bridge {table} {{
	set {owner} {{
		type mark
	}}
	set guests {{
		type ifname . ether_addr . ipv4_addr
	}}
	chain prerouting {{
		type filter hook prerouting priority -300; policy accept;
		meta iifgroup != {group} accept
		ether type 8021q drop
		iifname . ether saddr . arp saddr ip @guests iifname . arp saddr ether . arp saddr ip @guests accept
		iifname . ether saddr . ip saddr @guests accept
		drop
	}}
}}
table inet {table} {{
	set {owner} {{
		type mark
	}}
	map ports_at {{
		type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service
	}}
	map ports_any {{
		type inet_proto . inet_service : ipv4_addr . inet_service
	}}
	chain loopback {{
		type filter hook prerouting priority -300; policy accept;
		iifname "{bridge}" ip daddr 127.0.0.0/8 drop
	}}
	chain published {{
		dnat ip to ip daddr . meta l4proto . th dport map @ports_at
		dnat ip to meta l4proto . th dport map @ports_any
	}}
	chain prerouting {{
		type nat hook prerouting priority -100; policy accept;
		fib daddr type local jump published
	}}
	chain output {{
		type nat hook output priority -100; policy accept;
		fib daddr type local jump published
	}}
	chain postrouting {{
		type nat hook postrouting priority 100; policy accept;
		ip saddr {subnet} oifname != "{bridge}" masquerade
		ip saddr {subnet} oifname "{bridge}" ct status dnat masquerade
		ip saddr 127.0.0.0/8 oifname "{bridge}" ct status dnat masquerade
	}}
	chain forward {{
		type filter hook forward priority 0; policy accept;
		iifname "{bridge}" ip saddr != {subnet} drop
		iifname "{bridge}" accept
		oifname "{bridge}" ct state established,related accept
		oifname "{bridge}" ct status dnat accept
		oifname "{bridge}" drop
	}}
}}
"#
    )
}

/// One `add element` or `delete element` for each of the three sets that has any.
fn elements(
    out: &mut String,
    verb: &str,
    shape: &Shape,
    guests: &BTreeSet<GuestRule>,
    ports: &BTreeSet<PublishedPort>,
) {
    let table = &shape.table;
    let mut put = |set: &str, items: Vec<String>| {
        if !items.is_empty() {
            line(
                out,
                &format!("{verb} element {set} {{ {} }}", items.join(", ")),
            );
        }
    };
    let guests = guests
        .iter()
        .map(|guest| format!("\"{}\" . {} . {}", guest.tap, guest.mac, guest.ip));
    put(&format!("bridge {table} guests"), guests.collect());
    let (any, at): (Vec<_>, Vec<_>) = ports.iter().partition(|p| p.host_ip.is_unspecified());
    let at = at
        .into_iter()
        .map(|port| format!("{} . {}", port.host_ip, port_element(port)));
    put(&format!("inet {table} ports_at"), at.collect());
    let any = any.into_iter().map(port_element);
    put(&format!("inet {table} ports_any"), any.collect());
}

fn port_element(port: &PublishedPort) -> String {
    format!(
        "{} . {} : {} . {}",
        port.protocol, port.host_port, port.guest_ip, port.guest_port
    )
}

pub(crate) fn check_ports(ports: &BTreeSet<PublishedPort>) -> Result<(), DuplicatePort> {
    // The set is sorted by protocol, host address and host port before anything else.
    for (first, second) in ports.iter().zip(ports.iter().skip(1)) {
        let key = |p: &PublishedPort| (p.protocol, p.host_ip, p.host_port);
        if key(first) == key(second) {
            return Err(DuplicatePort {
                first: first.clone(),
                second: second.clone(),
            });
        }
    }
    Ok(())
}

fn line(out: &mut String, text: &str) {
    writeln!(out, "{text}").expect("writing to a String cannot fail");
}
