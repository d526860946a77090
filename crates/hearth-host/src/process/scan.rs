//! One pass over `/proc` for the processes of one installation.

use std::mem::MaybeUninit;

use hearth_types::ids::InstallationId;
use hearth_types::mark::OWNER_ENV;
use hearth_types::observe::{ObservedProcess, ProcessRole, ROLE_ENV};
use hearth_types::process::ProcessIdentity;
use rustix::fs::RawDir;

use super::ProcessError;
use super::procfs::{Environ, Proc, mark_in, variable};
use crate::boot::{BootId, boot_time, ticks_to_time};

/// Finds every living process that carries the mark of `installation`.
///
/// Costs one open, read and close per process on the host and no allocation for those
/// that are not ours. A process that ends meanwhile is simply not listed.
///
/// # Errors
/// When any process could not be looked at and is not provably somebody else's: a partial
/// answer would be read as "the others are gone".
pub fn survey(installation: InstallationId) -> Result<Vec<ObservedProcess>, ProcessError> {
    let boot_id = String::from(BootId::current()?);
    let boot = boot_time();
    let proc = Proc::open()?;
    let needle = format!("{OWNER_ENV}={installation}:");
    let mut foreigners = Foreigners::default();
    let mut environ_buffer = vec![0; 64 << 10];
    let mut found = Vec::new();
    for pid in pids(&proc)? {
        let environ = match proc.environ(pid, &mut environ_buffer) {
            Ok(Environ::Is(environ)) => environ,
            Ok(Environ::Gone | Environ::NoProgram) => continue,
            Err(_) if foreigners.include(&proc, pid)? => continue,
            Err(error) => return Err(error),
        };
        if !environ
            .split(|&byte| byte == 0)
            .any(|entry| entry.starts_with(needle.as_bytes()))
        {
            continue;
        }
        let (Some(mark), Some(role)) = (mark_in(environ), role_in(environ)) else {
            continue;
        };
        if mark.installation != installation {
            continue;
        }
        let (Some(exe), Some(stat)) = (proc.exe(pid)?, proc.stat(pid)?) else {
            continue;
        };
        found.push(ObservedProcess {
            identity: ProcessIdentity {
                boot_id: boot_id.clone(),
                pid,
                start_time: stat.start_time,
                exe,
                mark,
            },
            role,
            started_at: ticks_to_time(boot, stat.start_time),
            suspended: stat.suspended,
        });
    }
    Ok(found)
}

fn pids(proc: &Proc) -> Result<Vec<i32>, ProcessError> {
    let failed = |error: rustix::io::Errno| ProcessError::Read {
        file: String::new(),
        source: error.into(),
    };
    let mut buffer = [MaybeUninit::uninit(); 32 << 10];
    let mut entries = RawDir::new(proc.dir(), &mut buffer);
    let mut pids = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_str().ok();
        if let Some(pid) = name.and_then(|name| name.parse().ok()) {
            pids.push(pid);
        }
    }
    Ok(pids)
}

/// Tells which processes that may not be looked into are certainly none that we started.
///
/// - Process 1 is the init of this pid namespace.
/// - Without root nothing can be started under another uid; what belongs to another uid,
///   or is shown as root's because it may not be looked into, is not ours.
/// - Nobody can give a capability that he has not: what may do more than we is not ours.
///   Security modules and user namespaces hide exactly such processes.
#[derive(Debug, Default)]
struct Foreigners {
    own_capabilities: Option<u64>,
}

impl Foreigners {
    fn include(&mut self, proc: &Proc, pid: i32) -> Result<bool, ProcessError> {
        if pid == 1 {
            return Ok(true);
        }
        let own_uid = rustix::process::geteuid();
        if !own_uid.is_root() {
            return Ok(proc.owner(pid)?.is_none_or(|uid| uid != own_uid.as_raw()));
        }
        let ours = match self.own_capabilities {
            Some(known) => known,
            None => {
                let own_pid = rustix::process::getpid().as_raw_nonzero().get();
                let known = proc.capabilities(own_pid)?.unwrap_or(u64::MAX);
                *self.own_capabilities.insert(known)
            }
        };
        Ok(proc
            .capabilities(pid)?
            .is_none_or(|theirs| theirs & !ours != 0))
    }
}

fn role_in(environ: &[u8]) -> Option<ProcessRole> {
    let role = variable(environ, ROLE_ENV)?;
    ProcessRole::ALL
        .into_iter()
        .find(|known| known.as_str() == role)
}
