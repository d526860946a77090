//! A real guest: the imported kernel boots the assembled initramfs, loads every module in the
//! listed order and finds its configuration.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "common/kernel.rs"]
mod kernel;

use std::path::Path;
use std::process::Command;

use camino::Utf8Path;
use hearth_kernel::cpio::{ALIGNMENT, Writer};
use hearth_kernel::{Import, KernelStore, Source, initrd};

/// Debian's `busybox-static`.
const BUSYBOX: &str = "/bin/busybox";
const QEMU: &str = "/usr/bin/qemu-system-x86_64";
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
while read module; do /bin/busybox insmod $module && echo "LOADED $module"; done < /hearth/modules
for driver in /sys/bus/virtio/drivers/*; do echo "DRIVER ${driver##*/}"; done
for device in /sys/block/vd*; do echo "DISK ${device##*/}"; done
echo "CONFIG $(/bin/busybox cat /hearth/config.json)"
/bin/busybox ls -l /hearth/config.json /dev/console /dev/null
/bin/busybox poweroff -f
"#;

/// Stands in for the guest agent: a shell that reports over the serial console.
fn guest() -> Vec<u8> {
    let mut archive = Writer::new();
    archive.dir("/bin", 0o755);
    archive
        .file(BUSYBOX, 0o755, &std::fs::read(BUSYBOX).unwrap())
        .unwrap();
    archive.file("/init", 0o755, INIT.as_bytes()).unwrap();
    archive.finish(ALIGNMENT)
}

#[test]
fn qemu_boots_the_initramfs_and_loads_all_modules() {
    for program in [BUSYBOX, QEMU] {
        if !Path::new(program).exists() {
            println!("SKIP: {program} is not installed");
            return;
        }
    }
    let Some(package) = kernel::package() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let path = Utf8Path::from_path(folder.path()).unwrap();
    let store = KernelStore::open(path.join("kernels")).unwrap();
    let record = store.import(&Import::new(Source::File(package))).unwrap();
    let files = store.files(None).unwrap();
    let out = path.join("initrd");
    initrd::write_vm_initrd(
        out.as_std_path(),
        files.initramfs.as_std_path(),
        &guest(),
        &initrd::config_segment(br#"{"vm":"test"}"#).unwrap(),
        rustix::process::geteuid().as_raw(),
    )
    .unwrap();
    let output = Command::new("timeout")
        .args(["--signal=KILL", "120", QEMU])
        .args([
            "-M",
            "q35,usb=off,sata=off,smbus=off",
            "-accel",
            "tcg",
            "-cpu",
            "max",
        ])
        .args(["-m", "256", "-nodefaults", "-display", "none", "-no-reboot"])
        .args(["-kernel", files.bzimage.unwrap().as_str()])
        .args(["-initrd", out.as_str()])
        .args(["-append", "console=ttyS0 quiet panic=-1"])
        .args(["-device", "virtio-serial-pci", "-device", "virtio-rng-pci"])
        .args(["-blockdev", "null-co,node-name=disk,size=1048576"])
        .args(["-device", "virtio-blk-pci,drive=disk"])
        .args([
            "-chardev",
            "stdio,id=console,signal=off",
            "-serial",
            "chardev:console",
        ])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    for module in &record.modules {
        let line = format!("LOADED /hearth/ko/{module}.ko");
        assert!(said.contains(&line), "{line} is missing in:\n{said}");
    }
    for line in [
        "DRIVER virtio_blk",
        "DRIVER virtio_net",
        "DRIVER virtio_console",
        "DISK vda",
        r#"CONFIG {"vm":"test"}"#,
    ] {
        assert!(said.contains(line), "{line} is missing in:\n{said}");
    }
    assert!(said.contains("-rw-------"), "{said}");
}
