//! What the host shows of its condition, as a trait: the host, or one in memory for tests.

use std::io;
use std::time::{Duration, Instant};

use hearth_host::kmsg::{KernelLog, Next, Record};
use hearth_host::load::{self, CpuTimes, Memory};
use hearth_host::pressure::{self, Resource};
use hearth_host::waits::{self, Held, KernelWait};
use parking_lot::Mutex;

/// The most records of the kernel's log that one look reads; the next one goes on. The ring of a
/// usual kernel holds a few thousand.
const RECORDS_MAX: usize = 20_000;

/// What is new in the kernel's log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogPart {
    /// Its records, in order.
    pub records: Vec<Record>,
    /// Records were overwritten before anybody read them.
    pub lost: bool,
    /// There is more; the time was up.
    pub more: bool,
}

/// The host's signs. All are read, none waits for a device.
pub trait Signs: Send + Sync + 'static {
    /// Time since boot, on the clock of the kernel's log.
    fn uptime(&self) -> Duration;

    /// All threads in state D.
    ///
    /// # Errors
    /// When they cannot be told.
    fn held(&self, until: Instant) -> io::Result<Vec<Held>>;

    /// What one of them waits for.
    fn describe(&self, held: &Held) -> KernelWait;

    /// What the kernel's log has got since the last call; at the first one, since boot.
    ///
    /// # Errors
    /// When it cannot be read.
    fn log(&self, until: Instant) -> io::Result<LogPart>;

    /// The memory.
    ///
    /// # Errors
    /// When it cannot be read.
    fn memory(&self) -> io::Result<Memory>;

    /// The CPUs' times.
    ///
    /// # Errors
    /// When they cannot be read.
    fn cpu(&self) -> io::Result<CpuTimes>;

    /// Percent of the last ten seconds in which all that was not idle waited for disks.
    ///
    /// # Errors
    /// When the kernel does not count it.
    fn io_pressure(&self) -> io::Result<u32>;
}

/// This host's.
#[derive(Debug, Default)]
pub struct HostSigns {
    log: Mutex<Option<KernelLog>>,
}

impl Signs for HostSigns {
    fn uptime(&self) -> Duration {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
        Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or_default())
    }

    fn held(&self, until: Instant) -> io::Result<Vec<Held>> {
        waits::everywhere(until)
    }

    fn describe(&self, held: &Held) -> KernelWait {
        waits::describe(held.pid, held.tid, held.name.clone())
    }

    fn log(&self, until: Instant) -> io::Result<LogPart> {
        let mut place = self.log.lock();
        let log = match &mut *place {
            Some(log) => log,
            place => place.insert(KernelLog::open()?),
        };
        let mut part = LogPart::default();
        for _ in 0..RECORDS_MAX {
            if Instant::now() >= until {
                break;
            }
            match log.read()? {
                Next::Record(record) => part.records.push(record),
                Next::Lost => part.lost = true,
                Next::Garbled => {}
                Next::End => return Ok(part),
            }
        }
        part.more = true;
        Ok(part)
    }

    fn memory(&self) -> io::Result<Memory> {
        load::memory()
    }

    fn cpu(&self) -> io::Result<CpuTimes> {
        load::cpu_times()
    }

    fn io_pressure(&self) -> io::Result<u32> {
        pressure::full_avg10(Resource::Io)
    }
}
