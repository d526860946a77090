//! The system health check: reads the signs, within its time.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hearth_host::load::CpuTimes;
use hearth_types::survey::Survey;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::check::{Check, Io, LogSight, PoolSign, Purpose, Report, Seen, Weight, judge};
use crate::held::Memory;
use crate::log::{LogBook, Origin, Whose, classify};
use crate::signs::Signs;
use crate::thresholds::Thresholds;

/// Threads whose stack is read, the longest held first.
const DESCRIBED_MAX: usize = 64;
/// Two readings of the CPUs' times that are closer tell nothing …
const CPU_LEAST: Duration = Duration::from_millis(100);
/// … and those that are further apart tell of long ago.
const CPU_MOST: Duration = Duration::from_secs(60);

/// Says whose the object of a line in the kernel's log is. It must not block: what it does not
/// know at once is [`Whose::Unknown`].
pub type Resolver = Arc<dyn Fn(&Origin) -> Whose + Send + Sync>;

/// What is kept from one look to the next.
#[derive(Default)]
struct Kept {
    held: Memory,
    log: LogBook,
    cpu: Option<(Duration, CpuTimes)>,
    wait: Option<(Duration, u32)>,
}

/// The check.
#[derive(Clone)]
pub struct Health {
    signs: Arc<dyn Signs>,
    limits: Thresholds,
    resolver: Resolver,
    /// One look at a time; it goes with the thread that looks.
    kept: Arc<tokio::sync::Mutex<Kept>>,
    /// The last look that could tell has found a thread that hangs on device-mapper.
    hangs: Arc<AtomicBool>,
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl Health {
    /// A check of these signs.
    #[must_use]
    pub fn new(signs: Arc<dyn Signs>, limits: Thresholds, resolver: Resolver) -> Self {
        Self {
            signs,
            limits,
            resolver,
            kept: Arc::default(),
            hangs: Arc::default(),
        }
    }

    /// The thresholds.
    #[must_use]
    pub const fn thresholds(&self) -> &Thresholds {
        &self.limits
    }

    /// Looks, within the budget. What could not be read until then is unknown.
    pub async fn look(&self, purpose: Purpose, pool: Option<&PoolSign>) -> Report {
        self.look_within(self.limits.budget, purpose, pool).await
    }

    /// Looks, and takes so long at most: for one who would rather wait than not be told.
    pub async fn look_within(
        &self,
        budget: Duration,
        purpose: Purpose,
        pool: Option<&PoolSign>,
    ) -> Report {
        let begun = Instant::now();
        let seen = self.see(begun, budget).await;
        let mut report = judge(&seen, &self.limits, purpose, pool);
        report.took = begun.elapsed();
        if matches!(seen.held, Some(Survey::Known(_))) {
            let hangs = report
                .at_least(Weight::Refuses)
                .any(|finding| finding.check == Check::DState);
            self.hangs.store(hangs, Ordering::Relaxed);
        }
        report
    }

    /// Whether a thread hangs on device-mapper, as the last look saw it that could tell.
    #[must_use]
    pub fn hangs(&self) -> bool {
        self.hangs.load(Ordering::Relaxed)
    }

    async fn see(&self, begun: Instant, budget: Duration) -> Seen {
        let Ok(mut kept) = timeout(budget, Arc::clone(&self.kept).lock_owned()).await else {
            // Another look is in the kernel and has not come back.
            return Seen::default();
        };
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (tell, told) = oneshot::channel();
        let (signs, resolver, place) = (
            Arc::clone(&self.signs),
            Arc::clone(&self.resolver),
            Arc::clone(&seen),
        );
        let made = std::thread::Builder::new()
            .name("health".to_owned())
            .spawn(move || {
                let times = Times {
                    log: begun + budget / 2,
                    all: begun + budget,
                };
                gather(&*signs, &mut kept, &resolver, &times, &place);
                drop(kept);
                // Nobody may be waiting any more.
                tell.send(()).ok();
            });
        match made {
            Ok(_) => drop(timeout(budget.saturating_sub(begun.elapsed()), told).await),
            Err(error) => {
                let why = || Survey::Unknown(format!("no thread to look with: {error}"));
                seen.lock().held = Some(why());
            }
        }
        std::mem::take(&mut *seen.lock())
    }
}

/// How long may be read. The log goes on at the next look where it was left, the threads do not: so the log
/// leaves them half of the time at least.
struct Times {
    log: Instant,
    all: Instant,
}

/// What is read at once comes first: a host with very many threads is still told of its memory.
fn gather(
    signs: &dyn Signs,
    kept: &mut Kept,
    resolver: &Resolver,
    times: &Times,
    place: &Mutex<Seen>,
) {
    let now = signs.uptime();
    let memory = signs.memory().map_err(|error| error.to_string());
    place.lock().memory = Some(memory.map_or_else(Survey::Unknown, Survey::Known));
    let io = io(signs, kept, now);
    place.lock().io = Some(io);
    let log = log(signs, &mut kept.log, now, resolver, times.log);
    place.lock().log = Some(log);
    let held = held(signs, &mut kept.held, now, times.all);
    place.lock().held = Some(held);
}

fn held(
    signs: &dyn Signs,
    memory: &mut Memory,
    now: Duration,
    until: Instant,
) -> Survey<Vec<(hearth_host::waits::KernelWait, Duration)>> {
    let held = match signs.held(until) {
        Ok(held) => held,
        Err(error) => return Survey::Unknown(format!("the threads in state D: {error}")),
    };
    let mut held = memory.look(held, now);
    held.sort_by_key(|(_, age)| std::cmp::Reverse(*age));
    let described = held.iter().take(DESCRIBED_MAX);
    Survey::Known(
        described
            .map(|(held, age)| (signs.describe(held), *age))
            .collect(),
    )
}

fn log(
    signs: &dyn Signs,
    book: &mut LogBook,
    now: Duration,
    resolver: &Resolver,
    until: Instant,
) -> Survey<LogSight> {
    let part = match signs.log(until) {
        Ok(part) => part,
        Err(error) => return Survey::Unknown(format!("/dev/kmsg: {error}")),
    };
    book.lost |= part.lost;
    for entry in part.records.iter().filter_map(classify) {
        book.add(entry);
    }
    let entries = book.entries().map(|entry| {
        let whose = resolver(&entry.origin);
        (entry.clone(), whose, now.saturating_sub(entry.at))
    });
    Survey::Known(LogSight {
        entries: entries.collect(),
        lost: book.lost,
        more: part.more,
    })
}

fn io(signs: &dyn Signs, kept: &mut Kept, now: Duration) -> Io {
    let wait = match signs.cpu() {
        Ok(times) => Survey::Known(io_wait(kept, now, times)),
        Err(error) => Survey::Unknown(format!("the CPUs' times: {error}")),
    };
    let pressure = signs.io_pressure();
    Io {
        wait,
        pressure: pressure.map_or_else(|error| Survey::Unknown(error.to_string()), Survey::Known),
    }
}

/// Percent of the CPUs' time since an earlier look.
fn io_wait(kept: &mut Kept, now: Duration, times: CpuTimes) -> Option<u32> {
    let age = |at: Duration| now.saturating_sub(at);
    let Some((_, before)) = kept.cpu.filter(|(at, _)| age(*at) <= CPU_MOST) else {
        kept.cpu = Some((now, times));
        return None;
    };
    let close = kept.cpu.is_some_and(|(at, _)| age(at) < CPU_LEAST);
    let all = times.all.saturating_sub(before.all);
    if close || all == 0 {
        let last = kept.wait.filter(|(at, _)| age(*at) <= CPU_MOST);
        return last.map(|(_, percent)| percent);
    }
    let waited = times.io_wait.saturating_sub(before.io_wait);
    let percent = u128::from(waited) * 100 / u128::from(all);
    let percent = u32::try_from(percent.min(100)).unwrap_or(100);
    kept.cpu = Some((now, times));
    kept.wait = Some((now, percent));
    Some(percent)
}

#[cfg(test)]
mod tests;
