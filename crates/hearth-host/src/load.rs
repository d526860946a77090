//! What of the host's memory and of its CPUs' time is left, from /proc.

use std::io;

/// The host's memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// All of it.
    pub total: u64,
    /// What can be had without swapping (`MemAvailable`).
    pub available: u64,
}

/// What the CPUs have done since boot, in clock ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuTimes {
    /// Everything, idleness included.
    pub all: u64,
    /// Idle while somebody waited for a disk.
    pub io_wait: u64,
}

/// Reads the memory.
///
/// # Errors
/// When `/proc/meminfo` cannot be read or understood.
pub fn memory() -> io::Result<Memory> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    meminfo(&text).ok_or_else(|| garbled("/proc/meminfo"))
}

/// Reads the CPUs' times.
///
/// # Errors
/// When `/proc/stat` cannot be read or understood.
pub fn cpu_times() -> io::Result<CpuTimes> {
    let text = std::fs::read_to_string("/proc/stat")?;
    cpu(&text).ok_or_else(|| garbled("/proc/stat"))
}

fn garbled(path: &str) -> io::Error {
    let what = format!("{path} cannot be understood");
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn meminfo(text: &str) -> Option<Memory> {
    let kib = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        let number = line.trim().strip_suffix(" kB")?;
        number.parse::<u64>().ok()?.checked_mul(1024)
    };
    Some(Memory {
        total: kib("MemTotal:")?,
        available: kib("MemAvailable:")?,
    })
}

/// The first line of proc_stat(5): user, nice, system, idle, iowait, irq, softirq, steal; what
/// follows are guests' times, which are in the first two.
fn cpu(text: &str) -> Option<CpuTimes> {
    let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let times: Vec<u64> = line
        .split_whitespace()
        .take(8)
        .map(str::parse)
        .collect::<Result<_, _>>()
        .ok()?;
    Some(CpuTimes {
        all: times.iter().fold(0, |all, time| all.saturating_add(*time)),
        io_wait: *times.get(4)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_become_numbers() {
        let text = "MemTotal:       8148508 kB\nMemFree:  1 kB\nMemAvailable:   3972092 kB\n";
        let memory = meminfo(text).unwrap();
        assert_eq!(memory.total, 8_148_508 << 10);
        assert_eq!(memory.available, 3_972_092 << 10);
        let text = "cpu  10 20 30 40 50 1 2 3 400 500\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(
            cpu(text),
            Some(CpuTimes {
                all: 156,
                io_wait: 50
            })
        );
        assert!(meminfo("MemTotal: 1 kB\n").is_none() && meminfo("").is_none());
        assert!(cpu("cpu  1 2 3\n").is_none() && cpu("cpu  1 2 3 x 5\n").is_none());
    }

    #[test]
    fn this_host_says_them() {
        let memory = memory().unwrap();
        assert!(memory.available > 0 && memory.available <= memory.total);
        let (before, after) = (cpu_times().unwrap(), cpu_times().unwrap());
        assert!(after.all >= before.all && before.io_wait < before.all);
    }
}
