use proptest::prelude::*;

use super::*;
use crate::testkit::{elf_kernel, kernel, module};

#[test]
fn sections_are_found_by_name() {
    let bytes = module(&["license=GPL", "depends=a,b"]);
    let elf = Elf::parse(&bytes).unwrap();
    assert!(elf.is_object());
    assert_eq!(
        elf.section(".modinfo").unwrap(),
        Some(&b"license=GPL\0depends=a,b\0"[..])
    );
    assert_eq!(elf.section(".modinf").unwrap(), None);
    assert!(elf.check_kernel().is_err());
}

#[test]
fn a_kernel_has_segments_inside_the_file() {
    let bytes = elf_kernel(b"code");
    Elf::parse(&bytes).unwrap().check_kernel().unwrap();
    let cut = &bytes[..bytes.len() - 1];
    assert!(Elf::parse(cut).unwrap().check_kernel().is_err());
}

#[test]
fn other_machines_and_sizes_are_refused() {
    let mut arm = elf_kernel(b"code");
    arm[18] = 183;
    assert!(Elf::parse(&arm).unwrap_err().to_string().contains("183"));
    let mut small = elf_kernel(b"code");
    small[4] = 1;
    assert!(Elf::parse(&small).is_err());
    assert!(Elf::parse(b"#!/bin/sh").is_err());
}

#[test]
fn version_and_drivers_are_found() {
    let bytes = kernel("6.1.0-1-test", &["virtio_blk"]);
    assert_eq!(kernel_version(&bytes).as_deref(), Some("6.1.0-1-test"));
    assert_eq!(kernel_version(b"Linux version %s"), None);
    assert!(names_driver(&bytes, "virtio_blk"));
    assert!(!names_driver(&bytes, "virtio_bl"));
    assert!(!names_driver(&bytes, "virtio_net"));
}

proptest! {
    #[test]
    fn damage_never_panics(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        cut in any::<prop::sample::Index>(),
        object in any::<bool>(),
    ) {
        let mut bytes = if object { module(&["depends=a"]) } else { kernel("1.2", &[]) };
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(cut.index(bytes.len() + 1));
        if let Ok(elf) = Elf::parse(&bytes) {
            drop(elf.check_kernel());
            drop(elf.section(".modinfo"));
        }
        drop(kernel_version(&bytes));
    }
}
