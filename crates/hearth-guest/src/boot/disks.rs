//! The root disk and the data volumes, found by their virtio-blk serials.

use std::fs;
use std::os::fd::AsFd;
use std::time::Duration;

use hearth_guest_proto::config::VolumeConfig;
use rustix::fs::{Mode, OFlags};
use rustix::ioctl::{Opcode, Setter, ioctl, opcode};
use rustix::mount::{MountFlags, mount};

use super::NEW_ROOT;
use crate::error::{Context, Failure, tell};
use crate::uevent::wait_for;

/// A slow, emulated machine needs a moment to find its devices.
const PATIENCE: Duration = Duration::from_secs(30);

/// `EXT4_IOC_RESIZE_FS` of linux/ext4.h: `_IOW('f', 16, __u64)`, in blocks of the file system.
const EXT4_RESIZE: Opcode = opcode::write::<u64>(b'f', 16);

pub(super) fn mount_root(serial: &str) -> Result<(), Failure> {
    fs::create_dir_all(NEW_ROOT).context("make", NEW_ROOT)?;
    mount_disk(serial, NEW_ROOT, false)
}

pub(super) fn mount_volume(volume: &VolumeConfig) -> Result<(), Failure> {
    let inside = volume.mount.trim_start_matches('/');
    if inside.is_empty() || inside.split('/').any(|part| part == "..") {
        return Err(Failure::new(
            "mount",
            &volume.mount,
            "it is no path below the root",
        ));
    }
    let target = super::files::resolve_folder(inside)?;
    mount_disk(&volume.serial, &target, volume.read_only)
}

fn mount_disk(serial: &str, target: &str, read_only: bool) -> Result<(), Failure> {
    let what = format!("the disk with the serial {serial:?}");
    let name = wait_for(&what, PATIENCE, || find(serial))?;
    let device = format!("/dev/{name}");
    let flags = if read_only {
        MountFlags::RDONLY
    } else {
        MountFlags::empty()
    };
    mount(&device, target, "ext4", flags, None).context("mount", format!("{what} at {target}"))?;
    if !read_only {
        tell(grow(&name, target));
    }
    Ok(())
}

fn find(serial: &str) -> Option<String> {
    fs::read_dir("/sys/block").ok()?.flatten().find_map(|disk| {
        let found = fs::read_to_string(disk.path().join("serial")).ok()?;
        let name = disk.file_name().into_string().ok()?;
        (found.trim() == serial && fs::exists(format!("/dev/{name}")).unwrap_or(false))
            .then_some(name)
    })
}

/// Has the file system of a volume that is mounted fill its disk; how large that is, in bytes.
pub(crate) fn grow_volume(volume: &VolumeConfig) -> Result<u64, Failure> {
    let serial = &volume.serial;
    let Some(name) = find(serial) else {
        return Err(Failure::new(
            "find",
            format!("the disk {serial:?}"),
            "it is not there",
        ));
    };
    if !volume.read_only {
        grow(&name, &volume.mount)?;
    }
    Ok(sectors(&name)? * 512)
}

fn sectors(name: &str) -> Result<u64, Failure> {
    let size = fs::read_to_string(format!("/sys/block/{name}/size")).context("size", name)?;
    size.trim().parse().context("size", name)
}

/// The host makes disks larger and leaves the file system to the guest.
fn grow(name: &str, target: &str) -> Result<(), Failure> {
    let sectors = sectors(name)?;
    let folder = rustix::fs::open(target, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .context("open", target)?;
    let found = rustix::fs::fstatfs(&folder).context("size", target)?;
    let block = u64::try_from(found.f_bsize).unwrap_or(4096).max(512);
    let blocks = sectors * 512 / block;
    // The count excludes the file system's own overhead: a small difference is none.
    if blocks <= found.f_blocks {
        return Ok(());
    }
    resize(&folder, blocks).context("grow the file system of", target)
}

fn resize(folder: impl AsFd, blocks: u64) -> rustix::io::Result<()> {
    // SAFETY: EXT4_IOC_RESIZE_FS reads one u64 at the address it is given.
    unsafe { ioctl(folder, Setter::<EXT4_RESIZE, u64>::new(blocks)) }
}
