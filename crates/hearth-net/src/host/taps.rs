//! The TAPs: made by ioctl, set up and found by netlink.

use std::io;

use hearth_types::names::is_tap_name;
use hearth_types::observe::ObservedTap;
use rtnetlink::{LinkBridgePort, LinkUnspec};

use super::bridge;
use super::links::{
    BoxedError, Kind, Link, Netlink, change, foreign, link_named, links, tap_group,
};
use super::tun::Tap;
use super::watch::Leaving;
use crate::{Lookalike, NetError, NetworkConfig, TapSpec};

/// Whether a TAP is up, in our group and a port of our bridge.
pub(super) fn is_attached(config: &NetworkConfig, link: &Link, bridge: Option<u32>) -> bool {
    link.up && bridge.is_some() && link.master == bridge && link.group == tap_group(config)
}

pub(super) async fn survey(config: &NetworkConfig) -> Result<Vec<ObservedTap>, NetError> {
    let links = links().await?;
    let bridge = bridge::own_index_among(config, &links);
    let ours = |link: Link| {
        let mark = link.mark()?;
        (link.kind == Kind::Tap && mark.installation == config.mark.installation).then(|| {
            let attached = is_attached(config, &link, bridge);
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

/// Links without our mark that are ports of our bridge or named like our TAPs. One that
/// another installation has marked is that one's, unless it is a port.
pub(super) async fn lookalikes(config: &NetworkConfig) -> Result<Vec<Lookalike>, NetError> {
    let links = links().await?;
    let bridge = bridge::own_index_among(config, &links);
    let alike = |link: Link| {
        let port = bridge.is_some() && link.master == bridge;
        let named = is_tap_name(&link.name) && link.mark().is_none();
        let ours = link.kind == Kind::Tap
            && link
                .mark()
                .is_some_and(|mark| mark.installation == config.mark.installation);
        let name = link.name;
        (!ours && (port || named)).then_some(Lookalike { name, port })
    };
    Ok(links.into_iter().filter_map(alike).collect())
}

pub(super) async fn ensure(config: &NetworkConfig, tap: &TapSpec) -> Result<(), NetError> {
    let failed = |error: BoxedError| NetError::failed("set up the TAP", &tap.name, error);
    if !super::is_interface_name(&tap.name) {
        return Err(failed(io::Error::from(io::ErrorKind::InvalidInput).into()));
    }
    let netlink = Netlink::open()?;
    let bridge = bridge::own_index(config, &netlink)
        .await?
        .ok_or_else(|| failed(format!("there is no bridge {} of ours", config.bridge).into()))?;
    let index = match link_named(&netlink, &tap.name).await? {
        Some(link) if link.kind == Kind::Tap && link.mark() == Some(tap.mark) => {
            if link.tap_owner != Some(tap.uid) {
                let device = Tap::attach(&tap.name).map_err(|e| failed(e.into()))?;
                device.set_owner(tap.uid).map_err(|e| failed(e.into()))?;
            }
            link.index
        }
        Some(link) => return Err(foreign(&link.name)),
        None => make(config, &netlink, tap).await?,
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
        change(&netlink, message)
            .await
            .map_err(|e| failed(e.into()))?;
    }
    Ok(())
}

async fn make(config: &NetworkConfig, netlink: &Netlink, tap: &TapSpec) -> Result<u32, NetError> {
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
    change(netlink, settings)
        .await
        .map_err(|e| failed(e.into()))?;
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

pub(super) async fn remove(tap: &ObservedTap, leaving: &Leaving) -> Result<(), NetError> {
    let netlink = Netlink::open()?;
    match link_named(&netlink, &tap.name).await? {
        Some(link)
            if link.index == tap.index
                && link.name == tap.name
                && link.kind == Kind::Tap
                && link.mark() == Some(tap.mark) =>
        {
            leaving.add(link.index);
            netlink.delete(link.index).await.map_err(|error| {
                leaving.take(link.index);
                NetError::failed("remove the TAP", &tap.name, error)
            })
        }
        Some(link) => Err(foreign(&link.name)),
        None => Ok(()),
    }
}
