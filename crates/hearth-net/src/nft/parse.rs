//! What `nft -j list table` says of our tables.

use std::net::Ipv4Addr;

use hearth_types::net::{GuestRule, Protocol, PublishedPort, RuleSet};
use serde_json::Value;

use super::{Shape, fnv1a};

/// What nft printed is not what we understand.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ParseError {
    /// Not JSON.
    #[error("the output of nft is not JSON")]
    Json(#[from] serde_json::Error),
    /// JSON of another form.
    #[error("the output of nft has an unknown form: {what}")]
    Form {
        /// Which part.
        what: String,
    },
}

/// Our tables as they were read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tables {
    /// Each table carries this installation's owner set.
    pub(crate) ours: bool,
    /// The seal is there and the static part has not changed since.
    pub(crate) intact: bool,
    /// The hash of the static part as read.
    pub(crate) fingerprint: u64,
    /// The elements.
    pub(crate) rules: RuleSet,
}

/// Reads the printed tables (one or both, in any order).
pub(crate) fn parse(shape: &Shape, printed: &[&[u8]]) -> Result<Tables, ParseError> {
    let mut listings = Vec::new();
    for text in printed {
        listings.push(objects(text)?);
    }
    let mut tables = Tables {
        ours: listings.iter().all(|objects| has_owner(shape, objects)),
        intact: false,
        fingerprint: 0,
        rules: RuleSet::default(),
    };
    if !tables.ours {
        return Ok(tables);
    }
    let mut seal = None;
    let mut skeleton = String::new();
    for mut object in listings.into_iter().flatten() {
        if let Some(name) = set_name(&object).map(str::to_owned) {
            if name.starts_with("static_") {
                seal = Some(name);
                continue;
            }
            if let Some(elements) = take(&mut object, "elem") {
                read_elements(&name, &elements, &mut tables.rules)?;
            }
        }
        // Handles differ each time without anybody changing anything.
        take(&mut object, "handle");
        skeleton.push_str(&object.to_string());
        skeleton.push('\n');
    }
    tables.fingerprint = fnv1a(skeleton.as_bytes());
    let expected = format!("{}{:016x}", shape.seal_prefix(), tables.fingerprint);
    tables.intact = printed.len() == 2 && seal.is_some_and(|seal| seal == expected);
    Ok(tables)
}

fn has_owner(shape: &Shape, objects: &[Value]) -> bool {
    let owner = shape.owner_set();
    objects
        .iter()
        .any(|object| set_name(object) == Some(&owner))
}

fn set_name(object: &Value) -> Option<&str> {
    let set = object.get("set").or_else(|| object.get("map"))?;
    set.get("name")?.as_str()
}

/// The objects of one listing, without nft's own version.
fn objects(text: &[u8]) -> Result<Vec<Value>, ParseError> {
    let mut root: Value = serde_json::from_slice(text)?;
    let Some(Value::Array(all)) = root.get_mut("nftables").map(Value::take) else {
        return Err(form("no list of objects"));
    };
    Ok(all
        .into_iter()
        .filter(|object| object.get("metainfo").is_none())
        .collect())
}

/// Takes one field out of an object such as `{"set": {…}}`.
fn take(object: &mut Value, field: &str) -> Option<Value> {
    let (_, body) = object.as_object_mut()?.iter_mut().next()?;
    body.as_object_mut()?.remove(field)
}

fn read_elements(name: &str, elements: &Value, rules: &mut RuleSet) -> Result<(), ParseError> {
    for element in elements.as_array().into_iter().flatten() {
        match name {
            "guests" => rules.guests.insert(guest(element)?),
            "ports_any" => rules.ports.insert(port(element, false)?),
            "ports_at" => rules.ports.insert(port(element, true)?),
            _ => return Err(form(&format!("set {name} has elements: {element}"))),
        };
    }
    Ok(())
}

fn guest(element: &Value) -> Result<GuestRule, ParseError> {
    let parsed = || {
        let [tap, mac, ip] = concat(element)? else {
            return None;
        };
        Some(GuestRule {
            tap: tap.as_str()?.to_owned(),
            mac: mac.as_str()?.parse().ok()?,
            ip: address(ip)?,
        })
    };
    parsed().ok_or_else(|| form(&format!("guest {element}")))
}

fn port(element: &Value, at: bool) -> Result<PublishedPort, ParseError> {
    let parsed = || {
        let [key, value] = element.as_array()?.as_slice() else {
            return None;
        };
        let (host_ip, key) = match (at, concat(key)?) {
            (true, [ip, rest @ ..]) => (address(ip)?, rest),
            (_, rest) => (Ipv4Addr::UNSPECIFIED, rest),
        };
        let ([proto, host_port], [guest_ip, guest_port]) = (key, concat(value)?) else {
            return None;
        };
        Some(PublishedPort {
            protocol: protocol(proto)?,
            host_ip,
            host_port: number(host_port)?,
            guest_ip: address(guest_ip)?,
            guest_port: number(guest_port)?,
        })
    };
    parsed().ok_or_else(|| form(&format!("port {element}")))
}

fn concat(value: &Value) -> Option<&[Value]> {
    // An element with a comment or a counter is wrapped once more.
    let value = value
        .get("elem")
        .and_then(|elem| elem.get("val"))
        .unwrap_or(value);
    value.get("concat")?.as_array().map(Vec::as_slice)
}

fn address(value: &Value) -> Option<Ipv4Addr> {
    value.as_str()?.parse().ok()
}

fn number(value: &Value) -> Option<u16> {
    u16::try_from(value.as_u64()?).ok()
}

/// nft prints the name from the host's list of protocols, or the number without one.
fn protocol(value: &Value) -> Option<Protocol> {
    match (value.as_str(), value.as_u64()) {
        (Some("tcp"), _) | (_, Some(6)) => Some(Protocol::Tcp),
        (Some("udp"), _) | (_, Some(17)) => Some(Protocol::Udp),
        _ => None,
    }
}

fn form(what: &str) -> ParseError {
    ParseError::Form {
        what: what.to_owned(),
    }
}
