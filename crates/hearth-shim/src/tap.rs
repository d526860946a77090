//! Opening the VM's TAP while the shim still may: the VMM gets the descriptor, so it needs
//! neither permission on `/dev/net/tun` nor on the interface.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;

use linux_raw_sys::if_tun::{IFF_NO_PI, IFF_TAP, IFF_VNET_HDR};
use linux_raw_sys::ioctl::TUNSETIFF;
use rustix::fs::Uid;
use rustix::ioctl::{Opcode, Updater, ioctl};

/// `struct ifreq` of linux/if.h as `TUNSETIFF` uses it: 40 bytes on 64-bit systems.
#[repr(C)]
struct IfReq {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// Attaches to a TAP that is there. The call that attaches would also make a missing one,
/// which would vanish with the VMM and belong to nobody: so it is looked for first.
///
/// It is done as the VMM's uid, the TAP's owner, so that it takes no right over the host's
/// network.
pub(crate) fn attach(name: &str, user: Option<u32>) -> io::Result<OwnedFd> {
    if name.is_empty() || name.len() > 15 || name.contains(['/', '\0']) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not an interface's name",
        ));
    }
    if !known_to_kernel(name) {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "there is no such interface",
        ));
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")?;
    as_user(user, || attach_to(&file, name))?;
    Ok(file.into())
}

/// In a network namespace entered without remounting /sys, only this list is of the
/// namespace itself.
fn known_to_kernel(name: &str) -> bool {
    let listed = std::fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
    listed
        .lines()
        .filter_map(|line| line.split_once(':'))
        .any(|(interface, _)| interface.trim() == name)
}

/// Does something with the effective uid of `user`.
fn as_user(user: Option<u32>, work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let Some(user) = user else {
        return work();
    };
    let root = rustix::process::geteuid();
    set_effective(Uid::from_raw(user))?;
    let done = work();
    set_effective(root)?;
    done
}

/// The shim has one thread, so this is the whole process. The real and saved uid stay.
fn set_effective(uid: Uid) -> io::Result<()> {
    rustix::thread::set_thread_res_uid(rustix::process::getuid(), uid, rustix::process::getuid())?;
    Ok(())
}

fn attach_to(file: &File, name: &str) -> io::Result<()> {
    let flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
    let mut request = IfReq {
        name: [0; 16],
        flags: u16::try_from(flags).map_err(io::Error::other)?,
        rest: [0; 22],
    };
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, which `IfReq` is laid out as;
    // it lives until the call returns.
    unsafe {
        let call = Updater::<{ TUNSETIFF as Opcode }, IfReq>::new(&mut request);
        ioctl(file, call)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_tap_is_not_made() {
        for name in ["", "hearth-no-tap", "a/b", "much-too-long-a-name"] {
            assert!(attach(name, None).is_err(), "{name:?} was attached to");
        }
        assert!(!known_to_kernel("hearth-no-tap"));
    }
}
