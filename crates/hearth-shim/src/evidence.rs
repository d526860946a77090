//! What tells ends apart besides the exit status: the guest kernel's last words and the
//! memory events of the VM's own cgroup.

use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use hearth_types::process::{ConsoleEnd, Evidence};

use crate::kernel_log::OomKill;
use crate::stop::Told;

/// SIGKILL, the only signal of the kernel's OOM killer.
const SIGKILL: i32 = 9;

/// How much of the console's end is kept, in bytes: a panic's call trace ends with its
/// `end Kernel panic` line, and little follows that.
const TAIL: usize = 4096;

/// What a kernel says last, and what it means.
const LAST_WORDS: [(&str, ConsoleEnd); 3] = [
    ("Kernel panic - not syncing", ConsoleEnd::Panic),
    ("reboot: Restarting system", ConsoleEnd::Reboot),
    ("reboot: Power down", ConsoleEnd::PowerOff),
];

/// The end of one run's console.
#[derive(Debug, Default)]
pub(crate) struct Tail(Vec<u8>);

impl Tail {
    /// Adds what the console said.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
        // Cut seldom, so that a byte at a time costs no copy each.
        if self.0.len() > 2 * TAIL {
            self.0.drain(..self.0.len() - TAIL);
        }
    }

    fn end(&self) -> Option<ConsoleEnd> {
        let from = self.0.len().saturating_sub(TAIL);
        let text = String::from_utf8_lossy(&self.0[from..]);
        let said = LAST_WORDS
            .into_iter()
            .filter_map(|(words, end)| Some((text.rfind(words)?, end)));
        said.max_by_key(|(at, _)| *at).map(|(_, end)| end)
    }
}

/// All that can be known now that the VMM is dead.
///
/// `oom_kill` is what the kernel's log says; a unit of its own may not read that, but has a cgroup of
/// its own, whose counters say as much.
pub(crate) fn gather(
    status: ExitStatus,
    console: &Tail,
    told: Told,
    oom_kill: impl FnOnce() -> Option<OomKill>,
) -> Evidence {
    let killed = status.signal() == Some(SIGKILL);
    let (oom_kills, oom_host) = match own_cgroup().filter(|_| killed) {
        Some(cgroup) => memory_events(&cgroup),
        None if killed => match oom_kill() {
            Some(kill) => (1, kill == OomKill::Host),
            None => (0, false),
        },
        None => (0, false),
    };
    Evidence {
        oom_kills,
        oom_host,
        core_dumped: status.core_dumped(),
        console: console.end(),
        terminated: told.terminated,
        host_down: told.host_down,
    }
}

/// Our cgroup below the mount of cgroup v2, if it is this VM's alone: a unit made for it.
fn own_cgroup() -> Option<String> {
    let text = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    let name = path.rsplit('/').next()?;
    name.starts_with("hearth-vm-").then(|| path.to_owned())
}

fn memory_events(cgroup: &str) -> (u64, bool) {
    let events = format!("/sys/fs/cgroup{cgroup}/memory.events");
    std::fs::read_to_string(events).map_or((0, false), |text| kills(&text))
}

/// How many were killed, and whether it was for others' want. `oom_kill` of a `memory.events` file
/// counts kills for whatever reason, `oom` the times that this cgroup's own limit was reached
/// (cgroup-v2.rst of the kernel).
fn kills(events: &str) -> (u64, bool) {
    let count = |key: &str| {
        let mut lines = events.lines();
        let number = lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
        number.and_then(|number| number.trim().parse::<u64>().ok())
    };
    let kills = count("oom_kill").unwrap_or(0);
    (kills, kills > 0 && count("oom") == Some(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end_of(parts: &[&[u8]]) -> Option<ConsoleEnd> {
        let mut tail = Tail::default();
        for part in parts {
            tail.add(part);
        }
        tail.end()
    }

    #[test]
    fn the_last_words_count_and_old_ones_do_not() {
        let long = vec![b'x'; 10_000];
        let panic = b"[ 1.0] Kernel panic - not syncing: sysrq triggered crash\r\n";
        let reboot = b"[ 2.0] reboot: Restarting system\r\n";
        assert_eq!(end_of(&[b"hello"]), None);
        assert_eq!(end_of(&[panic]), Some(ConsoleEnd::Panic));
        assert_eq!(end_of(&[panic, reboot]), Some(ConsoleEnd::Reboot));
        assert_eq!(end_of(&[&long, reboot]), Some(ConsoleEnd::Reboot));
        assert_eq!(end_of(&[reboot, &long]), None);
        // In pieces, and after bytes that are no text.
        assert_eq!(
            end_of(&[b"\xff\xfereboot: Pow", b"er down"]),
            Some(ConsoleEnd::PowerOff)
        );
    }

    #[test]
    fn memory_events_are_read() {
        let own = "low 0\nhigh 0\nmax 31\noom 2\noom_kill 1\noom_group_kill 0\n";
        assert_eq!(kills(own), (1, false));
        // Killed, and its own limit was never reached: the host, or all VMs together.
        assert_eq!(kills("max 0\noom 0\noom_kill 1\n"), (1, true));
        assert_eq!(kills("oom 0\noom_kill 0\n"), (0, false));
        assert_eq!(kills("oom_kill 1\n"), (1, false));
        assert_eq!(kills("oom_kill nonsense\n"), (0, false));
        assert_eq!(kills(""), (0, false));
    }
}
