use super::*;
use crate::compression::Compression;
use crate::testkit::{bzimage, install, kernel, package, payload};

const VERSION: &str = "6.1.0-1-test";
const ESSENTIAL: [&str; 4] = ["virtio_console", "virtio_blk", "virtio_net", "ext4"];

fn loaded(bytes: &[u8], modules_dir: Option<&Path>, root: &Path) -> Result<Loaded, SourceError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kernel");
    std::fs::write(&path, bytes).unwrap();
    let found = find(&Source::File(path), root)?;
    let work = tempfile::tempdir().unwrap();
    load(&found, modules_dir, &[], root, work.path())
}

#[test]
fn a_vmlinuz_finds_its_installed_modules() {
    let root = tempfile::tempdir().unwrap();
    install(root.path(), VERSION);
    let elf = kernel(VERSION, &[]);
    let image = bzimage(VERSION, &payload(Compression::Zstd, &elf));
    let kernel = loaded(&image, None, root.path()).unwrap();
    assert_eq!(kernel.version, VERSION);
    assert_eq!(kernel.bzimage.as_deref(), Some(image.as_slice()));
    assert_eq!(kernel.elf, elf);
    assert_eq!(kernel.modules.len(), 8);
}

#[test]
fn a_vmlinux_with_everything_built_in_needs_no_modules() {
    let root = tempfile::tempdir().unwrap();
    let kernel = loaded(&kernel(VERSION, &ESSENTIAL), None, root.path()).unwrap();
    assert_eq!(kernel.bzimage, None);
    assert!(kernel.modules.is_empty());
}

#[test]
fn a_bare_kernel_without_its_drivers_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let error = loaded(&kernel(VERSION, &ESSENTIAL[1..]), None, root.path()).unwrap_err();
    assert!(
        matches!(
            error,
            SourceError::NoModules {
                name: "virtio_console",
                ..
            }
        ),
        "{error:?}"
    );
}

#[test]
fn what_is_no_kernel_is_refused() {
    let root = tempfile::tempdir().unwrap();
    for bytes in [&b"#!/bin/sh\n"[..], b"", b"MZ", &[0; 5000]] {
        let error = loaded(bytes, None, root.path()).unwrap_err();
        assert!(matches!(error, SourceError::Unknown { .. }), "{error:?}");
    }
    let error = find(&Source::File(root.path().to_owned()), root.path()).unwrap_err();
    assert!(matches!(error, SourceError::Unknown { .. }), "{error:?}");
}

#[test]
fn the_newest_installed_kernel_with_modules_is_taken() {
    let root = tempfile::tempdir().unwrap();
    let nothing = find(&Source::Running, root.path()).unwrap_err();
    assert!(matches!(nothing, SourceError::NothingInstalled { .. }));
    for version in ["6.1.0-9-test", "6.1.0-10-test", "5.10.0-99-test"] {
        install(root.path(), version);
    }
    // Newer, but its modules are gone.
    let boot = root.path().join("boot");
    std::fs::copy(
        boot.join("vmlinuz-6.1.0-9-test"),
        boot.join("vmlinuz-7.0.0-1-test"),
    )
    .unwrap();
    let found = find(&Source::Running, root.path()).unwrap();
    assert_eq!(found.path, boot.join("vmlinuz-6.1.0-10-test"));
}

#[test]
fn the_digest_is_that_of_the_file() {
    let bytes = package(VERSION, "data.tar");
    assert!(bytes.len() as u64 > HEAD);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("package.deb");
    std::fs::write(&path, &bytes).unwrap();
    let found = find(&Source::File(path), folder.path()).unwrap();
    assert_eq!(found.kind, Kind::Package);
    assert_eq!(found.digest, digest_of(&bytes));
    assert_eq!(
        digest_of(b"abc"),
        "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    );
}
