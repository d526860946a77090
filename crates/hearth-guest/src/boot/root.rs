//! The kernel's file systems, and the step from the initramfs to the root disk.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::mount::{MountFlags, mount, mount_move};

use super::NEW_ROOT;
use crate::error::{Context, Failure, say, tell};

/// Mounts what only the kernel knows, under `prefix`.
pub(super) fn kernel_mounts(prefix: &str) -> Result<(), Failure> {
    for (kind, target) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        let target = format!("{prefix}{target}");
        fs::create_dir_all(&target).context("make", &target)?;
        match mount(kind, &target, kind, MountFlags::NOSUID, None) {
            // The kernel may have mounted devtmpfs itself.
            Ok(()) | Err(rustix::io::Errno::BUSY) => {}
            Err(error) => return Err(Failure::new("mount", target, error)),
        }
    }
    Ok(())
}

/// Makes the mounted root disk the root, and mounts what programs expect in it.
pub(super) fn switch() -> Result<(), Failure> {
    for target in ["/proc", "/sys", "/dev"] {
        let new = format!("{NEW_ROOT}{target}");
        fs::create_dir_all(&new).context("make", &new)?;
        mount_move(target, &new).context("move", target)?;
    }
    empty_initramfs();
    rustix::process::chdir(NEW_ROOT).context("enter", NEW_ROOT)?;
    mount_move(".", "/").context("move", NEW_ROOT)?;
    rustix::process::chroot(".").context("change the root to", NEW_ROOT)?;
    rustix::process::chdir("/").context("enter", "the new root")?;
    for (kind, target, data, flags) in [
        (
            "devpts",
            "/dev/pts",
            c"mode=0620,gid=5,ptmxmode=0666",
            MountFlags::NOEXEC,
        ),
        ("tmpfs", "/dev/shm", c"mode=1777", MountFlags::NODEV),
        ("tmpfs", "/run", c"mode=0755", MountFlags::NODEV),
        ("cgroup2", "/sys/fs/cgroup", c"", MountFlags::NOEXEC),
    ] {
        tell(mount_one(kind, target, data, flags | MountFlags::NOSUID));
    }
    links();
    if !Path::new("/tmp").exists() {
        tell(make_tmp());
    }
    Ok(())
}

fn mount_one(
    kind: &str,
    target: &str,
    data: &std::ffi::CStr,
    flags: MountFlags,
) -> Result<(), Failure> {
    fs::create_dir_all(target).context("make", target)?;
    mount(kind, target, kind, flags, data).context("mount", target)
}

fn make_tmp() -> Result<(), Failure> {
    use std::os::unix::fs::PermissionsExt;
    fs::create_dir("/tmp").context("make", "/tmp")?;
    fs::set_permissions("/tmp", fs::Permissions::from_mode(0o1777)).context("open up", "/tmp")
}

/// What udev would make.
fn links() {
    for (target, link) in [
        ("/proc/self/fd", "/dev/fd"),
        ("/proc/self/fd/0", "/dev/stdin"),
        ("/proc/self/fd/1", "/dev/stdout"),
        ("/proc/self/fd/2", "/dev/stderr"),
        ("pts/ptmx", "/dev/ptmx"),
    ] {
        if link == "/dev/ptmx" {
            let _removed = fs::remove_file(link);
        }
        let _made = std::os::unix::fs::symlink(target, link);
    }
}

/// Frees the initramfs' memory. Nothing of another file system is touched.
fn empty_initramfs() {
    let Ok(root) = fs::metadata("/") else {
        return;
    };
    if let Err(error) = remove_below(Path::new("/"), root.dev()) {
        say(&format!("the initramfs is not empty: {error}"));
    }
}

fn remove_below(folder: &Path, device: u64) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)?.flatten() {
        let found = entry.metadata()?;
        if found.dev() != device {
            continue;
        }
        if found.is_dir() {
            remove_below(&entry.path(), device)?;
            // A mount point inside keeps it.
            let _removed = fs::remove_dir(entry.path());
        } else {
            let _removed = fs::remove_file(entry.path());
        }
    }
    Ok(())
}
