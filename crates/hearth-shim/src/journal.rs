//! The console as lines in the journal: systemd connects the shim's standard error to it.
//!
//! The guest decides what is written, so it is made harmless: no escape sequences, no
//! control characters, no line longer than the journal takes, no waiting for the journal.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// Longest line, in bytes: journald cuts a stream's lines at 48 KiB; a console's are short.
const LINE_MAX: usize = 2048;

/// Lines in one interval. journald has a limit of its own for the unit, but reads every
/// line before it drops it, at the host's cost; this one is at the VM's.
const LINES_MAX: u32 = 400;
/// That interval.
const INTERVAL: Duration = Duration::from_secs(10);

/// Lines on their way to the journal.
#[derive(Debug)]
pub(crate) struct Journal {
    out: Option<OwnedFd>,
    line: Vec<u8>,
    escape: Escape,
    budget: Budget,
}

/// What is left of an interval.
#[derive(Debug, Default)]
struct Budget {
    began: Option<Instant>,
    lines: u32,
    left_out: u64,
}

impl Budget {
    /// Takes one line; says how many were left out before it, if it is the first of an
    /// interval, and whether it may be written.
    fn take(&mut self, now: Instant) -> (u64, bool) {
        let mut left_out = 0;
        if self.began.is_none_or(|began| now >= began + INTERVAL) {
            left_out = self.left_out;
            *self = Self {
                began: Some(now),
                ..Self::default()
            };
        }
        let allowed = self.lines < LINES_MAX;
        if allowed {
            self.lines += 1;
        } else {
            self.left_out += 1;
        }
        (left_out, allowed)
    }
}

/// Where in an escape sequence of ECMA-48 the console is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Escape {
    None,
    /// After ESC.
    Begun,
    /// In a control sequence: until a byte of `@` to `~`.
    Control,
    /// In an operating system command: until BEL or ESC.
    Command,
}

impl Journal {
    /// Writes to this file, which never blocks; `None` keeps silent.
    pub(crate) fn new(out: Option<OwnedFd>) -> Self {
        Self {
            // Waiting for a journal that is stuck would stop the guest's console.
            out: out.filter(|out| rustix::io::ioctl_fionbio(out, true).is_ok()),
            line: Vec::new(),
            escape: Escape::None,
            budget: Budget::default(),
        }
    }

    /// Takes what the guest wrote.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        if self.out.is_none() {
            return;
        }
        for &byte in bytes {
            self.byte(byte);
        }
    }

    /// Writes what has no end of line.
    pub(crate) fn finish(&mut self) {
        self.flush();
    }

    fn byte(&mut self, byte: u8) {
        self.escape = match (self.escape, byte) {
            (_, 0x1b) => Escape::Begun,
            (Escape::Begun, b'[') => Escape::Control,
            (Escape::Begun, b']') => Escape::Command,
            (Escape::Control, b'@'..=b'~') | (Escape::Command, 0x07) | (Escape::Begun, _) => {
                Escape::None
            }
            // A line's end ends what never ended, too.
            (Escape::Control | Escape::Command, b'\n') => {
                self.flush();
                Escape::None
            }
            (Escape::None, byte) => {
                self.plain(byte);
                Escape::None
            }
            (within, _) => within,
        };
    }

    fn plain(&mut self, byte: u8) {
        match byte {
            b'\n' => self.flush(),
            b'\t' | b' '.. if byte != 0x7f => {
                self.line.push(byte);
                if self.line.len() >= LINE_MAX {
                    self.flush();
                }
            }
            _ => {}
        }
    }

    fn flush(&mut self) {
        if self.line.is_empty() {
            return;
        }
        let line = std::mem::take(&mut self.line);
        let (left_out, allowed) = self.budget.take(Instant::now());
        if left_out > 0 {
            self.write(&format!("[{left_out} lines are in console.log only]"));
        }
        if allowed {
            // The journal shows bytes that are not UTF-8 as a number of bytes only.
            self.write(&String::from_utf8_lossy(&line));
        }
    }

    fn write(&self, line: &str) {
        if let Some(out) = &self.out {
            // A line that does not fit is lost to the journal; console.log has it.
            rustix::io::write(out, format!("{line}\n").as_bytes()).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(parts: &[&[u8]]) -> String {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let mut journal = Journal::new(Some(writer));
        for part in parts {
            journal.feed(part);
        }
        journal.finish();
        drop(journal);
        let mut text = String::new();
        std::io::Read::read_to_string(&mut std::fs::File::from(reader), &mut text).unwrap();
        text
    }

    #[test]
    fn lines_are_plain_text() {
        assert_eq!(
            lines(&[b"one\r\ntw", b"o\n\n", b"rest"]),
            "one\ntwo\nrest\n"
        );
        assert_eq!(
            lines(&[
                b"\x1b[0;32m  OK  \x1b[",
                b"0m] a\x1b]0;title\x07b\x1b(\x1bMc\x00\x7f\n"
            ]),
            "  OK  ] abc\n"
        );
        assert_eq!(lines(&[b"\x1b[unfinished \nnext\n"]), "nfinished \nnext\n");
        assert_eq!(lines(&[b"<0>panic\n\xff\n"]), "<0>panic\n\u{fffd}\n");
    }

    #[test]
    fn long_lines_are_cut_and_a_full_journal_holds_up_nobody() {
        let text = lines(&[&[b'x'; LINE_MAX + 1]]);
        assert_eq!(
            text.lines().map(str::len).collect::<Vec<_>>(),
            [LINE_MAX, 1]
        );
        let (_reader, writer) = rustix::pipe::pipe().unwrap();
        let mut journal = Journal::new(Some(writer));
        for _ in 0..1000 {
            journal.feed(&[b'y'; 1000]);
        }
    }

    #[test]
    fn a_talkative_guest_is_cut_short_and_the_rest_is_counted() {
        let mut budget = Budget::default();
        let begin = Instant::now();
        for _ in 0..LINES_MAX {
            assert_eq!(budget.take(begin), (0, true));
        }
        for _ in 0..7 {
            assert_eq!(budget.take(begin + INTERVAL / 2), (0, false));
        }
        assert_eq!(budget.take(begin + INTERVAL), (7, true));
        assert_eq!(budget.take(begin + INTERVAL), (0, true));
    }

    #[test]
    fn without_a_journal_nothing_is_kept() {
        let mut journal = Journal::new(None);
        journal.feed(b"text");
        assert!(journal.line.is_empty());
    }
}
