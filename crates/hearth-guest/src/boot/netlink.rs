//! The three requests of rtnetlink that a guest needs.

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// Message types and flags of linux/rtnetlink.h and linux/netlink.h.
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_CREATE: u16 = 0x400;
const NLMSG_ERROR: u16 = 2;

/// Attributes of linux/if_addr.h and linux/rtnetlink.h.
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;

const AF_INET: u8 = 2;
const IFF_UP: u32 = 1;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_BOOT: u8 = 3;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RTN_UNICAST: u8 = 1;
const HEADER_LEN: usize = 16;

pub(super) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    pub(super) fn open() -> rustix::io::Result<Self> {
        let family = AddressFamily::NETLINK;
        let socket = rustix::net::socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    pub(super) fn up(&mut self, index: u32) -> rustix::io::Result<()> {
        // struct ifinfomsg: family, padding, type, index, flags, which flags.
        let mut body = vec![0, 0, 0, 0];
        for word in [index, IFF_UP, IFF_UP] {
            body.extend_from_slice(&word.to_ne_bytes());
        }
        self.request(RTM_NEWLINK, 0, &body)
    }

    pub(super) fn address(
        &mut self,
        index: u32,
        address: Ipv4Addr,
        prefix: u8,
    ) -> rustix::io::Result<()> {
        // struct ifaddrmsg: family, prefix length, flags, scope, index.
        let mut body = vec![AF_INET, prefix, 0, RT_SCOPE_UNIVERSE];
        body.extend_from_slice(&index.to_ne_bytes());
        attribute(&mut body, IFA_LOCAL, &address.octets());
        attribute(&mut body, IFA_ADDRESS, &address.octets());
        let hosts = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
        let broadcast = Ipv4Addr::from_bits(address.to_bits() | hosts);
        attribute(&mut body, IFA_BROADCAST, &broadcast.octets());
        self.request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, &body)
    }

    pub(super) fn default_route(
        &mut self,
        index: u32,
        gateway: Ipv4Addr,
    ) -> rustix::io::Result<()> {
        // struct rtmsg: family, lengths of destination and source, tos, table, protocol, scope,
        // type, flags.
        let mut body = vec![
            AF_INET,
            0,
            0,
            0,
            RT_TABLE_MAIN,
            RTPROT_BOOT,
            RT_SCOPE_UNIVERSE,
            RTN_UNICAST,
        ];
        body.extend_from_slice(&0_u32.to_ne_bytes());
        attribute(&mut body, RTA_GATEWAY, &gateway.octets());
        attribute(&mut body, RTA_OIF, &index.to_ne_bytes());
        self.request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &body)
    }

    fn request(&mut self, kind: u16, flags: u16, body: &[u8]) -> rustix::io::Result<()> {
        self.sequence += 1;
        let message = encode(kind, flags | NLM_F_REQUEST | NLM_F_ACK, self.sequence, body);
        rustix::net::send(&self.socket, &message, SendFlags::empty())?;
        let mut buffer = [0_u8; 8192];
        loop {
            let (count, _) = rustix::net::recv(&self.socket, &mut buffer, RecvFlags::empty())?;
            if let Some(outcome) = answer(&buffer[..count], self.sequence) {
                return outcome;
            }
        }
    }
}

fn encode(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(HEADER_LEN + body.len()).unwrap_or(u32::MAX);
    let mut message = len.to_ne_bytes().to_vec();
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(&flags.to_ne_bytes());
    message.extend_from_slice(&sequence.to_ne_bytes());
    message.extend_from_slice(&0_u32.to_ne_bytes());
    message.extend_from_slice(body);
    message
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    // All values here are four bytes long: no padding.
    let len = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    body.extend_from_slice(&len.to_ne_bytes());
    body.extend_from_slice(&kind.to_ne_bytes());
    body.extend_from_slice(value);
}

/// The acknowledgement of our request, if this is one.
fn answer(message: &[u8], sequence: u32) -> Option<rustix::io::Result<()>> {
    let kind = u16::from_ne_bytes(message.get(4..6)?.try_into().ok()?);
    let about = u32::from_ne_bytes(message.get(8..12)?.try_into().ok()?);
    if kind != NLMSG_ERROR || about != sequence {
        return None;
    }
    let code = i32::from_ne_bytes(message.get(HEADER_LEN..HEADER_LEN + 4)?.try_into().ok()?);
    Some(match code {
        0 => Ok(()),
        code => Err(Errno::from_raw_os_error(-code)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_only_for_its_request() {
        let ack = encode(NLMSG_ERROR, 0, 7, &0_i32.to_ne_bytes());
        assert!(matches!(answer(&ack, 7), Some(Ok(()))));
        assert!(answer(&ack, 8).is_none());
        let refused = encode(NLMSG_ERROR, 0, 7, &(-17_i32).to_ne_bytes());
        assert!(matches!(answer(&refused, 7), Some(Err(Errno::EXIST))));
        assert!(answer(&[], 7).is_none());
    }
}
