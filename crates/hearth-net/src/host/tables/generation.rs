//! The generation of the namespace's nftables: the kernel counts every transaction, so an
//! unchanged count proves that what was read before still holds.

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN` (linux/netfilter/nfnetlink.h, nf_tables.h).
const GET_GENERATION: u16 = 10 << 8 | 16;
/// The answer: `NFT_MSG_NEWGEN`.
const NEW_GENERATION: u16 = 10 << 8 | 15;
/// `NFTA_GEN_ID`.
const GENERATION_ID: u16 = 1;
/// `NLM_F_REQUEST`.
const REQUEST: u16 = 1;
/// `struct nlmsghdr` and `struct nfgenmsg`, in bytes.
const HEADER: usize = 16 + 4;

/// The count now; `None` when it cannot be had, and then nothing is known to be unchanged.
pub(super) fn current() -> Option<u32> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::NETFILTER),
    )
    .ok()?;
    let mut request = [0; HEADER];
    request[..4].copy_from_slice(&20_u32.to_ne_bytes());
    request[4..6].copy_from_slice(&GET_GENERATION.to_ne_bytes());
    request[6..8].copy_from_slice(&REQUEST.to_ne_bytes());
    rustix::net::send(&socket, &request, SendFlags::empty()).ok()?;
    let mut answer = [0; 512];
    // The kernel answers while the request is sent: there is nothing to wait for.
    let (_, length) = rustix::net::recv(&socket, &mut answer, RecvFlags::DONTWAIT).ok()?;
    read(answer.get(..length)?)
}

/// Reads the answer.
fn read(answer: &[u8]) -> Option<u32> {
    let half = |at: usize| Some(u16::from_ne_bytes(answer.get(at..at + 2)?.try_into().ok()?));
    if half(4)? != NEW_GENERATION {
        return None;
    }
    let mut at = HEADER;
    while let (Some(length), Some(kind)) = (half(at), half(at + 2)) {
        if kind == GENERATION_ID {
            let value = answer.get(at + 4..at + 8)?.try_into().ok()?;
            return Some(u32::from_be_bytes(value));
        }
        // Attributes begin at multiples of four; none is shorter than its own head.
        at += usize::from(length).max(4).next_multiple_of(4);
    }
    None
}

/// The count after one more transaction; the kernel leaves out zero.
pub(super) fn next(generation: u32) -> u32 {
    generation.wrapping_add(1).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_and_others_are_not() {
        let mut answer = vec![0; HEADER];
        answer[4..6].copy_from_slice(&NEW_GENERATION.to_ne_bytes());
        assert_eq!(read(&answer), None);
        // An attribute of five bytes, padded to eight, and then the count.
        for (length, kind, value) in [
            (5_u16, 7_u16, [9, 0, 0, 0]),
            (8, GENERATION_ID, [0, 0, 1, 2]),
        ] {
            answer.extend(length.to_ne_bytes());
            answer.extend(kind.to_ne_bytes());
            answer.extend(value);
        }
        assert_eq!(read(&answer), Some(258));
        assert_eq!(read(&answer[..answer.len() - 1]), None);
        answer[4] ^= 1;
        assert_eq!(read(&answer), None);
        assert_eq!(next(u32::MAX), 1);
    }
}
