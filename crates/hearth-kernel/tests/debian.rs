//! The Debian cloud kernel, from its real package.
//!
//! The package is found by `HEARTH_TEST_KERNEL_DEB`, or in the build folder's `fixtures`, or
//! downloaded there with `apt-get download`.

use std::path::{Path, PathBuf};
use std::process::Command;

use hearth_kernel::{Import, KernelStore, Source};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("the crate is two folders below the workspace")
        .join("target/fixtures")
}

fn in_folder(folder: &Path) -> Option<PathBuf> {
    std::fs::read_dir(folder)
        .ok()?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("linux-image-")
                && name.contains("cloud-amd64_")
                && name.ends_with(".deb")
        })
}

fn download() -> Option<PathBuf> {
    let said = Command::new("apt-cache")
        .args(["depends", "linux-image-cloud-amd64"])
        .output()
        .ok()?;
    let text = String::from_utf8(said.stdout).ok()?;
    let package = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("linux-image-"))?;
    // Into a folder of its own, then renamed: tests run side by side.
    let work = tempfile::tempdir_in(fixtures()).ok()?;
    let status = Command::new("apt-get")
        .args(["download", "-qq", package])
        .current_dir(work.path())
        .status()
        .ok()?;
    let deb = status.success().then(|| in_folder(work.path()))??;
    let home = fixtures().join(deb.file_name()?);
    std::fs::rename(deb, &home).ok()?;
    Some(home)
}

/// The package, or a reason printed.
fn package() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("HEARTH_TEST_KERNEL_DEB") {
        return Some(path.into());
    }
    std::fs::create_dir_all(fixtures()).ok();
    let found = in_folder(&fixtures()).or_else(download);
    if found.is_none() {
        println!("SKIP: no Debian kernel package at hand and apt-get cannot download one");
    }
    found
}

#[test]
fn the_debian_cloud_kernel_is_imported() {
    let Some(package) = package() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = camino::Utf8Path::from_path(folder.path()).unwrap();
    let store = KernelStore::open(path).unwrap();
    let import = Import::new(Source::File(package));
    let record = store.import(&import).unwrap();
    assert!(record.default);
    assert!(record.name.ends_with("-cloud-amd64"), "{}", record.name);
    let position = |name: &str| {
        record
            .modules
            .iter()
            .position(|module| module == name)
            .unwrap_or_else(|| panic!("{name} is not in {:?}", record.modules))
    };
    // Facts of this kernel: virtio is modular, ext4 and packet sockets are built in.
    assert!(position("virtio_ring") < position("virtio"));
    assert!(position("virtio") < position("virtio_blk"));
    assert!(position("failover") < position("net_failover"));
    assert!(position("net_failover") < position("virtio_net"));
    assert!(position("vsock") < position("vmw_vsock_virtio_transport"));
    assert!(!record.modules.iter().any(|name| name == "ext4"));
    let files = store.files(None).unwrap();
    assert!(files.bzimage.unwrap().is_file());
    let elf = std::fs::read(files.elf.unwrap()).unwrap();
    assert_eq!(
        hearth_kernel::elf::kernel_version(&elf).as_deref(),
        Some(record.version.as_str())
    );
    let listed = Command::new("cpio")
        .args(["-t", "--quiet"])
        .stdin(std::fs::File::open(&files.initramfs).unwrap())
        .output()
        .unwrap();
    assert!(listed.status.success());
    let names = String::from_utf8(listed.stdout).unwrap();
    for module in &record.modules {
        assert!(names.contains(&format!("hearth/ko/{module}.ko")), "{names}");
    }
    // Again: nothing is stored twice.
    assert_eq!(store.import(&import).unwrap(), record);
    assert_eq!(store.list().unwrap(), [record]);
}
