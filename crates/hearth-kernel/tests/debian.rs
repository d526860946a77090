//! The Debian cloud kernel, from its real package.

#[path = "common/kernel.rs"]
mod kernel;

use std::process::Command;

use hearth_kernel::{Import, KernelStore, Source};

#[test]
fn the_debian_cloud_kernel_is_imported() {
    let Some(package) = kernel::package() else {
        return;
    };
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
