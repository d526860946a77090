use std::io::Write;
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::*;

/// What GNU cpio lists; `None` where it is not installed.
fn listed(archive: &[u8]) -> Option<String> {
    let mut child = Command::new("cpio")
        .args(["-t", "-v", "--quiet", "--numeric-uid-gid"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .ok()?;
    let mut stdin = child.stdin.take().unwrap();
    let archive = archive.to_vec();
    // It may stop reading at the trailer.
    let feed = std::thread::spawn(move || drop(stdin.write_all(&archive)));
    let output = child.wait_with_output().unwrap();
    feed.join().unwrap();
    assert!(output.status.success(), "{output:?}");
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn cpio_reads_what_is_written() {
    let mut archive = Writer::new();
    archive.dir("/dev", 0o755);
    archive.char_device("/dev/console", 0o600, 5, 1);
    archive.file("/init", 0o755, b"#!/bin/sh\n").unwrap();
    archive.file("/secret", 0o600, b"12345").unwrap();
    let archive = archive.finish(4096);
    assert_eq!(archive.len() % 4096, 0);
    let Some(text) = listed(&archive) else {
        println!("SKIP: cpio is not installed");
        return;
    };
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    assert!(
        lines[0].starts_with("drwxr-xr-x") && lines[0].ends_with(" dev"),
        "{text}"
    );
    assert!(
        lines[1].starts_with("crw-------") && lines[1].contains("5,   1"),
        "{text}"
    );
    assert!(
        lines[2].starts_with("-rwxr-xr-x") && lines[2].ends_with(" init"),
        "{text}"
    );
    assert!(
        lines[3].starts_with("-rw-------") && lines[3].contains(" 5 "),
        "{text}"
    );
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let make = || {
        let mut archive = Writer::new();
        archive.file("/a", 0o644, b"a").unwrap();
        archive.finish(4)
    };
    assert_eq!(make(), make());
}

/// Walks an archive as the kernel does; every header must be aligned.
fn entries(mut bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
    let total = bytes.len();
    let mut found = Vec::new();
    loop {
        assert_eq!(
            (total - bytes.len()) % ALIGNMENT,
            0,
            "a header is not aligned"
        );
        assert_eq!(&bytes[..6], b"070701");
        let field = |number: usize| {
            let text = std::str::from_utf8(&bytes[6 + 8 * number..14 + 8 * number]).unwrap();
            u32::from_str_radix(text, 16).unwrap()
        };
        let (mode, size, name_size) = (field(1), field(6) as usize, field(11) as usize);
        let name = std::str::from_utf8(&bytes[110..110 + name_size - 1]).unwrap();
        assert_eq!(bytes[110 + name_size - 1], 0);
        if name == TRAILER {
            return found;
        }
        let data = (110 + name_size).next_multiple_of(ALIGNMENT);
        found.push((name.to_owned(), mode, bytes[data..data + size].to_vec()));
        bytes = &bytes[(data + size).next_multiple_of(ALIGNMENT)..];
    }
}

proptest! {
    #[test]
    fn names_modes_and_data_come_back(
        files in prop::collection::vec(
            ("[a-z0-9._-]{1,60}", 0u32..0o1000, prop::collection::vec(any::<u8>(), 0..300)),
            0..12,
        ),
        align in prop::sample::select(vec![4usize, 512, 4096]),
    ) {
        let mut archive = Writer::new();
        for (name, mode, data) in &files {
            archive.file(name, *mode, data).unwrap();
        }
        let bytes = archive.finish(align);
        prop_assert_eq!(bytes.len() % align, 0);
        let expected: Vec<_> = files
            .into_iter()
            .map(|(name, mode, data)| (name, TYPE_FILE | mode, data))
            .collect();
        prop_assert_eq!(entries(&bytes), expected);
    }
}
