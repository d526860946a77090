//! The bridge and the TAPs, by netlink.
//!
//! A link is ours by its alias. A crash must not leave one of ours without it:
//!
//! ```text
//! bridge  made with a MAC of this installation's ─► alias ─► settings, address ─► up
//!         (that MAC, no alias, no address: ours, half made)
//! TAP     made, not persistent ─► alias, group ─► persistent ─► port of the bridge, up
//!         (a crash before "persistent" closes the device, and it is gone)
//! ```

mod dump;

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use futures::TryStreamExt as _;
use hearth_types::OwnerMark;
use hearth_types::observe::{ObservedBridge, ObservedTap};
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{BridgeStpState, InfoBridge, LinkFlags};
use rtnetlink::{LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec};

use super::tun::Tap;
use crate::{NetError, NetworkConfig, TapSpec};

pub(super) use dump::{Kind, Link, Netlink, links};

/// Any cause.
type BoxedError = Box<dyn std::error::Error + Send + Sync>;

/// The interface group of this installation's TAPs, the source filter's hold on them: a
/// TAP in it may send only what an element of the filter allows. The random end of the
/// installation's id makes it improbable that anybody else on the host uses it.
pub(super) fn tap_group(config: &NetworkConfig) -> u32 {
    let [.., a, b, c, d] = *config.mark.installation.as_uuid().as_bytes();
    // The highest bit stays clear: tools print groups as signed numbers. Never group 0,
    // which all interfaces are in.
    u32::from_be_bytes([a & 0x7f, b, c, d | 1])
}

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
    if link.kind != Kind::Bridge {
        Claim::Foreign
    } else if link.mark() == Some(config.mark) {
        Claim::Ours
    } else if link.alias.is_empty() && link.mac == bridge_mac(config) && !link.up {
        Claim::HalfMade
    } else {
        Claim::Foreign
    }
}

fn foreign(name: &str) -> NetError {
    NetError::Foreign {
        object: format!("a network interface named {name}"),
    }
}

/// Finds our bridge; a foreign one of its name is an error.
async fn find_bridge(config: &NetworkConfig) -> Result<Option<Link>, NetError> {
    let link = links()
        .await?
        .into_iter()
        .find(|link| link.name == config.bridge);
    match link {
        Some(link) if matches!(claim(config, &link), Claim::Foreign) => Err(foreign(&link.name)),
        other => Ok(other),
    }
}

/// The index of our bridge among links, if it is there and ours.
pub(super) fn own_bridge_index(config: &NetworkConfig, links: &[Link]) -> Option<u32> {
    links
        .iter()
        .find(|link| link.name == config.bridge && matches!(claim(config, link), Claim::Ours))
        .map(|link| link.index)
}

pub(super) async fn bridge(config: &NetworkConfig) -> Result<Option<ObservedBridge>, NetError> {
    let netlink = Netlink::open()?;
    let Some(link) = find_bridge(config).await? else {
        return Ok(None);
    };
    let ready = link.mark() == Some(config.mark)
        && link.up
        && link.mac == bridge_mac(config)
        && addresses(config, &netlink, link.index).await? == [config.gateway()]
        && sysctls(config)
            .iter()
            .all(|(path, value)| read_sysctl(path).is_none_or(|now| now == *value));
    Ok(Some(ObservedBridge { ready }))
}

pub(super) async fn ensure_bridge(config: &NetworkConfig) -> Result<(), NetError> {
    let failed = |error| NetError::failed("set up the bridge", &config.bridge, error);
    let netlink = Netlink::open()?;
    let link = match find_bridge(config).await? {
        Some(link) => link,
        None => {
            let new = LinkMessageBuilder::<LinkBridge>::new(&config.bridge)
                .address(bridge_mac(config).to_vec())
                .build();
            let made = netlink.handle.link().add(new).execute().await;
            made.map_err(failed)?;
            find_bridge(config)
                .await?
                .ok_or_else(|| foreign(&config.bridge))?
        }
    };
    let mark = LinkUnspec::new_with_index(link.index)
        .alias(config.mark.interface_alias())
        .address(bridge_mac(config).to_vec())
        .build();
    set(&netlink, mark).await.map_err(failed)?;
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
    set(&netlink, up).await.map_err(failed)
}

/// Removes the bridge. The TAPs that are still its ports stay, without a bridge.
pub(super) async fn remove_bridge(config: &NetworkConfig) -> Result<(), NetError> {
    let netlink = Netlink::open()?;
    let Some(link) = find_bridge(config).await? else {
        return Ok(());
    };
    netlink
        .delete(link.index)
        .await
        .map_err(|error| NetError::failed("remove the bridge", &config.bridge, error))
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
) -> Result<Vec<ipnet::Ipv4Net>, NetError> {
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
    let of = |message: &rtnetlink::packet_route::address::AddressMessage| {
        message
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                AddressAttribute::Local(IpAddr::V4(ip)) => {
                    ipnet::Ipv4Net::new(*ip, message.header.prefix_len).ok()
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

async fn set(
    netlink: &Netlink,
    message: rtnetlink::packet_route::link::LinkMessage,
) -> Result<(), rtnetlink::Error> {
    netlink.handle.link().change(message).execute().await
}

pub(super) async fn taps(config: &NetworkConfig) -> Result<Vec<ObservedTap>, NetError> {
    let links = links().await?;
    let bridge = own_bridge_index(config, &links);
    let ours = |link: Link| {
        let mark = link.mark()?;
        (link.kind == Kind::Tap && mark.installation == config.mark.installation).then(|| {
            let attached = link.up
                && bridge.is_some()
                && link.master == bridge
                && link.group == tap_group(config);
            ObservedTap {
                name: link.name,
                index: link.index,
                mark,
                attached,
            }
        })
    };
    Ok(links.into_iter().filter_map(ours).collect())
}

pub(super) async fn ensure_tap(config: &NetworkConfig, tap: &TapSpec) -> Result<(), NetError> {
    let failed = |error: BoxedError| NetError::failed("set up the TAP", &tap.name, error);
    if !super::is_interface_name(&tap.name) {
        return Err(failed(io::Error::from(io::ErrorKind::InvalidInput).into()));
    }
    let netlink = Netlink::open()?;
    let all = links().await?;
    let bridge = own_bridge_index(config, &all)
        .ok_or_else(|| failed(format!("there is no bridge {} of ours", config.bridge).into()))?;
    let index = match all.iter().find(|link| link.name == tap.name) {
        Some(link) if link.kind == Kind::Tap && link.mark() == Some(tap.mark) => {
            if link.tap_owner != Some(tap.uid) {
                let device = Tap::attach(&tap.name).map_err(|e| failed(e.into()))?;
                device.set_owner(tap.uid).map_err(|e| failed(e.into()))?;
            }
            link.index
        }
        Some(link) => return Err(foreign(&link.name)),
        None => make_tap(config, &netlink, tap).await?,
    };
    let port = LinkUnspec::new_with_index(index)
        .link_group(tap_group(config))
        .controller(bridge)
        .build();
    // Where br_netfilter is loaded, a guest that asks for its own published port gets the
    // translated frame back through the port that it came from.
    let hairpin = LinkBridgePort::new(index).hairpin(true).build();
    // Last: a TAP that is up has everything.
    let up = LinkUnspec::new_with_index(index).up().build();
    for message in [port, hairpin, up] {
        set(&netlink, message).await.map_err(|e| failed(e.into()))?;
    }
    Ok(())
}

async fn make_tap(
    config: &NetworkConfig,
    netlink: &Netlink,
    tap: &TapSpec,
) -> Result<u32, NetError> {
    let failed = |error: BoxedError| NetError::failed("make the TAP", &tap.name, error);
    let device = Tap::create(&tap.name).map_err(|e| failed(e.into()))?;
    device.set_owner(tap.uid).map_err(|e| failed(e.into()))?;
    let index = rustix::net::netdevice::name_to_index(&tun_socket()?, &tap.name)
        .map_err(|e| failed(e.into()))?;
    // The group before anything else can happen: from here on the filter holds it.
    let settings = LinkUnspec::new_with_index(index)
        .alias(tap.mark.interface_alias())
        .link_group(tap_group(config))
        .build();
    set(netlink, settings).await.map_err(|e| failed(e.into()))?;
    device.persist().map_err(|e| failed(e.into()))?;
    Ok(index)
}

/// A socket to ask the interface's index of: `SIOCGIFINDEX` wants any.
fn tun_socket() -> Result<std::os::fd::OwnedFd, NetError> {
    rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
    .map_err(|error| NetError::failed("open", "a socket", error))
}

pub(super) async fn remove_tap(tap: &ObservedTap) -> Result<(), NetError> {
    let netlink = Netlink::open()?;
    let all = links().await?;
    let proved = |link: &&Link| {
        link.index == tap.index
            && link.name == tap.name
            && link.kind == Kind::Tap
            && link.mark() == Some(tap.mark)
    };
    match all.iter().find(proved) {
        Some(link) => netlink
            .delete(link.index)
            .await
            .map_err(|error| NetError::failed("remove the TAP", &tap.name, error)),
        None if all.iter().any(|link| link.name == tap.name) => Err(foreign(&tap.name)),
        None => Ok(()),
    }
}

impl Link {
    /// The mark in its alias.
    fn mark(&self) -> Option<OwnerMark> {
        OwnerMark::from_interface_alias(&self.alias)
    }
}

/// Whether the link's flags say that it is up.
fn is_up(flags: LinkFlags) -> bool {
    flags.contains(LinkFlags::Up)
}
