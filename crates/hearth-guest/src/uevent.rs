//! Waiting for devices: the kernel's uevents say when to look again.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};

use crate::error::{Context, Failure};

/// Calls `find` until it finds something, after each uevent, for `patience` at the longest.
pub(crate) fn wait_for<T>(
    what: &str,
    patience: Duration,
    mut find: impl FnMut() -> Option<T>,
) -> Result<T, Failure> {
    let deadline = Instant::now() + patience;
    let socket = listen().context("listen for", "the kernel's device events")?;
    loop {
        if let Some(found) = find() {
            return Ok(found);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Failure::new(
                "find",
                what,
                format!("it did not appear within {patience:?}"),
            ));
        }
        wait_readable(&socket, left);
        let mut buffer = [0_u8; 4096];
        while rustix::net::recv(&socket, &mut buffer, RecvFlags::DONTWAIT).is_ok() {}
    }
}

fn listen() -> rustix::io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(KOBJECT_UEVENT),
    )?;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 1))?;
    Ok(socket)
}

fn wait_readable(socket: &OwnedFd, left: Duration) {
    let mut polled = [PollFd::new(socket, PollFlags::IN)];
    let timeout = Timespec::try_from(left).ok();
    // Interrupted or not: the caller looks again.
    let _ready = poll(&mut polled, timeout.as_ref());
}

/// The device node of the virtio-serial port called `name`: there is no udev to ask.
pub(crate) fn find_port(name: &str) -> Option<PathBuf> {
    let ports = fs::read_dir("/sys/class/virtio-ports").ok()?;
    ports.flatten().find_map(|port| {
        let found = fs::read_to_string(port.path().join("name")).ok()?;
        let node = PathBuf::from("/dev").join(port.file_name());
        (found.trim() == name && node.exists()).then_some(node)
    })
}
