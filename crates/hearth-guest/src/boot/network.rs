//! Loopback, and the one interface the host gave.

use std::fs;
use std::time::Duration;

use hearth_guest_proto::config::NetworkConfig;

use super::netlink::Netlink;
use crate::error::{Context, Failure};
use crate::uevent::wait_for;

const PATIENCE: Duration = Duration::from_secs(10);
/// Loopback is always the first.
const LOOPBACK: u32 = 1;

pub(super) fn set_up(network: Option<&NetworkConfig>) -> Result<(), Failure> {
    let mut netlink = Netlink::open().context("talk to", "the kernel's network")?;
    netlink
        .up(LOOPBACK)
        .context("bring up", "the loopback interface")?;
    let Some(network) = network else {
        return Ok(());
    };
    let what = format!("the network interface {}", network.mac);
    let index = wait_for(&what, PATIENCE, || find(&network.mac))?;
    netlink
        .address(index, network.address, network.prefix)
        .context("give an address to", &what)?;
    netlink.up(index).context("bring up", &what)?;
    netlink
        .default_route(index, network.gateway)
        .context("route through", network.gateway)
}

fn find(mac: &str) -> Option<u32> {
    fs::read_dir("/sys/class/net")
        .ok()?
        .flatten()
        .find_map(|interface| {
            let read = |name: &str| fs::read_to_string(interface.path().join(name)).ok();
            let found = read("address")?;
            found
                .trim()
                .eq_ignore_ascii_case(mac)
                .then(|| read("ifindex")?.trim().parse().ok())
                .flatten()
        })
}
