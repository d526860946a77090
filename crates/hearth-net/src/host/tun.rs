//! The TAP device's ioctls: netlink cannot make TAPs.

use std::fs::{File, OpenOptions};
use std::io;

use linux_raw_sys::if_tun::{IFF_NO_PI, IFF_TAP, IFF_VNET_HDR};
use linux_raw_sys::ioctl::{TUNSETIFF, TUNSETOWNER, TUNSETPERSIST};
use rustix::ioctl::{IntegerSetter, Opcode, Updater, ioctl};

/// `IFF_TUN_EXCL` of linux/if_tun.h: fail if there is an interface of that name.
const IFF_TUN_EXCL: u32 = 0x8000;

/// `struct ifreq` of linux/if.h as `TUNSETIFF` uses it.
#[repr(C)]
struct IfReq {
    name: [u8; 16],
    flags: u16,
    /// The rest of the union, 24 bytes in all on 64-bit systems.
    rest: [u8; 22],
}

/// An open TAP. Unless it is made persistent, it vanishes when this is dropped.
#[derive(Debug)]
pub(super) struct Tap(File);

impl Tap {
    /// Makes a TAP; an interface of that name makes it fail.
    pub(super) fn create(name: &str) -> io::Result<Self> {
        Self::open(name, IFF_TUN_EXCL)
    }

    /// Opens a TAP that is there; fails while a VMM has it open.
    pub(super) fn attach(name: &str) -> io::Result<Self> {
        Self::open(name, 0)
    }

    fn open(name: &str, more: u32) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/net/tun")?;
        // One queue, no packet information, a virtio-net header: what QEMU's `-netdev tap`
        // asks for.
        let flags =
            u16::try_from(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | more).map_err(io::Error::other)?;
        let mut request = IfReq {
            name: [0; 16],
            flags,
            rest: [0; 22],
        };
        let target = request.name.get_mut(..name.len()).filter(|n| n.len() < 16);
        target
            .ok_or(io::ErrorKind::InvalidInput)?
            .copy_from_slice(name.as_bytes());
        // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, 40 bytes on 64-bit Linux,
        // which `IfReq` is laid out as; it lives until the call returns.
        unsafe {
            let call = Updater::<{ TUNSETIFF as Opcode }, IfReq>::new(&mut request);
            ioctl(&file, call)?;
        }
        Ok(Self(file))
    }

    /// Lets the TAP outlive this process.
    pub(super) fn persist(&self) -> io::Result<()> {
        // SAFETY: TUNSETPERSIST takes an integer by value: 1 for persistent.
        unsafe {
            let call = IntegerSetter::<{ TUNSETPERSIST as Opcode }>::new_usize(1);
            ioctl(&self.0, call)?;
        }
        Ok(())
    }

    /// Lets a user attach to the TAP without `CAP_NET_ADMIN`.
    pub(super) fn set_owner(&self, uid: u32) -> io::Result<()> {
        let uid = usize::try_from(uid).map_err(io::Error::other)?;
        // SAFETY: TUNSETOWNER takes a uid by value.
        unsafe {
            let call = IntegerSetter::<{ TUNSETOWNER as Opcode }>::new_usize(uid);
            ioctl(&self.0, call)?;
        }
        Ok(())
    }
}

const _: () = assert!(size_of::<IfReq>() == 40, "struct ifreq is 40 bytes");
