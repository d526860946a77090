//! Signs in memory for tests: a host that is well until a test says otherwise.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_host::kmsg::{self, Record};
use hearth_host::load::{CpuTimes, Memory};
use hearth_host::waits::{Held, KernelWait};
use hearth_types::survey::Survey;
use parking_lot::Mutex;

use crate::signs::{LogPart, Signs};

#[derive(Debug)]
struct Host {
    uptime: Duration,
    /// What time adds at each look: as if looks were so far apart.
    step: Duration,
    held: Result<Vec<(Held, KernelWait)>, &'static str>,
    log: Result<LogPart, &'static str>,
    memory: Result<Memory, &'static str>,
    cpu: CpuTimes,
    pressure: Option<u32>,
    hangs: bool,
    restless: bool,
    looks: u32,
}

/// The signs.
#[derive(Debug, Clone)]
pub struct FakeSigns(Arc<Mutex<Host>>);

impl Default for FakeSigns {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Host {
            uptime: Duration::from_secs(10_000),
            step: Duration::from_millis(200),
            held: Ok(Vec::new()),
            log: Ok(LogPart::default()),
            memory: Ok(Memory {
                total: 1000,
                available: 500,
            }),
            cpu: CpuTimes {
                all: 1000,
                io_wait: 0,
            },
            pressure: None,
            hangs: false,
            restless: false,
            looks: 0,
        })))
    }
}

impl FakeSigns {
    /// So much time passes.
    pub fn pass(&self, time: Duration) {
        self.0.lock().uptime += time;
    }

    /// A thread waits in the kernel: its name, its innermost function. Each call is another thread.
    pub fn hold(&self, name: &str, function: &str) {
        let mut host = self.0.lock();
        let Ok(held) = &mut host.held else {
            return;
        };
        let pid = i32::try_from(held.len()).unwrap_or_default() + 100;
        let thread = Held {
            pid,
            tid: pid,
            start_time: 1,
            switches: 1,
            name: name.to_owned(),
        };
        let wait = KernelWait {
            pid,
            tid: pid,
            name: name.to_owned(),
            channel: Survey::Known(function.to_owned()),
            syscall: Survey::Unknown("a fake".to_owned()),
            stack: Survey::Known(vec![function.to_owned()]),
        };
        held.push((thread, wait));
    }

    /// They move between any two looks, as a busy device's do.
    pub fn set_restless(&self, restless: bool) {
        self.0.lock().restless = restless;
    }

    /// No thread waits any more.
    pub fn release(&self) {
        self.0.lock().held = Ok(Vec::new());
    }

    /// The threads cannot be listed.
    pub fn hide_threads(&self) {
        self.0.lock().held = Err("hidden");
    }

    /// The kernel says this, now.
    pub fn say(&self, level: u32, text: &str) {
        let mut host = self.0.lock();
        let record = Record {
            level,
            facility: 0,
            sequence: 0,
            at: host.uptime,
            text: text.to_owned(),
        };
        if let Ok(log) = &mut host.log {
            log.records.push(record);
        }
    }

    /// A record as the kernel gives it.
    pub fn say_raw(&self, record: &[u8]) {
        if let (Some(record), Ok(log)) = (kmsg::parse(record), &mut self.0.lock().log) {
            log.records.push(record);
        }
    }

    /// The log may not be read.
    pub fn hide_log(&self) {
        self.0.lock().log = Err("hidden");
    }

    /// So many of a thousand bytes are available.
    pub fn set_memory(&self, available: u64) {
        self.0.lock().memory = Ok(Memory {
            total: 1000,
            available,
        });
    }

    /// The CPUs spend this: ticks in all, ticks waiting for disks.
    pub fn spend(&self, all: u64, io_wait: u64) {
        let mut host = self.0.lock();
        host.cpu.all += all;
        host.cpu.io_wait += io_wait;
    }

    /// Percent of I/O pressure.
    pub fn set_pressure(&self, percent: Option<u32>) {
        self.0.lock().pressure = percent;
    }

    /// Looks at threads do not come back until this is false again.
    pub fn set_hangs(&self, hangs: bool) {
        self.0.lock().hangs = hangs;
    }

    /// How often was looked.
    #[must_use]
    pub fn looks(&self) -> u32 {
        self.0.lock().looks
    }
}

fn io<T: Clone>(what: &Result<T, &'static str>) -> io::Result<T> {
    what.clone().map_err(io::Error::other)
}

impl Signs for FakeSigns {
    fn uptime(&self) -> Duration {
        let mut host = self.0.lock();
        host.looks += 1;
        let step = host.step;
        host.uptime += step;
        host.uptime
    }

    fn held(&self, _until: Instant) -> io::Result<Vec<Held>> {
        while self.0.lock().hangs {
            std::thread::yield_now();
        }
        let mut host = self.0.lock();
        if let (true, Ok(held)) = (host.restless, &mut host.held) {
            for (held, _) in held {
                held.switches += 1;
            }
        }
        let held = io(&host.held)?;
        Ok(held.into_iter().map(|(held, _)| held).collect())
    }

    fn describe(&self, held: &Held) -> KernelWait {
        let host = self.0.lock();
        let all = host.held.iter().flatten();
        let found = all.into_iter().find(|(thread, _)| thread.tid == held.tid);
        found.map_or_else(
            || hearth_host::waits::describe(-1, -1, held.name.clone()),
            |(_, wait)| wait.clone(),
        )
    }

    fn log(&self, _until: Instant) -> io::Result<LogPart> {
        let mut host = self.0.lock();
        let part = io(&host.log)?;
        host.log = Ok(LogPart::default());
        Ok(part)
    }

    fn memory(&self) -> io::Result<Memory> {
        io(&self.0.lock().memory)
    }

    fn cpu(&self) -> io::Result<CpuTimes> {
        Ok(self.0.lock().cpu)
    }

    fn io_pressure(&self) -> io::Result<u32> {
        let pressure = self.0.lock().pressure;
        pressure.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }
}
