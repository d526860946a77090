//! `struct dm_ioctl`, the fixed part of each call and answer, by its offsets in
//! `include/uapi/linux/dm-ioctl.h` (interface version 4).

/// Its size in bytes.
pub(crate) const SIZE: usize = 312;
const SIZE_WORD: u32 = 312;
/// The longest name, in bytes, without the terminating zero.
pub(crate) const LONGEST_NAME: usize = 127;
/// The longest uuid, in bytes, without the terminating zero.
pub(crate) const LONGEST_UUID: usize = 128;

const DATA_SIZE: usize = 12;
const DATA_START: usize = 16;
const TARGET_COUNT: usize = 20;
const OPEN_COUNT: usize = 24;
const FLAGS: usize = 28;
const EVENT_NR: usize = 32;
const DEV: usize = 40;
const NAME: usize = 48;
const UUID: usize = 176;
const DATA: usize = 305;

/// The interface that is spoken: 4.0.0, which every kernel since 2.6 answers.
const VERSION: [u32; 3] = [4, 0, 0];

/// What is in the header of a call or of its answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) version: [u32; 3],
    pub(crate) data_size: u32,
    pub(crate) target_count: u32,
    pub(crate) open_count: i32,
    pub(crate) flags: u32,
    pub(crate) event_nr: u32,
    pub(crate) dev: u64,
    pub(crate) name: String,
    pub(crate) uuid: String,
}

impl Header {
    /// Writes it at the beginning of a call's buffer, whose length becomes the data size.
    pub(crate) fn write(&self, buffer: &mut [u8]) {
        let size = u32::try_from(buffer.len()).unwrap_or(u32::MAX);
        for (at, word) in [0, 4, 8].into_iter().zip(VERSION) {
            put(buffer, at, word);
        }
        put(buffer, DATA_SIZE, size);
        put(buffer, DATA_START, SIZE_WORD);
        put(buffer, TARGET_COUNT, self.target_count);
        put(buffer, FLAGS, self.flags);
        put(buffer, EVENT_NR, self.event_nr);
        buffer[DEV..DEV + 8].copy_from_slice(&self.dev.to_ne_bytes());
        put_text(&mut buffer[NAME..UUID], &self.name);
        put_text(&mut buffer[UUID..DATA], &self.uuid);
    }

    /// Reads the kernel's answer.
    pub(crate) fn read(buffer: &[u8]) -> Self {
        let mut dev = [0; 8];
        dev.copy_from_slice(&buffer[DEV..DEV + 8]);
        Self {
            version: [word(buffer, 0), word(buffer, 4), word(buffer, 8)],
            data_size: word(buffer, DATA_SIZE),
            target_count: word(buffer, TARGET_COUNT),
            open_count: word(buffer, OPEN_COUNT).cast_signed(),
            flags: word(buffer, FLAGS),
            event_nr: word(buffer, EVENT_NR),
            dev: u64::from_ne_bytes(dev),
            name: text(&buffer[NAME..UUID]),
            uuid: text(&buffer[UUID..DATA]),
        }
    }
}

/// Where the answer's data begins and ends.
pub(crate) fn data_range(buffer: &[u8]) -> std::ops::Range<usize> {
    let end = (word(buffer, DATA_SIZE) as usize).min(buffer.len());
    let start = (word(buffer, DATA_START) as usize).clamp(SIZE, end.max(SIZE));
    start..end.max(start)
}

fn put(buffer: &mut [u8], at: usize, value: u32) {
    buffer[at..at + 4].copy_from_slice(&value.to_ne_bytes());
}

pub(crate) fn word(buffer: &[u8], at: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&buffer[at..at + 4]);
    u32::from_ne_bytes(bytes)
}

/// The caller has checked the length; the rest of the field stays zero.
fn put_text(field: &mut [u8], value: &str) {
    let length = value.len().min(field.len() - 1);
    field[..length].copy_from_slice(&value.as_bytes()[..length]);
}

/// A zero-terminated text; names are ASCII where they are ours, and foreign ones are only shown.
pub(crate) fn text(field: &[u8]) -> String {
    let end = field.iter().position(|byte| *byte == 0);
    String::from_utf8_lossy(&field[..end.unwrap_or(field.len())]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_what_a_call_said() {
        let header = Header {
            version: VERSION,
            data_size: 400,
            target_count: 2,
            open_count: 0,
            flags: 0x8010,
            event_nr: 7,
            dev: 0xfd03,
            name: "a".repeat(LONGEST_NAME),
            uuid: "u".repeat(LONGEST_UUID),
        };
        let mut buffer = vec![0; 400];
        header.write(&mut buffer);
        assert_eq!(Header::read(&buffer), header);
        assert_eq!(data_range(&buffer), SIZE..400);
    }

    #[test]
    fn a_kernel_that_answers_nonsense_leads_nowhere_outside() {
        let mut buffer = vec![0xff; 400];
        assert_eq!(data_range(&buffer), 400..400);
        assert_eq!(Header::read(&buffer).name.chars().count(), 128);
        put(&mut buffer, DATA_START, 3);
        assert_eq!(data_range(&buffer), SIZE..400);
    }
}
