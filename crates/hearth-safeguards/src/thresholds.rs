//! From where on a reading speaks against an operation.

use std::time::Duration;

/// The thresholds. Zero switches off where a number of percent or a time is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// A thread that waits in the kernel on device-mapper and has not moved for so long hangs.
    pub held_for: Duration,
    /// So many percent of the memory must be available.
    pub memory_available: u32,
    /// So many percent of the CPUs' time may be spent waiting for disks.
    pub io_wait: u32,
    /// In so many percent of the last ten seconds everything that was not idle may have waited for disks.
    pub io_pressure: u32,
    /// Errors in the kernel's log that are younger than this speak against an operation; older ones are told.
    pub log_window: Duration,
    /// How long the whole check may take.
    pub budget: Duration,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            held_for: Duration::from_secs(2),
            memory_available: 5,
            io_wait: 50,
            io_pressure: 90,
            log_window: Duration::from_secs(600),
            budget: Duration::from_millis(100),
        }
    }
}
