//! Which threads that wait in the kernel wait on device-mapper, and for how long.

use std::collections::HashMap;
use std::time::Duration;

use hearth_host::waits::{Held, KernelWait};

/// Functions of device-mapper and of what is below a pool, by how they begin, where the kernel has them built
/// in and so names no module.
const FUNCTIONS: [&str; 14] = [
    "dm_",
    "__dm_",
    "dmz_",
    "thin_",
    "pool_",
    "__pool_",
    "ctl_ioctl",
    "dev_suspend",
    "dev_remove",
    "dev_create",
    "do_resume",
    "table_load",
    "process_deferred_bios",
    "process_thin_deferred",
];
/// Threads of the kernel that work for device-mapper or for a loop device, by a part of their name.
const WORKERS: [&str; 4] = ["dm-", "dm_", "kdmflush", "dmcrypt"];

/// Whether what a thread waits for is device-mapper, or what a pool stands on.
pub(crate) fn on_device_mapper(wait: &KernelWait) -> bool {
    let name = wait.name.as_str();
    let worker = WORKERS.iter().any(|part| name.contains(part))
        || name.starts_with("loop")
        || (name.starts_with("kworker") && name.contains("-loop"));
    worker || stack_on_device_mapper(wait)
}

fn stack_on_device_mapper(wait: &KernelWait) -> bool {
    let stack = wait.stack.known().into_iter().flatten();
    let channel = wait.channel.known();
    stack.chain(channel).any(|line| {
        let (function, module) = line.split_once(" [").unwrap_or((line, ""));
        module.starts_with("dm_") || FUNCTIONS.iter().any(|begin| function.starts_with(begin))
    })
}

/// Since when threads have not moved.
#[derive(Debug, Default)]
pub(crate) struct Memory(HashMap<Held, Duration>);

impl Memory {
    /// Takes a look into memory, at a time after boot; for how long each of them has been like this,
    /// as far as anybody has seen.
    pub(crate) fn look(&mut self, held: Vec<Held>, now: Duration) -> Vec<(Held, Duration)> {
        let mut seen = HashMap::with_capacity(held.len());
        for held in held {
            let since = self.0.get(&held).copied().unwrap_or(now);
            seen.insert(held, since);
        }
        self.0 = seen;
        let mut all: Vec<_> = self
            .0
            .iter()
            .map(|(held, since)| (held.clone(), now.saturating_sub(*since)))
            .collect();
        all.sort_by_key(|(held, _)| (held.pid, held.tid));
        all
    }
}

#[cfg(test)]
mod tests {
    use hearth_types::survey::Survey;

    use super::*;

    fn wait(name: &str, channel: &str, stack: &[&str]) -> KernelWait {
        KernelWait {
            pid: 1,
            tid: 1,
            name: name.to_owned(),
            channel: Survey::Known(channel.to_owned()),
            syscall: Survey::Unknown("none".to_owned()),
            stack: Survey::Known(stack.iter().map(|&line| line.to_owned()).collect()),
        }
    }

    #[test]
    fn device_mappers_threads_are_told_from_others() {
        for ours in [
            wait("kworker/u8:1-dm-thin", "x", &[]),
            wait("kworker/u8:1+dm_bufio_cache", "x", &[]),
            wait("kworker/u8:1-loop3", "x", &[]),
            wait(
                "dmsetup",
                "x",
                &["io_schedule", "dm_wait_for_completion [dm_mod]"],
            ),
            wait("hearthd", "dm_suspend", &[]),
            wait("lvs", "x", &["schedule", "commit [dm_thin_pool]"]),
        ] {
            assert!(on_device_mapper(&ours), "{ours:?}");
        }
        for other in [
            wait(
                "qemu-system-x86",
                "folio_wait_bit_common",
                &["blkdev_read_iter"],
            ),
            wait(
                "jbd2/sda1-8",
                "jbd2_journal_commit_transaction",
                &["io_schedule"],
            ),
            wait("kworker/u8:1-events", "x", &["nfs_wait [nfs]"]),
            wait("perl", "kernel_clone", &["dma_wait"]),
        ] {
            assert!(!on_device_mapper(&other), "{other:?}");
        }
    }

    #[test]
    fn who_moves_or_is_another_one_begins_anew() {
        let held = |switches, start_time| Held {
            pid: 7,
            tid: 7,
            start_time,
            switches,
            name: "x".to_owned(),
        };
        let second = Duration::from_secs;
        let mut memory = Memory::default();
        let mut look = |held, at| memory.look(vec![held], second(at))[0].1;
        assert_eq!(look(held(5, 1), 10), second(0));
        assert_eq!(look(held(5, 1), 13), second(3));
        assert_eq!(look(held(6, 1), 14), second(0), "it has moved");
        assert_eq!(
            look(held(6, 2), 15),
            second(0),
            "another one with its number"
        );
        assert_eq!(look(held(6, 2), 17), second(2));
        assert_eq!(memory.look(Vec::new(), second(18)), []);
        assert_eq!(memory.look(vec![held(6, 2)], second(19))[0].1, second(0));
    }
}
