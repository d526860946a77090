//! What a link is, and whose.
//!
//! A link is ours by its alias. A crash must not leave one of ours without it:
//!
//! ```text
//! bridge  made with a MAC of this installation's ─► alias ─► settings, address ─► up
//!         (that MAC, no alias, not up: ours, half made)
//! TAP     made, not persistent ─► alias, group ─► persistent ─► port of the bridge, up
//!         (a crash before "persistent" closes the device, and it is gone)
//! ```

mod dump;

use hearth_types::OwnerMark;
use rtnetlink::packet_route::link::LinkMessage;

use crate::{NetError, NetworkConfig};

pub(crate) use dump::is_passing as is_passing_dump;
pub(super) use dump::{Kind, Link, Netlink, link_named, links, read};

/// Any cause.
pub(super) type BoxedError = Box<dyn std::error::Error + Send + Sync>;

/// The interface group of this installation's TAPs, the source filter's hold on them: a
/// TAP in it may send only what an element of the filter allows. The random end of the
/// installation's id makes it improbable that anybody else on the host uses it.
pub(super) fn tap_group(config: &NetworkConfig) -> u32 {
    let [.., a, b, c, d] = *config.mark.installation.as_uuid().as_bytes();
    // The highest bit stays clear: tools print groups as signed numbers. Never group 0,
    // which all interfaces are in.
    u32::from_be_bytes([a & 0x7f, b, c, d | 1])
}

/// The error for a link that is not ours.
pub(super) fn foreign(name: &str) -> NetError {
    NetError::Foreign {
        object: format!("a network interface named {name}"),
    }
}

/// Changes a link that is there.
pub(super) async fn change(
    netlink: &Netlink,
    message: LinkMessage,
) -> Result<(), rtnetlink::Error> {
    netlink.handle.link().change(message).execute().await
}

impl Link {
    /// The mark in its alias.
    pub(super) fn mark(&self) -> Option<OwnerMark> {
        OwnerMark::from_interface_alias(&self.alias)
    }
}
