//! An image and a kernel, imported once by the real daemon and copied for each host.
//!
//! The copy has no database: each host is an installation of its own.

use std::fs::File;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use camino::{Utf8Path, Utf8PathBuf};

use super::host::Host;
use super::tools::{Tools, hearthd, run};

/// What the image is called.
pub(crate) const IMAGE: &str = "tiny";
/// The folders of a data folder that the template holds.
const PARTS: [&str; 2] = ["images", "kernels"];

/// Fills a new data folder.
pub(super) async fn fill(tools: &Tools, data: &Utf8Path) {
    let (template, _lock) = made(tools).await;
    std::fs::create_dir_all(data).unwrap();
    for part in PARTS {
        let from = template.join(part);
        run(
            "cp",
            &[
                "-a",
                "--sparse=always",
                "--reflink=auto",
                from.as_str(),
                data.as_str(),
            ],
        );
    }
}

/// The template; the first test that wants it makes it. It stays while the lock is held.
async fn made(tools: &Tools) -> (Utf8PathBuf, File) {
    let folder = Utf8Path::new(env!("CARGO_TARGET_TMPDIR"));
    std::fs::create_dir_all(folder).unwrap();
    let lock = File::create(folder.join("vm-template.lock")).unwrap();
    lock.lock().unwrap();
    let template = folder.join(format!("vm-template-{:016x}", key(tools)));
    if template.is_dir() {
        return (template, lock);
    }
    // Templates of older programs.
    for old in folder.read_dir_utf8().unwrap().flatten() {
        if old.file_name().starts_with("vm-template-") {
            std::fs::remove_dir_all(old.path()).unwrap();
        }
    }
    let mut host = Host::empty(tools);
    let tar = host.dir().join("tiny.tar");
    make_image(&tools.busybox, &host.dir().join("root"), &tar);
    host.start_daemon().await;
    host.import_kernel(&tools.kernel).await;
    host.import_image(&tar, IMAGE).await;
    host.terminate_daemon().await;
    let fresh = folder.join(format!("vm-template-new-{}", std::process::id()));
    std::fs::create_dir(&fresh).unwrap();
    for part in PARTS {
        let from = host.data().join(part);
        run(
            "cp",
            &["-a", "--sparse=always", from.as_str(), fresh.as_str()],
        );
    }
    std::fs::rename(&fresh, &template).unwrap();
    (template, lock)
}

/// Changes with everything that the template is made of.
fn key(tools: &Tools) -> u64 {
    let mut hasher = DefaultHasher::new();
    for file in [Utf8Path::new(&hearthd()), &tools.kernel, &tools.busybox] {
        let meta = file.metadata().unwrap();
        (file, meta.len(), meta.mtime(), meta.mtime_nsec()).hash(&mut hasher);
    }
    hasher.finish()
}

/// The smallest root file system one can work in, and what is in its folder already.
pub(super) fn make_image(busybox: &Utf8Path, root: &Utf8Path, tar: &Utf8Path) {
    for folder in [
        "bin",
        "etc",
        "proc",
        "sys",
        "dev",
        "root",
        "tmp",
        "home/worker",
    ] {
        std::fs::create_dir_all(root.join(folder)).unwrap();
    }
    std::fs::copy(busybox, root.join("bin/busybox")).unwrap();
    for applet in run(busybox.as_str(), &["--list"]).lines() {
        if applet != "busybox" {
            symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\nworker:x:1000:1000::/home/worker:/bin/sh\n";
    std::fs::write(root.join("etc/passwd"), passwd).unwrap();
    std::fs::write(root.join("etc/group"), "root:x:0:\nworker:x:1000:\n").unwrap();
    std::fs::set_permissions(root.join("tmp"), std::fs::Permissions::from_mode(0o1777)).unwrap();
    run("tar", &["-C", root.as_str(), "-cf", tar.as_str(), "."]);
}
