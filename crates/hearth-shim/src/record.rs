//! The exit record: written once, whole or not at all, even on a full disk.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;

use hearth_types::process::ExitRecord;

use crate::EXIT_RECORD;

/// The record while it is not complete.
const DRAFT: &str = "exit.json.new";
/// Space kept for the record from the start, so that a disk that is full at the end does
/// not lose it, in bytes. A record without a long message from the guest is below 1 KiB.
const RESERVED: u64 = 4096;

/// Space for a record of a run that has not ended.
#[derive(Debug)]
pub(crate) struct Draft(File);

impl Draft {
    /// Removes the record of the run before and keeps space for this one's.
    pub(crate) fn new() -> io::Result<Self> {
        match std::fs::remove_file(EXIT_RECORD) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o640)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(DRAFT)?;
        // Not every file system can reserve; then the record takes its chance.
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, RESERVED).ok();
        Ok(Self(file))
    }

    /// Completes the record, shows it to who waits for it, and makes it durable after that: a
    /// daemon that reads it writes it down for good itself. A power cut between the two may
    /// leave an empty record, which readers take for none.
    pub(crate) fn publish(mut self, record: &ExitRecord) -> io::Result<()> {
        let mut text = serde_json::to_vec(record)?;
        text.push(b'\n');
        self.0.write_all(&text)?;
        self.0.set_len(text.len() as u64)?;
        std::fs::rename(DRAFT, EXIT_RECORD)?;
        self.0.sync_all()?;
        File::open(".")?.sync_all()
    }

    /// There was no run.
    pub(crate) fn discard(self) {
        drop(std::fs::remove_file(DRAFT));
    }
}
