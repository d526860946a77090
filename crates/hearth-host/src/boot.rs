//! Which boot the host is in, and what a kernel clock tick means in calendar time.

use std::io;
use std::time::Duration;

use jiff::Timestamp;

/// Where the kernel names its boot. A new random UUID at each boot.
const BOOT_ID_FILE: &str = "/proc/sys/kernel/random/boot_id";

/// The boot could not be named.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {BOOT_ID_FILE}; is /proc mounted?")]
pub struct BootError {
    /// Why not.
    #[source]
    pub source: io::Error,
}

/// The kernel's name for a boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootId(String);

impl BootId {
    /// Reads the name of the boot that this process runs in.
    ///
    /// # Errors
    /// When `/proc` is not mounted or not readable.
    pub fn current() -> Result<Self, BootError> {
        std::fs::read_to_string(BOOT_ID_FILE)
            .map(|text| Self(text.trim().to_owned()))
            .map_err(|source| BootError { source })
    }

    /// The UUID as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<BootId> for String {
    fn from(id: BootId) -> Self {
        id.0
    }
}

/// When the host was booted, by the present reading of its calendar clock.
///
/// The calendar clock minus the time since boot (sleep included): the same base that
/// field 22 of `/proc/<pid>/stat` counts from.
#[must_use]
pub fn boot_time() -> Timestamp {
    let since = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let since = Duration::new(
        u64::try_from(since.tv_sec).unwrap_or(0),
        u32::try_from(since.tv_nsec).unwrap_or(0),
    );
    Timestamp::now() - since
}

/// The calendar time of a start time in clock ticks after `boot`.
#[must_use]
pub fn ticks_to_time(boot: Timestamp, ticks: u64) -> Timestamp {
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    let seconds = ticks / per_second;
    let nanos = (ticks % per_second) * 1_000_000_000 / per_second;
    let offset = Duration::new(seconds, u32::try_from(nanos).unwrap_or(0));
    boot.checked_add(offset).unwrap_or(boot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_has_a_name_and_lies_in_the_past() {
        let id = BootId::current().unwrap();
        assert_eq!(id.as_str().len(), 36);
        assert_eq!(id, BootId::current().unwrap());
        assert!(boot_time() < Timestamp::now());
    }

    #[test]
    fn ticks_count_from_the_boot() {
        let boot: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let per_second = rustix::param::clock_ticks_per_second();
        let half = ticks_to_time(boot, per_second * 60 + per_second / 2);
        assert_eq!(half.to_string(), "2026-01-01T00:01:00.5Z");
        assert_eq!(ticks_to_time(boot, u64::MAX), boot, "no overflow");
    }
}
