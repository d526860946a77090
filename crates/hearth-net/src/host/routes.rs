//! Whether the guests' subnet is free on this host, and whether the host reaches it.

use std::net::Ipv4Addr;

use futures::TryStreamExt as _;
use ipnet::Ipv4Net;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};

use super::bridge::own_index_among;
use super::links::{Link, Netlink, links};
use crate::{NetError, NetworkConfig};

/// Routes with a shorter prefix stand for "everything else": the default route, and the
/// two halves `0.0.0.0/1` and `128.0.0.0/1` that VPNs put in front of it.
const SHORTEST_PREFIX: u8 = 2;

/// Compares the subnet with all routes of all tables except those through our own bridge.
pub(super) async fn check(config: &NetworkConfig) -> Result<(), NetError> {
    let netlink = Netlink::open()?;
    let links = links().await?;
    let own = own_index_among(config, &links);
    let request = RouteMessageBuilder::<Ipv4Addr>::new().build();
    let routes: Vec<_> = netlink
        .handle
        .route()
        .get(request)
        .execute()
        .try_collect()
        .await
        .map_err(|error| NetError::failed("list", "the host's routes", error))?;
    for route in &routes {
        let Some(net) = destination(route) else {
            continue;
        };
        let index = interface(route);
        let overlaps = net.contains(&config.subnet) || config.subnet.contains(&net);
        if overlaps && (index.is_none() || index != own) {
            return Err(NetError::Collision {
                subnet: config.subnet,
                route: net,
                interface: name_of(index, &links),
            });
        }
    }
    Ok(())
}

/// Whether the host has its route to the guests, through our bridge. The kernel makes it with the
/// bridge's address; anybody may take it away, and then nobody reaches a guest.
pub(super) async fn is_there(config: &NetworkConfig, bridge: u32) -> Result<bool, NetError> {
    let netlink = Netlink::strict()?;
    let mut only = RouteMessageBuilder::<Ipv4Addr>::new().output_interface(bridge);
    // Anything that is said here narrows the dump down; of whatever table and origin it is.
    let family = only.get_mut().header.address_family;
    only.get_mut().header = RouteHeader {
        address_family: family,
        ..RouteHeader::default()
    };
    let routes: Vec<_> = netlink
        .handle
        .route()
        .get(only.build())
        .execute()
        .try_collect()
        .await
        .map_err(|error| NetError::failed("list the routes through", &config.bridge, error))?;
    Ok(routes.iter().any(|route| is_ours(config, bridge, route)))
}

/// Makes that route as the kernel does.
pub(super) async fn ensure(config: &NetworkConfig, bridge: u32) -> Result<(), NetError> {
    if is_there(config, bridge).await? {
        return Ok(());
    }
    let subnet = config.subnet;
    let route = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(subnet.network(), subnet.prefix_len())
        .output_interface(bridge)
        .pref_source(config.gateway().addr())
        .scope(RouteScope::Link)
        .protocol(RouteProtocol::Kernel)
        .build();
    let netlink = Netlink::open()?;
    let added = netlink.handle.route().add(route).execute().await;
    added.map_err(|error| NetError::failed("put back the route to", subnet.to_string(), error))
}

/// Whether a route is the one by which the host reaches the guests.
pub(super) fn is_ours(config: &NetworkConfig, bridge: u32, route: &RouteMessage) -> bool {
    interface(route) == Some(bridge) && destination(route) == Some(config.subnet)
}

/// Where a route leads, if it is one that a collision can be with.
fn destination(route: &RouteMessage) -> Option<Ipv4Net> {
    let real = matches!(
        route.header.kind,
        RouteType::Unicast
            | RouteType::Local
            | RouteType::BlackHole
            | RouteType::Unreachable
            | RouteType::Prohibit
    );
    let prefix = route.header.destination_prefix_length;
    if !real || prefix < SHORTEST_PREFIX {
        return None;
    }
    route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(ip)) => Ipv4Net::new(*ip, prefix).ok(),
            _ => None,
        })
}

fn interface(route: &RouteMessage) -> Option<u32> {
    route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => Some(*index),
            RouteAttribute::MultiPath(hops) => hops.first().map(|hop| hop.interface_index),
            _ => None,
        })
}

fn name_of(index: Option<u32>, links: &[Link]) -> String {
    let named = links.iter().find(|link| Some(link.index) == index);
    named.map_or_else(|| "no interface".to_owned(), |link| link.name.clone())
}
