//! All threads of the host that are in state D at this moment.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use rustix::fs::{Dir, Mode, OFlags};
use rustix::io::Errno;
use rustix::path::Arg;

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
    // There are thousands of threads, and hardly ever one in state D: nothing is allotted for the others.
    let mut buffer = [0; STAT_MAX];
    for_each_number(&proc, |pid, name| {
        if Instant::now() >= until {
            return Err(io::Error::from(io::ErrorKind::TimedOut));
        }
        let Some(stat) = stat(&proc, name, &mut buffer)? else {
            return Ok(());
        };
        if stat.threads <= 1 {
            found.extend(held(&proc, pid, pid, &stat)?);
            return Ok(());
        }
        let tasks = match folder(&proc, Path::new(name, b"/task").as_c_str()) {
            Ok(tasks) => tasks,
            Err(error) if super::gone(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        for_each_number(&tasks, |tid, name| {
            if let Some(stat) = self::stat(&tasks, name, &mut buffer)? {
                found.extend(held(&proc, pid, tid, &stat)?);
            }
            Ok(())
        })
    })?;
    Ok(found)
}

/// What of a `stat` matters here.
#[derive(Debug, PartialEq, Eq)]
struct Stat<'t> {
    name: &'t [u8],
    waits: bool,
    threads: u32,
    start_time: u64,
}

fn held(proc: &OwnedFd, pid: i32, tid: i32, stat: &Stat<'_>) -> io::Result<Option<Held>> {
    if !stat.waits {
        return Ok(None);
    }
    let mut buffer = [0; STATUS_MAX];
    let status = read(proc, format!("{pid}/task/{tid}/status"), &mut buffer)?;
    Ok(status.map(|status| Held {
        pid,
        tid,
        start_time: stat.start_time,
        switches: switches(&String::from_utf8_lossy(status)),
        name: String::from_utf8_lossy(stat.name).into_owned(),
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

/// A number and a few letters, as the kernel wants them.
struct Path([u8; PATH_MAX]);

/// `-2147483648`, `/task` and an end.
const PATH_MAX: usize = 24;

impl Path {
    fn new(number: &[u8], rest: &[u8]) -> Self {
        let mut path = [0; PATH_MAX];
        // A name that is no number of the kernel's is cut off, and leads nowhere.
        let bytes = number.iter().chain(rest).take(PATH_MAX - 1);
        for (place, byte) in path.iter_mut().zip(bytes) {
            *place = *byte;
        }
        Self(path)
    }

    fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.0).unwrap_or_default()
    }
}

fn stat<'b>(dir: impl AsFd, number: &[u8], buffer: &'b mut [u8]) -> io::Result<Option<Stat<'b>>> {
    let path = Path::new(number, b"/stat");
    Ok(read(dir, path.as_c_str(), buffer)?.and_then(parse))
}

/// Fields 3 (state), 20 (threads) and 22 (start time) of proc_pid_stat(5).
fn parse(stat: &[u8]) -> Option<Stat<'_>> {
    let open = stat.iter().position(|byte| *byte == b'(')?;
    let close = stat.iter().rposition(|byte| *byte == b')')?;
    let name = stat.get(open + 1..close)?;
    let rest = stat.get(close + 1..)?;
    let mut fields = rest
        .split(u8::is_ascii_whitespace)
        .filter(|field| !field.is_empty());
    let waits = fields.next()? == b"D";
    let threads = u32::try_from(number(fields.nth(16)?)?).ok()?;
    let start_time = number(fields.nth(1)?)?;
    Some(Stat {
        name,
        waits,
        threads,
        start_time,
    })
}

fn number(digits: &[u8]) -> Option<u64> {
    let mut number: u64 = 0;
    for digit in digits {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        number = number.checked_mul(10)?.checked_add(digit)?;
    }
    (!digits.is_empty()).then_some(number)
}

/// The start of a file; `None` when its process or thread is gone.
fn read(dir: impl AsFd, file: impl Arg, buffer: &mut [u8]) -> io::Result<Option<&[u8]>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let read = rustix::fs::openat(dir, file, flags, Mode::empty())
        .and_then(|file| rustix::io::read(&file, &mut *buffer));
    match read {
        Ok(length) => Ok(Some(&buffer[..length])),
        Err(Errno::NOENT | Errno::SRCH) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn folder(dir: impl AsFd, path: impl Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, path, flags, Mode::empty())?)
}

fn for_each_number(
    dir: &OwnedFd,
    mut each: impl FnMut(i32, &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    for entry in Dir::read_from(dir)? {
        let entry = match entry {
            Ok(entry) => entry,
            // The process has ended while its threads were listed.
            Err(Errno::NOENT | Errno::SRCH) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let name = entry.file_name().to_bytes();
        if let Some(number) = number(name).and_then(|number| i32::try_from(number).ok()) {
            each(number, name)?;
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
        let text = format!("12 (kworker/u8:1-dm-thin) (x) D {rest}\n");
        let stat = parse(text.as_bytes()).unwrap();
        assert_eq!(stat.name, b"kworker/u8:1-dm-thin) (x");
        assert!(stat.waits);
        let text = format!("12 (a b) S {rest}");
        let stat = parse(text.as_bytes()).unwrap();
        assert_eq!((stat.waits, stat.threads, stat.start_time), (false, 3, 77));
        for bad in ["", "12", "12 (a", "12 (a) D", "12 )a( D 1 1"] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn paths_are_whole_or_lead_nowhere() {
        let path = Path::new(b"2147483647", b"/stat");
        assert_eq!(path.as_c_str(), c"2147483647/stat");
        let long = Path::new(&[b'1'; 100], b"/stat");
        assert_eq!(long.as_c_str().to_bytes(), [b'1'; PATH_MAX - 1]);
        assert_eq!(number(b"18446744073709551616"), None);
        assert_eq!(
            (number(b""), number(b"+1"), number(b"017")),
            (None, None, Some(17))
        );
    }

    #[test]
    fn switches_are_added_up() {
        let status = "Name:\tx\nvoluntary_ctxt_switches:\t150\nnonvoluntary_ctxt_switches:\t545\n";
        assert_eq!(switches(status), 695);
        assert_eq!(switches("Name:\tx\n"), 0);
    }
}
