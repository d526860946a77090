//! Loop devices: a file as a block device, for as long as somebody holds it open.
//!
//! Every device is attached with `LO_FLAGS_AUTOCLEAR`: the kernel detaches it when the last
//! user (our descriptor or a mount) goes away, so a daemon that is killed leaks nothing.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use linux_raw_sys::loop_device::{
    _bindgen_ty_1::{LO_FLAGS_AUTOCLEAR, LO_FLAGS_DIRECT_IO},
    LOOP_CONFIGURE, LOOP_CTL_GET_FREE, LOOP_GET_STATUS64, LOOP_SET_CAPACITY, loop_config,
    loop_info64,
};
use rustix::ioctl::{self, Getter, Ioctl, IoctlOutput, NoArg, Opcode, Setter};

/// How often a free device is asked for before we give up: between `LOOP_CTL_GET_FREE` and
/// `LOOP_CONFIGURE` another program may take it.
const ATTEMPTS: u32 = 64;

/// A loop device that could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum LoopError {
    /// `/dev/loop-control` cannot be used.
    #[error("cannot use /dev/loop-control (is the loop module loaded, and is this root?)")]
    Control(#[source] io::Error),
    /// The device node cannot be opened.
    #[error("cannot open {}", device.display())]
    Open {
        /// The device.
        device: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel refused the operation.
    #[error("cannot {action} loop device {}", device.display())]
    Device {
        /// What was tried.
        action: &'static str,
        /// The device.
        device: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Others were always faster.
    #[error("no free loop device after {ATTEMPTS} attempts")]
    Busy,
    /// Something still holds the device.
    #[error("{} is still in use after {} s", device.display(), waited.as_secs())]
    InUse {
        /// The device.
        device: PathBuf,
        /// How long we waited.
        waited: Duration,
    },
}

/// A loop device; detached by the kernel when this and every mount of it are gone.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
    device: File,
}

impl LoopDevice {
    /// Attaches a file, readable and writable, to a free loop device.
    ///
    /// # Errors
    /// When there is no loop support, no permission or no free device.
    pub fn attach(backing: BorrowedFd<'_>) -> Result<Self, LoopError> {
        Self::attach_with(backing, LO_FLAGS_AUTOCLEAR as u32)
    }

    /// The same past the page cache, where the file's file system can do that: what stands on the
    /// device is cached by those who use it, and needs no second copy in memory.
    ///
    /// # Errors
    /// As [`LoopDevice::attach`].
    pub fn attach_uncached(backing: BorrowedFd<'_>) -> Result<Self, LoopError> {
        Self::attach_with(
            backing,
            LO_FLAGS_AUTOCLEAR as u32 | LO_FLAGS_DIRECT_IO as u32,
        )
    }

    fn attach_with(backing: BorrowedFd<'_>, flags: u32) -> Result<Self, LoopError> {
        let control = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/loop-control")
            .map_err(LoopError::Control)?;
        for _ in 0..ATTEMPTS {
            // SAFETY: the request takes no argument and returns the device's number.
            let number = unsafe { ioctl::ioctl(&control, GetFree) }
                .map_err(|e| LoopError::Control(e.into()))?;
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let device = open(&path, false)?;
            match configure(&device, backing, flags) {
                Ok(()) => return Ok(Self { path, device }),
                Err(rustix::io::Errno::BUSY) => {}
                Err(error) => {
                    return Err(LoopError::Device {
                        action: "attach a file to",
                        device: path,
                        source: error.into(),
                    });
                }
            }
        }
        Err(LoopError::Busy)
    }

    /// The device node.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its major and minor number.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn number(&self) -> Result<(u32, u32), LoopError> {
        let stat = rustix::fs::fstat(&self.device).map_err(|e| self.failed("look at", e.into()))?;
        let device = stat.st_rdev;
        Ok((rustix::fs::major(device), rustix::fs::minor(device)))
    }

    /// Makes the device as large as its file has become.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn refresh_capacity(&self) -> Result<(), LoopError> {
        // SAFETY: LOOP_SET_CAPACITY takes no argument.
        unsafe { ioctl::ioctl(&self.device, NoArg::<LOOP_SET_CAPACITY>::new()) }
            .map_err(|e| self.failed("resize", e.into()))
    }

    /// Waits until nothing has the device mounted any more, then lets go of it. Unmounting has
    /// then written everything to the file; bringing that to the disk is the caller's `fsync`.
    ///
    /// # Errors
    /// When it is still in use at the deadline.
    pub fn release(self, deadline: Duration) -> Result<(), LoopError> {
        let end = Instant::now() + deadline;
        // An exclusive open fails while the kernel has the device mounted: the mount goes
        // away with the last descriptor of it, which a child between fork and exec may hold.
        loop {
            match open(&self.path, true) {
                Ok(_) => return Ok(()),
                Err(LoopError::Open { source, .. })
                    if source.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()) => {}
                Err(error) => return Err(error),
            }
            if Instant::now() >= end {
                return Err(LoopError::InUse {
                    device: self.path,
                    waited: deadline,
                });
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn failed(&self, action: &'static str, source: io::Error) -> LoopError {
        LoopError::Device {
            action,
            device: self.path.clone(),
            source,
        }
    }
}

impl AsFd for LoopDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

/// The file behind the block device of this number, by the device and the inode that `stat` tells of
/// it; `None` if that is no loop device, or has no file. Not by its name: that is the file's in the
/// mount namespace of whoever attached it, and says nothing when that namespace is gone.
///
/// # Errors
/// When the kernel does not tell.
pub fn backing_inode(major: u32, minor: u32) -> Result<Option<(u64, u64)>, LoopError> {
    let link = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    let name = match std::fs::read_link(&link) {
        Ok(target) => target.file_name().unwrap_or_default().to_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(LoopError::Device {
                action: "look at",
                device: link,
                source,
            });
        }
    };
    if !link.join("loop").exists() {
        return Ok(None);
    }
    let device = Path::new("/dev").join(name);
    let file = File::open(&device).map_err(|source| LoopError::Open {
        device: device.clone(),
        source,
    })?;
    // SAFETY: LOOP_GET_STATUS64 fills a struct loop_info64, for which any bytes are a value.
    match unsafe { ioctl::ioctl(&file, Getter::<LOOP_GET_STATUS64, loop_info64>::new()) } {
        Ok(info) => Ok(Some((info.lo_device, info.lo_inode))),
        // It was detached meanwhile.
        Err(rustix::io::Errno::NXIO) => Ok(None),
        Err(error) => Err(LoopError::Device {
            action: "ask the file of",
            device,
            source: error.into(),
        }),
    }
}

/// Makes the loop device of this number as large as its file has become, whoever attached it.
///
/// # Errors
/// When there is none, or the kernel refuses.
pub fn refresh_capacity(major: u32, minor: u32) -> Result<(), LoopError> {
    let link = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    let name = std::fs::read_link(&link)
        .map_err(|source| LoopError::Device {
            action: "look for",
            device: link,
            source,
        })?
        .file_name()
        .unwrap_or_default()
        .to_owned();
    let path = Path::new("/dev").join(name);
    let device = open(&path, false)?;
    LoopDevice { path, device }.refresh_capacity()
}

fn open(path: &Path, exclusive: bool) -> Result<File, LoopError> {
    let flags = if exclusive {
        rustix::fs::OFlags::EXCL.bits().cast_signed()
    } else {
        0
    };
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flags)
        .open(path)
        .map_err(|source| LoopError::Open {
            device: path.to_owned(),
            source,
        })
}

fn configure(device: &File, backing: BorrowedFd<'_>, flags: u32) -> rustix::io::Result<()> {
    // SAFETY: loop_config consists of integers and byte arrays, for which zero is a value.
    let mut config: loop_config = unsafe { std::mem::zeroed() };
    config.fd = backing.as_raw_fd().cast_unsigned();
    config.info.lo_flags = flags;
    // SAFETY: LOOP_CONFIGURE reads a struct loop_config.
    unsafe { ioctl::ioctl(device, Setter::<LOOP_CONFIGURE, loop_config>::new(config)) }
}

/// `LOOP_CTL_GET_FREE`: no argument; the answer is the return value.
struct GetFree;

// SAFETY: the request reads and writes no memory; the pointer is ignored by the kernel.
unsafe impl Ioctl for GetFree {
    type Output = i32;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        LOOP_CTL_GET_FREE
    }

    fn as_ptr(&mut self) -> *mut std::ffi::c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(
        out: IoctlOutput,
        _: *mut std::ffi::c_void,
    ) -> rustix::io::Result<Self::Output> {
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn a_device_is_free_again_when_nobody_holds_it() {
        if !rustix::process::geteuid().is_root() {
            println!("SKIP: loop devices need root");
            return;
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let device = LoopDevice::attach(file.as_file().as_fd()).unwrap();
        let name = device.path().file_name().unwrap().to_owned();
        let backing = Path::new("/sys/block")
            .join(&name)
            .join("loop/backing_file");
        assert_eq!(
            std::fs::read_to_string(&backing).unwrap().trim(),
            file.path().to_str().unwrap()
        );
        let (major, minor) = device.number().unwrap();
        let meta = file.as_file().metadata().unwrap();
        assert_eq!(
            backing_inode(major, minor).unwrap(),
            Some((meta.dev(), meta.ino()))
        );
        file.as_file().set_len(2 << 20).unwrap();
        device.refresh_capacity().unwrap();
        let sectors = std::fs::read_to_string(Path::new("/sys/block").join(&name).join("size"));
        assert_eq!(sectors.unwrap().trim(), "4096");
        device.release(Duration::from_secs(5)).unwrap();
        let still = std::fs::read_to_string(&backing).unwrap_or_default();
        assert_ne!(still.trim(), file.path().to_str().unwrap());
    }

    #[test]
    fn a_device_past_the_page_cache_shows_what_its_file_holds() {
        use std::io::Read as _;

        if !rustix::process::geteuid().is_root() {
            println!("SKIP: loop devices need root");
            return;
        }
        let mut file = tempfile::NamedTempFile::new().unwrap();
        io::Write::write_all(&mut file, &[7; 8192]).unwrap();
        file.as_file().sync_all().unwrap();
        let device = LoopDevice::attach_uncached(file.as_file().as_fd()).unwrap();
        let mut seen = [0; 16];
        let mut opened = File::open(device.path()).unwrap();
        opened.read_exact(&mut seen).unwrap();
        assert_eq!(seen, [7; 16]);
        assert_eq!(backing_inode(0, 0).unwrap(), None);
    }
}
