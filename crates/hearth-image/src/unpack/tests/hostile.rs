//! Refused by name, with nothing touched outside.

use super::craft::records_of;
use super::{Root, Tar, layer};
use crate::unpack::{EnoughRoom, Unpacker};
use crate::{ImageError, Limits};
use std::os::fd::AsFd as _;
use std::sync::atomic::AtomicBool;

/// Name of the case, the archive, and what the message must contain.
fn cases() -> Vec<(&'static str, Tar, &'static str)> {
    let x = || Tar::new();
    let long = "a".repeat(256);
    let deep = "d/".repeat(300) + "x";
    let pax_path = |path: &str| x().pax(&[("path", path.as_bytes())]).file("short", "");
    vec![
        ("up", x().file("../outside/x", "evil"), ".."),
        ("up inside", x().file("a/../../outside/x", "evil"), ".."),
        ("up in PAX", pax_path("../../outside/x"), ".."),
        (
            "up in long name",
            x().extended(b'L', b"../outside/x\0").file("s", ""),
            "..",
        ),
        ("folder up", x().dir(".."), ".."),
        (
            "hard link up",
            x().hardlink("x", "../outside/sentinel"),
            "..",
        ),
        (
            "hard link to nothing",
            x().hardlink("x", "/etc/passwd"),
            "not there",
        ),
        (
            "hard link through a link out",
            x().symlink("l", "../outside").hardlink("x", "l/sentinel"),
            "not there",
        ),
        (
            "hard link to a folder",
            x().dir("d").hardlink("x", "d"),
            "directory",
        ),
        (
            "hard link to itself",
            x().file("x", "1").hardlink("x", "x"),
            "itself",
        ),
        (
            "file as a folder",
            x().file("f", "").file("f/x", ""),
            "not a directory",
        ),
        (
            "loop of links",
            x().symlink("a", "b").symlink("b", "a").file("a/x", ""),
            "loop",
        ),
        ("file named as the root", x().file("./", ""), "root"),
        ("name too long", pax_path(&long), "255"),
        ("path too long", pax_path(&"ab/".repeat(1500)), "4096"),
        ("too deep", pax_path(&deep), "deeper"),
        ("NUL in PAX", pax_path("a\0b"), "bad value"),
        ("empty link", x().symlink("x", ""), "target"),
        (
            "unknown kind",
            x().raw(b'V', "label", "", b"", |_| {}),
            "type",
        ),
        (
            "continued volume",
            x().raw(b'M', "x", "", b"", |_| {}),
            "type",
        ),
        (
            "bad size",
            x().raw(b'0', "x", "", b"", |h| {
                h.as_mut_bytes()[124..135].copy_from_slice(b"zzzzzzzzzzz")
            }),
            "size",
        ),
        (
            "bad mode",
            x().raw(b'0', "x", "", b"", |h| {
                h.as_mut_bytes()[100..107].copy_from_slice(b"9999999")
            }),
            "mode",
        ),
        (
            "owner too large",
            x().pax(&[("uid", b"4294967296")]).file("x", ""),
            "owner",
        ),
        (
            "nobody's owner",
            x().pax(&[("uid", b"4294967295")]).file("x", ""),
            "owner",
        ),
        (
            "bad PAX",
            x().extended(b'x', b"99 path=a\n").file("x", ""),
            "malformed",
        ),
        (
            "bad PAX size",
            x().pax(&[("size", b"-1")]).file("x", ""),
            "size",
        ),
        (
            "bad PAX time",
            x().pax(&[("mtime", b"soon")]).file("x", ""),
            "mtime",
        ),
        (
            "two PAX headers",
            x().pax(&[("a", b"b")]).pax(&[("a", b"b")]).file("x", ""),
            "two PAX",
        ),
        (
            "global owner",
            x().extended(b'g', &records_of(&[("uid", b"1")]))
                .file("x", ""),
            "global",
        ),
        ("dangling PAX", x().pax(&[("path", b"x")]), "ends after"),
        (
            "unknown attribute",
            x().pax(&[("SCHILY.xattr.system.evil", b"1")]).file("x", ""),
            "system.evil",
        ),
        (
            "overlay attribute",
            x().pax(&[("SCHILY.xattr.trusted.overlay.opaque", b"y")])
                .dir("x"),
            "overlay",
        ),
        ("whiteout of nothing", x().file(".wh.", ""), "whiteout"),
        ("whiteout with content", x().file("a/.wh.b", "1"), "content"),
        (
            "link to depths",
            link("s", 256).file("s/x", ""),
            "too many folders",
        ),
        (
            "folders deeper than a path",
            deeper_than_a_path().file("d", ""),
            "deeper than any path",
        ),
        ("whiteout of up", x().file("a/.wh...", ""), "whiteout"),
        (
            "old sparse format",
            x().pax(&[("GNU.sparse.map", b"0,1"), ("GNU.sparse.size", b"1")])
                .file("x", ""),
            "sparse",
        ),
        (
            "sparse past its end",
            sparse(&[(4096, 3)], 100, b"abc"),
            "past the end",
        ),
        (
            "sparse backwards",
            sparse(&[(10, 2), (0, 1)], 100, b"abc"),
            "backwards",
        ),
        (
            "sparse without its data",
            sparse(&[(0, 2)], 100, b"abc"),
            "does not fit",
        ),
    ]
}

/// A symlink through so many folders, none of which is there.
fn link(name: &str, parts: usize) -> Tar {
    let target = vec!["d"; parts].join("/");
    Tar::new()
        .pax(&[("linkpath", target.as_bytes())])
        .symlink(name, "short")
}

/// Folders `d/d/…`, twice as deep as one link leads, since one link is at the end of another.
fn deeper_than_a_path() -> Tar {
    link("s", 200)
        .file("s/x", "")
        .pax(&[("linkpath", vec!["d"; 200].join("/").as_bytes())])
        .symlink("s/s", "short")
        .file("s/s/x", "")
}

/// An entry of GNU's old sparse format.
fn sparse(segments: &[(u64, u64)], size: u64, data: &[u8]) -> Tar {
    Tar::new().raw(b'S', "sparse", "", data, |header| {
        let gnu = header.as_gnu_mut().unwrap();
        for (slot, (offset, length)) in gnu.sparse.iter_mut().zip(segments) {
            slot.set_offset(*offset);
            slot.set_length(*length);
        }
        gnu.set_real_size(size);
    })
}

#[test]
fn each_is_refused_by_name_and_contained() {
    for (case, tar, message) in cases() {
        let root = Root::new();
        let error = root.unpack(&[Tar::new().file("before", "x"), tar]);
        let error = error.err().unwrap_or_else(|| panic!("{case} was accepted"));
        assert!(
            matches!(error, ImageError::Entry { .. }),
            "{case}: {error:?}"
        );
        let text = error.to_string();
        assert!(text.contains(message), "{case}: {text}");
        root.assert_contained(case);
    }
}

#[test]
fn links_lead_nowhere_but_inside() {
    let root = Root::new();
    let tar = Tar::new()
        .symlink("up", "../../outside")
        .symlink("abs", "/../outside")
        .file("up/x", "1")
        .file("abs/y", "2")
        .file("/etc/absolute", "3");
    root.unpack(&[tar]).unwrap();
    // As if the root were /: the links' targets are made inside it.
    assert_eq!(root.read("outside/x"), "1");
    assert_eq!(root.read("outside/y"), "2");
    assert_eq!(root.read("etc/absolute"), "3");
    root.assert_contained("links");
}

#[test]
fn a_file_replaces_a_link_and_does_not_write_through_it() {
    let root = Root::new();
    let tar = Tar::new()
        .file("target", "old")
        .symlink("l", "target")
        .file("l", "new")
        .hardlink("h", "target")
        .file("h", "newer");
    root.unpack(&[tar]).unwrap();
    assert_eq!(root.read("target"), "old");
    assert_eq!(root.read("l"), "new");
    assert_eq!(root.read("h"), "newer");
}

#[test]
fn limits_hold() {
    let limits = Limits {
        entries: 3,
        bytes: 100,
        metadata: 2048,
        xattr: 10,
        ..Limits::default()
    };
    let many = Tar::new()
        .file("1", "")
        .file("2", "")
        .file("3", "")
        .file("4", "");
    let big = Tar::new().file("big", &"x".repeat(101));
    let hole = sparse(&[(0, 1)], 1 << 40, b"x");
    let name = Tar::new().extended(b'L', &[b'a'; 4096]).file("x", "");
    let value = Tar::new()
        .pax(&[("SCHILY.xattr.user.a", &[1; 11])])
        .file("x", "");
    for (case, tar) in [
        ("many", many),
        ("big", big),
        ("hole", hole),
        ("name", name),
        ("value", value),
    ] {
        let root = Root::new();
        assert!(root.unpack_with(&[tar], &limits).is_err(), "{case}");
    }
}

#[test]
fn a_bomb_stops_at_the_limit() {
    // 256 MiB of zeros in one file, a few hundred KiB packed.
    use std::io::Write as _;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let header = Tar::new().raw(b'0', "bomb", "", b"", |h| h.set_size(256 << 20));
    gzip.write_all(&header.unfinished()).unwrap();
    let zeros = vec![0; 1 << 20];
    for _ in 0..256 {
        gzip.write_all(&zeros).unwrap();
    }
    let root = Root::new();
    let limits = Limits {
        bytes: 1 << 20,
        ..Limits::default()
    };
    let (mut room, cancelled) = (EnoughRoom, AtomicBool::new(false));
    let folder = std::fs::File::open(root.path("")).unwrap();
    let mut unpacker = Unpacker::new(folder.as_fd(), &limits, &mut room, &cancelled).unwrap();
    let error = unpacker.layer(layer(gzip.finish().unwrap())).unwrap_err();
    assert!(matches!(error, ImageError::Limit { .. }), "{error:?}");
    assert!(!root.exists("bomb"));
}

#[test]
fn cut_and_damaged_archives_are_refused() {
    let whole = Tar::new()
        .file("a", &"x".repeat(5000))
        .file("b", "y")
        .bytes();
    let unpack = |bytes: Vec<u8>| {
        let root = Root::new();
        let (mut room, cancelled) = (EnoughRoom, AtomicBool::new(false));
        let folder = std::fs::File::open(root.path("")).unwrap();
        Unpacker::new(folder.as_fd(), &Limits::default(), &mut room, &cancelled)
            .unwrap()
            .layer(layer(bytes))
            .map(drop)
    };
    unpack(whole.clone()).unwrap();
    for cut in [0, 1, 511, 513, 3000, 5633, whole.len() - 1025 - 500] {
        assert!(unpack(whole[..cut].to_vec()).is_err(), "cut at {cut}");
    }
    let mut flipped = whole;
    flipped[3] ^= 1;
    assert!(
        unpack(flipped)
            .unwrap_err()
            .to_string()
            .contains("checksum")
    );
    assert!(unpack(b"\x1f\x8b not gzip at all".to_vec()).is_err());
    assert!(unpack(b"\xfd7zXZ\0 not xz at all".to_vec()).is_err());
    assert!(unpack(b"\x28\xb5\x2f\xfd not zstd".to_vec()).is_err());
}
