//! Netlink sockets that only listen, and their messages (netlink(7)).

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// `RTMGRP_LINK`, `RTMGRP_IPV4_IFADDR` and `RTMGRP_IPV4_ROUTE` of linux/rtnetlink.h.
pub(super) const ROUTE_GROUPS: u32 = 1 | 1 << 4 | 1 << 6;
/// The protocol of tables.
pub(super) const NFT: Protocol = netlink::NETFILTER;
/// `NFNLGRP_NFTABLES` (7) of linux/netfilter/nfnetlink.h, as the bit of a mask.
pub(super) const NFT_TABLES: u32 = 1 << 6;

/// `struct nlmsghdr`, in bytes.
const HEADER: usize = 16;
/// `struct nfgenmsg`, in bytes.
const NFT_HEADER: usize = 4;
/// `NFNL_SUBSYS_NFTABLES` (linux/netfilter/nfnetlink.h), the high byte of a message's type.
const NFT_SUBSYSTEM: u16 = 10;
/// `NFT_MSG_NEWGEN`: the end of a transaction, which names no table.
const NFT_GENERATION: u16 = 15;
/// The attribute that names the table, in all messages that have one: `NFTA_TABLE_NAME`,
/// `NFTA_RULE_TABLE`, `NFTA_SET_ELEM_LIST_TABLE` … (linux/netfilter/nf_tables.h).
const NFT_TABLE: u16 = 1;
/// Bits of an attribute's type that are no part of it (`NLA_TYPE_MASK`).
const TYPE: u16 = 0x3fff;
/// The largest message that the kernel makes of its own accord fits (`NLMSG_GOODSIZE`).
const ROOM: usize = 64 << 10;
/// As much is read before others have their turn.
const AT_ONCE: usize = 64;

/// A socket that hears of one kind of changes.
#[derive(Debug)]
pub(super) struct Listener {
    socket: AsyncFd<OwnedFd>,
    room: Vec<u8>,
}

impl Listener {
    /// Begins to listen to groups of a protocol; `None` is `NETLINK_ROUTE`.
    pub(super) fn open(protocol: Option<Protocol>, groups: u32) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (family, kind) = (AddressFamily::NETLINK, SocketType::RAW);
        let socket = rustix::net::socket_with(family, kind, flags, protocol)?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, groups))?;
        // SAFETY: an `OwnedFd` keeps its descriptor open until it is dropped, and the
        // registration owns it.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?;
        let room = vec![0; ROOM];
        Ok(Self { socket, room })
    }

    /// Waits for messages and hands on each. Whether some were lost.
    pub(super) async fn hear(&mut self, mut each: impl FnMut(&[u8])) -> io::Result<bool> {
        let mut ready = self.socket.readable().await?;
        let mut lost = false;
        for _ in 0..AT_ONCE {
            let room = &mut self.room[..];
            let read = ready.try_io(|socket| {
                let (_, length) = rustix::net::recv(socket, room, RecvFlags::empty())?;
                Ok(length)
            });
            match read {
                Ok(Ok(length)) => lost |= !messages(&self.room[..length.min(ROOM)], &mut each),
                // The kernel had no room for more of them.
                Ok(Err(error)) if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => {
                    lost = true;
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Err(error),
                Err(_would_block) => break,
            }
        }
        Ok(lost)
    }
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    let both = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_ne_bytes(both.try_into().ok()?))
}

/// Hands on each message, its head included; `false` if the last one is not whole.
fn messages(mut bytes: &[u8], each: &mut impl FnMut(&[u8])) -> bool {
    while !bytes.is_empty() {
        let length = bytes.get(..4).and_then(|word| word.try_into().ok());
        let length = length.map_or(0, u32::from_ne_bytes);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let Some(message) = bytes.get(..length).filter(|_| length >= HEADER) else {
            return false;
        };
        each(message);
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    true
}

/// The table that a message of nftables is about.
pub(super) fn table_of(message: &[u8]) -> Option<&[u8]> {
    let kind = half(message, 4)?;
    if kind >> 8 != NFT_SUBSYSTEM || kind & 0xff == NFT_GENERATION {
        return None;
    }
    let mut at = HEADER + NFT_HEADER;
    while let (Some(length), Some(kind)) = (half(message, at), half(message, at + 2)) {
        let length = usize::from(length).max(4);
        if kind & TYPE == NFT_TABLE {
            let name = message.get(at + 4..at + length)?;
            return name.split(|byte| *byte == 0).next();
        }
        at += length.next_multiple_of(4);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message of nftables with attributes.
    fn message(kind: u16, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER + NFT_HEADER];
        bytes[4..6].copy_from_slice(&(NFT_SUBSYSTEM << 8 | kind).to_ne_bytes());
        for (kind, value) in attributes {
            let length = u16::try_from(4 + value.len()).unwrap();
            bytes.extend(length.to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(*value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        let length = u32::try_from(bytes.len()).unwrap();
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        bytes
    }

    #[test]
    fn the_table_of_a_message_is_found() {
        let about = message(12, &[(2, b"x"), (NFT_TABLE | 0x8000, b"hearth\0")]);
        assert_eq!(table_of(&about), Some(&b"hearth"[..]));
        let other = message(8, &[(NFT_TABLE, b"hearth2\0")]);
        assert_eq!(table_of(&other), Some(&b"hearth2"[..]));
        let end = message(NFT_GENERATION, &[(1, &[0, 0, 0, 9])]);
        assert_eq!(table_of(&end), None);
        for length in 0..about.len() {
            // Cut off anywhere it is nobody's table, or still this one's.
            let found = table_of(&about[..length]);
            assert!(found.is_none_or(|name| b"hearth\0".starts_with(name)));
        }
    }

    #[test]
    fn messages_are_taken_apart_and_one_that_is_cut_off_is_a_loss() {
        let (one, two) = (message(1, &[(1, b"a\0")]), message(2, &[(1, b"bc\0")]));
        let both = [one.clone(), two.clone()].concat();
        let mut found = Vec::new();
        assert!(messages(&both, &mut |it| found.push(it.to_vec())));
        assert_eq!(found, [one, two]);
        assert!(!messages(&both[..both.len() - 1], &mut |_| ()));
        assert!(!messages(&[0; 16], &mut |_| ()));
        assert!(messages(&[], &mut |_| ()));
    }
}
