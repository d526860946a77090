//! Everything between the request and the VMM's exec. What fails here leaves nothing behind.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hearth_types::mark::OWNER_ENV;
use hearth_types::observe::{ProcessRole, ROLE_ENV};
use rustix::fs::{FlockOperation, Gid, Mode, OFlags, Uid};
use rustix::io::FdFlags;
use rustix::process::{Resource, Rlimit};

use crate::cage::{self, Prepared};
use crate::identity::Instance;
use crate::record::Draft;
use crate::{CONSOLE_SOCKET, LAUNCHED, LOCK, LockHolder, REPORT, Reason, Request};

/// How long to wait for the shim of a VMM that is dying or dead: it is writing the exit
/// record and lets go of the lock then.
const LOCK_WAIT: Duration = Duration::from_secs(15);
/// How often the lock is tried meanwhile.
const LOCK_RETRY: Duration = Duration::from_millis(2);

/// Why nothing was started.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) reason: Reason,
    pub(crate) detail: String,
}

impl Failure {
    pub(crate) fn io(what: impl std::fmt::Display, error: &io::Error) -> Self {
        let reason = match error.kind() {
            io::ErrorKind::NotFound => Reason::Missing,
            _ => Reason::System,
        };
        Self {
            reason,
            detail: format!("cannot {what}: {error}"),
        }
    }
}

pub(crate) fn failed<E: Into<io::Error>>(
    what: impl std::fmt::Display,
) -> impl FnOnce(E) -> Failure {
    move |error| Failure::io(what, &error.into())
}

/// A started VMM and the ends of everything that goes to it.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) child: Child,
    pub(crate) console: UnixListener,
    pub(crate) report: OwnedFd,
    pub(crate) outlets: cage::Outlets,
    pub(crate) draft: Draft,
    pub(crate) lock: File,
    pub(crate) made: Made,
}

/// Socket files that were made for this run; they go when the run is over.
#[derive(Debug, Default)]
pub(crate) struct Made(Vec<String>);

impl Drop for Made {
    fn drop(&mut self) {
        for file in &self.0 {
            drop(std::fs::remove_file(file));
        }
    }
}

impl Made {
    fn listen(&mut self, file: &str) -> Result<UnixListener, Failure> {
        check_name(file)?;
        // The lock is ours, so a socket that is there has nobody behind it.
        match std::fs::remove_file(file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Failure::io(format!("remove the old socket {file}"), &error));
            }
            _ => {}
        }
        let listener =
            UnixListener::bind(file).map_err(failed(format!("listen on the socket {file}")))?;
        self.0.push(file.to_owned());
        Ok(listener)
    }
}

/// Prepares the folder and executes the VMM.
pub(crate) fn start(request: &Request) -> Result<Started, Failure> {
    if request.user == Some(0) {
        return Err(Failure {
            reason: Reason::Request,
            detail: "user 0 is root: a VMM gets a user of its own, or none is named".to_owned(),
        });
    }
    std::env::set_current_dir(&request.dir)
        .map_err(failed(format!("enter the VM's folder {}", request.dir)))?;
    let lock = take_lock(request)?;
    match std::fs::remove_file(LAUNCHED) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(Failure::io("remove the mark of the run before", &error));
        }
        _ => {}
    }
    let draft = Draft::new().map_err(failed("prepare the exit record"))?;
    match start_locked(request, &lock) {
        Ok((child, console, report, made, outlets)) => Ok(Started {
            child,
            console,
            report,
            outlets,
            draft,
            lock,
            made,
        }),
        Err(failure) => {
            draft.discard();
            Err(failure)
        }
    }
}

fn start_locked(
    request: &Request,
    lock: &File,
) -> Result<(Child, UnixListener, OwnedFd, Made, cage::Outlets), Failure> {
    let mut inherited: Vec<OwnedFd> = Vec::new();
    let mut numbers = BTreeMap::new();
    let mut made = Made::default();
    let mut pass = |name: &str, fd: OwnedFd| -> Result<(), Failure> {
        inherit(&fd)?;
        numbers.insert(name.to_owned(), fd.as_raw_fd());
        inherited.push(fd);
        Ok(())
    };
    for socket in &request.sockets {
        pass(&socket.name, made.listen(&socket.file)?.into())?;
    }
    for file in &request.files {
        pass(&file.name, open_readable(request, file.path.as_std_path())?)?;
    }
    for tap in &request.taps {
        let fd = crate::tap::attach(&tap.interface, request.user)
            .map_err(failed(format!("attach to TAP {}", tap.interface)))?;
        pass(&tap.name, fd)?;
    }
    let (report, report_in) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(failed("make a pipe"))?;
    pass(REPORT, report_in)?;
    let console = made.listen(CONSOLE_SOCKET)?;
    inherit(lock)?;
    hand_over(request)?;
    let (cage, outlets) = match &request.cage {
        Some(wanted) => {
            let (cage, outlets) = cage::prepare(request, wanted)?;
            (Some(cage), outlets)
        }
        None => (None, cage::Outlets::default()),
    };
    let child = execute(request, cage, &numbers)?;
    Ok((child, console, report, made, outlets))
}

/// Takes the folder's lock, waiting only for a shim whose VMM is dead.
fn take_lock(request: &Request) -> Result<File, Failure> {
    let lock = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(LOCK)
        .map_err(failed(format!("open {LOCK}")))?;
    let give_up = Instant::now() + LOCK_WAIT;
    loop {
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => break,
            Err(rustix::io::Errno::WOULDBLOCK) => {}
            Err(error) => return Err(Failure::io(format!("lock {LOCK}"), &error.into())),
        }
        let holder = holder();
        let ending = holder
            .as_ref()
            .and_then(|holder| holder.vmm.as_ref())
            .is_some_and(Instance::is_ending);
        if !ending || Instant::now() >= give_up {
            return Err(Failure {
                reason: Reason::AlreadyRunning,
                detail: holder.map_or_else(
                    || "its lock is held".to_owned(),
                    |holder| format!("its lock is held by shim {}", holder.shim.pid),
                ),
            });
        }
        std::thread::sleep(LOCK_RETRY);
    }
    sign(&lock, request, None)?;
    Ok(lock)
}

fn holder() -> Option<LockHolder> {
    serde_json::from_slice(&std::fs::read(LOCK).ok()?).ok()
}

/// Writes into the lock who holds it.
pub(crate) fn sign(lock: &File, request: &Request, vmm: Option<Instance>) -> Result<(), Failure> {
    let write = || -> io::Result<()> {
        let own = rustix::process::getpid().as_raw_nonzero().get();
        let holder = LockHolder {
            shim: Instance::of(own)?.ok_or_else(|| io::Error::other("no own process"))?,
            vmm,
            since: jiff::Timestamp::now(),
            driver: request.driver.clone(),
        };
        let mut text = serde_json::to_vec(&holder)?;
        text.push(b'\n');
        let mut file = lock;
        lock.set_len(0)?;
        io::Seek::rewind(&mut file)?;
        file.write_all(&text)
    };
    write().map_err(failed(format!("write {LOCK}")))
}

fn inherit(fd: impl AsFd) -> Result<(), Failure> {
    rustix::io::fcntl_setfd(fd, FdFlags::empty()).map_err(failed("pass a file on"))
}

pub(crate) fn check_name(file: &str) -> Result<(), Failure> {
    if file.is_empty() || file.contains('/') || file == "." || file == ".." {
        return Err(Failure {
            reason: Reason::Request,
            detail: format!("{file:?} is not a file name"),
        });
    }
    Ok(())
}

/// Opens a file that the VMM opens again by `/proc/self/fd/N` or in its cage. That asks for
/// permission on the file but not on the folders above it, so the file must be readable by
/// the VMM's uid.
pub(crate) fn open_readable(request: &Request, path: &Path) -> Result<OwnedFd, Failure> {
    let what = || format!("open {}", path.display());
    let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(failed(what()))?;
    let file = File::from(fd);
    let meta = file.metadata().map_err(failed(what()))?;
    // A disk of the VM's own may be a device of the pool.
    let own_disk = path.is_relative() && meta.file_type().is_block_device();
    if !meta.is_file() && !own_disk {
        return Err(Failure {
            reason: Reason::Request,
            detail: format!("{} is not a regular file", path.display()),
        });
    }
    if let Some(user) = request.user
        && meta.mode() & 0o004 == 0
    {
        // A file in the VM's own folder is for this VM only and may be handed to it. Any
        // other file is shared, and its owner has to say that it may be read.
        let ours = path.is_relative() || path.starts_with(&request.dir);
        if !ours {
            return Err(Failure {
                reason: Reason::System,
                detail: format!(
                    "{} is not readable by uid {user}; make it world-readable",
                    path.display()
                ),
            });
        }
        give(&file, user).map_err(failed(format!("hand over {}", path.display())))?;
    }
    Ok(file.into())
}

/// Gives the VM's own files to the VMM's uid, and lets it pass (not list, not write) the
/// folder.
fn hand_over(request: &Request) -> Result<(), Failure> {
    let lent = request.lent.iter().map(|file| (file, true));
    for (file, lent) in request.owned.iter().map(|file| (file, false)).chain(lent) {
        check_name(file)?;
        // O_PATH would not do: ownership is changed through the descriptor.
        let opened = rustix::fs::open(
            file.as_str(),
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK,
            Mode::empty(),
        )
        .map_err(failed(format!("open {}/{file}", request.dir)))?;
        let opened = File::from(opened);
        let meta = opened
            .metadata()
            .map_err(failed(format!("examine {file}")))?;
        let disk = meta.is_file() || meta.file_type().is_block_device();
        if !disk || (!lent && meta.nlink() != 1) {
            return Err(Failure {
                reason: Reason::Request,
                detail: format!(
                    "{}/{file} is not a plain file or a device with one name",
                    request.dir
                ),
            });
        }
        if let Some(user) = request.user.filter(|_| !lent) {
            give(&opened, user).map_err(failed(format!("hand over {file}")))?;
        }
    }
    let Some(user) = request.user else {
        return Ok(());
    };
    let folder = File::open(".").map_err(failed("open the VM's folder"))?;
    let mode = folder
        .metadata()
        .map_err(failed("examine the VM's folder"))?
        .mode();
    rustix::fs::fchown(&folder, None, Some(Gid::from_raw(user)))
        .and_then(|()| rustix::fs::fchmod(&folder, Mode::from_raw_mode((mode & 0o7707) | 0o010)))
        .map_err(failed("let the VMM pass its folder"))
}

fn give(file: &File, user: u32) -> rustix::io::Result<()> {
    rustix::fs::fchown(file, Some(Uid::from_raw(user)), Some(Gid::from_raw(user)))
}

/// The program's path as the VMM sees it.
pub(crate) fn program_of(request: &Request) -> PathBuf {
    match (&request.cage, request.program.file_name()) {
        (Some(_), Some(name)) => Path::new("/").join(name),
        _ => request.program.clone().into(),
    }
}

fn execute(
    request: &Request,
    cage: Option<Prepared>,
    numbers: &BTreeMap<String, i32>,
) -> Result<Child, Failure> {
    let mut args = Vec::with_capacity(request.args.len());
    for arg in &request.args {
        args.push(fill_in(arg, numbers)?);
    }
    // Both are inherited by the VMM. No dumps unless asked, and never new privileges.
    let most = request.core_bytes.unwrap_or(0);
    let core = Rlimit {
        current: Some(most),
        maximum: Some(most),
    };
    rustix::process::setrlimit(Resource::Core, core).map_err(failed("limit core dumps"))?;
    rustix::thread::set_no_new_privs(true).map_err(failed("forbid new privileges"))?;
    let mut command = Command::new(program_of(request));
    command
        .args(&args)
        .env_clear()
        .env(OWNER_ENV, request.mark.to_string())
        .env(ROLE_ENV, ProcessRole::Vmm.as_str())
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Some(score) = request.oom_score {
        let score = score.to_string();
        // First of all: a cage has no /proc, and without privileges the VMM could take it back.
        // SAFETY: between fork and exec the closure makes three system calls on strings that
        // were made before; it does not allocate.
        unsafe { command.pre_exec(move || give_oom_score(&score)) };
    }
    if let Some(cage) = cage {
        // SAFETY: between fork and exec the closure makes system calls on descriptors and
        // strings that were made before; it does not allocate.
        unsafe { command.pre_exec(move || cage.enter().map_err(Into::into)) };
    }
    if let Some(user) = request.user {
        let groups: Vec<Gid> = request.groups.iter().copied().map(Gid::from_raw).collect();
        // SAFETY: between fork and exec the closure makes three system calls and does not
        // allocate; the child has one thread, so changing the thread changes the process.
        unsafe {
            command.pre_exec(move || {
                let (uid, gid) = (Uid::from_raw(user), Gid::from_raw(user));
                rustix::thread::set_thread_groups(&groups)?;
                rustix::thread::set_thread_res_gid(gid, gid, gid)?;
                rustix::thread::set_thread_res_uid(uid, uid, uid)?;
                Ok(())
            });
        }
    }
    // Without any closure the child would be made by vfork, which returns a moment before the
    // child shows its new program: it would be identified as a shim.
    // SAFETY: between fork and exec the closure makes one system call and does not allocate.
    unsafe { command.pre_exec(crate::signals::let_through) };
    command
        .spawn()
        .map_err(failed(format!("execute {}", request.program)))
}

/// Sets how soon the kernel kills this process for want of memory.
fn give_oom_score(score: &str) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::open(c"/proc/self/oom_score_adj", flags, Mode::empty())?;
    rustix::io::write(&file, score.as_bytes())?;
    Ok(())
}

/// Replaces each `{fd:NAME}`.
fn fill_in(arg: &str, numbers: &BTreeMap<String, i32>) -> Result<String, Failure> {
    let mut filled = String::with_capacity(arg.len());
    let mut rest = arg;
    while let Some((before, after)) = rest.split_once("{fd:") {
        let number = after
            .split_once('}')
            .and_then(|(name, tail)| Some((numbers.get(name)?, tail)));
        let Some((number, tail)) = number else {
            return Err(Failure {
                reason: Reason::Request,
                detail: format!("argument {arg:?} names a file that is not passed"),
            });
        };
        filled.push_str(before);
        filled.push_str(&number.to_string());
        rest = tail;
    }
    filled.push_str(rest);
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_filled_in() {
        let numbers = BTreeMap::from([("a".to_owned(), 7), ("b".to_owned(), 12)]);
        let fill = |arg: &str| fill_in(arg, &numbers).map_err(|failure| failure.reason);
        assert_eq!(fill("x").unwrap(), "x");
        assert_eq!(fill("fd={fd:a},{fd:b}{fd:a}!").unwrap(), "fd=7,127!");
        assert_eq!(fill("{fd:c}"), Err(Reason::Request));
        assert_eq!(fill("{fd:a"), Err(Reason::Request));
    }
}
