//! How our links were when they were heard of last.

use std::collections::BTreeSet;
use std::net::IpAddr;

use hearth_types::OwnerMark;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::LinkMessage;

use super::Leaving;
use crate::NetworkConfig;
use crate::host::links::{self, Kind, Link};
use crate::host::{bridge, routes, taps};

/// `AF_BRIDGE`: the bridge's own word about a port, beside the kernel's about the link.
const AF_BRIDGE: u8 = 7;

/// Our links that were as they should be.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Book {
    bridge: Option<u32>,
    whole: BTreeSet<u32>,
}

impl Book {
    /// As the links are now.
    pub(super) fn of(config: &NetworkConfig, links: &[Link]) -> Self {
        let mut book = Self::default();
        let (bridges, others): (Vec<_>, Vec<_>) =
            links.iter().partition(|link| link.kind == Kind::Bridge);
        for link in bridges.into_iter().chain(others) {
            book.learn(config, link);
        }
        book
    }

    /// Takes in a message. Whether something of ours is not as it was, and not by us.
    pub(super) fn hear(
        &mut self,
        config: &NetworkConfig,
        leaving: &Leaving,
        message: &[u8],
    ) -> bool {
        // What cannot be read is seen by the next regular look.
        let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(message) else {
            return false;
        };
        let NetlinkPayload::InnerMessage(message) = message.payload else {
            return false;
        };
        let by_others = |index: u32| !leaving.has(index);
        match message {
            RouteNetlinkMessage::NewLink(link) if of_the_link(&link) => {
                let link = links::read(link);
                self.learn(config, &link) && by_others(link.index)
            }
            RouteNetlinkMessage::DelLink(link) if of_the_link(&link) => {
                let index = link.header.index;
                let (was, by_us) = (self.whole.remove(&index), leaving.take(index));
                self.bridge = self.bridge.filter(|bridge| *bridge != index);
                was && !by_us
            }
            RouteNetlinkMessage::NewAddress(address) => {
                let own = IpAddr::V4(config.gateway().addr());
                self.is_bridge(address.header.index) && local(&address) != Some(own)
            }
            RouteNetlinkMessage::DelAddress(address) => {
                let index = address.header.index;
                self.is_bridge(index) && by_others(index)
            }
            RouteNetlinkMessage::DelRoute(route) => self
                .bridge
                .is_some_and(|bridge| routes::is_ours(config, bridge, &route) && by_others(bridge)),
            _ => false,
        }
    }

    fn is_bridge(&self, index: u32) -> bool {
        self.bridge == Some(index)
    }

    /// How a link is now. Whether it was whole and is no more.
    fn learn(&mut self, config: &NetworkConfig, link: &Link) -> bool {
        let whole = match link.kind {
            Kind::Bridge => bridge::is_whole(config, link),
            Kind::Tap => {
                let ours = |mark: OwnerMark| mark.installation == config.mark.installation;
                link.mark().is_some_and(ours) && taps::is_attached(config, link, self.bridge)
            }
            Kind::Other => false,
        };
        if !whole {
            return self.whole.remove(&link.index);
        }
        if link.kind == Kind::Bridge {
            self.bridge = Some(link.index);
        }
        self.whole.insert(link.index);
        false
    }
}

fn of_the_link(message: &LinkMessage) -> bool {
    u8::from(message.header.interface_family) != AF_BRIDGE
}

fn local(message: &AddressMessage) -> Option<IpAddr> {
    let mut attributes = message.attributes.iter();
    attributes.find_map(|attribute| match attribute {
        AddressAttribute::Local(ip) => Some(*ip),
        _ => None,
    })
}
