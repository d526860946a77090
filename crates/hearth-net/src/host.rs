//! The real network, in the network namespace of the calling thread.

mod bridge;
mod connections;
mod links;
mod names;
mod proc;
mod routes;
mod tables;
mod taps;
mod tun;
mod watch;

pub(crate) use links::is_passing_dump;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use async_trait::async_trait;
use hearth_types::net::RuleSet;
use hearth_types::observe::{ObservedBridge, ObservedNames, ObservedTap};
use tokio::sync::Mutex;

use watch::{Heard, Leaving, Watch};

use crate::{Lookalike, NetError, Network, NetworkConfig, TapSpec};

/// How long one run of `nft`, `conntrack` or the name server's start may take.
const TOOL_DEADLINE: Duration = Duration::from_secs(20);

/// The network of one installation on this host: netlink, `nft`, `conntrack`, `dnsmasq`.
///
/// It keeps no state of its own but what the kernel says is unchanged since it was read. Bridges and TAPs
/// are ours by their alias, tables by their owner set, the name server by its environment.
/// Three settings of the host outlive [`Network::remove_bridge`]: `net.ipv4.ip_forward`
/// stays on, because nobody can know who else has come to need it meanwhile; those
/// of the bridge go with it.
#[derive(Debug)]
pub struct HostNetwork {
    config: NetworkConfig,
    /// Reading our tables and changing them is one critical section.
    tables: Mutex<tables::Known>,
    /// So is looking for the name server and starting it.
    names: Mutex<()>,
    /// What tells of changes, once somebody has asked for it.
    watch: Mutex<Option<Watch>>,
    leaving: Leaving,
}

impl HostNetwork {
    /// The network of the installation that `config.mark` names. Touches nothing.
    ///
    /// # Errors
    /// When a name in `config` is not one that the kernel, nft and the name server accept,
    /// or the subnet has no room for a bridge and a guest.
    pub fn new(config: NetworkConfig) -> Result<Self, NetError> {
        check_config(&config)?;
        Ok(Self {
            config,
            tables: Mutex::default(),
            names: Mutex::new(()),
            watch: Mutex::default(),
            leaving: Leaving::default(),
        })
    }
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{value:?} is not {expected}")]
struct Unusable {
    value: String,
    expected: &'static str,
}

fn check_config(config: &NetworkConfig) -> Result<(), NetError> {
    let refuse = |setting: &str, value: &str, expected| {
        let value = value.to_owned();
        NetError::failed("use the setting", setting, Unusable { value, expected })
    };
    if !is_interface_name(&config.bridge) {
        let expected = "an interface name (1 to 15 letters, digits, '_' or '-')";
        return Err(refuse("bridge", &config.bridge, expected));
    }
    let table = &config.table;
    let letters = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    if !table.starts_with(|c: char| c.is_ascii_alphabetic())
        || table.len() > 64
        || !table.bytes().all(letters)
    {
        let expected = "a table name (a letter, then up to 63 letters, digits or '_')";
        return Err(refuse("table", table, expected));
    }
    if config.subnet.prefix_len() > 30 || config.subnet != config.subnet.trunc() {
        let expected = "a subnet with room for guests, such as 10.213.0.0/24";
        return Err(refuse("subnet", &config.subnet.to_string(), expected));
    }
    if !names::is_host_name(&config.domain) {
        let expected = "a domain name in small letters";
        return Err(refuse("domain", &config.domain, expected));
    }
    Ok(())
}

/// Stricter than the kernel: nothing that means something in a path or in nft's text.
fn is_interface_name(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

#[async_trait]
impl Network for HostNetwork {
    async fn check(&self) -> Result<(), NetError> {
        routes::check(&self.config).await
    }

    async fn bridge(&self) -> Result<Option<ObservedBridge>, NetError> {
        bridge::observe(&self.config).await
    }

    async fn ensure_bridge(&self) -> Result<(), NetError> {
        bridge::ensure(&self.config).await
    }

    async fn remove_bridge(&self) -> Result<(), NetError> {
        bridge::remove(&self.config, &self.leaving).await
    }

    async fn taps(&self) -> Result<Vec<ObservedTap>, NetError> {
        taps::survey(&self.config).await
    }

    async fn ensure_tap(&self, tap: &TapSpec) -> Result<(), NetError> {
        taps::ensure(&self.config, tap).await
    }

    async fn remove_tap(&self, tap: &ObservedTap) -> Result<(), NetError> {
        taps::remove(tap, &self.leaving).await
    }

    async fn rules(&self) -> Result<Option<RuleSet>, NetError> {
        let mut known = self.tables.lock().await;
        tables::rules(&self.config, &mut known).await
    }

    async fn apply_rules(&self, rules: &RuleSet) -> Result<(), NetError> {
        let mut known = self.tables.lock().await;
        tables::apply(&self.config, &mut known, rules).await
    }

    async fn remove_rules(&self) -> Result<(), NetError> {
        let mut known = self.tables.lock().await;
        tables::remove(&self.config, &mut known).await
    }

    async fn flush_conntrack(&self, ip: Ipv4Addr) -> Result<(), NetError> {
        connections::flush(ip).await
    }

    async fn connections(&self) -> Result<BTreeMap<Ipv4Addr, usize>, NetError> {
        connections::count(&self.config).await
    }

    async fn lookalikes(&self) -> Result<Vec<Lookalike>, NetError> {
        taps::lookalikes(&self.config).await
    }

    async fn names(&self) -> Result<ObservedNames, NetError> {
        let _one_at_a_time = self.names.lock().await;
        names::observe(&self.config).await
    }

    async fn ensure_names(&self, hosts: &BTreeMap<String, Ipv4Addr>) -> Result<(), NetError> {
        let _one_at_a_time = self.names.lock().await;
        names::ensure(&self.config, hosts).await
    }

    async fn remove_names(&self) -> Result<(), NetError> {
        let _one_at_a_time = self.names.lock().await;
        names::remove(&self.config).await
    }

    async fn changed(&self) -> Result<(), NetError> {
        let mut watch = self.watch.lock().await;
        loop {
            let open = match watch.take() {
                Some(open) => watch.insert(open),
                None => watch.insert(Watch::open(&self.config).await?),
            };
            match open.hear(&self.config, &self.leaving).await {
                Ok(Heard::Nothing) => {}
                Ok(Heard::Links) => return Ok(()),
                // Of what we write we know what it says; while we write, this waits.
                Ok(Heard::Tables) if !self.tables.lock().await.is_outdated() => {}
                Ok(Heard::Tables) => return Ok(()),
                Err(error) => {
                    *watch = None;
                    return Err(error);
                }
            }
        }
    }
}
