//! Sockets between the guest and its host (`AF_VSOCK`).

use std::mem::offset_of;
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};
use rustix::net::{
    AddressFamily, SendFlags, SocketFlags, SocketType, acceptfrom_with, bind, connect,
    listen as listen_on, recv, send, socket_with,
};

/// `VMADDR_CID_ANY` and `VMADDR_CID_HOST` of linux/vm_sockets.h.
const ANY: u32 = u32::MAX;
const HOST: u32 = 2;
/// Connections that may wait: one of this daemon, one of a daemon before it.
const BACKLOG: i32 = 4;
/// How long the host may take to hang up, which says that it has the report.
const RECEIPT: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};

/// `struct sockaddr_vm` of linux/vm_sockets.h.
#[repr(C)]
struct Address {
    family: u16,
    reserved: u16,
    port: u32,
    cid: u32,
    flags: u8,
    zero: [u8; 3],
}

impl Address {
    const fn new(cid: u32, port: u32) -> Self {
        Self {
            family: AddressFamily::VSOCK.as_raw(),
            reserved: 0,
            port,
            cid,
            flags: 0,
            zero: [0; 3],
        }
    }
}

// SAFETY: `Address` is laid out as `struct sockaddr_vm`, has no padding, and is passed with
// its own size; it lives until the closure returns.
unsafe impl SocketAddrArg for Address {
    unsafe fn with_sockaddr<R>(
        &self,
        f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R,
    ) -> R {
        const LENGTH: SocketAddrLen = 16;
        const { assert!(size_of::<Address>() == LENGTH as usize) };
        f(std::ptr::from_ref(self).cast(), LENGTH)
    }
}

/// A socket that listens on `port`, non-blocking.
pub(crate) fn listen(port: u32) -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::VSOCK, SocketType::STREAM, flags, None)?;
    bind(&socket, &Address::new(ANY, port))?;
    listen_on(&socket, BACKLOG)?;
    Ok(socket)
}

/// Takes a connection from `socket`. Over vsock only the host is listened to: another context (a
/// process of the guest itself, over the kernel's loopback) is hung up on, `Errno::CONNABORTED`.
pub(crate) fn accept_host(socket: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (peer, address) = acceptfrom_with(socket, flags)?;
    let context = address.and_then(|address| context_of(&address));
    if context.is_some_and(|context| context != HOST) {
        return Err(Errno::CONNABORTED);
    }
    Ok(peer)
}

/// The context id in an address of `AF_VSOCK`; other families have none.
fn context_of(address: &impl SocketAddrArg) -> Option<u32> {
    // SAFETY: the closure reads at most the length that it is given, and nothing is kept.
    let raw = unsafe {
        address.with_sockaddr(|start, length| {
            let length = usize::try_from(length).unwrap_or(0);
            std::slice::from_raw_parts(start.cast::<u8>(), length).to_vec()
        })
    };
    let family = u16::from_ne_bytes(raw.get(..2)?.try_into().ok()?);
    let context = raw.get(offset_of!(Address, cid)..)?.get(..4)?;
    (family == AddressFamily::VSOCK.as_raw())
        .then_some(u32::from_ne_bytes(context.try_into().ok()?))
}

/// Brings a short message to the host's `port` and waits until the host has hung up on it:
/// what is only on its way is lost when the machine ends. The kernel gives up a connection
/// attempt after two seconds.
pub(crate) fn deliver(port: u32, message: &[u8]) -> rustix::io::Result<()> {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::VSOCK, SocketType::STREAM, flags, None)?;
    connect(&socket, &Address::new(HOST, port))?;
    let mut left = message;
    while !left.is_empty() {
        let sent = send(&socket, left, SendFlags::NOSIGNAL)?;
        left = &left[sent..];
    }
    let mut polled = [PollFd::new(&socket, PollFlags::IN)];
    if poll(&mut polled, Some(&RECEIPT))? > 0 {
        let mut nothing = [0_u8; 8];
        let _hung_up = recv(&socket, &mut nothing, rustix::net::RecvFlags::DONTWAIT);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rustix::net::SocketAddrV4;

    use super::*;

    #[test]
    fn the_context_of_a_peer_is_read() {
        assert_eq!(context_of(&Address::new(HOST, 4000)), Some(HOST));
        assert_eq!(context_of(&Address::new(1, 4000)), Some(1));
        let inet = SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 4000);
        assert_eq!(context_of(&inet), None);
    }
}
