//! Bridges, TAPs, addresses, nftables, published ports, names.
//!
//! [`Network`] is what the daemon needs of a network. [`HostNetwork`] is the real one, in
//! the network namespace that the calling thread is in; [`FakeNetwork`] is the one of the
//! tests. Both pass the same [`contract`].
//!
//! ```text
//! host.rs      HostNetwork: one function of the trait, one line
//! host/links   netlink: what is there, and whose    host/tun    the TAP device's ioctls
//! host/bridge  our bridge and its settings          host/taps   TAPs: make, find, remove
//! host/routes  is the subnet free?                 host/connections  conntrack: count, flush
//! host/tables  nft: read, change, replace           nft         the tables as text and JSON
//! host/names   dnsmasq: start, prove, reload, end   host/proc   whose process is this?
//! host/watch   hearing at once of what others change
//! ```

mod fake;
mod host;
mod nft;
mod slow;

#[doc(hidden)]
pub mod contract;

pub use fake::{FakeNetwork, Fault};
pub use host::HostNetwork;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use async_trait::async_trait;
use hearth_types::OwnerMark;
use hearth_types::net::RuleSet;
use hearth_types::observe::{ObservedBridge, ObservedNames, ObservedTap};
use ipnet::Ipv4Net;

/// The shape of an installation's network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkConfig {
    /// The bridge's name, 15 characters at most.
    pub bridge: String,
    /// The nftables table's name in family `inet`.
    pub table: String,
    /// Guests' addresses; the first host address is the bridge's own.
    pub subnet: Ipv4Net,
    /// The domain of guests' names.
    pub domain: String,
    /// The mark of shared objects.
    pub mark: OwnerMark,
    /// Folder for the name server's files.
    pub dir: camino::Utf8PathBuf,
}

/// A TAP that should be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TapSpec {
    /// Its name.
    pub name: String,
    /// Whose it is.
    pub mark: OwnerMark,
    /// The uid that may attach to it.
    pub uid: u32,
}

/// An interface that looks like ours, and nothing proves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lookalike {
    /// Its name.
    pub name: String,
    /// It is a port of our bridge; else only its name is like that of a TAP of ours.
    pub port: bool,
}

/// How a network operation failed.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// An object with our name exists and is not ours.
    #[error("{object} exists and does not belong to this installation")]
    Foreign {
        /// Which object.
        object: String,
    },
    /// The subnet collides with a route of the host.
    #[error("subnet {subnet} overlaps with the host's route to {route} through {interface}")]
    Collision {
        /// Ours.
        subnet: Ipv4Net,
        /// The host's.
        route: Ipv4Net,
        /// Its interface.
        interface: String,
    },
    /// The kernel or a tool refused.
    #[error("cannot {operation} {object}")]
    Failed {
        /// What was tried.
        operation: &'static str,
        /// On which object.
        object: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl NetError {
    /// A refusal of the kernel or a tool.
    pub(crate) fn failed(
        operation: &'static str,
        object: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Failed {
            operation,
            object: object.into(),
            source: source.into(),
        }
    }
}

impl NetworkConfig {
    /// The bridge's own address with the subnet's prefix: the first host of the subnet.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Net {
        let first = self.subnet.hosts().next().unwrap_or(self.subnet.network());
        Ipv4Net::new(first, self.subnet.prefix_len()).unwrap_or(self.subnet)
    }
}

/// The network of one installation. All operations are idempotent; those that take
/// something away prove first that it is ours.
#[async_trait]
pub trait Network: Send + Sync {
    /// Checks the subnet against the host's routes.
    async fn check(&self) -> Result<(), NetError>;
    /// Our bridge, if it is there.
    async fn bridge(&self) -> Result<Option<ObservedBridge>, NetError>;
    /// Makes the bridge or puts it right (address, up, forwarding).
    async fn ensure_bridge(&self) -> Result<(), NetError>;
    /// Removes the bridge.
    async fn remove_bridge(&self) -> Result<(), NetError>;
    /// All TAPs that carry this installation's mark.
    async fn taps(&self) -> Result<Vec<ObservedTap>, NetError>;
    /// Makes a TAP or puts it right; up and a port of our bridge.
    async fn ensure_tap(&self, tap: &TapSpec) -> Result<(), NetError>;
    /// Removes a TAP if index and mark still hold; one that is gone is a success.
    async fn remove_tap(&self, tap: &ObservedTap) -> Result<(), NetError>;
    /// What our table says, `None` when there is none.
    async fn rules(&self) -> Result<Option<RuleSet>, NetError>;
    /// Makes our table say exactly this, in one transaction.
    async fn apply_rules(&self, rules: &RuleSet) -> Result<(), NetError>;
    /// Removes our table.
    async fn remove_rules(&self) -> Result<(), NetError>;
    /// Forgets all connections from and to an address.
    async fn flush_conntrack(&self, ip: Ipv4Addr) -> Result<(), NetError>;
    /// How many connections the kernel tracks of each guest's address; only addresses that have some.
    async fn connections(&self) -> Result<BTreeMap<Ipv4Addr, usize>, NetError>;
    /// Interfaces that look like ours and carry no mark of ours.
    async fn lookalikes(&self) -> Result<Vec<Lookalike>, NetError>;
    /// The name server and the names it serves.
    async fn names(&self) -> Result<ObservedNames, NetError>;
    /// Runs the name server with exactly these names.
    async fn ensure_names(&self, hosts: &BTreeMap<String, Ipv4Addr>) -> Result<(), NetError>;
    /// Ends the name server.
    async fn remove_names(&self) -> Result<(), NetError>;
    /// Returns when somebody else may have changed something of ours: a link, the bridge's
    /// address or route, a table. It only says that it is worth a look; what it does not hear
    /// of is found by the next regular one.
    async fn changed(&self) -> Result<(), NetError>;
}
