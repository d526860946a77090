//! What tells ends apart besides the exit status: the guest kernel's last words and the
//! memory events of the VM's own cgroup.

use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use hearth_types::process::{ConsoleEnd, Evidence};

use crate::stop::Told;

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
pub(crate) fn gather(status: ExitStatus, console: &Tail, told: Told) -> Evidence {
    let cgroup = own_cgroup();
    Evidence {
        oom_kills: cgroup.as_deref().map_or(0, oom_kills),
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

fn oom_kills(cgroup: &str) -> u64 {
    let events = format!("/sys/fs/cgroup{cgroup}/memory.events");
    std::fs::read_to_string(events).map_or(0, |text| count(&text))
}

/// `oom_kill` of a `memory.events` file (cgroup-v2.rst of the kernel).
fn count(events: &str) -> u64 {
    let line = events
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill "));
    line.and_then(|number| number.trim().parse().ok())
        .unwrap_or(0)
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
        assert_eq!(count("low 0\nhigh 0\nmax 31\noom 2\noom_kill 1\n"), 1);
        assert_eq!(count("oom_kill nonsense\n"), 0);
        assert_eq!(count(""), 0);
    }
}
