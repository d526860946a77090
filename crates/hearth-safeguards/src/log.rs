//! What the kernel's log says that matters to storage. Pure.
//!
//! Every line is the kernel's own ([`classify`] drops what programs write into the log), and the
//! words are those of its sources: drivers/md/dm*.c and block/blk-core.c, lib/bug.c, arch/x86/kernel/dumpstack.c,
//! kernel/hung_task.c, mm/oom_kill.c. What is not known is nothing: a safeguard that stops at every
//! line that says "error" would be switched off on the second day.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use hearth_host::kmsg::Record;

/// So many entries are remembered.
const ENTRIES_MAX: usize = 256;
/// So much of a text is kept, in characters.
const TEXT_MAX: usize = 300;

/// What kind of trouble a line tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The kernel has a defect, or its structures are damaged: BUG, Oops, panic.
    Bug,
    /// It killed a process because the host had no memory.
    HostOom,
    /// It killed a process because its cgroup had none: that is the guest's limit, no trouble of the host's.
    CgroupOom,
    /// A task has not moved for two minutes.
    HungTask,
    /// A device-mapper target reports an error.
    DeviceMapper,
    /// A pool reports that it has no space, or its change of mode: its own state says what holds now.
    PoolSpace,
    /// A request to a device has failed.
    Io,
}

impl Kind {
    /// In a word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bug => "kernel bug",
            Self::HostOom => "out of memory",
            Self::CgroupOom => "cgroup out of memory",
            Self::HungTask => "hung task",
            Self::DeviceMapper => "device-mapper error",
            Self::PoolSpace => "pool space",
            Self::Io => "I/O error",
        }
    }
}

/// What a line is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Origin {
    /// A device-mapper device, by its minor number.
    Dm(u32),
    /// A loop device, by its number.
    Loop(u32),
    /// Another block device.
    Disk(String),
    /// A process.
    Process(i32),
    /// It does not say.
    Nothing,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dm(minor) => write!(f, "dm-{minor}"),
            Self::Loop(number) => write!(f, "loop{number}"),
            Self::Disk(name) => f.write_str(name),
            Self::Process(pid) => write!(f, "process {pid}"),
            Self::Nothing => f.write_str("the host"),
        }
    }
}

/// Whose that is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whose {
    /// The pool's own, or a disk's below it.
    Pool(String),
    /// A VM's, or a volume's: told, no reason to stop the others.
    Volume(String),
    /// Not ours.
    Foreign,
    /// Nobody knows (any more): a device's number is given away again when it is gone.
    Unknown,
}

/// A line that matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What kind of trouble.
    pub kind: Kind,
    /// What it is about.
    pub origin: Origin,
    /// When, after boot.
    pub at: Duration,
    /// What was said.
    pub text: String,
}

/// Reads a record. `None` for one that is no trouble, or not the kernel's.
#[must_use]
pub fn classify(record: &Record) -> Option<Entry> {
    if record.facility != 0 {
        return None;
    }
    let text = record.text.as_str();
    let (kind, origin) = bug(text)
        .or_else(|| oom(text))
        .or_else(|| hung(text))
        .or_else(|| device_mapper(text, record.level))
        .or_else(|| io(text))?;
    Some(Entry {
        kind,
        origin,
        at: record.at,
        text: text.chars().take(TEXT_MAX).collect(),
    })
}

fn bug(text: &str) -> Option<(Kind, Origin)> {
    // `BUG: workqueue lockup` and soft lockups happen to hosts that are merely overcommitted.
    let lockup = text.contains("soft lockup") || text.contains("workqueue lockup");
    let begins = [
        "BUG: ",
        "kernel BUG at ",
        "Oops: ",
        "Kernel panic",
        "general protection fault",
        "Unable to handle kernel",
        "Internal error: ",
        "list_add corruption",
        "list_del corruption",
    ];
    let is_bug = !lockup && begins.iter().any(|begin| text.starts_with(begin));
    is_bug.then_some((Kind::Bug, Origin::Nothing))
}

/// `Out of memory: Killed process 17 (qemu) …`, `Memory cgroup out of memory: Killed process …`.
fn oom(text: &str) -> Option<(Kind, Origin)> {
    let (cause, rest) = text.split_once(": Killed process ")?;
    let kind = match cause {
        "Memory cgroup out of memory" => Kind::CgroupOom,
        _ if cause.starts_with("Out of memory") => Kind::HostOom,
        _ => return None,
    };
    Some((kind, process(rest)))
}

/// `INFO: task dmsetup:1234 blocked for more than 120 seconds.`
fn hung(text: &str) -> Option<(Kind, Origin)> {
    let rest = text.strip_prefix("INFO: task ")?;
    let (task, _) = rest.split_once(" blocked for more than ")?;
    // A task's name may hold colons.
    let (_, pid) = task.rsplit_once(':')?;
    Some((Kind::HungTask, process(pid)))
}

fn process(text: &str) -> Origin {
    let digits = text.split(|c: char| !c.is_ascii_digit()).next();
    let pid = digits.and_then(|digits| digits.parse().ok());
    pid.map_or(Origin::Nothing, Origin::Process)
}

/// `device-mapper: thin: 253:0: …`: an error of level 3 and above, or a word of its space.
fn device_mapper(text: &str, level: u32) -> Option<(Kind, Origin)> {
    const ERROR: u32 = 3;
    let rest = text.strip_prefix("device-mapper: ")?;
    let space = [
        "no free data space",
        "no free metadata space",
        "out-of-data-space",
        "out-of-metadata-space",
        "reached low water mark",
        "switching pool to",
        "pool mode to",
        "growing the data device",
        "growing the metadata device",
    ];
    let kind = if space.iter().any(|word| rest.contains(word)) {
        Kind::PoolSpace
    } else if level <= ERROR && !of_an_ioctl(rest) {
        Kind::DeviceMapper
    } else {
        return None;
    };
    let device = rest.split(": ").find_map(|word| {
        let (_, minor) = word.split_once(':')?;
        minor.parse().ok().map(Origin::Dm)
    });
    Some((kind, device.unwrap_or(Origin::Nothing)))
}

/// What `device-mapper: ioctl: …` and `device-mapper: table: …` tell is a request that was refused: its
/// caller knows, and nothing is broken.
fn of_an_ioctl(rest: &str) -> bool {
    rest.starts_with("ioctl: ") || rest.starts_with("table: ")
}

/// `I/O error, dev loop0, sector 8 …`, `Buffer I/O error on dev dm-3, …`, `EXT4-fs error (device dm-3): …`.
fn io(text: &str) -> Option<(Kind, Origin)> {
    let errors = [
        "I/O error",
        "critical medium error",
        "critical target error",
        "critical space allocation error",
        "critical nexus error",
        "Write error at byte offset",
        "EXT4-fs error",
        "XFS (",
        "BTRFS error",
    ];
    if !errors.iter().any(|word| text.contains(word)) {
        return None;
    }
    // XFS says much that is no error.
    if text.starts_with("XFS (") && !(text.contains("rror") || text.contains("hutdown")) {
        return None;
    }
    let after = |mark: &str| {
        let (_, rest) = text.split_once(mark)?;
        rest.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_'))
            .next()
            .filter(|name| !name.is_empty())
    };
    let name = ["dev ", "device ", "XFS ("].into_iter().find_map(after);
    let name = name.or_else(|| text.strip_prefix("loop: ").and(Some("loop")));
    Some((Kind::Io, name.map_or(Origin::Nothing, device)))
}

fn device(name: &str) -> Origin {
    let number = |prefix: &str| name.strip_prefix(prefix)?.parse().ok();
    if let Some(minor) = number("dm-") {
        return Origin::Dm(minor);
    }
    number("loop").map_or_else(|| Origin::Disk(name.to_owned()), Origin::Loop)
}

/// What was read so far, as far as it matters.
#[derive(Debug, Default)]
pub(crate) struct LogBook {
    entries: VecDeque<Entry>,
    /// Records were lost before they were read, at this time after boot.
    pub(crate) lost: bool,
}

impl LogBook {
    pub(crate) fn add(&mut self, entry: Entry) {
        // The same line again and again is one trouble: the last one counts.
        let same = |old: &Entry| old.kind == entry.kind && old.origin == entry.origin;
        if let Some(at) = self.entries.iter().position(same) {
            self.entries.remove(at);
        }
        if self.entries.len() == ENTRIES_MAX {
            self.entries.pop_front();
        }
        self.entries.push_back(entry);
    }

    /// The last one of each kind and origin, the oldest first.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }
}

#[cfg(test)]
mod tests;
