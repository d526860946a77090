//! A log file with a size cap and a fixed number of old files beside it.
//!
//! The log is a service to people; the VM must not suffer from it. A full disk or a lost
//! folder loses log bytes and nothing else.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A log that never grows past `max` bytes per file and `keep` old files.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    file: Option<File>,
    size: u64,
    max: u64,
    keep: u32,
}

impl Log {
    /// Opens the log and goes on at its end.
    pub(crate) fn open(path: impl Into<PathBuf>, max: u64, keep: u32) -> Self {
        let mut log = Self {
            path: path.into(),
            file: None,
            size: 0,
            max: max.max(1),
            keep,
        };
        log.reopen();
        log
    }

    /// Adds bytes; what cannot be written is dropped.
    pub(crate) fn write(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.size >= self.max {
                self.rotate();
            }
            let room = usize::try_from(self.max.saturating_sub(self.size)).unwrap_or(usize::MAX);
            let (now, rest) = bytes.split_at(bytes.len().min(room.max(1)));
            if self.file.is_none() {
                self.reopen();
            }
            match self.file.as_mut().map(|file| file.write(now)) {
                Some(Ok(written)) if written > 0 => {
                    self.size += written as u64;
                    bytes = &bytes[written..];
                }
                // No space, most likely. These bytes are lost; the next write tries again.
                _ => return,
            }
            debug_assert!(rest.len() <= bytes.len());
        }
    }

    /// Puts the current file away as `.1` and starts a new one.
    pub(crate) fn rotate(&mut self) {
        self.file = None;
        if self.keep == 0 {
            drop(std::fs::remove_file(&self.path));
        } else {
            for number in (1..self.keep).rev() {
                // A missing older file is normal; a failed rename loses old lines only.
                drop(std::fs::rename(
                    numbered(&self.path, number),
                    numbered(&self.path, number + 1),
                ));
            }
            drop(std::fs::rename(&self.path, numbered(&self.path, 1)));
        }
        self.reopen();
        // If the old file could not be put away, it is emptied: the cap holds in any case.
        if self.size >= self.max
            && let Some(file) = &self.file
            && file.set_len(0).is_ok()
        {
            self.size = 0;
        }
    }

    fn reopen(&mut self) {
        self.file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o640)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(&self.path)
            .ok();
        let meta = self.file.as_ref().and_then(|file| file.metadata().ok());
        self.size = meta.map_or(0, |meta| meta.len());
    }

    /// Whether something is in the current file.
    pub(crate) fn is_empty(&self) -> bool {
        self.size == 0
    }
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(dir: &Path) -> Vec<(String, u64)> {
        let mut sizes: Vec<_> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                (
                    entry.file_name().into_string().unwrap(),
                    entry.metadata().unwrap().len(),
                )
            })
            .collect();
        sizes.sort();
        sizes
    }

    #[test]
    fn the_cap_holds_and_the_newest_bytes_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::open(dir.path().join("c.log"), 100, 2);
        for number in 0..100 {
            log.write(format!("{number:09}\n").as_bytes());
        }
        let all = sizes(dir.path());
        assert_eq!(
            all,
            [
                ("c.log".to_owned(), 100),
                ("c.log.1".to_owned(), 100),
                ("c.log.2".to_owned(), 100)
            ]
        );
        let newest = std::fs::read_to_string(dir.path().join("c.log")).unwrap();
        assert!(newest.ends_with("000000099\n"), "{newest}");
        let oldest = std::fs::read_to_string(dir.path().join("c.log.2")).unwrap();
        assert!(oldest.starts_with("000000070\n"), "{oldest}");
    }

    #[test]
    fn one_write_larger_than_all_files() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::open(dir.path().join("c.log"), 10, 0);
        log.write(&[b'x'; 1005]);
        assert_eq!(sizes(dir.path()), [("c.log".to_owned(), 5)]);
    }

    #[test]
    fn a_reopened_log_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.log");
        Log::open(&path, 10, 1).write(b"12345");
        Log::open(&path, 10, 1).write(b"6789012");
        assert_eq!(std::fs::read(&path).unwrap(), b"12");
        assert_eq!(std::fs::read(numbered(&path, 1)).unwrap(), b"1234567890");
    }

    #[test]
    fn an_unwritable_log_is_no_failure() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::open(dir.path().join("absent/c.log"), 10, 1);
        log.write(b"lost");
        assert!(log.is_empty());
        let mut full = Log::open("/dev/full", u64::MAX, 0);
        full.write(b"lost as well");
    }
}
