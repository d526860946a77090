//! What is on a device, by its first and last MiB. Whatever is not zero is something; the names are for people.

use super::{MAGIC, empty};

/// `THIN_SUPERBLOCK_MAGIC` of the kernel's `dm-thin-metadata.c`.
const THIN: [u8; 8] = 27_022_010_u64.to_le_bytes();
/// `MD_SB_MAGIC` of the kernel's `md_p.h`.
const ARRAY: [u8; 4] = 0xa92b_4efc_u32.to_le_bytes();
const AN_ARRAY: &str = "a member of a RAID array (md)";
const GPT: &str = "a partition table (GPT)";
/// A backup of a partition table is in the last sector of 512 bytes or of 4 KiB.
const LAST: [usize; 2] = [512, 4096];

/// Where a thing's signature is, from the device's begin, what it is, and what it belongs to. The surer ones come
/// first: a partition table's is also that of some file systems.
const SIGNS: &[(usize, &[u8], &str)] = &[
    (0, MAGIC, "a pool of Hearth"),
    (32, &THIN, "the metadata of a thin pool"),
    (0, b"LUKS\xba\xbe", "an encrypted volume (LUKS)"),
    (0, b"LABELONE", "a physical volume of LVM"),
    (512, b"LABELONE", "a physical volume of LVM"),
    (1024, b"LABELONE", "a physical volume of LVM"),
    (1536, b"LABELONE", "a physical volume of LVM"),
    (0, &ARRAY, AN_ARRAY),
    (4096, &ARRAY, AN_ARRAY),
    (4086, b"SWAPSPACE2", "swap"),
    (4086, b"SWAP-SPACE", "swap"),
    (0, b"XFSB", "a file system (XFS)"),
    (1080, &[0x53, 0xef], "a file system (ext2, ext3 or ext4)"),
    (0x1_0040, b"_BHRfS_M", "a file system (Btrfs)"),
    (1024, &[0x10, 0x20, 0xf5, 0xf2], "a file system (F2FS)"),
    (0x8001, b"CD001", "a file system (ISO 9660)"),
    (3, b"NTFS    ", "a file system (NTFS)"),
    (512, b"EFI PART", GPT),
    (4096, b"EFI PART", GPT),
    (
        510,
        &[0x55, 0xaa],
        "a partition table (MBR), or a file system (FAT)",
    ),
];

/// What is on a device with this at its ends; `None`: nothing.
pub(crate) fn holds(first: &[u8], last: &[u8]) -> Option<String> {
    let has = |bytes: &[u8], at: usize, sign: &[u8]| {
        bytes.get(at..).is_some_and(|from| from.starts_with(sign))
    };
    let begin = SIGNS.iter().find(|(at, sign, _)| has(first, *at, sign));
    if let Some((_, _, what)) = begin {
        return Some((*what).to_owned());
    }
    if empty(first) && empty(last) {
        return None;
    }
    let backup = |from_end: &usize| {
        let at = last.len().checked_sub(*from_end);
        at.is_some_and(|at| has(last, at, b"EFI PART"))
    };
    if LAST.iter().any(backup) {
        return Some(GPT.to_owned());
    }
    // Versions 0.90 and 1.0 have it at the end, at some multiple of 4 KiB.
    if (0..last.len())
        .step_by(4096)
        .any(|at| has(last, at, &ARRAY))
    {
        return Some(AN_ARRAY.to_owned());
    }
    let begin = first.iter().position(|byte| *byte != 0);
    Some(match begin {
        Some(at) => format!("something: byte {at} is not zero"),
        None => "something in its last MiB".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn what_is_not_zero_is_something_and_most_has_a_name() {
        let none = vec![0; MIB];
        assert_eq!(holds(&none, &none), None);
        for (at, sign, what) in SIGNS {
            let mut first = none.clone();
            first[*at..at + sign.len()].copy_from_slice(sign);
            assert_eq!(holds(&first, &none).as_deref(), Some(*what));
        }
        for (at, sign, what) in [
            (MIB - 512, b"EFI PART".as_slice(), GPT),
            (MIB - 4096, b"EFI PART", GPT),
            (MIB - 8192, &ARRAY, AN_ARRAY),
            (MIB - 65536, &ARRAY, AN_ARRAY),
            (0, b"x", "something in its last MiB"),
        ] {
            let mut last = none.clone();
            last[at..at + sign.len()].copy_from_slice(sign);
            assert_eq!(holds(&none, &last).as_deref(), Some(what));
        }
        let mut first = none.clone();
        first[MIB - 1] = 1;
        let said = holds(&first, &none).unwrap();
        assert_eq!(said, "something: byte 1048575 is not zero");
        // A device that is smaller than its ends.
        assert_eq!(holds(&[0; 5], &[]), None);
        assert!(holds(&[0, 1], &[]).is_some());
    }

    #[test]
    fn a_surer_name_comes_first() {
        let mut disk = vec![0; MIB];
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        disk[512..520].copy_from_slice(b"EFI PART");
        assert_eq!(holds(&disk, &[]).as_deref(), Some(GPT));
    }
}
