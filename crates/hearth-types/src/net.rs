//! Network objects as data: what the rules must say.

use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ids::InvalidId;

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, example = "06:48:0a:d5:00:02")]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// The address that goes with an IPv4 address: `06:48` and the four octets, so that
    /// two leases can collide in neither. The `06` marks it as locally administered unicast.
    #[must_use]
    pub const fn for_ipv4(ip: Ipv4Addr) -> Self {
        let [a, b, c, d] = ip.octets();
        Self([0x06, 0x48, a, b, c, d])
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(out, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MacAddr {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let invalid = || InvalidId {
            kind: "MAC address",
            value: text.to_owned(),
            expected: "six pairs of hexadecimal digits such as 06:48:0a:d5:00:02",
        };
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(invalid)?;
            *octet = u8::from_str_radix(part, 16).map_err(|_| invalid())?;
        }
        if parts.next().is_some() {
            Err(invalid())
        } else {
            Ok(Self(octets))
        }
    }
}

impl TryFrom<String> for MacAddr {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<MacAddr> for String {
    fn from(mac: MacAddr) -> Self {
        mac.to_string()
    }
}

/// A transport protocol that ports are published for.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    Serialize,
    Deserialize,
    ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// What a guest may send as: its TAP lets through only this MAC and address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GuestRule {
    /// The TAP's name.
    pub tap: String,
    /// The only source MAC let through.
    pub mac: MacAddr,
    /// The only source IPv4 address let through.
    pub ip: Ipv4Addr,
}

/// One port of the host that leads to a guest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PublishedPort {
    /// Transport protocol.
    pub protocol: Protocol,
    /// The host address it listens on; `0.0.0.0` means every address of the host.
    pub host_ip: Ipv4Addr,
    /// The port on the host.
    pub host_port: u16,
    /// The guest's address.
    pub guest_ip: Ipv4Addr,
    /// The port in the guest.
    pub guest_port: u16,
}

/// All that our nftables table must say, apart from its static part.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RuleSet {
    /// Per-VM source filters.
    pub guests: BTreeSet<GuestRule>,
    /// Published ports.
    pub ports: BTreeSet<PublishedPort>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_addresses_read_back() {
        let mac = MacAddr::for_ipv4(Ipv4Addr::new(10, 213, 0, 2));
        assert_eq!(mac.to_string(), "06:48:0a:d5:00:02");
        assert_eq!(mac.to_string().parse::<MacAddr>().unwrap(), mac);
        for bad in [
            "",
            "06:48:0a:d5:00",
            "06:48:0a:d5:00:02:03",
            "6:48:0a:d5:0:2",
            "zz:48:0a:d5:00:02",
        ] {
            assert!(bad.parse::<MacAddr>().is_err(), "{bad:?} was accepted");
        }
    }
}
