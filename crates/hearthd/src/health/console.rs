//! What a guest writes on its console: signs that it came up, and signs of trouble.
//!
//! The log is read from where it ended when the run began, and then on, over rotations. What is
//! certain to last (a panic, a file system that turned read-only) is remembered until the
//! run ends; other signs of trouble fail the one check that finds them.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};

use camino::Utf8Path;
use hearth_types::spec::health::Text;
use hearth_vmm::CONSOLE_LOG;
use serde::{Deserialize, Serialize};

use super::probe::Outcome;

/// The most that is read at once, in bytes: of more only the end is looked at.
const READ_MAX: u64 = 1 << 20;
/// The longest line, in bytes; what is longer is looked at in pieces.
const LINE_MAX: usize = 4096;

/// A sign of trouble that Linux itself writes: all parts stand in one line.
struct Sign {
    parts: &'static [&'static str],
    what: &'static str,
    /// It does not pass.
    lasts: bool,
}

const SIGNS: [Sign; 5] = [
    // kernel/panic.c
    Sign {
        parts: &["Kernel panic - not syncing"],
        what: "the guest's kernel panicked",
        lasts: true,
    },
    // fs/ext4/super.c, fs/btrfs, fs/fat say it in these words
    Sign {
        parts: &["emounting filesystem read-only"],
        what: "a file system of the guest turned read-only",
        lasts: true,
    },
    // mm/oom_kill.c; with "Memory cgroup" before it, too
    Sign {
        parts: &["ut of memory: Killed process"],
        what: "the guest ran out of memory",
        lasts: false,
    },
    // kernel/hung_task.c
    Sign {
        parts: &["INFO: task ", " blocked for more than "],
        what: "a task of the guest hangs",
        lasts: false,
    },
    // kernel/watchdog.c
    Sign {
        parts: &["BUG: soft lockup - CPU#"],
        what: "a CPU of the guest is locked up",
        lasts: false,
    },
];

/// What a check looks for beside the signs.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// Has to appear, if there is one.
    pattern: Option<Text>,
    /// Must not appear.
    bad: Vec<Text>,
}

impl Wanted {
    /// As the specification says it.
    ///
    /// # Errors
    /// When one is no regular expression and should be one.
    pub(super) fn new(pattern: Option<&str>, bad: &[String], regex: bool) -> Result<Self, String> {
        let text = |text: &str| Text::new(text, regex);
        Ok(Self {
            pattern: pattern.map(text).transpose()?,
            bad: bad.iter().map(|it| text(it)).collect::<Result<_, _>>()?,
        })
    }
}

/// A place in the log: the file and how far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    inode: u64,
    offset: u64,
}

/// Where the log ends now: what comes after it is of the run that is about to begin.
pub(crate) fn mark(dir: &Utf8Path) -> Mark {
    match dir.join(CONSOLE_LOG).symlink_metadata() {
        Ok(meta) => Mark {
            inode: meta.ino(),
            offset: meta.len(),
        },
        // No file has this number: the run's log is all of the next one.
        Err(_) => Mark {
            inode: 0,
            offset: 0,
        },
    }
}

/// Reads one run's console.
#[derive(Debug)]
pub(super) struct Reader {
    mark: Option<Mark>,
    file: Option<Open>,
    /// The line that has no end yet.
    line: Vec<u8>,
    begun: bool,
    came_up: bool,
    lasting: Option<String>,
}

#[derive(Debug)]
struct Open {
    file: File,
    inode: u64,
}

/// What was found in new output.
#[derive(Debug, Default)]
struct Found {
    passing: Option<String>,
}

impl Reader {
    /// A run whose beginning is not known (an older Hearth began it) is followed from now on,
    /// and has come up.
    pub(super) fn new(mark: Option<Mark>) -> Self {
        Self {
            mark,
            file: None,
            line: Vec::new(),
            begun: false,
            came_up: mark.is_none(),
            lasting: None,
        }
    }

    /// Reads what is new and judges it.
    pub(super) fn check(&mut self, dir: &Utf8Path, wanted: &Wanted) -> Outcome {
        let found = match self.read_on(&dir.join(CONSOLE_LOG), wanted) {
            Ok(found) => found,
            Err(error) => return Outcome::unknown(format!("the console log: {error}")),
        };
        // What was written before the first look is history: of a run that was found, it
        // may be of yesterday.
        let first = !std::mem::replace(&mut self.begun, true);
        if let Some(line) = &self.lasting {
            return Outcome::fail(line.clone());
        }
        if let Some(line) = found.passing.filter(|_| !first) {
            return Outcome::fail(line);
        }
        match wanted.pattern.as_ref().map(Text::as_str) {
            Some(pattern) if !self.came_up => {
                Outcome::fail(format!("{pattern:?} has not appeared yet"))
            }
            Some(pattern) => Outcome::pass(format!("{pattern:?} has appeared")),
            None => Outcome::pass("no sign of trouble"),
        }
    }

    fn read_on(&mut self, path: &Utf8Path, wanted: &Wanted) -> std::io::Result<Found> {
        let mut found = Found::default();
        if let Some(mut open) = self.file.take() {
            self.read_file(&mut open, wanted, &mut found)?;
            let same = path
                .symlink_metadata()
                .is_ok_and(|meta| meta.ino() == open.inode);
            if same {
                self.file = Some(open);
                return Ok(found);
            }
        }
        let Some(mut open) = open_log(path)? else {
            return Ok(found);
        };
        if !self.begun {
            self.seek_begin(&mut open)?;
        }
        self.read_file(&mut open, wanted, &mut found)?;
        self.file = Some(open);
        Ok(found)
    }

    fn seek_begin(&self, open: &mut Open) -> std::io::Result<()> {
        let to = match self.mark {
            None => SeekFrom::End(0),
            Some(mark) if mark.inode == open.inode => SeekFrom::Start(mark.offset),
            Some(_) => SeekFrom::Start(0),
        };
        open.file.seek(to).map(drop)
    }

    fn read_file(
        &mut self,
        open: &mut Open,
        wanted: &Wanted,
        found: &mut Found,
    ) -> std::io::Result<()> {
        let size = open.file.metadata()?.len();
        let at = open.file.stream_position()?;
        if size < at {
            // It was emptied in its place.
            open.file.seek(SeekFrom::Start(0))?;
        } else if size - at > READ_MAX {
            open.file.seek(SeekFrom::Start(size - READ_MAX))?;
            self.line.clear();
        }
        let mut new = Vec::new();
        (&open.file).take(2 * READ_MAX).read_to_end(&mut new)?;
        let mut text = std::mem::take(&mut self.line);
        text.extend_from_slice(&new);
        let whole = match text.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => end + 1,
            None if text.len() > LINE_MAX => text.len(),
            None => 0,
        };
        let said = String::from_utf8_lossy(&text);
        let appears = |pattern: &Text| said.lines().any(|line| pattern.is_in(line));
        if !self.came_up && wanted.pattern.as_ref().is_some_and(appears) {
            self.came_up = true;
        }
        let lines = String::from_utf8_lossy(&text[..whole]);
        for line in lines.lines() {
            self.judge(line, &wanted.bad, found);
        }
        self.line = text.split_off(whole);
        Ok(())
    }

    fn judge(&mut self, line: &str, bad: &[Text], found: &mut Found) {
        let sign = SIGNS
            .iter()
            .find(|sign| sign.parts.iter().all(|part| line.contains(part)));
        if let Some(sign) = sign {
            let told = format!("{}: {}", sign.what, line.trim());
            if sign.lasts {
                self.lasting.get_or_insert(told);
            } else {
                found.passing.get_or_insert(told);
            }
        } else if let Some(bad) = bad.iter().find(|bad| bad.is_in(line)) {
            let told = format!("{:?} has appeared: {}", bad.as_str(), line.trim());
            found.passing.get_or_insert(told);
        }
    }
}

/// Opens the log without following links: the folder belongs to the VMM's user.
fn open_log(path: &Utf8Path) -> std::io::Result<Option<Open>> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).unwrap_or_default();
    let opened = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(std::io::Error::other("it is not a file"));
    }
    Ok(Some(Open {
        inode: meta.ino(),
        file,
    }))
}

#[cfg(test)]
mod tests;
