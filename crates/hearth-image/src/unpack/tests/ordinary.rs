//! What must come out as it went in.

use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::sync::atomic::AtomicBool;

use super::{Root, Tar, layer, need_root};
use crate::unpack::{EnoughRoom, Unpacker};
use crate::{ImageError, Limits};

#[test]
fn attributes() {
    if !need_root() {
        return;
    }
    let root = Root::new();
    // A capability with a newline in it, as cap_net_raw's value may have.
    let capability = [1, 0, 0, 2, 10, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let long = format!("{}/{}", "p".repeat(150), "q".repeat(150));
    let tar = Tar::new()
        .raw(b'5', "./", "", b"", |h| h.set_mode(0o711))
        .raw(b'5', "dir/", "", b"", |h| h.set_mode(0o1777))
        .raw(b'0', "dir/suid", "", b"abc", |h| {
            h.set_mode(0o6755);
            h.set_uid(12);
            h.set_gid(34);
        })
        .pax(&[
            ("mtime", b"-1.25"),
            ("uid", b"100000"),
            ("comment", b"ignored"),
            ("SCHILY.xattr.security.capability", &capability),
            ("SCHILY.xattr.security.selinux", b"label"),
            ("SCHILY.xattr.user.note", b"a\nb"),
        ])
        .file("cap", "x")
        .raw(b'3', "null", "", b"", |h| {
            h.set_device_major(1).unwrap();
            h.set_device_minor(3).unwrap();
        })
        .raw(b'6', "fifo", "", b"", |_| {})
        .raw(b'2', "link", "/no/where", b"", |h| h.set_uid(5))
        .pax(&[("path", long.as_bytes())])
        .file("short", "long")
        .raw(0, "old/", "", b"", |_| {});
    root.unpack(&[tar]).unwrap();
    assert_eq!(root.mode(""), 0o711);
    assert_eq!(root.mode("dir"), 0o1777);
    assert_eq!(root.mode("dir/suid"), 0o6755);
    let meta = |name: &str| root.path(name).symlink_metadata().unwrap();
    assert_eq!((meta("dir/suid").uid(), meta("dir/suid").gid()), (12, 34));
    assert_eq!(meta("dir").mtime(), 1_000_000_000);
    assert_eq!(
        (meta("cap").mtime(), meta("cap").mtime_nsec()),
        (-2, 750_000_000)
    );
    assert_eq!(meta("cap").uid(), 100_000);
    let mut value = vec![0; 64];
    let n = rustix::fs::lgetxattr(root.path("cap"), "security.capability", &mut value).unwrap();
    assert_eq!(value[..n], capability);
    let n = rustix::fs::lgetxattr(root.path("cap"), "user.note", &mut value).unwrap();
    assert_eq!(&value[..n], b"a\nb");
    assert!(meta("null").file_type().is_char_device());
    assert_eq!(meta("null").rdev(), rustix::fs::makedev(1, 3));
    assert!(meta("fifo").file_type().is_fifo());
    assert_eq!(meta("link").uid(), 5);
    assert_eq!(root.read(&long), "long");
    assert!(root.path("old").is_dir());
}

#[test]
fn the_last_of_several_entries_holds() {
    let root = Root::new();
    let tar = Tar::new()
        .file("a", "first")
        .file("a", "second")
        .file("d/inner", "x")
        .file("d", "a file now")
        .file("e", "a file")
        .dir("e")
        .file("e/inner", "y")
        .symlink("f", "e")
        .dir("f");
    root.unpack(&[tar]).unwrap();
    assert_eq!(root.read("a"), "second");
    assert_eq!(root.read("d"), "a file now");
    assert_eq!(root.read("e/inner"), "y");
    assert!(root.path("f").symlink_metadata().unwrap().is_dir());
}

/// GNU tar writes both sparse formats; their holes stay holes.
#[test]
fn sparse_files_of_gnu_tar() {
    let root = Root::new();
    let source = root.dir.path().join("outside/sparse");
    let file = std::fs::File::create(&source).unwrap();
    file.set_len(64 << 20).unwrap();
    // More pieces than the first header of the old format can name.
    for piece in 0..30_u64 {
        let bytes = format!("piece {piece}");
        std::os::unix::fs::FileExt::write_all_at(&file, bytes.as_bytes(), piece << 21).unwrap();
    }
    let expected = std::fs::read(&source).unwrap();
    for format in ["gnu", "posix"] {
        let output = std::process::Command::new("tar")
            .args(["-C", source.parent().unwrap().to_str().unwrap()])
            .args(["--sparse", "--format", format, "-cf", "-", "sparse"])
            .output()
            .unwrap();
        assert!(output.status.success());
        assert!(
            output.stdout.len() < 1 << 20,
            "{format}: tar found no holes"
        );
        let root = Root::new();
        unpack(&root, output.stdout).unwrap();
        assert!(
            std::fs::read(root.path("sparse")).unwrap() == expected,
            "{format}"
        );
        let blocks = root.path("sparse").metadata().unwrap().blocks();
        assert!(blocks * 512 < 4 << 20, "{format}: {blocks} blocks");
    }
}

#[test]
fn packings() {
    let tar = Tar::new().file("a", &"text ".repeat(100_000)).bytes();
    let (half, rest) = tar.split_at(512 * 3);
    let gzip = |bytes: &[u8]| {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(bytes).unwrap();
        gzip.finish().unwrap()
    };
    let xz = || {
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(&tar).unwrap();
        xz.finish().unwrap()
    };
    for (name, packed) in [
        ("plain", tar.clone()),
        ("gzip", gzip(&tar)),
        ("gzip in two members", [gzip(half), gzip(rest)].concat()),
        ("xz", xz()),
        ("zstd", zstd::encode_all(&tar[..], 3).unwrap()),
        (
            "zstd in two frames",
            [
                zstd::encode_all(half, 1).unwrap(),
                zstd::encode_all(rest, 1).unwrap(),
            ]
            .concat(),
        ),
    ] {
        let root = Root::new();
        unpack(&root, packed.clone()).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        assert_eq!(root.read("a").len(), 500_000, "{name}");
        if name != "plain" {
            let cut = packed[..packed.len() - 20].to_vec();
            assert!(unpack(&Root::new(), cut).is_err(), "{name}, cut");
        }
    }
}

#[test]
fn digests_are_checked() {
    let tar = Tar::new().file("a", "b").bytes();
    let right = crate::digest::of(&tar);
    let wrong = crate::digest::of(b"something else");
    for (digest, fits) in [(&right, true), (&wrong, false)] {
        for packed in [true, false] {
            let root = Root::new();
            let mut one = layer(tar.clone());
            one.packed_digest = packed.then_some(digest.as_str());
            one.unpacked_digest = (!packed).then_some(digest.as_str());
            let (mut room, cancelled) = (EnoughRoom, AtomicBool::new(false));
            let folder = std::fs::File::open(root.path("")).unwrap();
            let result = Unpacker::new(folder.as_fd(), &Limits::default(), &mut room, &cancelled)
                .unwrap()
                .layer(one);
            assert_eq!(result.is_ok(), fits, "{result:?}");
        }
    }
}

fn unpack(root: &Root, bytes: Vec<u8>) -> Result<(), ImageError> {
    let (mut room, cancelled) = (EnoughRoom, AtomicBool::new(false));
    let folder = std::fs::File::open(root.path("")).unwrap();
    Unpacker::new(folder.as_fd(), &Limits::default(), &mut room, &cancelled)
        .unwrap()
        .layer(layer(bytes))
        .map(drop)
}
