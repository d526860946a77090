//! Mounts that no namespace sees: a file system behind a descriptor.
//!
//! `fsopen` + `fsmount` give a descriptor of a mount that is attached nowhere. Nothing can
//! reach it by a path, and when the descriptor is closed, by us or because we were killed,
//! the kernel unmounts it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use linux_raw_sys::ioctl::EXT4_IOC_RESIZE_FS;
use rustix::ioctl::{self, Setter};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};

/// A mount that could not be made or changed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {filesystem} on {}{}", device.display(), if said.is_empty() { String::new() } else { format!(": {said}") })]
pub struct MountError {
    action: String,
    filesystem: &'static str,
    device: PathBuf,
    said: String,
    #[source]
    source: io::Error,
}

impl MountError {
    /// Whether the kernel refused for lack of a capability.
    #[must_use]
    pub fn is_permission(&self) -> bool {
        self.source.kind() == io::ErrorKind::PermissionDenied
    }
}

/// A mounted ext4 file system that is attached to no namespace. Dropping it unmounts.
#[derive(Debug)]
pub struct DetachedExt4 {
    root: OwnedFd,
    device: PathBuf,
}

impl DetachedExt4 {
    /// Mounts the ext4 file system on a block device; `options` are ext4's own, flags with an
    /// empty value. Nothing on it is executed or honoured as a device.
    ///
    /// # Errors
    /// When the kernel refuses; the error holds what ext4 said.
    pub fn mount(device: &Path, options: &[(&str, &str)]) -> Result<Self, MountError> {
        let failed =
            |action: String, context: Option<&OwnedFd>, source: rustix::io::Errno| MountError {
                action,
                filesystem: "ext4",
                device: device.to_owned(),
                said: context.map(messages).unwrap_or_default(),
                source: source.into(),
            };
        let context = fsopen("ext4", FsOpenFlags::FSOPEN_CLOEXEC)
            .map_err(|e| failed("prepare a mount of".into(), None, e))?;
        let fs = &context;
        fsconfig_set_string(fs, "source", device)
            .map_err(|e| failed("name the device of".into(), Some(fs), e))?;
        for (key, value) in options {
            let set = if value.is_empty() {
                fsconfig_set_flag(fs, *key)
            } else {
                fsconfig_set_string(fs, *key, *value)
            };
            set.map_err(|e| failed(format!("set mount option {key} of"), Some(fs), e))?;
        }
        fsconfig_create(fs).map_err(|e| failed("mount".into(), Some(fs), e))?;
        let attributes = MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NOEXEC
            | MountAttrFlags::MOUNT_ATTR_NOATIME;
        let root = fsmount(fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
            .map_err(|e| failed("mount".into(), Some(fs), e))?;
        Ok(Self {
            root,
            device: device.to_owned(),
        })
    }

    /// Grows the mounted file system to `blocks` blocks. The device must be that large. The
    /// kernel asks for `CAP_SYS_RESOURCE`.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn grow(&self, blocks: u64) -> Result<(), MountError> {
        let failed = |source: rustix::io::Errno| MountError {
            action: format!("grow to {blocks} blocks the"),
            filesystem: "ext4",
            device: self.device.clone(),
            said: String::new(),
            source: source.into(),
        };
        let flags = rustix::fs::OFlags::RDONLY
            | rustix::fs::OFlags::DIRECTORY
            | rustix::fs::OFlags::CLOEXEC;
        // fsmount gives an O_PATH-like descriptor, on which ioctls do not work.
        let root = rustix::fs::openat(&self.root, ".", flags, rustix::fs::Mode::empty())
            .map_err(failed)?;
        // SAFETY: EXT4_IOC_RESIZE_FS reads one 64-bit number of blocks; we have just mounted
        // this file system as ext4.
        unsafe { ioctl::ioctl(&root, Setter::<EXT4_IOC_RESIZE_FS, u64>::new(blocks)) }
            .map_err(failed)
    }
}

impl AsFd for DetachedExt4 {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

/// What the file system wrote to the context's message log, one line.
fn messages(context: &OwnedFd) -> String {
    let mut lines = Vec::new();
    let mut buffer = [0_u8; 1024];
    while let Ok(n) = rustix::io::read(context, &mut buffer) {
        if n == 0 {
            break;
        }
        lines.push(String::from_utf8_lossy(&buffer[..n]).trim().to_owned());
    }
    lines.join("; ")
}
