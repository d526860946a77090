//! What the kernel's log says of the VMM's death: whom its OOM killer chose, and for whose want.
//!
//! `/dev/kmsg` gives one record per read: `6,1234,5678901,-;the text` (the kernel's
//! `Documentation/ABI/testing/dev-kmsg`). Only what comes after the VMM's start is read, so a process of the
//! same number that was killed before is not taken for it.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, SeekFrom};
use rustix::io::Errno;

/// Longest record, in bytes (`PRINTKRB_RECORD_MAX` and room for its escapes).
const RECORD: usize = 8192;
/// The most records that are looked through.
const RECORDS: usize = 100_000;
/// Facility 0 with any of the eight levels: the kernel itself.
const KERNEL: u32 = 8;

/// For whose want of memory the kernel killed somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OomKill {
    /// The whole host's.
    Host,
    /// Its cgroup's.
    Cgroup,
}

/// The kernel's log from a moment on; empty where it may not be read.
#[derive(Debug)]
pub(crate) struct KernelLog(Option<OwnedFd>);

impl KernelLog {
    /// From now on.
    pub(crate) fn from_here() -> Self {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let log = rustix::fs::open("/dev/kmsg", flags, Mode::empty()).ok();
        Self(log.filter(|log| rustix::fs::seek(log, SeekFrom::End(0)).is_ok()))
    }

    /// Whether the kernel has killed this process for want of memory.
    pub(crate) fn oom_kill(&self, pid: u32) -> Option<OomKill> {
        let log = self.0.as_ref()?;
        let mut record = [0; RECORD];
        for _ in 0..RECORDS {
            match rustix::io::read(log, &mut record) {
                Ok(0) | Err(Errno::AGAIN) => return None,
                Ok(length) => {
                    let text = String::from_utf8_lossy(&record[..length]);
                    let kill = judge(&text, pid);
                    if kill.is_some() {
                        return kill;
                    }
                }
                // Records were lost: the log is a ring. The next read goes on after them.
                Err(Errno::PIPE | Errno::INTR) => {}
                Err(_) => return None,
            }
        }
        None
    }
}

/// `Out of memory: Killed process 17 (qemu) …`, `Memory cgroup out of memory: Killed process …`
/// (`__oom_kill_process` of the kernel's mm/oom_kill.c).
fn judge(record: &str, pid: u32) -> Option<OomKill> {
    let (head, text) = record.split_once(';')?;
    let level: u32 = head.split(',').next()?.parse().ok()?;
    let (cause, rest) = text.split_once(": Killed process ")?;
    let killed = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    if level >= KERNEL || killed.parse() != Ok(pid) {
        return None;
    }
    match cause {
        "Memory cgroup out of memory" => Some(OomKill::Cgroup),
        _ if cause.starts_with("Out of memory") => Some(OomKill::Host),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_word_about_this_process_counts() {
        let host =
            "3,901,5012345,-;Out of memory: Killed process 4711 (qemu-system-x86) total-vm:9kB\n";
        let cgroup = "3,902,5012345,-;Memory cgroup out of memory: Killed process 4711 (qemu) x\n";
        assert_eq!(judge(host, 4711), Some(OomKill::Host));
        assert_eq!(judge(cgroup, 4711), Some(OomKill::Cgroup));
        for other in [
            // Another process, a longer number, words of a program, another line.
            "3,901,5,-;Out of memory: Killed process 47110 (qemu)",
            "3,901,5,-;Out of memory: Killed process 471 (qemu)",
            "12,901,5,-;Out of memory: Killed process 4711 (qemu)",
            "6,901,5,-;oom_reaper: reaped process 4711 (qemu)",
            "nonsense",
            "",
        ] {
            assert_eq!(judge(other, 4711), None, "{other}");
        }
    }

    #[test]
    fn a_log_that_says_nothing_of_it_or_cannot_be_read_says_nothing() {
        assert_eq!(KernelLog::from_here().oom_kill(u32::MAX), None);
        assert_eq!(KernelLog(None).oom_kill(1), None);
    }
}
