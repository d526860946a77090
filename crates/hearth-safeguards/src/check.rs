//! What the signs mean for an operation. Pure.
//!
//! | check | refuses | waits a moment and looks again | only told |
//! | --- | --- | --- | --- |
//! | `d_state` | a thread on device-mapper that has not moved for `held_for` | one that has not for less long; threads that could not be told | other threads that do not move |
//! | `pool` | what the caller says of it is bad, or unknown | | |
//! | `kernel_log` | BUG, Oops, panic, the host out of memory, errors of device-mapper (but not of others' devices) and of the pool's own disks, younger than `log_window` | | the same when older; errors of volumes, of other disks; hung tasks; a log that cannot be read |
//! | `memory` | less than `memory_available` percent | | it cannot be read |
//! | `io_wait` | | more than `io_wait` or `io_pressure` percent; refuses when that does not end | it cannot be read |
//!
//! What mends or frees ([`Purpose::Relief`]) is refused by `d_state` alone.

use std::fmt;
use std::time::Duration;

use hearth_host::load::Memory;
use hearth_host::waits::KernelWait;
use hearth_types::survey::Survey;

use crate::held::on_device_mapper;
use crate::log::{Entry, Kind, Origin, Whose};
use crate::thresholds::Thresholds;

/// Threads that wait on something else are told from here on: a disk may be slow.
const OTHERS_HELD: Duration = Duration::from_secs(10);
/// So many findings of the kernel's log are told.
const LOG_FINDINGS: usize = 16;

/// What is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Check {
    /// Threads that wait in the kernel and do not move.
    DState,
    /// The pool.
    Pool,
    /// The kernel's log.
    KernelLog,
    /// Memory.
    Memory,
    /// Waiting for disks.
    IoWait,
}

impl Check {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::DState,
        Self::Pool,
        Self::KernelLog,
        Self::Memory,
        Self::IoWait,
    ];

    /// The word that logs and metrics have for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DState => "d_state",
            Self::Pool => "pool",
            Self::KernelLog => "kernel_log",
            Self::Memory => "memory",
            Self::IoWait => "io_wait",
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What an operation is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Something is made or changed.
    Change,
    /// Something is mended, extended or given back: what a host in trouble needs.
    Relief,
}

/// What the caller knows of the pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PoolSign {
    /// It can be worked with.
    Good,
    /// It cannot: its state, and why.
    Bad {
        /// In a word.
        state: String,
        /// Why.
        why: String,
    },
    /// It could not be told.
    Unknown(String),
}

/// How much a finding weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// It is told.
    Warns,
    /// Perhaps nothing: it is looked at again, and passes if it is never the same twice.
    Moment,
    /// It may end by itself: it is looked at again, and refuses if it does not.
    Settles,
    /// The operation is not begun.
    Refuses,
}

/// Something that speaks against an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which check.
    pub check: Check,
    /// How much it weighs.
    pub weight: Weight,
    /// What was read.
    pub reading: String,
    /// From where on it matters.
    pub threshold: String,
    /// What to do.
    pub hint: &'static str,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            check,
            reading,
            threshold,
            ..
        } = self;
        write!(f, "{check}: {reading} (threshold: {threshold})")
    }
}

/// What one check has read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// Which.
    pub check: Check,
    /// What, for people.
    pub said: Survey<String>,
}

/// The outcome of a look.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// What was read.
    pub readings: Vec<Reading>,
    /// What speaks against an operation, the gravest first.
    pub findings: Vec<Finding>,
    /// How long the look took.
    pub took: Duration,
}

impl Report {
    /// The most that any finding weighs.
    #[must_use]
    pub fn weight(&self) -> Option<Weight> {
        self.findings.iter().map(|finding| finding.weight).max()
    }

    /// The findings that weigh so much or more.
    pub fn at_least(&self, weight: Weight) -> impl Iterator<Item = &Finding> {
        let enough = move |finding: &&Finding| finding.weight >= weight;
        self.findings.iter().filter(enough)
    }
}

/// What was read; `None` is what there was no time for.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) held: Option<Survey<Vec<(KernelWait, Duration)>>>,
    pub(crate) log: Option<Survey<LogSight>>,
    pub(crate) memory: Option<Survey<Memory>>,
    pub(crate) io: Option<Io>,
}

/// What the log has, with whose it is, and how old.
#[derive(Debug, Default)]
pub(crate) struct LogSight {
    pub(crate) entries: Vec<(Entry, Whose, Duration)>,
    pub(crate) lost: bool,
    pub(crate) more: bool,
}

/// How much is waited for disks, in percent.
#[derive(Debug)]
pub(crate) struct Io {
    /// `None`: there is no earlier look to compare with.
    pub(crate) wait: Survey<Option<u32>>,
    pub(crate) pressure: Survey<u32>,
}

/// Says what the signs mean.
pub(crate) fn judge(
    seen: &Seen,
    limits: &Thresholds,
    purpose: Purpose,
    pool: Option<&PoolSign>,
) -> Report {
    let mut report = Report::default();
    held(&mut report, seen.held.as_ref(), limits);
    pool_state(&mut report, pool);
    log(&mut report, seen.log.as_ref(), limits);
    memory(&mut report, seen.memory.as_ref(), limits);
    io(&mut report, seen.io.as_ref(), limits);
    if purpose == Purpose::Relief {
        for finding in &mut report.findings {
            let known = finding.check == Check::DState && finding.weight != Weight::Settles;
            if !known {
                finding.weight = Weight::Warns;
            }
        }
    }
    report
        .findings
        .sort_by_key(|finding| std::cmp::Reverse(finding.weight));
    report
}

fn not_in_time<T>(seen: Option<&Survey<T>>) -> Result<&T, String> {
    match seen {
        Some(Survey::Known(value)) => Ok(value),
        Some(Survey::Unknown(why)) => Err(why.clone()),
        None => Err("it was not read in time".to_owned()),
    }
}

impl Report {
    fn read(&mut self, check: Check, said: impl Into<String>) {
        let said = Survey::Known(said.into());
        self.readings.push(Reading { check, said });
    }

    fn unread(&mut self, check: Check, weight: Weight, why: String) {
        let said = Survey::Unknown(why.clone());
        self.readings.push(Reading { check, said });
        self.find(
            check,
            weight,
            format!("unknown: {why}"),
            "it must be known",
            "see whether /proc and /dev/kmsg can be read, and whether the host is overloaded",
        );
    }

    fn find(
        &mut self,
        check: Check,
        weight: Weight,
        reading: String,
        threshold: impl Into<String>,
        hint: &'static str,
    ) {
        self.findings.push(Finding {
            check,
            weight,
            reading,
            threshold: threshold.into(),
            hint,
        });
    }
}

fn held(
    report: &mut Report,
    seen: Option<&Survey<Vec<(KernelWait, Duration)>>>,
    limits: &Thresholds,
) {
    const HINT: &str = "a device below does not answer: see dmesg; it goes on when the device does, else only a \
                        reboot helps (docs/runbooks/HearthDState.md)";
    let threads = match not_in_time(seen) {
        Ok(threads) => threads,
        // Never taken for none; the next look may have the time.
        Err(why) => return report.unread(Check::DState, Weight::Settles, why),
    };
    report.read(
        Check::DState,
        format!("{} threads in state D", threads.len()),
    );
    for (wait, age) in threads {
        let ours = on_device_mapper(wait);
        let weight = match ours {
            true if *age >= limits.held_for => Weight::Refuses,
            true => Weight::Moment,
            false if *age >= OTHERS_HELD.max(limits.held_for) => Weight::Warns,
            false => continue,
        };
        let reading = format!("{wait}; not moved for {:.1} s", age.as_secs_f64());
        let threshold = format!("{} s", limits.held_for.as_secs_f64());
        report.find(Check::DState, weight, reading, threshold, HINT);
    }
}

fn pool_state(report: &mut Report, pool: Option<&PoolSign>) {
    let Some(pool) = pool else {
        return;
    };
    match pool {
        PoolSign::Good => report.read(Check::Pool, "good"),
        PoolSign::Unknown(why) => report.unread(Check::Pool, Weight::Refuses, why.clone()),
        PoolSign::Bad { state, why } => {
            report.read(Check::Pool, format!("{state}: {why}"));
            let hint = "see hearth pool status, which says what to do";
            report.find(
                Check::Pool,
                Weight::Refuses,
                format!("the pool is {state}: {why}"),
                "up",
                hint,
            );
        }
    }
}

fn log(report: &mut Report, seen: Option<&Survey<LogSight>>, limits: &Thresholds) {
    let sight = match not_in_time(seen) {
        Ok(sight) => sight,
        Err(why) => return report.unread(Check::KernelLog, Weight::Warns, why),
    };
    let count = sight.entries.len();
    report.read(
        Check::KernelLog,
        format!("{count} kinds of trouble since boot"),
    );
    if sight.lost || sight.more {
        let reading = match sight.lost {
            true => "records were overwritten before they were read",
            false => "it is longer than could be read at once",
        };
        let hint = "see dmesg; a larger log_buf_len keeps more";
        report.find(
            Check::KernelLog,
            Weight::Warns,
            reading.to_owned(),
            "all is read",
            hint,
        );
    }
    let mut told = 0;
    for (entry, whose, age) in sight.entries.iter().rev() {
        let Some(weight) = weigh(entry, whose, *age, limits) else {
            continue;
        };
        told += 1;
        if told > LOG_FINDINGS && weight < Weight::Refuses {
            continue;
        }
        report.find(
            Check::KernelLog,
            weight,
            words(entry, whose, *age),
            format!("none within {} s", limits.log_window.as_secs()),
            "see dmesg for what happened; when it is mended and the time is over, it refuses no more",
        );
    }
}

fn weigh(entry: &Entry, whose: &Whose, age: Duration, limits: &Thresholds) -> Option<Weight> {
    let recent = age < limits.log_window;
    let grave = match (entry.kind, whose) {
        // The guest's limit did what it is there for.
        (Kind::CgroupOom, _) => return None,
        // The pool's state tells what holds now.
        (Kind::PoolSpace, _) => return recent.then_some(Weight::Warns),
        (Kind::Bug | Kind::HostOom, _) | (Kind::Io, Whose::Pool(_)) => true,
        (Kind::DeviceMapper, whose) => !matches!(whose, Whose::Foreign | Whose::Volume(_)),
        // Whether it hangs still, the threads tell.
        (Kind::HungTask | Kind::Io, _) => false,
    };
    Some(if grave && recent {
        Weight::Refuses
    } else {
        Weight::Warns
    })
}

fn words(entry: &Entry, whose: &Whose, age: Duration) -> String {
    let Entry {
        kind, origin, text, ..
    } = entry;
    let whose = match whose {
        Whose::Pool(what) | Whose::Volume(what) => format!(" ({what})"),
        Whose::Foreign => " (not ours)".to_owned(),
        Whose::Unknown if *origin == Origin::Nothing => String::new(),
        Whose::Unknown => " (nobody knows whose)".to_owned(),
    };
    let kind = kind.as_str();
    format!("{kind} {} s ago on {origin}{whose}: {text}", age.as_secs())
}

fn memory(report: &mut Report, seen: Option<&Survey<Memory>>, limits: &Thresholds) {
    let memory = match not_in_time(seen) {
        Ok(memory) => memory,
        Err(why) => return report.unread(Check::Memory, Weight::Warns, why),
    };
    let part = u128::from(memory.available) * 1000 / u128::from(memory.total.max(1));
    let said = format!("{}.{} % available", part / 10, part % 10);
    report.read(Check::Memory, said.clone());
    if part < u128::from(limits.memory_available) * 10 {
        report.find(
            Check::Memory,
            Weight::Refuses,
            said,
            format!("{} %", limits.memory_available),
            "give memory free: stop VMs, or see what else uses it (hearth stats, ps)",
        );
    }
}

fn io(report: &mut Report, seen: Option<&Io>, limits: &Thresholds) {
    const HINT: &str = "wait for the disks to be less busy (iostat -x 1 shows which); it is looked at again at each try";
    let Some(io) = seen else {
        return report.unread(
            Check::IoWait,
            Weight::Warns,
            "it was not read in time".to_owned(),
        );
    };
    let mut said = Vec::new();
    match &io.wait {
        Survey::Known(None) => {}
        Survey::Known(Some(percent)) => {
            said.push(format!("{percent} % of the CPUs' time"));
            if limits.io_wait > 0 && *percent > limits.io_wait {
                let reading = format!("{percent} % of the CPUs' time is spent waiting for disks");
                let threshold = format!("{} %", limits.io_wait);
                report.find(Check::IoWait, Weight::Settles, reading, threshold, HINT);
            }
        }
        Survey::Unknown(why) => return report.unread(Check::IoWait, Weight::Warns, why.clone()),
    }
    // Not every kernel counts it, and the other number is there.
    if let Survey::Known(percent) = &io.pressure {
        said.push(format!("everything held up for {percent} % of ten seconds"));
        if limits.io_pressure > 0 && *percent > limits.io_pressure {
            let reading =
                format!("for {percent} % of the last ten seconds everything waited for disks");
            let threshold = format!("{} %", limits.io_pressure);
            report.find(Check::IoWait, Weight::Settles, reading, threshold, HINT);
        }
    }
    let said = if said.is_empty() {
        "there is no earlier look to compare with".to_owned()
    } else {
        said.join(", ")
    };
    report.read(Check::IoWait, said);
}

#[cfg(test)]
mod tests;
