//! Imports into a real store, looked at through a mount. Needs root.

use crate::common::{NoProgress, Store, need_root};

#[tokio::test]
async fn a_rootfs_tar_becomes_a_volume() {
    if !need_root() {
        return;
    }
    let store = Store::new();
    let tar = store.path("rootfs.tar");
    let mut builder = tar::Builder::new(std::fs::File::create(&tar).unwrap());
    let mut header = tar::Header::new_gnu();
    header.set_size(5);
    header.set_mode(0o4755);
    header.set_uid(7);
    header.set_mtime(1_000_000_000);
    builder
        .append_data(&mut header, "usr/bin/hello", &b"hello"[..])
        .unwrap();
    builder.finish().unwrap();
    let record = store
        .images
        .import(&tar, "hello:1", None, &NoProgress)
        .await
        .unwrap();
    assert_eq!(record.references, ["docker.io/library/hello:1"]);
    assert_eq!(record.source, "rootfs-tar");
    let root = store.mount(&record.id);
    assert_eq!(root.read("usr/bin/hello"), b"hello");
    assert_eq!(
        root.line("usr/bin/hello"),
        "f 4755 7:0 1000000000.000000000 5"
    );
    root.check();
}

/// A tar of many files that packs far better than the guess: the volume must grow more than once.
#[tokio::test(flavor = "multi_thread")]
async fn a_volume_grows_as_it_fills() {
    if !need_root() {
        return;
    }
    let store = Store::new();
    let path = store.path("rootfs.tar.zst");
    let file = std::fs::File::create(&path).unwrap();
    let mut builder = tar::Builder::new(zstd::Encoder::new(file, 1).unwrap());
    let block: Vec<u8> = (0..8 << 20)
        .map(|at| u8::try_from(at / 4096 % 251).unwrap() + 1)
        .collect();
    for at in 0..45 {
        let mut header = tar::Header::new_gnu();
        header.set_size(block.len() as u64);
        header.set_mode(0o600);
        builder
            .append_data(&mut header, format!("d{}/f{at}", at % 7), &block[..])
            .unwrap();
    }
    // More small files than the inodes of the first volume.
    for at in 0..30_000 {
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        header.set_mode(0o600);
        builder
            .append_data(&mut header, format!("small/{}/{at}", at % 100), &b""[..])
            .unwrap();
    }
    builder.into_inner().unwrap().finish().unwrap();
    let record = store
        .images
        .import(&path, "big:1", None, &NoProgress)
        .await
        .unwrap();
    let root = store.mount(&record.id);
    for at in 0..45 {
        assert!(
            root.read(&format!("d{}/f{at}", at % 7)) == block,
            "file {at}"
        );
    }
    assert_eq!(
        std::fs::read_dir(root.root.join("small/99"))
            .unwrap()
            .count(),
        300
    );
    root.check();
    // 360 MiB of content, a tenth, the headroom, and the overshoot of a step of growth.
    assert!(record.volume_bytes < 700 << 20, "{}", record.volume_bytes);
}

#[tokio::test]
async fn a_refused_archive_leaves_nothing() {
    if !need_root() {
        return;
    }
    let store = Store::new();
    let path = store.path("rootfs.tar");
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    header.set_mode(0o644);
    builder.append_data(&mut header, "fine", &b""[..]).unwrap();
    let mut bytes = builder.into_inner().unwrap();
    // The same header with a path that goes up, and a checksum that fits it.
    let mut evil = tar::Header::from_byte_slice(&bytes[..512]).clone();
    evil.as_mut_bytes()[..10].copy_from_slice(b"../../evil");
    evil.set_cksum();
    bytes.truncate(512);
    bytes.extend(evil.as_bytes());
    bytes.extend([0; 1024]);
    std::fs::write(&path, bytes).unwrap();
    let error = store
        .images
        .import(&path, "evil:1", None, &NoProgress)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("../../evil"), "{error}");
    assert!(store.image_folders().is_empty());
    assert!(store.images.list().await.unwrap().is_empty());
    assert!(store.images.get("evil:1").await.is_err());
}

#[tokio::test]
async fn raw_disks() {
    if !need_root() {
        return;
    }
    let store = Store::new();
    let path = store.path("disk.img");
    let write = |at: u64, bytes: &[u8]| {
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, bytes, at).unwrap();
    };
    std::fs::File::create(&path)
        .unwrap()
        .set_len(64 << 20)
        .unwrap();
    let error = store
        .images
        .import(&path, "disk:1", None, &NoProgress)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("not an ext4"), "{error}");
    crate::common::registry::run("mke2fs", &["-q", "-F", "-t", "ext4", path.as_str()]);
    let record = store
        .images
        .import(&path, "disk:1", None, &NoProgress)
        .await
        .unwrap();
    assert_eq!(
        (record.source.as_str(), record.volume_bytes),
        ("disk", 64 << 20)
    );
    assert!(record.disk_bytes < 32 << 20, "{}", record.disk_bytes);
    assert!(
        std::fs::read(store.images.volume_path(&record.id)).unwrap()
            == std::fs::read(&path).unwrap()
    );
    store.mount(&record.id);

    std::fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(32 << 20)
        .unwrap();
    let error = store
        .images
        .import(&path, "disk:2", None, &NoProgress)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("cut off"), "{error}");
    write(510, &[0x55, 0xaa]);
    write(446 + 4, &[0x83]);
    write(446 + 12, &[1]);
    let error = store
        .images
        .import(&path, "disk:2", None, &NoProgress)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("partition table"), "{error}");
    write(0, b"QFI\xfb");
    let error = store
        .images
        .import(&path, "disk:2", None, &NoProgress)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("qemu-img"), "{error}");
    assert_eq!(store.image_folders().len(), 1);
}

/// What GNU tar makes of the same archive, attribute by attribute.
#[tokio::test(flavor = "multi_thread")]
async fn the_volume_equals_gnu_tar() {
    if !need_root() {
        return;
    }
    let store = Store::new();
    let source = store.path("source");
    for script in [
        "mkdir -p $S/a/b $S/sticky $S/deep/$(printf 'x%.0s' $(seq 150))/$(printf 'y%.0s' $(seq 150))",
        "echo hello >$S/a/file; ln $S/a/file $S/a/b/second; ln -s ../file $S/a/b/link; ln -s /nowhere $S/dangling",
        "mkfifo $S/pipe; mknod $S/null c 1 3; mknod $S/block b 7 0; chmod 1777 $S/sticky; chmod 6755 $S/a/file",
        "for d in $S/deep/x*/y*; do touch $d/leaf; done; chown 12345:54321 $S/a/b; chown -h 7:7 $S/dangling; touch -h -d '1999-12-31 23:59:59.123456789' $S/dangling $S/a",
        "tar --format=posix --xattrs -C $S -cf $S.tar . && mkdir $S.out && tar -C $S.out --numeric-owner --same-owner -p -xf $S.tar",
    ] {
        let script = script.replace("$S", source.as_str());
        crate::common::registry::run("sh", &["-ec", &script]);
    }
    let tar = store.path("source.tar");
    let record = store
        .images
        .import(&tar, "t:1", None, &NoProgress)
        .await
        .unwrap();
    let root = store.mount(&record.id);
    let listing = |root: &str| {
        let output = std::process::Command::new("find")
            .args([".", "-printf", "%P %y %m %U:%G %T@ %l %n\\n"])
            .current_dir(root)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let mut lines: Vec<String> = String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect();
        lines.sort();
        lines
    };
    let theirs = listing(&format!("{source}.out"));
    assert!(theirs.len() > 12, "{theirs:?}");
    assert_eq!(listing(root.root.as_str()), theirs);
}
