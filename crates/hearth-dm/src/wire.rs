//! What follows the header: targets of a table, lines of a status, lists of devices and targets.
//!
//! The kernel's records are chained by offsets; each is checked against the buffer before it is
//! followed, and a chain always moves on.

use crate::device::{Device, Listed, Table, TargetVersion};
use crate::error::DmError;
use crate::header::{text, word};

/// `struct dm_target_spec` without its parameters.
const SPEC: usize = 40;
const TYPE: std::ops::Range<usize> = 24..40;
/// Records begin at multiples of so many bytes.
const ALIGNED: usize = 8;
/// The longest name of a target type, in bytes.
const LONGEST_TYPE: usize = 15;

/// The targets of a table as the kernel wants them.
pub(crate) fn write_table(table: &[Table]) -> Result<Vec<u8>, DmError> {
    let mut data = Vec::new();
    for target in table {
        if target.kind.len() > LONGEST_TYPE || target.params.contains('\0') {
            return Err(DmError::Invalid {
                what: format!("the target {:?} {:?}", target.kind, target.params),
            });
        }
        let start = data.len();
        data.extend_from_slice(&target.start.to_ne_bytes());
        data.extend_from_slice(&target.length.to_ne_bytes());
        data.resize(start + SPEC, 0);
        data[start + TYPE.start..start + TYPE.start + target.kind.len()]
            .copy_from_slice(target.kind.as_bytes());
        data.extend_from_slice(target.params.as_bytes());
        data.push(0);
        data.resize(data.len().next_multiple_of(ALIGNED), 0);
        // From this one's beginning to the next one's.
        let next = u32::try_from(data.len() - start).unwrap_or(u32::MAX);
        data[start + 20..start + 24].copy_from_slice(&next.to_ne_bytes());
    }
    Ok(data)
}

/// The lines of a status or of a table. Their offsets count from the data's beginning.
pub(crate) fn read_table(data: &[u8], count: u32) -> Result<Vec<Table>, DmError> {
    let mut lines = Vec::new();
    let mut at = 0;
    for _ in 0..count {
        let spec = data.get(at..at + SPEC).ok_or(DmError::Garbled)?;
        let next = word(spec, 20) as usize;
        // The data ends with the last text; the offset behind that is rounded up all the same.
        let end = if next.saturating_sub(data.len()) < ALIGNED {
            next.min(data.len())
        } else {
            next
        };
        let params = data.get(at + SPEC..end).ok_or(DmError::Garbled)?;
        lines.push(Table {
            start: double(spec, 0),
            length: double(spec, 8),
            kind: text(&spec[TYPE]),
            params: text(params),
        });
        at = next;
    }
    Ok(lines)
}

/// All devices that the kernel knows.
pub(crate) fn read_names(data: &[u8]) -> Result<Vec<Listed>, DmError> {
    let mut listed = Vec::new();
    // An empty list is one record without a device.
    for record in chain(data, 8, 12)? {
        let dev = double(record, 0);
        if dev != 0 {
            listed.push(Listed {
                device: Device::decode(dev),
                name: text(&record[12..]),
            });
        }
    }
    Ok(listed)
}

/// All target types that the kernel has loaded.
pub(crate) fn read_versions(data: &[u8]) -> Result<Vec<TargetVersion>, DmError> {
    let records = chain(data, 0, 16)?;
    Ok(records
        .into_iter()
        .map(|record| TargetVersion {
            kind: text(&record[16..]),
            version: [word(record, 4), word(record, 8), word(record, 12)],
        })
        .collect())
}

/// The devices below a device: how many, and their numbers.
pub(crate) fn read_deps(data: &[u8]) -> Result<Vec<Device>, DmError> {
    let count = data.get(..8).ok_or(DmError::Garbled)?;
    let numbers = data[8..].chunks_exact(8);
    let wanted = word(count, 0) as usize;
    if wanted > numbers.len() {
        return Err(DmError::Garbled);
    }
    Ok(numbers
        .take(wanted)
        .map(|number| Device::decode(double(number, 0)))
        .collect())
}

/// Records that say at `offset` how far the next one is; each has at least `least` bytes.
fn chain(data: &[u8], offset: usize, least: usize) -> Result<Vec<&[u8]>, DmError> {
    let mut records = Vec::new();
    let mut rest = data;
    while rest.len() > least {
        let next = word(rest, offset) as usize;
        if next == 0 {
            records.push(rest);
            break;
        }
        if next <= least {
            return Err(DmError::Garbled);
        }
        records.push(rest.get(..next).ok_or(DmError::Garbled)?);
        rest = &rest[next..];
    }
    Ok(records)
}

fn double(buffer: &[u8], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&buffer[at..at + 8]);
    u64::from_ne_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn target() -> impl Strategy<Value = Table> {
        (any::<u64>(), any::<u64>(), "[a-z-]{1,15}", "[ -~]{0,60}").prop_map(
            |(start, length, kind, params)| Table {
                start,
                length,
                kind,
                params,
            },
        )
    }

    /// As the kernel answers: offsets from the beginning of the data, not of the record, and
    /// nothing behind the last text's end.
    fn as_answer(mut data: Vec<u8>, count: usize) -> Vec<u8> {
        let mut at = 0;
        let mut last = 0;
        for _ in 0..count {
            let next = at + word(&data, at + 20) as usize;
            data[at + 20..at + 24].copy_from_slice(&u32::try_from(next).unwrap().to_ne_bytes());
            last = at;
            at = next;
        }
        if count > 0 {
            let text = last + SPEC;
            let zero = data[text..].iter().position(|byte| *byte == 0).unwrap();
            data.truncate(text + zero + 1);
        }
        data
    }

    proptest! {
        #[test]
        fn a_table_is_read_as_it_was_written(table in prop::collection::vec(target(), 0..5)) {
            let data = as_answer(write_table(&table).unwrap(), table.len());
            let read = read_table(&data, u32::try_from(table.len()).unwrap()).unwrap();
            prop_assert_eq!(read, table);
        }

        #[test]
        fn no_answer_makes_it_panic(data in prop::collection::vec(any::<u8>(), 0..300), count in 0..9u32) {
            // Whatever comes back, it comes back.
            let read = read_table(&data, count).map_or(0, |lines| lines.len());
            prop_assert!(read <= 9);
            read_names(&data).ok();
            read_versions(&data).ok();
            read_deps(&data).ok();
        }
    }

    #[test]
    fn devices_below() {
        let mut data = 2_u64.to_ne_bytes().to_vec();
        for number in [0x700_u64, 0x701, 0xfd00] {
            data.extend_from_slice(&number.to_ne_bytes());
        }
        let below = read_deps(&data).unwrap();
        let loops: Vec<_> = below.iter().map(Device::to_string).collect();
        assert_eq!(loops, ["7:0", "7:1"]);
        assert!(matches!(read_deps(&data[..16]), Err(DmError::Garbled)));
        assert!(matches!(read_deps(&[]), Err(DmError::Garbled)));
    }

    #[test]
    fn what_the_kernel_would_cut_is_refused() {
        for (kind, params) in [("sixteen-letters-", ""), ("linear", "a\0b")] {
            let table = Table {
                start: 0,
                length: 8,
                kind: kind.to_owned(),
                params: params.to_owned(),
            };
            assert!(matches!(
                write_table(&[table]),
                Err(DmError::Invalid { .. })
            ));
        }
    }
}
