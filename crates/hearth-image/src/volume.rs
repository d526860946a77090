//! A root volume in the making: a sparse file with ext4 on it, mounted where nobody sees it.
//!
//! ```text
//! create ── sparse file, mke2fs, loop device, detached mount
//!    │
//!    ├─ reserve (any number) ── grows file, device and mounted file system when room is short
//!    │
//! finish ── final size, unmount, loop device free, fsync ──► root.img
//! ```
//!
//! Starting small and growing online makes the volume as small as its content (+10 % + 64 MiB)
//! without a second pass over it: nothing is ever moved or shrunk. Dropping it before `finish`
//! unmounts; the kernel frees the loop device. So does death of the process.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use hearth_host::command;
use hearth_host::loopdev::LoopDevice;
use hearth_host::mount::DetachedExt4;

use crate::ImageError;
use crate::unpack::Room;

/// Size of a block of the file system, in bytes.
const BLOCK: u64 = 4096;
/// Size at the start, in bytes: one that mke2fs makes in a few milliseconds.
const START: u64 = 256 << 20;
/// Smallest step of growth: one block group.
const STEP: u64 = 128 << 20;
/// Bytes that stay free while unpacking: blocks for folders, extents and delayed allocation.
const SLACK: u64 = 32 << 20;
/// Bytes left free for the guest before it grows the file system itself, besides a tenth.
const HEADROOM: u64 = 64 << 20;
/// Bytes to spare where the file system cannot grow while it is mounted. They cost nothing:
/// the file is sparse.
const FIXED_SPARE: u64 = 2 << 30;
/// `CAP_SYS_RESOURCE` of capabilities(7): ext4 wants it for growing online.
const CAP_SYS_RESOURCE: u32 = 24;
/// Inodes that stay free before growing.
const INODES: u64 = 1024;
/// How long mke2fs may take.
const MKFS_DEADLINE: Duration = Duration::from_secs(60);
/// How long the kernel may take to unmount after the last descriptor is gone.
const UNMOUNT_DEADLINE: Duration = Duration::from_secs(120);

/// For speed: a volume that is not finished is thrown away, so until then nothing needs to
/// survive a crash.
const OPTIONS: [(&str, &str); 5] = [
    ("data", "writeback"),
    ("nobarrier", ""),
    ("noauto_da_alloc", ""),
    ("commit", "300"),
    ("noinit_itable", ""),
];

/// The volume in the making.
pub(crate) struct Volume {
    // Fields drop in this order: the mount goes before the device.
    mount: DetachedExt4,
    device: LoopDevice,
    file: File,
    path: Utf8PathBuf,
    size: u64,
    largest: u64,
    /// Bytes and inodes that are known to be free.
    free: (u64, u64),
    /// Whether this process may grow a mounted file system.
    growable: bool,
}

impl Volume {
    /// Makes and mounts an empty volume at `path`. `content` is a guess at what goes in, in
    /// bytes; `largest` bounds what may.
    pub(crate) async fn create(
        path: Utf8PathBuf,
        content: u64,
        largest: u64,
    ) -> Result<Self, ImageError> {
        let content = content.min(largest);
        let growable = may_grow_mounted();
        let size = whole(START.max(if growable {
            content
        } else {
            content * 3 + FIXED_SPARE
        }));
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(ImageError::file("create", &path))?;
        file.set_len(size)
            .map_err(ImageError::file("size", &path))?;
        mkfs(&path).await?;
        let attach = move || {
            let device = LoopDevice::attach(file.as_fd())?;
            let mount = DetachedExt4::mount(device.path(), &OPTIONS)?;
            remove_lost_found(mount.as_fd())?;
            Ok(Self {
                mount,
                device,
                file,
                path,
                size,
                largest,
                free: (0, 0),
                growable,
            })
        };
        tokio::task::spawn_blocking(attach)
            .await
            .map_err(|e| ImageError::Volume(Box::new(e)))?
    }

    /// Unmounts, gives the volume its final size and writes it to the disk. Returns its size.
    pub(crate) fn finish(mut self) -> Result<u64, ImageError> {
        let (free, _) = self.measure()?;
        let used = self.size - free.min(self.size);
        let wanted = HEADROOM + used / 10;
        if free < wanted && self.growable {
            self.grow(wanted - free)?;
        }
        let Self {
            mount,
            device,
            file,
            path,
            size,
            ..
        } = self;
        // The file system's own flush, so that an error is seen and not swallowed by umount.
        let root = rustix::fs::openat(
            &mount,
            ".",
            rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )
        .map_err(|e| ImageError::file("open", &path)(e.into()))?;
        rustix::fs::syncfs(&root).map_err(|e| ImageError::file("write out", &path)(e.into()))?;
        drop(root);
        drop(mount);
        device.release(UNMOUNT_DEADLINE)?;
        file.sync_all()
            .map_err(ImageError::file("write out", &path))?;
        Ok(size)
    }

    fn measure(&self) -> Result<(u64, u64), ImageError> {
        let stat = rustix::fs::fstatvfs(&self.mount)
            .map_err(|e| ImageError::file("measure", &self.path)(e.into()))?;
        Ok((stat.f_bavail.saturating_mul(BLOCK), stat.f_favail))
    }

    fn grow(&mut self, by: u64) -> Result<(), ImageError> {
        let size = whole(self.size + by);
        if size > self.largest + 2 * HEADROOM + self.largest / 5 {
            return Err(ImageError::Limit {
                what: "the volume".to_owned(),
                limit: self.largest,
                unit: "bytes",
            });
        }
        self.file
            .set_len(size)
            .map_err(ImageError::file("grow", &self.path))?;
        self.device.refresh_capacity()?;
        self.mount.grow(size / BLOCK)?;
        self.size = size;
        Ok(())
    }
}

impl AsFd for Volume {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.mount.as_fd()
    }
}

/// Makes room in a volume that is borrowed apart from its root.
impl Room for Volume {
    fn reserve(&mut self, bytes: u64) -> Result<(), ImageError> {
        if bytes > self.free.0 || self.free.1 == 0 {
            let (mut free, mut inodes) = self.measure()?;
            let needed = bytes + SLACK;
            if free < needed || inodes < INODES {
                let by = (needed.saturating_sub(free)).max(STEP).max(self.size / 8);
                self.grow(by)?;
                (free, inodes) = self.measure()?;
            }
            // Small portions, because what is written takes more room than its bytes.
            let portion = (free.saturating_sub(SLACK) / 2).max(bytes);
            self.free = (portion, (inodes / 2).max(1));
        }
        self.free.0 = self.free.0.saturating_sub(bytes);
        self.free.1 -= 1;
        Ok(())
    }
}

async fn mkfs(path: &Utf8Path) -> Result<(), ImageError> {
    let block = BLOCK.to_string();
    let args = [
        "-q",
        "-F",
        "-t",
        "ext4",
        "-b",
        &block,
        "-I",
        "256",
        "-i",
        "16384",
        "-m",
        "0",
        "-J",
        "size=32",
        // What the guest's online growth needs, whatever the host's mke2fs.conf says.
        "-O",
        "resize_inode,64bit,flex_bg,metadata_csum,extents,dir_index,^meta_bg,^bigalloc,^casefold,^verity,^encrypt,^quota,^project,^orphan_file",
        "-E",
        "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0",
        path.as_str(),
    ];
    command::run("mke2fs", &args, b"", MKFS_DEADLINE)
        .await
        .map(drop)
        .map_err(|e| ImageError::Volume(Box::new(e)))
}

/// Root in a container may lack the right to grow a mounted ext4.
fn may_grow_mounted() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok())
        .is_some_and(|bits| bits & (1 << CAP_SYS_RESOURCE) != 0)
}

/// `lost+found` is mke2fs's, not the image's. e2fsck makes it again when it needs it.
fn remove_lost_found(root: BorrowedFd<'_>) -> Result<(), ImageError> {
    rustix::fs::unlinkat(root, "lost+found", rustix::fs::AtFlags::REMOVEDIR)
        .map_err(|error| ImageError::Volume(Box::new(io::Error::from(error))))
}

fn whole(bytes: u64) -> u64 {
    bytes.next_multiple_of(1 << 20)
}
