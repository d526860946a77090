//! Dumps of a guest's memory by real QEMU: on demand, and kept when its kernel panics.

#![expect(
    clippy::unwrap_used,
    reason = "part of tests: a failed unwrap is a failed test"
)]

#[expect(dead_code, reason = "stand-ins and units are of other tests")]
mod common;

use std::io::Read as _;
use std::os::unix::fs::{OpenOptionsExt as _, chown};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use camino::{Utf8Path, Utf8PathBuf};
use common::Vms;
use hearth_types::observe::RunState;
use hearth_types::spec::CrashDump;
use hearth_vmm::{LaunchSpec, Vmm as _};

/// Under emulation, on a busy host.
const PATIENCE: Duration = Duration::from_secs(300);
/// Where a test run keeps a kernel's whole package.
const KERNEL: &str = "/var/cache/hearth-test/kernel";

fn asked() -> CrashDump {
    CrashDump {
        guest_memory: true,
        ..CrashDump::default()
    }
}

/// Dumps into a file that the daemon would make, and reads what it begins with.
async fn dump(vms: &Vms, spec: &LaunchSpec) -> (Vec<u8>, u64) {
    let path = spec.dir.join("guest.dump");
    let mut options = std::fs::OpenOptions::new();
    drop(
        options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .unwrap(),
    );
    if let Some(user) = spec.user {
        chown(&path, Some(user), Some(user)).unwrap();
    }
    let dumped = vms
        .driver
        .dump_memory(spec.vm, &spec.dir, "guest.dump", PATIENCE);
    dumped.await.unwrap();
    let mut file = std::fs::File::open(&path).unwrap();
    let mut magic = vec![0; 12];
    file.read_exact(&mut magic).unwrap();
    (magic, file.metadata().unwrap().len())
}

#[tokio::test]
async fn qemu_dumps_a_guest_that_runs_and_lets_it_go_on() {
    let Some(vms) = Vms::qemu() else { return };
    let spec = vms.make();
    let identity = vms.driver.launch(&spec).await.unwrap();
    let (magic, size) = dump(&vms, &spec).await;
    assert_eq!(magic, b"makedumpfile");
    assert!(size > 1 << 20, "{size} bytes of a guest of 128 MiB");
    let state = vms.driver.run_state(spec.vm, &spec.dir, PATIENCE).await;
    assert_eq!(state.unwrap(), RunState::Running);
    assert!(!vms.driver.panicked(spec.vm, &spec.dir).await.unwrap());
    let nowhere = vms
        .driver
        .dump_memory(spec.vm, &spec.dir, "no/where", PATIENCE);
    assert!(nowhere.await.is_err());
    vms.driver.kill(&identity).await.unwrap();
}

/// The kernel's image and the module that tells of a panic, of one package.
fn package() -> Option<(Utf8PathBuf, Vec<Utf8PathBuf>)> {
    let found = |folder: &str, name: &str| -> Option<Utf8PathBuf> {
        let mut entries = Utf8Path::new(folder).read_dir_utf8().ok()?.flatten();
        let entry = entries.find(|entry| entry.file_name().starts_with(name))?;
        Some(entry.path().to_owned())
    };
    let image = found(&format!("{KERNEL}/boot"), "vmlinuz")?;
    let version = found(&format!("{KERNEL}/lib/modules"), "")?;
    let modules = ["pvpanic.ko", "pvpanic-mmio.ko"]
        .map(|name| version.join("kernel/drivers/misc/pvpanic").join(name));
    let there = modules.iter().all(|path| path.is_file());
    there.then(|| (image, modules.to_vec()))
}

/// An initramfs whose first program loads the module and panics.
fn panicking(dir: &Utf8Path, modules: &[Utf8PathBuf]) -> Option<Utf8PathBuf> {
    let tree = dir.join("tree");
    std::fs::create_dir_all(tree.join("proc")).unwrap();
    std::fs::copy("/bin/busybox", tree.join("busybox")).ok()?;
    let script = "#!/busybox sh\n/busybox mount -t proc proc /proc\n/busybox insmod /pvpanic.ko\n\
                  /busybox insmod /pvpanic-mmio.ko\necho c > /proc/sysrq-trigger\n";
    std::fs::write(tree.join("init"), script).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(tree.join("init"), mode).unwrap();
    for module in modules {
        std::fs::copy(module, tree.join(module.file_name()?)).unwrap();
    }
    let archive = dir.join("initrd");
    let mut cpio = Command::new("cpio")
        .args(["--quiet", "-o", "-H", "newc"])
        .current_dir(&tree)
        .stdin(Stdio::piped())
        .stdout(std::fs::File::create(&archive).unwrap())
        .spawn()
        .ok()?;
    let names = b".\nproc\nbusybox\ninit\npvpanic.ko\npvpanic-mmio.ko\n";
    std::io::Write::write_all(cpio.stdin.as_mut().unwrap(), names).unwrap();
    cpio.wait().unwrap().success().then_some(archive)
}

#[tokio::test]
async fn qemu_keeps_a_guest_that_panicked_until_its_memory_is_dumped() {
    let Some(vms) = Vms::qemu() else { return };
    let Some((image, modules)) = package() else {
        println!("SKIP: no kernel package in {KERNEL}");
        return;
    };
    let mut spec = vms.make();
    let Some(initramfs) = panicking(&spec.dir, &modules) else {
        println!("SKIP: busybox-static or cpio is not installed");
        return;
    };
    std::fs::copy(&image, spec.kernel.bzimage.as_ref().unwrap()).unwrap();
    spec.initramfs = initramfs;
    // As a VM has it: without the device it would be gone with its panic.
    spec.cmdline = Vec::new();
    spec.crash_dump = asked();
    let identity = vms.driver.launch(&spec).await.unwrap();
    let give_up = Instant::now() + PATIENCE;
    while !vms.driver.panicked(spec.vm, &spec.dir).await.unwrap() {
        assert!(Instant::now() < give_up, "it never panicked");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let state = vms.driver.run_state(spec.vm, &spec.dir, PATIENCE).await;
    assert_eq!(state.unwrap(), RunState::Ended, "it runs no more");
    let (magic, size) = dump(&vms, &spec).await;
    assert_eq!(magic, b"makedumpfile");
    assert!(size > 10 << 20, "{size} bytes");
    vms.driver.quit(spec.vm, &spec.dir).await.unwrap();
    vms.driver.wait_dead(&identity).await.unwrap();
}
