//! A root volume in the making: a sparse file, or a device of the pool, with ext4 on it, mounted where
//! nobody sees it.
//!
//! ```text
//! create ── sparse file, mke2fs, loop device, detached mount        (a device: no file, no loop device,
//!    │                                                               and mke2fs for the lowest layer only)
//!    │
//!    ├─ reserve (any number) ── grows file, device and mounted file system when room is short
//!    │
//! finish ── final size, unmount, loop device free, fsync ──► root.img
//! ```
//!
//! Starting small and growing makes the volume as small as its content (+10 % + 64 MiB)
//! without a second pass over it: nothing is ever moved or shrunk. Growing is online where the
//! kernel lets us (it asks for `CAP_SYS_RESOURCE`, which containers often lack), else by
//! unmounting, `resize2fs` and mounting again. Dropping the volume before `finish` unmounts; the
//! kernel frees the loop device. So does death of the process.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use camino::{Utf8Path, Utf8PathBuf};
use hearth_host::command;
use hearth_host::loopdev::LoopDevice;
use hearth_host::mount::DetachedExt4;
use rustix::fs::{Mode, OFlags};

use crate::ImageError;
use crate::layers::{LayerDevice, failed};
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
/// `CAP_SYS_RESOURCE` of capabilities(7): ext4 wants it for growing online.
const CAP_SYS_RESOURCE: u32 = 24;
/// Inodes that stay free before growing.
const INODES: u64 = 1024;
/// How long mke2fs may take.
const MKFS_DEADLINE: Duration = Duration::from_secs(60);
/// How long the kernel may take to unmount after the last descriptor is gone.
const UNMOUNT_DEADLINE: Duration = Duration::from_secs(120);
/// Between two looks at whether it has.
const BUSY_PAUSE: Duration = Duration::from_millis(5);

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
    /// None only while it grows offline.
    mounted: Option<Mounted>,
    /// Whether the kernel lets us grow it while it is mounted.
    online: bool,
    ground: Ground,
    path: Utf8PathBuf,
    size: u64,
    largest: u64,
    /// Bytes and inodes that are known to be free.
    free: (u64, u64),
}

/// What the file system is on.
enum Ground {
    File(File),
    Device(Arc<dyn LayerDevice>),
}

impl Ground {
    /// Makes it larger. On a blocking thread of tokio.
    fn resize(&self, path: &Utf8Path, size: u64) -> Result<(), ImageError> {
        match self {
            Self::File(file) => file.set_len(size).map_err(ImageError::file("grow", path)),
            Self::Device(device) => tokio::runtime::Handle::current()
                .block_on(device.grow(size))
                .map_err(failed),
        }
    }

    fn sync(&self, path: &Utf8Path) -> Result<(), ImageError> {
        match self {
            Self::File(file) => file.sync_all(),
            // A flush of the device: what the pool has of it is durable, too.
            Self::Device(device) => File::open(device.node()).and_then(|node| node.sync_all()),
        }
        .map_err(ImageError::file("write out", path))
    }
}

impl Volume {
    /// Mounts a device that a layer is unpacked on, with a file system made on it if it is a new one.
    pub(crate) async fn on_device(
        device: Arc<dyn LayerDevice>,
        new: bool,
        largest: u64,
    ) -> Result<Self, ImageError> {
        let (path, size) = (device.node().to_owned(), device.bytes().await);
        if new {
            mkfs(&path).await?;
        }
        Self::attach(Ground::Device(device), path, size, largest, new).await
    }

    /// The size of a device for the lowest layer of an image with so much content.
    pub(crate) fn first_size(content: u64) -> u64 {
        whole(START.max(content / 4))
    }

    async fn attach(
        ground: Ground,
        path: Utf8PathBuf,
        size: u64,
        largest: u64,
        new: bool,
    ) -> Result<Self, ImageError> {
        let attach = move || {
            let mounted = Mounted::new(&ground, &path)?;
            if new {
                remove_lost_found(mounted.mount.as_fd())?;
            }
            Ok(Self {
                mounted: Some(mounted),
                online: may_grow_mounted(),
                ground,
                path,
                size,
                largest,
                free: (0, 0),
            })
        };
        tokio::task::spawn_blocking(attach)
            .await
            .map_err(|e| ImageError::Volume(Box::new(e)))?
    }

    /// Makes and mounts an empty volume at `path`. `content` is a guess at what goes in, in
    /// bytes; `largest` bounds what may.
    pub(crate) async fn create(
        path: Utf8PathBuf,
        content: u64,
        largest: u64,
    ) -> Result<Self, ImageError> {
        let content = content.min(largest);
        let size = whole(START.max(content + content / 10 + HEADROOM + SLACK));
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(ImageError::file("create", &path))?;
        file.set_len(size)
            .map_err(ImageError::file("size", &path))?;
        mkfs(&path).await?;
        Self::attach(Ground::File(file), path, size, largest, true).await
    }

    /// The root of the mounted volume.
    pub(crate) fn root(&self) -> Result<OwnedFd, ImageError> {
        self.mounted()?.root(&self.path)
    }

    fn mounted(&self) -> Result<&Mounted, ImageError> {
        let lost = || ImageError::Volume("the volume was lost while it grew".into());
        self.mounted.as_ref().ok_or_else(lost)
    }

    /// Unmounts, gives the volume its final size and writes it to the disk. Returns its size.
    pub(crate) fn finish(mut self) -> Result<u64, ImageError> {
        let (free, _) = self.measure()?;
        let used = self.size - free.min(self.size);
        let wanted = HEADROOM + used / 10;
        if free < wanted && !self.grow(wanted - free)? {
            self.grow_offline(wanted - free)?;
        }
        let Self {
            mounted,
            ground,
            path,
            size,
            ..
        } = self;
        if let Some(mounted) = mounted {
            mounted.unmount(&path)?;
        }
        ground.sync(&path)?;
        Ok(size)
    }

    fn measure(&self) -> Result<(u64, u64), ImageError> {
        let stat = rustix::fs::fstatvfs(&self.mounted()?.mount)
            .map_err(|e| ImageError::file("measure", &self.path)(e.into()))?;
        Ok((stat.f_bavail.saturating_mul(BLOCK), stat.f_favail))
    }

    /// The size after growth, if the limit allows it.
    fn larger(&self, by: u64) -> Result<u64, ImageError> {
        let size = whole(self.size + by);
        if size > self.largest + 2 * HEADROOM + self.largest / 5 {
            return Err(ImageError::Limit {
                what: "the volume".to_owned(),
                limit: self.largest,
                unit: "bytes",
            });
        }
        Ok(size)
    }

    /// Grows online; false when the kernel does not let us.
    fn grow(&mut self, by: u64) -> Result<bool, ImageError> {
        if !self.online {
            return Ok(false);
        }
        let size = self.larger(by)?;
        self.ground.resize(&self.path, size)?;
        let mounted = self.mounted()?;
        mounted.device.refresh_capacity()?;
        match mounted.mount.grow(size / BLOCK) {
            Ok(()) => {
                self.size = size;
                Ok(true)
            }
            Err(error) if error.is_permission() => {
                tracing::debug!("no permission to grow ext4 online (CAP_SYS_RESOURCE)");
                self.online = false;
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Grows while unmounted. Nothing on the volume may be open. On a blocking thread of tokio.
    fn grow_offline(&mut self, by: u64) -> Result<(), ImageError> {
        let size = self.larger(by)?;
        if let Some(mounted) = self.mounted.take() {
            mounted.unmount(&self.path)?;
        }
        self.ground.resize(&self.path, size)?;
        // -f: no check first; this kernel has just unmounted it.
        let args = ["-f", self.path.as_str()];
        tokio::runtime::Handle::current()
            .block_on(command::run("resize2fs", &args, b"", MKFS_DEADLINE))
            .map_err(|e| ImageError::Volume(Box::new(e)))?;
        self.size = size;
        self.mounted = Some(Mounted::new(&self.ground, &self.path)?);
        Ok(())
    }
}

/// The mount and the device under it.
struct Mounted {
    // Fields drop in this order: the mount goes before the device.
    mount: DetachedExt4,
    device: Under,
}

/// The block device under a mount.
enum Under {
    Loop(LoopDevice),
    Block(Utf8PathBuf),
}

impl Under {
    fn refresh_capacity(&self) -> Result<(), ImageError> {
        match self {
            Self::Loop(device) => Ok(device.refresh_capacity()?),
            // It is as large as its table, at once.
            Self::Block(_) => Ok(()),
        }
    }

    /// Waits until nobody uses it: the kernel unmounts when the last descriptor is gone.
    fn release(self) -> Result<(), ImageError> {
        let node = match self {
            Self::Loop(device) => return Ok(device.release(UNMOUNT_DEADLINE)?),
            Self::Block(node) => node,
        };
        let end = Instant::now() + UNMOUNT_DEADLINE;
        loop {
            // O_EXCL of a block device: refused as long as it is mounted (open(2)).
            let opened = rustix::fs::open(
                node.as_std_path(),
                OFlags::RDONLY | OFlags::EXCL | OFlags::CLOEXEC,
                Mode::empty(),
            );
            match opened {
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::BUSY) if Instant::now() < end => {
                    std::thread::sleep(BUSY_PAUSE);
                }
                Err(error) => return Err(ImageError::file("unmount", &node)(error.into())),
            }
        }
    }
}

impl Mounted {
    fn new(ground: &Ground, path: &Utf8Path) -> Result<Self, ImageError> {
        let device = match ground {
            Ground::File(file) => Under::Loop(LoopDevice::attach(file.as_fd())?),
            Ground::Device(_) => {
                let opened = File::options().read(true).write(true).open(path);
                let file = opened.map_err(ImageError::file("open", path))?;
                let meta = file.metadata().map_err(ImageError::file("look at", path))?;
                match meta.file_type().is_block_device() {
                    true => Under::Block(path.to_owned()),
                    // What stands for a device where there is no device-mapper.
                    false => Under::Loop(LoopDevice::attach(file.as_fd())?),
                }
            }
        };
        let node = match &device {
            Under::Loop(device) => device.path(),
            Under::Block(node) => node.as_std_path(),
        };
        let mount = DetachedExt4::mount(node, &OPTIONS)?;
        Ok(Self { mount, device })
    }

    fn root(&self, path: &Utf8Path) -> Result<OwnedFd, ImageError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(&self.mount, ".", flags, Mode::empty())
            .map_err(|e| ImageError::file("open", path)(e.into()))
    }

    /// Unmounts and lets go of the device; the file then has everything, in memory at least.
    fn unmount(self, path: &Utf8Path) -> Result<(), ImageError> {
        // The file system's own flush, so that an error is seen and not swallowed by umount.
        rustix::fs::syncfs(self.root(path)?)
            .map_err(|e| ImageError::file("write out", path)(e.into()))?;
        drop(self.mount);
        self.device.release()
    }
}

impl Room for Volume {
    fn reserve(&mut self, bytes: u64) -> Result<bool, ImageError> {
        if bytes > self.free.0 || self.free.1 == 0 {
            let (free, inodes) = self.measure()?;
            if free < bytes + SLACK || inodes < INODES {
                let by = self.step(bytes, free);
                if !self.grow(by)? {
                    return Ok(false);
                }
            }
            self.portion(bytes)?;
        }
        self.free.0 = self.free.0.saturating_sub(bytes);
        self.free.1 -= 1;
        Ok(true)
    }

    fn enlarge(&mut self, bytes: u64) -> Result<OwnedFd, ImageError> {
        let (free, _) = self.measure()?;
        self.grow_offline(self.step(bytes, free))?;
        self.portion(bytes)?;
        self.root()
    }
}

impl Volume {
    fn step(&self, bytes: u64, free: u64) -> u64 {
        // Offline growth takes longer, so it is done less often.
        let share = if self.online { 8 } else { 4 };
        (bytes + SLACK)
            .saturating_sub(free)
            .max(STEP)
            .max(self.size / share)
    }

    /// Hands out a part of what is free, because what is written takes more room than its bytes.
    fn portion(&mut self, bytes: u64) -> Result<(), ImageError> {
        let (free, inodes) = self.measure()?;
        let portion = (free.saturating_sub(SLACK) / 2).max(bytes);
        self.free = (portion, (inodes / 2).max(1));
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
