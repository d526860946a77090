//! Our two nftables tables as text to write and JSON to read: pure, no I/O.
//!
//! `table inet <name>` holds address translation and forwarding, `table bridge <name>` the
//! source filter of the TAPs: frames between two ports of a bridge never reach the `inet`
//! family (docs/adr/0006-network-filter.md). Both have a static part, which depends on
//! [`Shape`] alone, and three sets that follow the [`RuleSet`](hearth_types::net::RuleSet):
//!
//! ```text
//! bridge  guests     TAP . MAC . address                          may send as this
//! inet    ports_at   host address . protocol . port : guest . port
//! inet    ports_any  protocol . port : guest . port               any address of the host
//! ```
//!
//! Two empty sets carry facts in their names, the one thing that every version of nft
//! reads back the same way: `owner_<installation>` says whose the tables are, and
//! `static_<text>_<readback>` that the static part has been written whole (hash of the
//! text written) and is unchanged (hash of what nft read back right after).

mod parse;
mod text;

pub(crate) use parse::{Tables, parse};
pub(crate) use text::{check_ports, delta, replacement, seal};

use hearth_types::OwnerMark;
use ipnet::Ipv4Net;

/// All that the static part depends on.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    /// The name of both tables.
    pub(crate) table: String,
    /// The bridge.
    pub(crate) bridge: String,
    /// The guests' addresses.
    pub(crate) subnet: Ipv4Net,
    /// Whose the tables are.
    pub(crate) mark: OwnerMark,
    /// The interface group of our TAPs.
    pub(crate) group: u32,
}

impl Shape {
    /// The name of the set that says whose a table is.
    pub(crate) fn owner_set(&self) -> String {
        format!("owner_{}", self.mark.installation.as_uuid().simple())
    }

    /// The beginning of the name of the seal: what the static part was written from.
    fn seal_prefix(&self) -> String {
        format!("static_{:016x}_", fnv1a(text::static_part(self).as_bytes()))
    }
}

/// FNV-1a, 64 bits: it has to notice accidents and hand edits, not to resist root.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests;
