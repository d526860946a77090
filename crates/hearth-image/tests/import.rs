//! Imports into a real store, looked at through a mount. Needs root.

mod common;

use common::{NoProgress, Store, need_root};

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
