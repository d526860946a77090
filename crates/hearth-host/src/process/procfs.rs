//! Reading `/proc/<pid>/…` without surprises: bounded, and a vanished process is `None`.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use hearth_types::OwnerMark;
use hearth_types::mark::OWNER_ENV;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::ProcessError;

/// Most that is read of an environment, in bytes. The kernel's own limit on arguments plus
/// environment is 6 MiB in practice (`3/4 * _STK_LIM`, fs/exec.c); ours are below 1 KiB.
const ENVIRON_MAX: usize = 8 << 20;

/// What is needed of `/proc/<pid>/stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stat {
    /// Field 22: clock ticks after boot.
    pub(super) start_time: u64,
    /// Field 51 is zero: the process is within an exec and has no environment yet.
    in_exec: bool,
    /// State T (a signal stopped it) or t (a debugger did).
    pub(super) suspended: bool,
    /// State D: its main thread waits in the kernel and hears no signal.
    pub(super) stuck: bool,
}

/// What is known of a process' environment.
#[derive(Debug)]
pub(super) enum Environ<'b> {
    /// The process is gone.
    Gone,
    /// It has no program: a kernel thread, or a process that is exiting.
    NoProgram,
    /// The environment, as it was at its exec.
    Is(&'b [u8]),
}

/// How long a process may take to get from losing its old environment to having its new
/// one, in an exec. Microseconds, if the host is not out of memory.
const EXEC_WAIT: Duration = Duration::from_secs(2);
/// How often it is looked at meanwhile.
const EXEC_RETRY: Duration = Duration::from_micros(100);

/// The mounted `/proc`.
#[derive(Debug)]
pub(super) struct Proc {
    dir: OwnedFd,
}

impl Proc {
    pub(super) fn open() -> Result<Self, ProcessError> {
        rustix::fs::open(
            "/proc",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map(|dir| Self { dir })
        .map_err(|error| read_error("", error))
    }

    pub(super) fn dir(&self) -> &OwnedFd {
        &self.dir
    }

    /// Start time of a living process; `None` when it is gone or a zombie.
    pub(super) fn stat(&self, pid: i32) -> Result<Option<Stat>, ProcessError> {
        let file = format!("{pid}/stat");
        let mut buffer = Vec::new();
        let Some(text) = self.read(&file, &mut buffer, 4096)? else {
            return Ok(None);
        };
        parse_stat(text).map_err(|detail| ProcessError::Malformed { file, detail })
    }

    /// The environment of a process, as it was at its exec.
    ///
    /// A process within an exec has none for a moment. It may be a VMM that was just
    /// started, so the answer waits until the exec is over.
    pub(super) fn environ<'b>(
        &self,
        pid: i32,
        buffer: &'b mut Vec<u8>,
    ) -> Result<Environ<'b>, ProcessError> {
        let file = format!("{pid}/environ");
        let give_up = Instant::now() + EXEC_WAIT;
        let mut settled = false;
        loop {
            let length = match self.read(&file, buffer, ENVIRON_MAX)? {
                None => return Ok(Environ::Gone),
                Some(environ) => environ.len(),
            };
            if length > 0 || settled {
                return Ok(Environ::Is(&buffer[..length]));
            }
            if self.exe(pid)?.is_none() {
                return Ok(Environ::NoProgram);
            }
            match self.stat(pid)? {
                None => return Ok(Environ::Gone),
                // The exec may have ended since the environment was read: once more.
                Some(stat) if !stat.in_exec => settled = true,
                Some(_) if Instant::now() >= give_up => {
                    return Err(ProcessError::Malformed {
                        file,
                        detail: "the process does not get through its exec".to_owned(),
                    });
                }
                Some(_) => std::thread::sleep(EXEC_RETRY),
            }
        }
    }

    /// The program of a process; `None` when it is gone.
    pub(super) fn exe(&self, pid: i32) -> Result<Option<String>, ProcessError> {
        let file = format!("{pid}/exe");
        match rustix::fs::readlinkat(&self.dir, &file, Vec::new()) {
            Ok(target) => {
                let target = target.to_string_lossy();
                // The kernel's note that the file was replaced, by an upgrade say.
                let target = target.strip_suffix(" (deleted)").unwrap_or(&target);
                Ok(Some(target.to_owned()))
            }
            // A kernel thread and a zombie have no program: both say ENOENT.
            Err(Errno::NOENT | Errno::SRCH) => Ok(None),
            Err(error) => Err(read_error(&file, error)),
        }
    }

    /// The uid that owns `/proc/<pid>`: the process' effective uid, or 0 when the process
    /// may not be looked into. `None` when it is gone.
    pub(super) fn owner(&self, pid: i32) -> Result<Option<u32>, ProcessError> {
        let file = pid.to_string();
        match rustix::fs::statat(&self.dir, &file, rustix::fs::AtFlags::empty()) {
            Ok(stat) => Ok(Some(stat.st_uid)),
            Err(Errno::NOENT | Errno::SRCH) => Ok(None),
            Err(error) => Err(read_error(&file, error)),
        }
    }

    /// The permitted capabilities of a process as bits; `None` when it is gone.
    pub(super) fn capabilities(&self, pid: i32) -> Result<Option<u64>, ProcessError> {
        let file = format!("{pid}/status");
        let mut buffer = Vec::new();
        let Some(text) = self.read(&file, &mut buffer, 64 << 10)? else {
            return Ok(None);
        };
        String::from_utf8_lossy(text)
            .lines()
            .find_map(|line| line.strip_prefix("CapPrm:"))
            .and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok())
            .map(Some)
            .ok_or_else(|| ProcessError::Malformed {
                file,
                detail: "no CapPrm".to_owned(),
            })
    }

    fn read<'b>(
        &self,
        file: &str,
        buffer: &'b mut Vec<u8>,
        max: usize,
    ) -> Result<Option<&'b [u8]>, ProcessError> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let fd = match rustix::fs::openat(&self.dir, file, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::SRCH) => return Ok(None),
            Err(error) => return Err(read_error(file, error)),
        };
        let mut used = 0;
        loop {
            if buffer.len() < used + 4096 {
                buffer.resize((used + 4096).max(2 * buffer.len()), 0);
            }
            match rustix::io::read(&fd, &mut buffer[used..]) {
                Ok(0) => return Ok(Some(&buffer[..used])),
                // These files give all they have, so what does not fill the buffer is all.
                Ok(count) if used + count < buffer.len() => {
                    return Ok(Some(&buffer[..used + count]));
                }
                Ok(count) => used += count,
                Err(Errno::INTR) => {}
                Err(Errno::SRCH) => return Ok(None),
                Err(error) => return Err(read_error(file, error)),
            }
            if used > max {
                return Err(ProcessError::Malformed {
                    file: file.to_owned(),
                    detail: format!("longer than {max} bytes"),
                });
            }
        }
    }
}

fn read_error(file: &str, error: Errno) -> ProcessError {
    ProcessError::Read {
        file: file.to_owned(),
        source: io::Error::from(error),
    }
}

/// Reads a stat line; `None` for a zombie. The command name may hold anything, so fields
/// are counted from the last closing parenthesis.
fn parse_stat(text: &[u8]) -> Result<Option<Stat>, String> {
    let text = String::from_utf8_lossy(text);
    let (_, rest) = text.rsplit_once(')').ok_or("no command name")?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next().ok_or("no state")?;
    // X: the kernel is about to remove it.
    if matches!(state, "Z" | "X" | "x") {
        return Ok(None);
    }
    // State is field 3, the start time field 22 (proc_pid_stat(5)).
    let start = fields.nth(18).ok_or("no start time")?;
    let start_time = start
        .parse()
        .map_err(|_| format!("start time {start:?} is no number"))?;
    // The end of the environment is field 51.
    let in_exec = fields.nth(28) == Some("0");
    Ok(Some(Stat {
        start_time,
        in_exec,
        suspended: matches!(state, "T" | "t"),
        stuck: state == "D",
    }))
}

/// The value of a variable in an environment block.
pub(super) fn variable<'e>(environ: &'e [u8], name: &str) -> Option<&'e str> {
    environ.split(|&byte| byte == 0).find_map(|entry| {
        let value = entry.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        std::str::from_utf8(value).ok()
    })
}

/// The owner mark in an environment block.
pub(super) fn mark_in(environ: &[u8]) -> Option<OwnerMark> {
    variable(environ, OWNER_ENV)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_lines_with_odd_names() {
        let line = |name: &str, state: &str| {
            format!("7 ({name}) {state} 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21")
        };
        for name in ["qemu", "a b", ") Z 1 (", ""] {
            let stat = parse_stat(line(name, "S").as_bytes()).unwrap().unwrap();
            assert_eq!(stat.start_time, 4711, "{name:?}");
            assert!(!stat.suspended);
            assert_eq!(parse_stat(line(name, "Z").as_bytes()).unwrap(), None);
            let stopped = parse_stat(line(name, "T").as_bytes()).unwrap().unwrap();
            assert!(stopped.suspended && !stopped.stuck);
            let stuck = parse_stat(line(name, "D").as_bytes()).unwrap().unwrap();
            assert!(stuck.stuck && !stuck.suspended);
        }
        assert!(parse_stat(b"7 qemu").is_err());
        assert!(parse_stat(b"7 (qemu) S 1 2").is_err());
    }

    #[test]
    fn variables_match_by_whole_name() {
        let environ = b"XHEARTH_OWNER=a\0HEARTH_OWNERS=b\0HEARTH_OWNER=c\0";
        assert_eq!(variable(environ, "HEARTH_OWNER"), Some("c"));
        assert_eq!(variable(environ, "OWNER"), None);
        assert_eq!(mark_in(environ), None);
    }
}
