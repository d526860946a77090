//! Layers over layers: whiteouts and replaced things.

use super::{Root, Tar};

#[test]
fn whiteouts_hide_what_is_below() {
    let root = Root::new();
    let lower = Tar::new()
        .file("gone", "1")
        .file("tree/a/b", "2")
        .file("tree/kept", "3")
        .file("stays", "4")
        .symlink("link", "stays");
    let upper = Tar::new()
        .file(".wh.gone", "")
        .file("tree/.wh.a", "")
        .file(".wh.link", "")
        .file(".wh.never-there", "")
        .file("no/such/folder/.wh.x", "")
        .file(".wh..wh.plnk", "");
    root.unpack(&[lower, upper]).unwrap();
    for gone in ["gone", "tree/a", "link", ".wh.gone", "no", ".wh..wh.plnk"] {
        assert!(!root.exists(gone), "{gone}");
    }
    assert_eq!(root.read("tree/kept"), "3");
    assert_eq!(root.read("stays"), "4");
}

/// Wherever the opaque mark stands, it hides the layers below and nothing of its own.
#[test]
fn opaque_whiteouts() {
    let lower = || {
        Tar::new()
            .file("d/old", "1")
            .file("d/sub/old", "2")
            .file("d/both", "3")
    };
    let files = |tar: Tar| {
        tar.dir("d")
            .file("d/new", "n")
            .file("d/sub/new", "n")
            .file("d/both", "n")
    };
    let first = files(Tar::new().file("d/.wh..wh..opq", ""));
    let last = files(Tar::new()).file("d/.wh..wh..opq", "");
    for (case, upper) in [("first", first), ("last", last)] {
        let root = Root::new();
        root.unpack(&[lower(), upper]).unwrap();
        for gone in ["d/old", "d/sub/old", "d/.wh..wh..opq"] {
            assert!(!root.exists(gone), "{case}: {gone}");
        }
        for kept in ["d/new", "d/sub/new", "d/both"] {
            assert_eq!(root.read(kept), "n", "{case}: {kept}");
        }
    }
}

/// containerd refuses a layer with a file and its own whiteout, umoci takes it. So do we: a
/// whiteout is for the layers below, whatever the order.
#[test]
fn a_file_and_its_own_whiteout() {
    let lower = || Tar::new().file("f", "old").file("d/old", "old");
    let before = Tar::new()
        .file(".wh.f", "")
        .file(".wh.d", "")
        .file("f", "new")
        .dir("d")
        .file("d/new", "new");
    let after = Tar::new()
        .file("f", "new")
        .dir("d")
        .file("d/new", "new")
        .file(".wh.f", "")
        .file(".wh.d", "");
    for (case, upper) in [("before", before), ("after", after)] {
        let root = Root::new();
        root.unpack(&[lower(), upper]).unwrap();
        assert_eq!(root.read("f"), "new", "{case}");
        assert_eq!(root.read("d/new"), "new", "{case}");
        assert!(!root.exists("d/old"), "{case}");
    }
}

#[test]
fn whiteouts_in_the_first_layer_hide_nothing() {
    let root = Root::new();
    let tar = Tar::new()
        .file("a", "1")
        .file(".wh.a", "")
        .file(".wh..wh..opq", "");
    root.unpack(&[tar]).unwrap();
    assert_eq!(root.read("a"), "1");
    assert!(!root.exists(".wh.a"));
}

/// `/lib -> usr/lib` from below, a file in `lib/` from above: it belongs into `usr/lib`.
#[test]
fn files_through_links_of_lower_layers() {
    let root = Root::new();
    let lower = Tar::new()
        .dir("usr/lib")
        .symlink("lib", "usr/lib")
        .symlink("dangling", "made/later");
    let upper = Tar::new()
        .file("lib/x", "1")
        .file("dangling/y", "2")
        .hardlink("lib/z", "usr/lib/x");
    root.unpack(&[lower, upper]).unwrap();
    assert!(root.path("lib").is_symlink());
    assert_eq!(root.read("usr/lib/x"), "1");
    assert_eq!(root.read("usr/lib/z"), "1");
    assert_eq!(root.read("made/later/y"), "2");
}

/// A cached parent must not outlive the link it was reached through.
#[test]
fn a_replaced_link_is_not_followed_any_more() {
    let root = Root::new();
    let lower = Tar::new().dir("a").dir("b").symlink("l", "a");
    let upper = Tar::new()
        .file("l/1", "")
        .symlink("l", "b")
        .file("l/2", "")
        .dir("l")
        .file("l/3", "")
        .file(".wh.a", "")
        .file("a/4", "");
    root.unpack(&[lower, upper]).unwrap();
    assert!(root.exists("b/2") && root.exists("l/3") && root.exists("a/4"));
    // Made by this layer in a folder of the one below: the whiteout spares it.
    assert!(root.exists("a/1"));
    assert!(root.path("l").symlink_metadata().unwrap().is_dir());
}

#[test]
fn kinds_change_between_layers() {
    let root = Root::new();
    let lower = Tar::new()
        .file("a", "file")
        .file("b/x", "in a folder")
        .symlink("c", "b")
        .dir("d");
    let upper =
        Tar::new()
            .dir("a")
            .file("b", "file")
            .file("c", "file")
            .raw(b'5', "d", "", b"", |h| h.set_mode(0o700));
    root.unpack(&[lower, upper]).unwrap();
    assert!(root.path("a").is_dir());
    assert_eq!(root.read("b"), "file");
    assert_eq!(root.read("c"), "file");
    assert_eq!(root.mode("d"), 0o700);
}
