//! Our bridge, by netlink, and what it needs of the kernel's settings.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use futures::TryStreamExt as _;
use hearth_types::observe::ObservedBridge;
use ipnet::Ipv4Net;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{BridgeStpState, InfoBridge};
use rtnetlink::{LinkBridge, LinkMessageBuilder, LinkUnspec};

use super::links::{BoxedError, Kind, Link, Netlink, change, foreign, link_named};
use super::routes;
use super::watch::Leaving;
use crate::{NetError, NetworkConfig};

/// The bridge's MAC: `02:48` and the random end of the installation's id. A fixed one,
/// because a bridge without takes the lowest of its ports' and changes with them; guests'
/// MACs begin with `06:48` and cannot collide with it.
fn bridge_mac(config: &NetworkConfig) -> [u8; 6] {
    let [.., a, b, c, d] = *config.mark.installation.as_uuid().as_bytes();
    [0x02, 0x48, a, b, c, d]
}

/// What a link of the bridge's name is to us.
enum Claim {
    /// It has our alias.
    Ours,
    /// We crashed between making it and giving it its alias.
    HalfMade,
    /// Somebody else's.
    Foreign,
}

fn claim(config: &NetworkConfig, link: &Link) -> Claim {
    // Asked for one name the kernel also finds links by their other names.
    if link.kind != Kind::Bridge || link.name != config.bridge {
        Claim::Foreign
    } else if link.mark() == Some(config.mark) {
        Claim::Ours
    } else if link.alias.is_empty() && link.mac == bridge_mac(config) && !link.up {
        Claim::HalfMade
    } else {
        Claim::Foreign
    }
}

/// Finds our bridge; a foreign one of its name is an error.
async fn find(config: &NetworkConfig, netlink: &Netlink) -> Result<Option<Link>, NetError> {
    match link_named(netlink, &config.bridge).await? {
        Some(link) if matches!(claim(config, &link), Claim::Foreign) => Err(foreign(&link.name)),
        other => Ok(other),
    }
}

/// The index of our bridge, if it is there and ours.
pub(super) async fn own_index(
    config: &NetworkConfig,
    netlink: &Netlink,
) -> Result<Option<u32>, NetError> {
    let link = link_named(netlink, &config.bridge).await?;
    Ok(link
        .filter(|link| matches!(claim(config, link), Claim::Ours))
        .map(|link| link.index))
}

/// The index of our bridge among links, if it is there and ours.
pub(super) fn own_index_among(config: &NetworkConfig, links: &[Link]) -> Option<u32> {
    links
        .iter()
        .find(|link| link.name == config.bridge && matches!(claim(config, link), Claim::Ours))
        .map(|link| link.index)
}

/// Whether a link is our bridge, up, with our address; what else it needs is looked at elsewhere.
pub(super) fn is_whole(config: &NetworkConfig, link: &Link) -> bool {
    link.name == config.bridge
        && link.mark() == Some(config.mark)
        && link.up
        && link.mac == bridge_mac(config)
}

pub(super) async fn observe(config: &NetworkConfig) -> Result<Option<ObservedBridge>, NetError> {
    let netlink = Netlink::open()?;
    let Some(link) = find(config, &netlink).await? else {
        return Ok(None);
    };
    let ready = is_whole(config, &link)
        && routes::is_there(config, link.index).await?
        && addresses(config, &netlink, link.index).await? == [config.gateway()]
        && sysctls(config)
            .iter()
            .all(|(path, value)| read_sysctl(path).is_none_or(|now| now == *value));
    Ok(Some(ObservedBridge { ready }))
}

pub(super) async fn ensure(config: &NetworkConfig) -> Result<(), NetError> {
    let failed = |error| NetError::failed("set up the bridge", &config.bridge, error);
    let netlink = Netlink::open()?;
    let link = match find(config, &netlink).await? {
        Some(link) => link,
        None => {
            let new = LinkMessageBuilder::<LinkBridge>::new(&config.bridge)
                .address(bridge_mac(config).to_vec())
                .build();
            let made = netlink.handle.link().add(new).execute().await;
            made.map_err(failed)?;
            find(config, &netlink)
                .await?
                .ok_or_else(|| foreign(&config.bridge))?
        }
    };
    let mark = LinkUnspec::new_with_index(link.index)
        .alias(config.mark.interface_alias())
        .address(bridge_mac(config).to_vec())
        .build();
    change(&netlink, mark).await.map_err(failed)?;
    let settings = LinkMessageBuilder::<LinkBridge>::new(&config.bridge)
        .index(link.index)
        // One bridge without loops: spanning tree would only keep new ports waiting.
        .stp_state(BridgeStpState::Disabled)
        .forward_delay(0)
        // Without a querier snooping would drop the guests' multicast after minutes.
        .append_info_data(InfoBridge::MulticastSnooping(false))
        .build();
    let changed = netlink.handle.link().change(settings).execute().await;
    changed.map_err(failed)?;
    ensure_address(config, &netlink, link.index)
        .await
        .map_err(|error| {
            NetError::failed("give its address to the bridge", &config.bridge, error)
        })?;
    for (path, value) in sysctls(config) {
        write_sysctl(&path, value).map_err(|error| NetError::failed("set", path, error))?;
    }
    let up = LinkUnspec::new_with_index(link.index).up().build();
    change(&netlink, up).await.map_err(failed)?;
    routes::ensure(config, link.index).await
}

/// Removes the bridge. The TAPs that are still its ports stay, without a bridge.
pub(super) async fn remove(config: &NetworkConfig, leaving: &Leaving) -> Result<(), NetError> {
    let netlink = Netlink::open()?;
    let Some(link) = find(config, &netlink).await? else {
        return Ok(());
    };
    leaving.add(link.index);
    netlink.delete(link.index).await.map_err(|error| {
        leaving.take(link.index);
        NetError::failed("remove the bridge", &config.bridge, error)
    })
}

/// What the bridge needs of the kernel. The first is the host's, the others its own.
fn sysctls(config: &NetworkConfig) -> Vec<(String, &'static str)> {
    let bridge = &config.bridge;
    vec![
        ("net/ipv4/ip_forward".to_owned(), "1"),
        // A published port reached through 127.0.0.1 leaves by the bridge with a loopback
        // source until it is translated; the rules drop what guests send to 127/8.
        (format!("net/ipv4/conf/{bridge}/route_localnet"), "1"),
        // Guests reach each other through a published port on purpose.
        (format!("net/ipv4/conf/{bridge}/send_redirects"), "0"),
        (format!("net/ipv4/conf/{bridge}/accept_redirects"), "0"),
        // Guests have no IPv6; the host must not talk it with them by accident.
        (format!("net/ipv6/conf/{bridge}/disable_ipv6"), "1"),
    ]
}

/// A sysctl's value; `None` when the kernel does not have it.
fn read_sysctl(path: &str) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/sys/{path}")).ok()?;
    Some(text.trim().to_owned())
}

fn write_sysctl(path: &str, value: &str) -> io::Result<()> {
    match read_sysctl(path) {
        Some(now) if now != value => std::fs::write(format!("/proc/sys/{path}"), value),
        None if !path.contains("ipv6") => Err(io::ErrorKind::NotFound.into()),
        _ => Ok(()),
    }
}

async fn addresses(
    config: &NetworkConfig,
    netlink: &Netlink,
    index: u32,
) -> Result<Vec<Ipv4Net>, NetError> {
    let failed = |error| NetError::failed("read the addresses of", &config.bridge, error);
    let messages: Vec<_> = netlink
        .handle
        .address()
        .get()
        .set_link_index_filter(index)
        .execute()
        .try_collect()
        .await
        .map_err(failed)?;
    let of = |message: &AddressMessage| {
        message
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                AddressAttribute::Local(IpAddr::V4(ip)) => {
                    Ipv4Net::new(*ip, message.header.prefix_len).ok()
                }
                _ => None,
            })
    };
    Ok(messages.iter().filter_map(of).collect())
}

/// Gives the bridge its address and takes others away: they are of an older configuration.
async fn ensure_address(
    config: &NetworkConfig,
    netlink: &Netlink,
    index: u32,
) -> Result<(), BoxedError> {
    let wanted = config.gateway();
    let found = addresses(config, netlink, index).await?;
    for old in found.iter().filter(|net| **net != wanted) {
        let builder = rtnetlink::AddressMessageBuilder::<Ipv4Addr>::new();
        let message = builder.index(index).address(old.addr(), old.prefix_len());
        let removal = netlink.handle.address().del(message.build());
        removal.execute().await?;
    }
    if !found.contains(&wanted) {
        let addition =
            netlink
                .handle
                .address()
                .add(index, IpAddr::V4(wanted.addr()), wanted.prefix_len());
        addition.execute().await?;
    }
    Ok(())
}
