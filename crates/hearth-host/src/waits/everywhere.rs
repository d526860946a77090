//! All threads of the host that are in state D at this moment.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use rustix::fs::{Dir, Mode, OFlags};
use rustix::io::Errno;

/// A `stat` of proc(5) is 52 numbers and a name.
const STAT_MAX: usize = 1024;
/// A `status` of proc(5); the counts of switches are its last lines.
const STATUS_MAX: usize = 8 << 10;

/// A thread that is in state D. Two that are equal are one that has not moved in between.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Held {
    /// Its process.
    pub pid: i32,
    /// The thread.
    pub tid: i32,
    /// When it began, in clock ticks after boot.
    pub start_time: u64,
    /// How often it has been given a CPU and taken one away: one that moves counts on.
    pub switches: u64,
    /// Its name; a kernel worker's has its queue in it.
    pub name: String,
}

/// Every thread of the host that is in state D: processes' and the kernel's own.
///
/// A moment of it is normal: compare two looks. Threads that end meanwhile are left out.
///
/// # Errors
/// When `/proc` cannot be read, or with [`io::ErrorKind::TimedOut`] when the time is up: then it is not known.
pub fn everywhere(until: Instant) -> io::Result<Vec<Held>> {
    let proc = folder(rustix::fs::CWD, "/proc")?;
    let mut found = Vec::new();
    for_each_number(&proc, |pid| {
        if Instant::now() >= until {
            return Err(io::Error::from(io::ErrorKind::TimedOut));
        }
        let Some(stat) = stat(&proc, &format!("{pid}/stat"))? else {
            return Ok(());
        };
        if stat.threads <= 1 {
            found.extend(held(&proc, pid, pid, stat)?);
            return Ok(());
        }
        let tasks = match folder(&proc, &format!("{pid}/task")) {
            Ok(tasks) => tasks,
            Err(error) if super::gone(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        for_each_number(&tasks, |tid| {
            if let Some(stat) = self::stat(&tasks, &format!("{tid}/stat"))? {
                found.extend(held(&proc, pid, tid, stat)?);
            }
            Ok(())
        })
    })?;
    Ok(found)
}

/// What of a `stat` matters here.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    name: String,
    waits: bool,
    threads: u32,
    start_time: u64,
}

fn held(proc: &OwnedFd, pid: i32, tid: i32, stat: Stat) -> io::Result<Option<Held>> {
    if !stat.waits {
        return Ok(None);
    }
    let mut buffer = [0; STATUS_MAX];
    let status = read(proc, &format!("{pid}/task/{tid}/status"), &mut buffer)?;
    Ok(status.map(|status| Held {
        pid,
        tid,
        start_time: stat.start_time,
        switches: switches(&String::from_utf8_lossy(status)),
        name: stat.name,
    }))
}

/// `voluntary_ctxt_switches` and `nonvoluntary_ctxt_switches` together.
fn switches(status: &str) -> u64 {
    let counts = status.lines().filter_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.ends_with("voluntary_ctxt_switches")
            .then(|| value.trim().parse::<u64>().ok())
            .flatten()
    });
    counts.fold(0, u64::saturating_add)
}

fn stat(dir: impl AsFd, file: &str) -> io::Result<Option<Stat>> {
    let mut buffer = [0; STAT_MAX];
    let text = read(dir, file, &mut buffer)?;
    Ok(text.and_then(|text| parse(&String::from_utf8_lossy(text))))
}

/// Fields 3 (state), 20 (threads) and 22 (start time) of proc_pid_stat(5).
fn parse(stat: &str) -> Option<Stat> {
    let (open, close) = (stat.find('(')?, stat.rfind(')')?);
    let fields: Vec<&str> = stat.get(close + 1..)?.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3).copied();
    Some(Stat {
        name: stat.get(open + 1..close)?.to_owned(),
        waits: field(3)? == "D",
        threads: field(20)?.parse().ok()?,
        start_time: field(22)?.parse().ok()?,
    })
}

/// The start of a file; `None` when its process or thread is gone.
fn read<'b>(dir: impl AsFd, file: &str, buffer: &'b mut [u8]) -> io::Result<Option<&'b [u8]>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let read = rustix::fs::openat(dir, file, flags, Mode::empty())
        .and_then(|file| rustix::io::read(&file, &mut *buffer));
    match read {
        Ok(length) => Ok(Some(&buffer[..length])),
        Err(Errno::NOENT | Errno::SRCH) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn folder(dir: impl AsFd, path: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, path, flags, Mode::empty())?)
}

fn for_each_number(dir: &OwnedFd, mut each: impl FnMut(i32) -> io::Result<()>) -> io::Result<()> {
    for entry in Dir::read_from(dir)? {
        let entry = match entry {
            Ok(entry) => entry,
            // The process has ended while its threads were listed.
            Err(Errno::NOENT | Errno::SRCH) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let number = entry.file_name().to_str().ok();
        if let Some(number) = number.and_then(|name| name.parse().ok()) {
            each(number)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_any_kind_do_not_shift_the_fields() {
        let rest = "1 1 1 0 -1 2129984 0 0 0 0 0 0 0 0 20 0 3 0 77 0";
        let stat = parse(&format!("12 (kworker/u8:1-dm-thin) (x) D {rest}\n")).unwrap();
        assert_eq!(stat.name, "kworker/u8:1-dm-thin) (x");
        assert!(stat.waits);
        let stat = parse(&format!("12 (a b) S {rest}")).unwrap();
        assert_eq!((stat.waits, stat.threads, stat.start_time), (false, 3, 77));
        for bad in ["", "12", "12 (a", "12 (a) D", "12 )a( D 1 1"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn switches_are_added_up() {
        let status = "Name:\tx\nvoluntary_ctxt_switches:\t150\nnonvoluntary_ctxt_switches:\t545\n";
        assert_eq!(switches(status), 695);
        assert_eq!(switches("Name:\tx\n"), 0);
    }
}
