//! A process told from others of the same pid, with nothing but `/proc`.

use std::io;
use std::path::Path;

use hearth_types::OwnerMark;
use hearth_types::process::ProcessIdentity;
use serde::{Deserialize, Serialize};

/// The process is going away (linux/sched.h).
const PF_EXITING: u32 = 0x4;

/// A pid and when it was started: unique within one boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// The boot that the other two belong to.
    pub boot_id: String,
    /// Process id.
    pub pid: i32,
    /// Field 22 of `/proc/<pid>/stat`: clock ticks after boot.
    pub start_time: u64,
}

impl Instance {
    /// The living process with this pid; `None` when there is none, or a zombie.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn of(pid: i32) -> io::Result<Option<Self>> {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let stat = match std::fs::read(format!("/proc/{pid}/stat")) {
            Ok(stat) => stat,
            Err(error) if is_gone(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(start_time(&stat).map(|start_time| Self {
            boot_id: boot_id.trim().to_owned(),
            pid,
            start_time,
        }))
    }

    /// Whether exactly this process lives. What cannot be read counts as alive: nobody
    /// may take its place then.
    #[must_use]
    pub fn lives(&self) -> bool {
        Self::of(self.pid).map_or(true, |found| found.as_ref() == Some(self))
    }

    /// Whether this process is dead or has given up its program on the way there. Freeing
    /// a large guest's memory comes in between and may take seconds.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        let exe = std::fs::read_link(format!("/proc/{}/exe", self.pid));
        exe.is_err_and(|error| is_gone(&error)) || self.is_exiting() || !self.lives()
    }

    /// Whether the kernel has begun to end it. Unlike its program, everybody may read this.
    fn is_exiting(&self) -> bool {
        let stat = std::fs::read(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        flags(&stat).is_some_and(|flags| flags & PF_EXITING != 0)
    }

    /// The whole proof material of a child that was just executed from `program`.
    ///
    /// # Errors
    /// When neither `/proc/<pid>/exe` nor the program's path can be read.
    pub fn identify(self, mark: OwnerMark, program: &Path) -> io::Result<ProcessIdentity> {
        let exe = match std::fs::read_link(format!("/proc/{}/exe", self.pid)) {
            // A shim without CAP_SYS_PTRACE may not look at a child with another uid.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                // The path of a caged program is not one of ours.
                std::fs::canonicalize(program).or_else(|_| Ok(program.to_owned()))
            }
            read => read,
        }?;
        let exe = exe.to_string_lossy();
        Ok(ProcessIdentity {
            boot_id: self.boot_id,
            pid: self.pid,
            start_time: self.start_time,
            exe: exe.strip_suffix(" (deleted)").unwrap_or(&exe).to_owned(),
            mark,
        })
    }
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

/// The start time in a stat line; `None` for a zombie or an unknown form. Fields are counted
/// from the last parenthesis, because the name before it may hold anything.
fn start_time(stat: &[u8]) -> Option<u64> {
    let text = String::from_utf8_lossy(stat);
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X" | "x") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Field 9 of a stat line.
fn flags(stat: &[u8]) -> Option<u32> {
    let text = String::from_utf8_lossy(stat);
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    fields.nth(6)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_itself_and_nobody_else() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let own = Instance::of(pid).unwrap().unwrap();
        assert!(own.lives());
        let reused = Instance {
            start_time: own.start_time + 1,
            ..own
        };
        assert!(!reused.lives());
    }

    #[test]
    fn zombies_are_dead() {
        let mut child = std::process::Command::new("sleep")
            .arg("1000")
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let instance = Instance::of(pid).unwrap().unwrap();
        child.kill().unwrap();
        let fd = rustix::process::pidfd_open(
            rustix::process::Pid::from_raw(pid).unwrap(),
            rustix::process::PidfdFlags::empty(),
        )
        .unwrap();
        let mut fds = [rustix::event::PollFd::new(
            &fd,
            rustix::event::PollFlags::IN,
        )];
        rustix::event::poll(&mut fds, None).unwrap();
        assert!(!instance.lives(), "not reaped, but dead");
        child.wait().unwrap();
        assert!(!instance.lives());
    }
}
