//! Tests of what `cp` does with names, and of hostile archives.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use bytes::Bytes;
use tar::{Builder, EntryType, Header};

use super::*;

#[test]
fn places_are_told_apart() {
    let guest = |vm: &str, path: &str| Place::Guest {
        vm: vm.to_owned(),
        path: path.to_owned(),
    };
    for (text, place) in [
        ("-", Place::Stream),
        ("web:/etc", guest("web", "/etc")),
        ("web:etc", guest("web", "/etc")),
        ("./web:etc", Place::Local("./web:etc".to_owned())),
        ("/a:b", Place::Local("/a:b".to_owned())),
        ("file", Place::Local("file".to_owned())),
    ] {
        assert_eq!(Place::parse(text), place, "{text}");
    }
    assert_eq!(source_path("/etc/."), "/etc");
    assert_eq!(source_path("/."), "/");
    assert_eq!(base_name("/etc/"), Some("etc".to_owned()));
    assert_eq!(base_name("/"), None);
}

/// An archive of these entries: name, kind, content or link.
fn archive(entries: &[(&str, EntryType, &str)]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (name, kind, content) in entries {
        let mut header = Header::new_gnu();
        header.set_mode(0o4644);
        header.set_mtime(1_700_000_000);
        header.set_entry_type(*kind);
        // The crate refuses evil names, so they are put in by hand.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        let data = if kind.is_file() {
            content.as_bytes()
        } else {
            b""
        };
        if !kind.is_file() {
            header.as_old_mut().linkname[..content.len()].copy_from_slice(content.as_bytes());
        }
        header.set_size(data.len() as u64);
        header.set_cksum();
        builder.append(&header, data).unwrap();
    }
    builder.into_inner().unwrap()
}

fn unpack_into(folder: &Path, name: Option<&str>, tar: &[u8]) -> Result<Vec<String>, Failure> {
    let (sender, reader) = pipe::reader();
    let chunks: Vec<_> = tar.chunks(100).map(Bytes::copy_from_slice).collect();
    let feeder = std::thread::spawn(move || {
        for chunk in chunks {
            if sender.blocking_send(Ok(chunk)).is_err() {
                return;
            }
        }
    });
    let target = Target {
        folder: folder.to_owned(),
        name: name.map(str::to_owned),
    };
    let result = unpack::unpack(reader, &target, false);
    feeder.join().unwrap();
    result
}

#[test]
fn an_archive_appears_under_its_new_name() {
    let dir = tempfile::tempdir().unwrap();
    let tar = archive(&[
        ("src/", EntryType::Directory, ""),
        ("src/a", EntryType::Regular, "hello"),
        ("src/b", EntryType::Link, "src/a"),
        ("src/c", EntryType::Symlink, "/etc/passwd"),
        ("src/d", EntryType::Fifo, ""),
    ]);
    let left_out = unpack_into(dir.path(), Some("dst"), &tar).unwrap();
    let dst = dir.path().join("dst");
    assert_eq!(fs::read_to_string(dst.join("a")).unwrap(), "hello");
    assert_eq!(fs::read_to_string(dst.join("b")).unwrap(), "hello");
    assert_eq!(
        fs::read_link(dst.join("c")).unwrap(),
        Path::new("/etc/passwd")
    );
    assert_eq!(left_out, ["dst/d"]);
    let meta = fs::metadata(dst.join("a")).unwrap();
    assert_eq!(
        meta.permissions().mode() & 0o7777,
        0o644,
        "set-id bits are dropped"
    );
}

#[test]
fn the_contents_of_a_folder_go_into_the_target() {
    let dir = tempfile::tempdir().unwrap();
    let tar = archive(&[
        ("./", EntryType::Directory, ""),
        ("./a", EntryType::Regular, "x"),
    ]);
    unpack_into(dir.path(), None, &tar).unwrap();
    assert_eq!(fs::read_to_string(dir.path().join("a")).unwrap(), "x");
}

#[test]
fn hostile_archives_stay_inside() {
    let outside = tempfile::tempdir().unwrap();
    let secret = outside.path().join("secret");
    fs::write(&secret, "untouched").unwrap();
    let to_outside = outside.path().to_str().unwrap();
    let up = "src/../../evil";
    let cases: &[&[(&str, EntryType, &str)]] = &[
        &[(up, EntryType::Regular, "x")],
        &[
            ("src/", EntryType::Directory, ""),
            ("other/x", EntryType::Regular, "x"),
        ],
        &[
            ("src/", EntryType::Directory, ""),
            ("src/link", EntryType::Symlink, to_outside),
            ("src/link/secret", EntryType::Regular, "x"),
        ],
        &[
            ("src/", EntryType::Directory, ""),
            ("src/link", EntryType::Symlink, to_outside),
            ("src/link/", EntryType::Directory, ""),
        ],
        &[
            ("src/", EntryType::Directory, ""),
            ("src/hard", EntryType::Link, "src/../../secret"),
        ],
    ];
    for case in cases {
        let dir = tempfile::tempdir().unwrap();
        let result = unpack_into(dir.path(), Some("dst"), &archive(case));
        assert!(result.is_err(), "{case:?} was accepted");
        assert_eq!(
            fs::read_to_string(&secret).unwrap(),
            "untouched",
            "{case:?}"
        );
        assert!(!dir.path().parent().unwrap().join("evil").exists());
    }
}

#[test]
fn links_that_are_there_are_replaced_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let other = dir.path().join("other");
    fs::write(&other, "untouched").unwrap();
    symlink(&other, dir.path().join("dst")).unwrap();
    unpack_into(
        dir.path(),
        Some("dst"),
        &archive(&[("src", EntryType::Regular, "new")]),
    )
    .unwrap();
    assert_eq!(fs::read_to_string(&other).unwrap(), "untouched");
    assert_eq!(fs::read_to_string(dir.path().join("dst")).unwrap(), "new");
}

#[test]
fn cut_archives_are_failures() {
    let dir = tempfile::tempdir().unwrap();
    let tar = archive(&[("src", EntryType::Regular, &"x".repeat(2000))]);
    assert!(unpack_into(dir.path(), Some("dst"), &tar[..1000]).is_err());
    assert!(unpack_into(dir.path(), Some("dst"), &[]).is_err());
}

#[test]
fn what_is_packed_is_unpacked_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    fs::create_dir_all(source.join("sub")).unwrap();
    fs::write(source.join("sub/file"), vec![7; 300_000]).unwrap();
    fs::set_permissions(source.join("sub"), fs::Permissions::from_mode(0o555)).unwrap();
    symlink("sub/file", source.join("link")).unwrap();
    let (writer, mut receiver) = pipe::writer();
    let packer = std::thread::spawn(move || pack::pack(writer, &source, "source", false));
    let mut tar = Vec::new();
    while let Some(chunk) = receiver.blocking_recv() {
        tar.extend_from_slice(&chunk.unwrap());
    }
    packer.join().unwrap().unwrap();
    unpack_into(dir.path(), Some("copy"), &tar).unwrap();
    let copy = dir.path().join("copy");
    assert_eq!(fs::read(copy.join("sub/file")).unwrap(), vec![7; 300_000]);
    assert_eq!(
        fs::read_link(copy.join("link")).unwrap(),
        Path::new("sub/file")
    );
    let mode = fs::metadata(copy.join("sub")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o555);
}
