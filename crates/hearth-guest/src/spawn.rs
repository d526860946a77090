//! Starts programs of the image: looks everything up first, so that what is wrong is said by
//! name and not as the errno of an exec.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use hearth_guest_proto::message::ErrorCode;
use rustix::fs::{Gid, Uid};
use rustix::process::{ioctl_tiocsctty, setsid};
use rustix::thread::{set_thread_gid, set_thread_groups, set_thread_uid};

use crate::users::{self, User};

/// What docker gives programs when the image says nothing.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why a program cannot be started.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) code: ErrorCode,
    pub(crate) message: String,
}

impl Refusal {
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

/// What to start.
#[derive(Debug, Default)]
pub(crate) struct Launch {
    pub(crate) argv: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) workdir: Option<String>,
    pub(crate) user: Option<String>,
    pub(crate) hostname: String,
    pub(crate) tty: bool,
    /// Make the working folder when it is missing, as for an image's entrypoint.
    pub(crate) make_workdir: bool,
}

/// A program's three files.
#[derive(Debug)]
pub(crate) struct Files {
    pub(crate) stdin: Stdio,
    pub(crate) stdout: Stdio,
    pub(crate) stderr: Stdio,
}

/// `K=V` strings as pairs.
pub(crate) fn pairs(env: &[String]) -> Vec<(String, String)> {
    env.iter()
        .filter_map(|line| line.split_once('='))
        .filter(|(key, value)| !key.is_empty() && !value.contains('\0'))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// Starts a program as the leader of a session of its own.
pub(crate) fn spawn(launch: &Launch, files: Files) -> Result<Child, Refusal> {
    let Some(name) = launch.argv.first().filter(|name| !name.is_empty()) else {
        return Err(Refusal::new(
            ErrorCode::Invalid,
            "no program given: the image has no entrypoint or command, and none was asked for",
        ));
    };
    let user = users::resolve(launch.user.as_deref().unwrap_or_default())
        .map_err(|message| Refusal::new(ErrorCode::NoSuchUser, message))?;
    let env = environment(launch, &user);
    let workdir = working_folder(launch)?;
    let path = env.get("PATH").map_or(DEFAULT_PATH, String::as_str);
    let program = find_program(name, path, &workdir)?;
    let mut command = Command::new(&program);
    command
        .arg0(name)
        .args(&launch.argv[1..])
        .env_clear()
        .envs(&env);
    command
        .stdin(files.stdin)
        .stdout(files.stdout)
        .stderr(files.stderr);
    become_user(&mut command, user, launch.tty, workdir);
    command.spawn().map_err(|error| {
        let code = match error.kind() {
            io::ErrorKind::NotFound => ErrorCode::NotFound,
            _ => ErrorCode::NotPermitted,
        };
        Refusal::new(code, format!("cannot run {}: {error}", program.display()))
    })
}

fn environment(launch: &Launch, user: &User) -> BTreeMap<String, String> {
    let mut env: BTreeMap<String, String> = launch.env.iter().cloned().collect();
    let mut default = |key: &str, value: &str| {
        env.entry(key.to_owned())
            .or_insert_with(|| value.to_owned());
    };
    default("PATH", DEFAULT_PATH);
    default("HOME", &user.home);
    default("HOSTNAME", &launch.hostname);
    if launch.tty {
        default("TERM", "xterm");
    }
    env
}

fn working_folder(launch: &Launch) -> Result<PathBuf, Refusal> {
    let folder = match launch.workdir.as_deref() {
        None | Some("") => "/",
        Some(folder) => folder,
    };
    if !folder.starts_with('/') {
        return Err(Refusal::new(
            ErrorCode::Invalid,
            format!("the working folder {folder:?} is not an absolute path"),
        ));
    }
    if launch.make_workdir && !Path::new(folder).exists() {
        fs::create_dir_all(folder).map_err(|error| {
            let message = format!("cannot make the working folder {folder:?}: {error}");
            Refusal::new(ErrorCode::NotPermitted, message)
        })?;
    }
    match fs::metadata(folder) {
        Ok(found) if found.is_dir() => Ok(folder.into()),
        Ok(_) => Err(Refusal::new(
            ErrorCode::Invalid,
            format!("the working folder {folder:?} is a file"),
        )),
        Err(error) => Err(Refusal::new(
            ErrorCode::Invalid,
            format!("the working folder {folder:?}: {error}"),
        )),
    }
}

fn find_program(name: &str, path: &str, workdir: &Path) -> Result<PathBuf, Refusal> {
    let mut forbidden = None;
    let folders: Vec<PathBuf> = if name.contains('/') {
        vec![workdir.to_owned()]
    } else {
        std::env::split_paths(path)
            .map(|folder| workdir.join(folder))
            .collect()
    };
    for folder in folders {
        // An absolute name replaces the folder.
        let candidate = folder.join(name);
        match fs::metadata(&candidate) {
            Ok(found) if found.is_file() && found.permissions().mode() & 0o111 != 0 => {
                return Ok(candidate);
            }
            Ok(_) => forbidden = Some(candidate),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                forbidden = Some(candidate);
            }
            Err(_) => {}
        }
    }
    Err(match forbidden {
        Some(candidate) => Refusal::new(
            ErrorCode::NotPermitted,
            format!("{} is no program that can be run", candidate.display()),
        ),
        None if name.contains('/') => Refusal::new(
            ErrorCode::NotFound,
            format!("no such file in the image: {name}"),
        ),
        None => Refusal::new(
            ErrorCode::NotFound,
            format!("executable file {name:?} not found in PATH ({path})"),
        ),
    })
}

fn become_user(command: &mut Command, user: User, tty: bool, workdir: PathBuf) {
    let groups: Vec<Gid> = user.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    let change = move || -> io::Result<()> {
        setsid()?;
        if tty {
            // SAFETY: descriptor 0 is open: it was set up as the child's stdin just before.
            let stdin = unsafe { BorrowedFd::borrow_raw(0) };
            // A console that cannot be a controlling terminal is still good for output.
            let _attached = ioctl_tiocsctty(stdin);
        }
        if !is_plain_root(&user) || rustix::process::getuid().is_root() {
            set_thread_groups(&groups)?;
            set_thread_gid(Gid::from_raw(user.gid))?;
            set_thread_uid(Uid::from_raw(user.uid))?;
        }
        rustix::process::chdir(Path::new(std::ffi::OsStr::from_bytes(
            workdir.as_os_str().as_bytes(),
        )))?;
        Ok(())
    };
    // SAFETY: after the fork `change` makes system calls only: it takes no lock, and the one
    // path it passes on is short enough to be copied to the stack.
    unsafe { command.pre_exec(change) };
}

fn is_plain_root(user: &User) -> bool {
    user.uid == 0 && user.gid == 0
}
