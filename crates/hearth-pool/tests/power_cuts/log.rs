//! The kernel's log of all writes to a device (`dm-log-writes`), and what a disk could hold at any moment
//! of it.
//!
//! A write is in the log when it has completed and a flush after it has, so up to a flush the log is what a
//! disk with a cache has for certain; of what follows it may have any part.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use rustix::fs::FallocateFlags;

use crate::random::Random;

/// "wsfsgwsj", as the kernel's `drivers/md/dm-log-writes.c` has it.
const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;
const MARK: u64 = 8;
/// Of an entry's head: where, how much, what, and how much of a word follows.
const HEAD: u64 = 32;

/// One write, or what else happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Where on the device, in bytes.
    pub at: u64,
    /// How many bytes.
    pub bytes: u64,
    /// Where its data is in the log.
    data: u64,
    flags: u64,
    /// The word of a mark.
    pub mark: Option<String>,
}

impl Entry {
    /// What came before is on the disk.
    fn is_flush(&self) -> bool {
        self.flags & FLUSH != 0
    }

    /// A disk must have it.
    fn must(&self) -> bool {
        self.flags & FUA != 0
    }

    /// Does to the device what was done to it.
    fn apply(&self, log: &File, device: &File) {
        if self.bytes == 0 {
            return;
        }
        if self.flags & DISCARD != 0 {
            let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(device, how, self.at, self.bytes).unwrap();
            return;
        }
        let mut data = vec![0; usize::try_from(self.bytes).unwrap()];
        log.read_exact_at(&mut data, self.data).unwrap();
        device.write_all_at(&data, self.at).unwrap();
    }
}

/// All of a log.
pub(crate) struct Log {
    file: File,
    pub entries: Vec<Entry>,
}

impl Log {
    pub(crate) fn read(file: File) -> Self {
        let number = |at: u64| {
            let mut bytes = [0; 8];
            file.read_exact_at(&mut bytes, at).unwrap();
            u64::from_le_bytes(bytes)
        };
        assert_eq!(number(0), MAGIC, "it is no log of writes");
        let (count, sector) = (number(16), number(24) & 0xffff_ffff);
        let mut entries = Vec::new();
        let mut at = sector;
        for _ in 0..count {
            let (bytes, flags) = (number(at + 8) * sector, number(at + 16));
            let mark = (flags & MARK != 0).then(|| {
                let mut word = vec![0; usize::try_from(number(at + 24)).unwrap()];
                file.read_exact_at(&mut word, at + HEAD).unwrap();
                String::from_utf8(word).unwrap()
            });
            let entry = Entry {
                at: number(at) * sector,
                bytes,
                data: at + sector,
                flags,
                mark,
            };
            at = entry.data + if flags & DISCARD == 0 { bytes } else { 0 };
            entries.push(entry);
        }
        Self { file, entries }
    }

    /// Does all of these to a device.
    pub(crate) fn play(&self, from: usize, to: usize, device: &File) {
        for entry in &self.entries[from..to] {
            entry.apply(&self.file, device);
        }
    }

    /// The last flush before `end`: all before it is on the disk.
    pub(crate) fn flushed(&self, end: usize) -> usize {
        let before = self.entries[..end].iter();
        before
            .rev()
            .position(Entry::is_flush)
            .map_or(0, |back| end - 1 - back)
    }

    /// Of what is not flushed a part that chance decides, in the order of the log.
    pub(crate) fn play_some(&self, from: usize, to: usize, device: &File, random: &mut Random) {
        for entry in &self.entries[from..to] {
            if entry.must() || random.below(2) == 0 {
                entry.apply(&self.file, device);
            }
        }
    }

    /// The last mark before `end`.
    pub(crate) fn mark(&self, end: usize) -> Option<&str> {
        let mut before = self.entries[..end].iter().rev();
        before.find_map(|entry| entry.mark.as_deref())
    }
}

#[test]
fn a_log_is_read_as_the_kernel_writes_it() {
    let (log, device) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    let put = |at: u64, words: &[u64]| {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        log.write_all_at(&bytes, at).unwrap();
    };
    put(0, &[MAGIC, 1, 5, 512]);
    put(512, &[2, 1, 0, 0]);
    log.write_all_at(&[7; 512], 1024).unwrap();
    put(1536, &[0, 0, FLUSH, 0]);
    put(2048, &[0, 0, MARK, 3]);
    log.write_all_at(b"one", 2048 + HEAD).unwrap();
    put(2560, &[4, 1, FUA, 0]);
    log.write_all_at(&[9; 512], 3072).unwrap();
    put(3584, &[2, 1, DISCARD, 0]);
    let log = Log::read(log);
    assert_eq!(log.entries.len(), 5);
    assert_eq!((log.mark(2), log.mark(3)), (None, Some("one")));
    assert_eq!((log.flushed(1), log.flushed(5)), (0, 1));
    let at = |place: u64| {
        let mut byte = [0];
        device.read_exact_at(&mut byte, place).unwrap();
        byte[0]
    };
    device.set_len(4096).unwrap();
    log.play(0, 2, &device);
    assert_eq!((at(1024), at(2048)), (7, 0));
    // What must be there is, whatever chance says.
    log.play_some(2, 4, &device, &mut Random::new(1));
    assert_eq!(at(2048 + 511), 9);
    log.play(4, 5, &device);
    assert_eq!(at(1024), 0);
}
