//! How a VM is connected and what is published of it.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ids::InvalidId;
use crate::net::Protocol;

/// How a VM is connected.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkSpec {
    /// The kind of connection.
    #[serde(default)]
    pub mode: NetworkMode,
    /// A fixed address in the installation's subnet; leased when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = Ipv4)]
    pub address: Option<Ipv4Addr>,
}

/// Kinds of connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// A TAP on the installation's bridge, with NAT to the outside.
    #[default]
    Bridge,
    /// No network device at all.
    None,
}

/// One published port. As text: `[HOST_IP:]HOST_PORT:GUEST_PORT[/tcp|udp]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PortSpec {
    /// Host address to listen on; all of the host's when absent.
    #[serde(default = "unspecified")]
    #[schema(value_type = String, format = Ipv4)]
    pub host_ip: Ipv4Addr,
    /// Port on the host, 1 to 65535.
    pub host_port: u16,
    /// Port in the guest, 1 to 65535.
    pub guest_port: u16,
    /// Transport protocol.
    #[serde(default)]
    pub protocol: Protocol,
}

const fn unspecified() -> Ipv4Addr {
    Ipv4Addr::UNSPECIFIED
}

impl FromStr for PortSpec {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let invalid = || InvalidId {
            kind: "port",
            value: text.to_owned(),
            expected: "[HOST_IP:]HOST_PORT:GUEST_PORT[/tcp|udp] such as 8080:80 or 127.0.0.1:53:53/udp",
        };
        let (body, protocol) = match text.rsplit_once('/') {
            None => (text, Protocol::Tcp),
            Some((body, "tcp")) => (body, Protocol::Tcp),
            Some((body, "udp")) => (body, Protocol::Udp),
            Some(_) => return Err(invalid()),
        };
        let port = |text: &str| {
            text.parse::<u16>()
                .ok()
                .filter(|p| *p != 0)
                .ok_or_else(invalid)
        };
        let mut parts = body.rsplitn(3, ':');
        let guest_port = port(parts.next().unwrap_or_default())?;
        let host_port = port(parts.next().ok_or_else(invalid)?)?;
        let host_ip = match parts.next() {
            None => Ipv4Addr::UNSPECIFIED,
            Some(ip) => ip.parse().map_err(|_| invalid())?,
        };
        Ok(Self {
            host_ip,
            host_port,
            guest_port,
            protocol,
        })
    }
}

impl fmt::Display for PortSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}:{}/{}",
            self.host_ip, self.host_port, self.guest_port, self.protocol
        )
    }
}
