//! The kernel's log, record by record: `/dev/kmsg`.
//!
//! One read gives one record: `6,1234,5678901,-;the text`, then lines that begin with a space
//! (the kernel's `Documentation/ABI/testing/dev-kmsg`). Programs may write into it, too: their records have another
//! facility than the kernel's 0. It is a ring; what is read too late is lost, and that is told.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// Longest record, in bytes (`PRINTKRB_RECORD_MAX` and room for its escapes).
const RECORD_MAX: usize = 8192;
/// Levels below a facility (`LOG_PRIMASK`).
const LEVELS: u32 = 8;

/// A record of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// How grave: 0 (emergency) to 7 (debug); 3 is an error.
    pub level: u32,
    /// Who wrote it: 0 is the kernel.
    pub facility: u32,
    /// Its number; one more than the record's before it.
    pub sequence: u64,
    /// When, after boot.
    pub at: Duration,
    /// What. Control characters are written `\x1b`.
    pub text: String,
}

/// What a look at the log gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// The next record.
    Record(Record),
    /// Records were overwritten before they were read; the next read goes on after them.
    Lost,
    /// Something that is no record.
    Garbled,
    /// No more at present.
    End,
}

/// The log, from a place on.
#[derive(Debug)]
pub struct KernelLog(OwnedFd);

impl KernelLog {
    /// From the oldest record that it still has.
    ///
    /// # Errors
    /// When it may not be read: that needs `CAP_SYSLOG` where `kernel.dmesg_restrict` is set.
    pub fn open() -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open("/dev/kmsg", flags, Mode::empty())?))
    }

    /// Reads on. Waits for nothing.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn read(&self) -> io::Result<Next> {
        let mut buffer = [0; RECORD_MAX];
        loop {
            return match rustix::io::read(&self.0, &mut buffer) {
                Ok(0) | Err(Errno::AGAIN) => Ok(Next::End),
                Ok(length) => Ok(parse(&buffer[..length]).map_or(Next::Garbled, Next::Record)),
                Err(Errno::PIPE) => Ok(Next::Lost),
                Err(Errno::INTR) => continue,
                Err(error) => Err(error.into()),
            };
        }
    }
}

/// Reads one record. `None` for what is none.
#[must_use]
pub fn parse(record: &[u8]) -> Option<Record> {
    let record = String::from_utf8_lossy(record);
    let (head, rest) = record.split_once(';')?;
    let mut fields = head.split(',');
    let priority: u32 = fields.next()?.parse().ok()?;
    let sequence = fields.next()?.parse().ok()?;
    let at = Duration::from_micros(fields.next()?.parse().ok()?);
    let text = rest.split('\n').next()?;
    Some(Record {
        level: priority % LEVELS,
        facility: priority / LEVELS,
        sequence,
        at,
        text: text.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_taken_apart() {
        let text =
            b"3,901,5012345,-;device-mapper: thin: 253:0: a; b, c\n SUBSYSTEM=x\n DEVICE=b253:0\n";
        let record = parse(text).unwrap();
        assert_eq!((record.level, record.facility), (3, 0));
        assert_eq!(record.sequence, 901);
        assert_eq!(record.at, Duration::from_micros(5_012_345));
        assert_eq!(record.text, "device-mapper: thin: 253:0: a; b, c");
        let of_a_program = parse(b"14,1,2,-,caller=T1;hello").unwrap();
        assert_eq!((of_a_program.level, of_a_program.facility), (6, 1));
        for bad in [
            &b""[..],
            b";",
            b"x,1,2,-;a",
            b"3,1;a",
            b"3,1,2",
            b"3,1,-2,-;a",
            b"\xff\xfe",
        ] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn this_hosts_log_comes_in_order_and_ends() {
        let log = match KernelLog::open() {
            Ok(log) => log,
            Err(error) => {
                println!("SKIP: the kernel's log may not be read: {error}");
                return;
            }
        };
        let mut last = None;
        loop {
            match log.read().unwrap() {
                Next::Record(record) => {
                    assert!(last.is_none_or(|last| record.sequence > last));
                    last = Some(record.sequence);
                }
                Next::Lost => {}
                Next::Garbled => panic!("a record was not understood"),
                Next::End => break,
            }
        }
    }
}
