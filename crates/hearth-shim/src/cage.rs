//! A root folder of its own for a VMM.
//!
//! ```text
//!  shim   tmpfs made, detached ─► files bound, detached ─► nodes, pipes, sockets in it
//!  child  own mount, IPC and UTS namespaces ─► all attached ─► pivot_root ─► the old root let go
//! ```
//! Everything is opened and checked before the fork and moved by descriptor after it, so no
//! path is resolved twice. The mounts exist in the namespace of the VMM only: they go with
//! it, whoever else has died.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::fs::{CWD, FileType, Gid, Mode, OFlags, Uid, makedev, mkdirat, mknodat, openat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
    mount_change, mount_remount, move_mount, open_tree, unmount,
};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::setup::{Failure, check_name, failed, open_readable};
use crate::{CAGE_RUN, Cage, Reason, Request};

/// Memory that the cage's own file system may take: it holds names, not data.
const SIZE: &str = "1m";
/// Files in it.
const INODES: &str = "256";
/// Where the libraries of a program that is not static are.
const LIBRARIES: [&str; 4] = ["/usr/lib", "/usr/lib64", "/lib", "/lib64"];
/// Where the loader looks them up.
const LOADER_CACHE: &str = "/etc/ld.so.cache";
/// `PT_INTERP` of elf.h: the program needs a loader.
const PT_INTERP: u32 = 3;

/// What comes out of a cage.
#[derive(Debug, Default)]
pub(crate) struct Outlets {
    pub(crate) log: Option<OwnedFd>,
    pub(crate) metrics: Option<OwnedFd>,
    pub(crate) report: Option<UnixListener>,
    /// The folder with the sockets that the VMM makes.
    pub(crate) run: Option<OwnedFd>,
}

/// A cage that waits for its inhabitant.
#[derive(Debug)]
pub(crate) struct Prepared {
    root: OwnedFd,
    mounts: Vec<Bound>,
}

#[derive(Debug)]
struct Bound {
    mount: OwnedFd,
    /// Relative to the root.
    name: CString,
    flags: MountFlags,
}

/// Makes everything that can be made before the fork.
pub(crate) fn prepare(request: &Request, wanted: &Cage) -> Result<(Prepared, Outlets), Failure> {
    let root = new_root().map_err(failed("make a cage for the VMM"))?;
    let program = request.program.file_name().unwrap_or_default();
    let mut cage = Prepared {
        root,
        mounts: Vec::new(),
    };
    let what = format!("open {}", request.program);
    let mut binary = File::open(&request.program).map_err(failed(what))?;
    if needs_loader(&mut binary).map_err(failed(format!("read {}", request.program)))? {
        cage.libraries()
            .map_err(failed("show the VMM its libraries"))?;
    }
    cage.bind_file(program, &binary.into(), false)?;
    for file in &wanted.files {
        check_name(&file.name)?;
        let opened = if file.writable {
            open_own(request, file.path.as_str())?
        } else {
            open_readable(request, file.path.as_std_path())?
        };
        cage.bind_file(&file.name, &opened, file.writable)?;
    }
    for device in &wanted.devices {
        cage.device(device, request.user)
            .map_err(failed(format!("give the VMM /dev/{device}")))?;
    }
    let outlets = cage.run(request, wanted)?;
    Ok((cage, outlets))
}

/// A detached, empty, small file system.
fn new_root() -> rustix::io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in [("size", SIZE), ("nr_inodes", INODES), ("mode", "0755")] {
        fsconfig_set_string(&context, key, value)?;
    }
    fsconfig_create(&context)?;
    fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC,
    )
}

/// One of the VM's own files, which the VMM was given.
fn open_own(request: &Request, path: &str) -> Result<OwnedFd, Failure> {
    let mut own = request.owned.iter().chain(&request.lent);
    if !own.any(|own| own == path) {
        return Err(Failure {
            reason: Reason::Request,
            detail: format!("{path:?} is not a file of this VM"),
        });
    }
    rustix::fs::open(
        path,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(failed(format!("open {}/{path}", request.dir)))
}

impl Prepared {
    /// Moves the calling process into the cage. Safe between fork and exec: it allocates
    /// nothing.
    pub(crate) fn enter(&self) -> rustix::io::Result<()> {
        // SAFETY: the file descriptor table is not unshared, so no descriptor that other
        // code believes to be shared is affected.
        unsafe {
            unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS)?;
        }
        mount_change(
            c"/",
            MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
        )?;
        // Over the VM's folder, which is the working folder: in this namespace nobody needs it.
        attach(&self.root, CWD, c".")?;
        for bound in &self.mounts {
            attach(&bound.mount, &self.root, &bound.name)?;
        }
        rustix::process::fchdir(&self.root)?;
        for bound in &self.mounts {
            mount_remount(&*bound.name, bound.flags | MountFlags::BIND, c"")?;
        }
        rustix::process::pivot_root(c".", c".")?;
        unmount(c".", UnmountFlags::DETACH)?;
        rustix::process::chdir(c"/")
    }

    fn bind_file(&mut self, name: &str, file: &OwnedFd, writable: bool) -> Result<(), Failure> {
        let mut flags = MountFlags::NOSUID | MountFlags::NODEV;
        let shown = failed(format!("look at {name}"));
        if FileType::from_raw_mode(rustix::fs::fstat(file).map_err(shown)?.st_mode)
            == FileType::BlockDevice
        {
            // A disk that is a device: the mount is of this one name, so it lets no other through.
            flags -= MountFlags::NODEV;
        }
        if !writable {
            flags |= MountFlags::RDONLY;
        }
        touch(&self.root, name)
            .and_then(|()| self.bind(name, file, flags))
            .map_err(failed(format!("show {name} to the VMM")))
    }

    /// Remembers a mount of `source` for the existing `name`.
    fn bind(&mut self, name: &str, source: &OwnedFd, flags: MountFlags) -> rustix::io::Result<()> {
        let mount = open_tree(
            source,
            c"",
            OpenTreeFlags::OPEN_TREE_CLONE
                | OpenTreeFlags::OPEN_TREE_CLOEXEC
                | OpenTreeFlags::AT_EMPTY_PATH,
        )?;
        self.mounts.push(Bound {
            mount,
            name: CString::new(name).map_err(|_| rustix::io::Errno::INVAL)?,
            flags,
        });
        Ok(())
    }

    fn libraries(&mut self) -> rustix::io::Result<()> {
        let read_only = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
        for library in LIBRARIES {
            let name = library.trim_start_matches('/');
            let path = Path::new(library);
            if let Ok(target) = std::fs::read_link(path) {
                rustix::fs::symlinkat(&target, &self.root, name)?;
            } else if path.is_dir() {
                folders(&self.root, name)?;
                mkdirat(&self.root, name, Mode::from_raw_mode(0o755))?;
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let source = rustix::fs::open(path, flags, Mode::empty())?;
                self.bind(name, &source, read_only)?;
            }
        }
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        if let Ok(cache) = rustix::fs::open(LOADER_CACHE, flags, Mode::empty()) {
            let name = LOADER_CACHE.trim_start_matches('/');
            folders(&self.root, name)?;
            touch(&self.root, name)?;
            self.bind(name, &cache, read_only)?;
        }
        Ok(())
    }

    /// A node of its own that is the VMM's alone; where the kernel forbids new nodes, the
    /// host's.
    fn device(&mut self, device: &str, user: Option<u32>) -> io::Result<()> {
        if device
            .split('/')
            .any(|part| matches!(part, "" | "." | ".."))
        {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let host = Path::new("/dev").join(device);
        let source = rustix::fs::open(&host, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let number = File::from(source.try_clone()?).metadata()?.rdev();
        let name = format!("dev/{device}");
        folders(&self.root, &name)?;
        let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
        let mode = Mode::from_raw_mode(0o600);
        let made = mknodat(
            &self.root,
            &name,
            FileType::CharacterDevice,
            mode,
            makedev(major, minor),
        );
        match made {
            Ok(()) => give(&self.root, &name, user)?,
            Err(rustix::io::Errno::PERM) => {
                touch(&self.root, &name)?;
                self.bind(&name, &source, MountFlags::NOSUID | MountFlags::NOEXEC)?;
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// The folder that the VMM may write to, with what it finds there.
    fn run(&self, request: &Request, wanted: &Cage) -> Result<Outlets, Failure> {
        let names = [&wanted.log, &wanted.metrics, &wanted.report];
        for name in names.into_iter().flatten() {
            check_name(name)?;
        }
        let make = || -> io::Result<Outlets> {
            mkdirat(&self.root, CAGE_RUN, Mode::from_raw_mode(0o700))?;
            let pipe = |name: &String| self.pipe(name, request.user);
            let outlets = Outlets {
                log: wanted.log.as_ref().map(pipe).transpose()?,
                metrics: wanted.metrics.as_ref().map(pipe).transpose()?,
                report: match &wanted.report {
                    Some(name) => Some(self.listen(name, request.user)?),
                    None => None,
                },
                run: None,
            };
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let run = openat(&self.root, CAGE_RUN, flags, Mode::empty())?;
            let outlets = Outlets {
                run: Some(run),
                ..outlets
            };
            // Everything is given away last: a shim with few capabilities may not enter then.
            give(&self.root, CAGE_RUN, request.user)?;
            Ok(outlets)
        };
        make().map_err(failed("make the VMM's pipes and sockets"))
    }

    /// A named pipe; both ends stay open here, so it is never hung up.
    fn pipe(&self, name: &str, user: Option<u32>) -> io::Result<OwnedFd> {
        let path = format!("{CAGE_RUN}/{name}");
        let mode = Mode::from_raw_mode(0o600);
        mknodat(&self.root, &path, FileType::Fifo, mode, 0)?;
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let both_ends = openat(&self.root, &path, flags, Mode::empty())?;
        give(&self.root, &path, user)?;
        Ok(both_ends)
    }

    fn listen(&self, name: &str, user: Option<u32>) -> io::Result<UnixListener> {
        let path = format!("{CAGE_RUN}/{name}");
        let root = self.root.as_raw_fd();
        let listener = UnixListener::bind(format!("/proc/self/fd/{root}/{path}"))?;
        give(&self.root, &path, user)?;
        Ok(listener)
    }
}

fn attach(
    mount: &OwnedFd,
    folder: impl std::os::fd::AsFd,
    name: &std::ffi::CStr,
) -> rustix::io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(mount, c"", folder, name, flags)
}

/// An empty file to mount something on.
fn touch(root: &OwnedFd, name: &str) -> rustix::io::Result<()> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    openat(root, name, flags, Mode::from_raw_mode(0o400)).map(drop)
}

/// The folders above `name`.
fn folders(root: &OwnedFd, name: &str) -> rustix::io::Result<()> {
    for (at, _) in name.match_indices('/') {
        match mkdirat(root, &name[..at], Mode::from_raw_mode(0o755)) {
            Ok(()) => {
                // The umask of the shim lets nobody in.
                let mode = Mode::from_raw_mode(0o755);
                rustix::fs::chmodat(root, &name[..at], mode, rustix::fs::AtFlags::empty())?;
            }
            Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn give(root: &OwnedFd, name: &str, user: Option<u32>) -> rustix::io::Result<()> {
    let Some(user) = user else {
        return Ok(());
    };
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    let (uid, gid) = (Uid::from_raw(user), Gid::from_raw(user));
    rustix::fs::chownat(root, name, Some(uid), Some(gid), flags)
}

/// Whether an ELF program of 64 bits names a loader. What is no such program is for exec to
/// refuse.
fn needs_loader(program: &mut File) -> io::Result<bool> {
    let mut header = Vec::new();
    program.by_ref().take(64).read_to_end(&mut header)?;
    if header.len() < 64 || !header.starts_with(b"\x7fELF\x02\x01") {
        return Ok(false);
    }
    let half = |bytes: &[u8], at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let (size, count) = (u64::from(half(&header, 54)), half(&header, 56));
    let mut start = [0; 8];
    start.copy_from_slice(&header[32..40]);
    program.seek(SeekFrom::Start(u64::from_le_bytes(start)))?;
    let mut table = Vec::new();
    program
        .by_ref()
        .take(size * u64::from(count))
        .read_to_end(&mut table)?;
    let entries = table.chunks_exact(usize::try_from(size.max(4)).unwrap_or(usize::MAX));
    Ok(entries
        .map(|entry| u32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]))
        .any(|kind| kind == PT_INTERP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_with_a_loader_is_known() {
        let mut own = File::open("/proc/self/exe").unwrap();
        let dynamic = std::fs::read_to_string("/proc/self/maps")
            .unwrap()
            .contains("ld-linux");
        assert_eq!(needs_loader(&mut own).unwrap(), dynamic);
        let mut text = File::open("/proc/self/stat").unwrap();
        assert!(!needs_loader(&mut text).unwrap());
    }
}
