//! Leases: what only one VM may have, handed out again as late as possible.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use hearth_types::ids::VmId;
use hearth_types::names::{VmName, tap_name};
use hearth_types::net::MacAddr;
use hearth_types::spec::{NetworkMode, PortSpec, VmSpec};
use hearth_types::status::Leases;
use ipnet::Ipv4Net;
use rusqlite::params;

use crate::session::Session;
use crate::{LeaseRanges, Result, StoreError, VmRow};

/// Context ids 0 to 2 are the hypervisor's, the loopback's and the host's (vsock(7)).
const FIRST_CID: u32 = 3;
/// `VMADDR_CID_ANY` (vsock(7)) and, for uids, "no change" (setreuid(2)): never leased.
const ANY: u32 = u32::MAX;

/// Chooses what a new VM gets. Moves the cursors, writes nothing yet.
pub(crate) fn choose(session: &mut Session, spec: &VmSpec, ranges: LeaseRanges) -> Result<Leases> {
    let ip = choose_ip(session, None, spec, ranges.subnet)?;
    let cid = next_fit(
        ranges.cid_base.max(FIRST_CID)..=ANY - 1,
        session.cursors.cid,
        &taken(session, |leases| Some(leases.cid)),
    )
    .ok_or_else(|| exhausted("vsock context id"))?;
    session.cursors.cid = cid;
    let uid = choose_uid(session, ranges)?;
    Ok(Leases {
        ip,
        mac: ip.map(MacAddr::for_ipv4),
        cid,
        uid,
    })
}

/// The address for `spec`: the one it names, the one the VM has, or the next free one.
pub(crate) fn choose_ip(
    session: &mut Session,
    current: Option<&VmRow>,
    spec: &VmSpec,
    subnet: Ipv4Net,
) -> Result<Option<Ipv4Addr>> {
    if spec.network.mode == NetworkMode::None {
        return Ok(None);
    }
    let range = guest_addresses(subnet);
    if let Some(ip) = spec.network.address {
        if !range.contains(&u32::from(ip)) {
            return Err(StoreError::AddressOutside { ip, subnet });
        }
        return match holder(session, ip, current.map(|row| row.id)) {
            Some(by) => Err(StoreError::AddressTaken { ip, by }),
            None => Ok(Some(ip)),
        };
    }
    if let Some(ip) = current.and_then(|row| row.leases.ip) {
        return Ok(Some(ip));
    }
    let taken = taken(session, |leases| leases.ip.map(u32::from));
    let ip = next_fit(range, session.cursors.ip, &taken)
        .ok_or_else(|| exhausted(&format!("address in {subnet}")))?;
    session.cursors.ip = ip;
    Ok(Some(ip.into()))
}

fn choose_uid(session: &mut Session, ranges: LeaseRanges) -> Result<u32> {
    if ranges.uid_base == 0 {
        return Ok(0);
    }
    let end = ranges.uid_base.saturating_add(ranges.uid_count);
    let taken = taken(session, |leases| Some(leases.uid));
    let uid = match end.checked_sub(1) {
        Some(last) => next_fit(ranges.uid_base..=last, session.cursors.uid, &taken),
        None => None,
    }
    .ok_or_else(|| exhausted("uid"))?;
    session.cursors.uid = uid;
    Ok(uid)
}

/// Leases a uid to a VM that was made while none were leased.
pub(crate) fn lease_uid(session: &mut Session, id: VmId, ranges: LeaseRanges) -> Result<VmRow> {
    let old = VmRow::clone(session.row(id)?);
    if old.leases.uid != 0 || ranges.uid_base == 0 {
        return Ok(old);
    }
    let uid = choose_uid(session, ranges)?;
    let leases = Leases { uid, ..old.leases };
    let row = VmRow { leases, ..old };
    record(session, id, &row.spec, &row.leases)?;
    session.put(row.clone());
    Ok(row)
}

/// The addresses a guest may have: without the network's, the gateway's and the broadcast
/// address. Empty for a subnet of fewer than four addresses.
fn guest_addresses(subnet: Ipv4Net) -> std::ops::RangeInclusive<u32> {
    let first = u32::from(subnet.network()).saturating_add(2);
    let last = u32::from(subnet.broadcast()).saturating_sub(1);
    first..=last
}

/// What recorded VMs have, and those whose record is lost.
fn taken(session: &Session, of: impl Fn(&Leases) -> Option<u32>) -> BTreeSet<u32> {
    let recorded = session.rows().values().map(|row| &row.leases);
    let lost = session.reserved.iter().map(|lost| &lost.leases);
    recorded.chain(lost).filter_map(of).collect()
}

/// The other VM that has this address.
fn holder(session: &Session, ip: Ipv4Addr, own: Option<VmId>) -> Option<VmName> {
    let recorded = session.rows().values();
    let recorded = recorded.map(|row| (row.id, row.leases.ip, &row.spec.name));
    let lost = session.reserved.iter();
    let lost = lost.map(|lost| (lost.vm, lost.leases.ip, &lost.name));
    recorded
        .chain(lost)
        .find(|(id, has, _)| *has == Some(ip) && Some(*id) != own)
        .map(|(_, _, name)| name.clone())
}

/// The VM without a record that this port of the host leads to.
fn reserved_by(session: &Session, id: VmId, port: &PortSpec) -> Option<VmName> {
    let any = Ipv4Addr::UNSPECIFIED;
    let same = |other: &PortSpec| {
        other.protocol == port.protocol
            && other.host_port == port.host_port
            && (other.host_ip == port.host_ip || other.host_ip == any || port.host_ip == any)
    };
    let lost = session.reserved.iter().filter(|lost| lost.vm != id);
    lost.filter(|lost| lost.ports.iter().any(same))
        .map(|lost| lost.name.clone())
        .next()
}

fn exhausted(what: &str) -> StoreError {
    StoreError::Exhausted {
        what: what.to_owned(),
    }
}

/// The first free number after `cursor`, starting over at the end of the range.
fn next_fit(
    range: std::ops::RangeInclusive<u32>,
    cursor: u32,
    taken: &BTreeSet<u32>,
) -> Option<u32> {
    let (first, last) = (*range.start(), *range.end());
    let from = cursor.checked_add(1).filter(|n| range.contains(n));
    let from = from.unwrap_or(first);
    (from..=last)
        .chain(first..from)
        .find(|n| !taken.contains(n))
}

/// Writes down what was chosen. The schema's constraints have the last word.
pub(crate) fn record(session: &Session, id: VmId, spec: &VmSpec, leases: &Leases) -> Result<()> {
    let ip = leases.ip.map(u32::from);
    let mac = leases.mac.map(|mac| mac.to_string());
    let tap = leases.ip.map(|_| tap_name(id));
    session.run("record the leases", |conn| {
        conn.prepare_cached(
            "INSERT INTO leases (vm, ip, mac, cid, uid, tap) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (vm) DO UPDATE SET ip = excluded.ip, mac = excluded.mac,
                 cid = excluded.cid, uid = excluded.uid, tap = excluded.tap",
        )?
        .execute(params![
            id.to_string(),
            ip,
            mac,
            leases.cid,
            leases.uid,
            tap
        ])
    })?;
    let cursors = session.cursors;
    session.run("record the leases", |conn| {
        conn.prepare_cached("UPDATE meta SET last_ip = ?1, last_cid = ?2, last_uid = ?3")?
            .execute(params![cursors.ip, cursors.cid, cursors.uid])
    })?;
    record_ports(session, id, &spec.ports)?;
    record_volumes(session, id, spec)
}

fn record_ports(session: &Session, id: VmId, ports: &[PortSpec]) -> Result<()> {
    let vm = id.to_string();
    session.run("give ports back", |conn| {
        conn.prepare_cached("DELETE FROM ports WHERE vm = ?1")?
            .execute([&vm])
    })?;
    for port in ports {
        let host_ip = u32::from(port.host_ip);
        let protocol = port.protocol.to_string();
        let holder = session.run("look for the port", |conn| {
            conn.prepare_cached(
                "SELECT vms.name FROM ports JOIN vms ON vms.id = ports.vm
                 WHERE protocol = ?1 AND host_port = ?2
                   AND (host_ip = 0 OR ?3 = 0 OR host_ip = ?3) LIMIT 1",
            )?
            .query_map(params![protocol, port.host_port, host_ip], |row| {
                row.get::<_, String>(0)
            })?
            .next()
            .transpose()
        })?;
        let recorded = holder.and_then(|name| name.parse().ok());
        if let Some(by) = recorded.or_else(|| reserved_by(session, id, port)) {
            let port = port.clone();
            return Err(StoreError::PortTaken { port, by });
        }
        session.run("record a port", |conn| {
            conn.prepare_cached(
                "INSERT INTO ports (vm, protocol, host_ip, host_port, guest_port)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![
                vm,
                protocol,
                host_ip,
                port.host_port,
                port.guest_port
            ])
        })?;
    }
    Ok(())
}

fn record_volumes(session: &Session, id: VmId, spec: &VmSpec) -> Result<()> {
    let vm = id.to_string();
    session.run("record the volumes", |conn| {
        conn.prepare_cached("DELETE FROM volumes WHERE vm = ?1")?
            .execute([&vm])?;
        let mut insert = conn.prepare_cached("INSERT INTO volumes (vm, name) VALUES (?1, ?2)")?;
        for volume in &spec.volumes {
            insert.execute(params![vm, volume.name.as_str()])?;
        }
        Ok(())
    })
}
