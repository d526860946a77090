use proptest::prelude::*;

use super::*;

fn record(level: u32, facility: u32, text: &str) -> Record {
    Record {
        level,
        facility,
        sequence: 1,
        at: Duration::from_secs(9),
        text: text.to_owned(),
    }
}

fn read(text: &str) -> Option<(Kind, Origin)> {
    classify(&record(3, 0, text)).map(|entry| (entry.kind, entry.origin))
}

#[test]
fn the_kernels_words_are_understood() {
    let disk = |name: &str| Origin::Disk(name.to_owned());
    for (text, kind, origin) in [
        (
            "BUG: unable to handle page fault for address: 0",
            Kind::Bug,
            Origin::Nothing,
        ),
        (
            "kernel BUG at drivers/md/dm-thin.c:99!",
            Kind::Bug,
            Origin::Nothing,
        ),
        ("Oops: 0002 [#1] PREEMPT SMP", Kind::Bug, Origin::Nothing),
        (
            "general protection fault, probably for non-canonical address",
            Kind::Bug,
            Origin::Nothing,
        ),
        (
            "Out of memory: Killed process 47 (qemu) total-vm:1kB",
            Kind::HostOom,
            Origin::Process(47),
        ),
        (
            "Memory cgroup out of memory: Killed process 47 (qemu)",
            Kind::CgroupOom,
            Origin::Process(47),
        ),
        (
            "INFO: task a:b:4711 blocked for more than 120 seconds.",
            Kind::HungTask,
            Origin::Process(4711),
        ),
        (
            "device-mapper: thin: 253:4: metadata operation 'dm_pool_commit_metadata' failed: error = -5",
            Kind::DeviceMapper,
            Origin::Dm(4),
        ),
        (
            "device-mapper: block manager: superblock read failed",
            Kind::DeviceMapper,
            Origin::Nothing,
        ),
        (
            "device-mapper: thin: 253:4: no free data space available.",
            Kind::PoolSpace,
            Origin::Dm(4),
        ),
        (
            "device-mapper: thin: 253:4: switching pool to read-only mode",
            Kind::PoolSpace,
            Origin::Dm(4),
        ),
        (
            "I/O error, dev loop0, sector 8 op 0x1:(WRITE) flags 0x800",
            Kind::Io,
            Origin::Loop(0),
        ),
        (
            "blk_update_request: I/O error, dev sda, sector 1",
            Kind::Io,
            disk("sda"),
        ),
        (
            "Buffer I/O error on dev dm-3, logical block 0, lost async page write",
            Kind::Io,
            Origin::Dm(3),
        ),
        (
            "critical space allocation error, dev dm-3, sector 1 op 0x1",
            Kind::Io,
            Origin::Dm(3),
        ),
        (
            "EXT4-fs error (device dm-3): ext4_find_entry:1: inode #2",
            Kind::Io,
            Origin::Dm(3),
        ),
        ("XFS (dm-3): log I/O error -5", Kind::Io, Origin::Dm(3)),
    ] {
        assert_eq!(read(text), Some((kind, origin)), "{text}");
    }
}

#[test]
fn what_is_no_trouble_of_the_hosts_storage_is_nothing() {
    for text in [
        "",
        "device-mapper: ioctl: device doesn't appear to be in the dev hash table.",
        "device-mapper: table: 253:0: thin: Couldn't open thin internal device",
        "watchdog: BUG: soft lockup - CPU#1 stuck for 22s!",
        "BUG: workqueue lockup - pool cpus=0",
        "systemd[1]: Kernel panic is no word of the kernel's",
        "XFS (dm-3): Mounting V5 Filesystem",
        "oom_reaper: reaped process 47 (qemu)",
        "INFO: task x",
        "usb 1-1: device descriptor read/64, error -71",
    ] {
        assert_eq!(read(text), None, "{text}");
    }
    // A notice of device-mapper is no error, and nobody but the kernel is believed.
    let info = record(6, 0, "device-mapper: thin: 253:4: growing nothing");
    assert_eq!(classify(&info), None);
    assert_eq!(classify(&record(3, 1, "Kernel panic - not syncing")), None);
}

#[test]
fn the_same_trouble_is_remembered_once_and_the_book_is_bounded() {
    let mut book = LogBook::default();
    let entry = |at, minor| Entry {
        kind: Kind::Io,
        origin: Origin::Dm(minor),
        at: Duration::from_secs(at),
        text: String::new(),
    };
    for at in 0..1000 {
        book.add(entry(at, 1));
    }
    assert_eq!(book.entries().count(), 1);
    assert_eq!(book.entries().next().unwrap().at, Duration::from_secs(999));
    for minor in 0..1000 {
        book.add(entry(1, minor));
    }
    assert_eq!(book.entries().count(), ENTRIES_MAX);
}

proptest! {
    /// Whatever stands in the log: no panic, what is kept is bounded, and only the kernel is believed.
    #[test]
    fn any_record_is_read(level in 0_u32..8, facility in 0_u32..3, text in ".{0,400}") {
        let entry = classify(&record(level, facility, &text));
        prop_assert!(facility == 0 || entry.is_none());
        if let Some(entry) = entry {
            prop_assert!(entry.text.chars().count() <= TEXT_MAX);
        }
    }

    /// Pieces of the kernel's own words in any order.
    #[test]
    fn any_mixture_of_its_words_is_read(words in prop::collection::vec(prop::sample::select(vec![
        "device-mapper: ", "thin: ", "253:4: ", ":", "I/O error", ", dev ", "dm-", "loop", "3", "XFS (", "INFO: task ",
        " blocked for more than ", "Out of memory", ": Killed process ", "99999999999", "EXT4-fs error (device ", ")", "é",
    ]), 0..12)) {
        let text: String = words.concat();
        drop(classify(&record(3, 0, &text)));
    }

    /// Bytes that are read as a record by the parser below, too.
    #[test]
    fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Some(record) = hearth_host::kmsg::parse(&bytes) {
            drop(classify(&record));
        }
    }
}
