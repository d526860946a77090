//! How an image is made: packages, what guests are made of, configuration, initramfs, disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context;

use super::{Kind, OFFER, recipe};
use crate::hearth::quoted;
use crate::{paths, process};

/// How long mmdebstrap may take; a minute is usual.
const BOOTSTRAP_DEADLINE: Duration = Duration::from_mins(20);
/// How long smaller steps may take.
const STEP_DEADLINE: Duration = Duration::from_mins(5);

/// Makes an image's files in the folder `fresh`, which comes to be by that.
///
/// # Errors
/// When a step fails; what there is by then stays.
pub(super) fn files(
    kind: Kind,
    cache: &Path,
    fresh: &Path,
    say: &dyn Fn(&str),
) -> anyhow::Result<()> {
    let root = fresh.join("rootfs");
    fs::create_dir_all(fresh)?;
    say("  Debian packages, by mmdebstrap");
    bootstrap(kind, fresh, &root)?;
    say("  what guests are made of");
    // The minimal host takes its own kernel.
    if kind == Kind::Equipped {
        guest_kernel(cache, &root)?;
    }
    guest_root(fresh, &root)?;
    say("  configuration and initramfs");
    configure(kind, &root)?;
    initramfs(&root)?;
    say("  disk");
    fs::copy(
        find_one(&root.join("boot"), "vmlinuz-")?,
        fresh.join("kernel"),
    )?;
    fs::copy(
        find_one(&root.join("boot"), "initrd.img-")?,
        fresh.join("initrd"),
    )?;
    disk(&root, &fresh.join("root.ext4"))?;
    fs::copy(root.join("var/lib/dpkg/status"), fresh.join("packages"))?;
    drop(fs::remove_file(fresh.join("offer.sh")));
    fs::remove_dir_all(&root).context("cannot remove the folder of the root file system")
}

fn bootstrap(kind: Kind, fresh: &Path, root: &Path) -> anyhow::Result<()> {
    let mut command = Command::new("mmdebstrap");
    command
        .args(["--quiet", "--variant=minbase", "--format=directory"])
        .arg(format!("--include={}", recipe::packages(kind).join(",")))
        .arg("--dpkgopt=path-exclude=/usr/share/locale/*")
        .arg("--dpkgopt=path-exclude=/usr/share/doc/*");
    match kind {
        Kind::Equipped => command.arg("--aptopt=APT::Install-Recommends \"false\""),
        // Its apt is as Debian's defaults have it.
        Kind::Minimal => {
            let script = fresh.join("offer.sh");
            fs::write(&script, OFFER)?;
            let needed = recipe::NEEDED.join(" ");
            command.arg(format!(
                "--customize-hook=sh {} \"$1\" {needed}",
                quoted(&script.display().to_string())
            ))
        }
    };
    process::check(command.arg(recipe::SUITE).arg(root), BOOTSTRAP_DEADLINE)
        .context("is a Debian mirror reachable?")
        .map(drop)
}

/// Debian's kernel package as scenarios import it.
fn guest_kernel(cache: &Path, root: &Path) -> anyhow::Result<()> {
    let kept = cache.join("kernel");
    process::check(
        Command::new(paths::workspace().join("scripts/kernel.sh")).arg(&kept),
        STEP_DEADLINE,
    )?;
    let share = root.join("usr/share/hearth-testbed");
    fs::create_dir_all(&share)?;
    fs::copy(find_one(&kept, "linux-image-")?, share.join("kernel.deb"))?;
    Ok(())
}

/// A root file system of busybox alone, as a tar archive.
fn guest_root(fresh: &Path, root: &Path) -> anyhow::Result<()> {
    let guest = fresh.join("guest");
    for folder in [
        "bin", "etc", "root", "tmp", "srv", "proc", "sys", "dev", "var",
    ] {
        fs::create_dir_all(guest.join(folder))?;
    }
    let busybox = root.join("bin/busybox");
    fs::copy(&busybox, guest.join("bin/busybox"))?;
    let list = process::check(Command::new(&busybox).arg("--list"), STEP_DEADLINE)?;
    for applet in list.text().lines().filter(|applet| *applet != "busybox") {
        std::os::unix::fs::symlink("busybox", guest.join("bin").join(applet))?;
    }
    fs::write(guest.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
    fs::write(guest.join("etc/group"), "root:x:0:\n")?;
    process::check(
        Command::new("tar")
            .arg("-C")
            .arg(&guest)
            .args(["--owner=0", "--group=0", "-cf"])
            .arg(root.join("usr/share/hearth-testbed/busybox.tar"))
            .arg("."),
        STEP_DEADLINE,
    )?;
    fs::remove_dir_all(&guest)?;
    Ok(())
}

fn configure(kind: Kind, root: &Path) -> anyhow::Result<()> {
    for (path, content) in recipe::files(kind) {
        let path = root.join(path);
        let folder = path.parent().context("a file of the recipe is the root")?;
        fs::create_dir_all(folder)?;
        // /etc/resolv.conf may be a link out of the tree.
        drop(fs::remove_file(&path));
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
    }
    for key in ["ecdsa", "ed25519", "rsa"] {
        for end in ["", ".pub"] {
            drop(fs::remove_file(
                root.join(format!("etc/ssh/ssh_host_{key}_key{end}")),
            ));
        }
    }
    let units = root.join("etc/systemd/system");
    for unit in recipe::MASKED {
        drop(fs::remove_file(units.join(unit)));
        std::os::unix::fs::symlink("/dev/null", units.join(unit))?;
    }
    for (link, unit) in recipe::ENABLED {
        let link = units.join(link);
        fs::create_dir_all(link.parent().context("a link without a folder")?)?;
        drop(fs::remove_file(&link));
        std::os::unix::fs::symlink(format!("/lib/systemd/system/{unit}"), link)?;
    }
    fs::write(
        root.join("etc/machine-id"),
        "7e57bed07e57bed07e57bed07e57bed0\n",
    )?;
    fs::create_dir_all(root.join("seed"))?;
    fs::create_dir_all(root.join("var/lib/hearth"))?;
    fs::create_dir_all(root.join("var/log/journal"))?;
    Ok(())
}

fn initramfs(root: &Path) -> anyhow::Result<()> {
    let modules = root.join("etc/initramfs-tools/modules");
    fs::write(modules, recipe::INITRAMFS_MODULES)?;
    process::check(
        Command::new("chroot")
            .arg(root)
            .args(["update-initramfs", "-u", "-k", "all"])
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
        STEP_DEADLINE,
    )
    .map(drop)
}

fn disk(root: &Path, image: &Path) -> anyhow::Result<()> {
    fs::File::create(image)?.set_len(recipe::ROOT_BYTES)?;
    process::check(
        Command::new("mkfs.ext4")
            .args(["-q", "-F", "-L", "testbed-root", "-m", "0", "-d"])
            .arg(root)
            .arg(image),
        STEP_DEADLINE,
    )
    .map(drop)
}

/// The one file of a folder whose name begins so.
fn find_one(folder: &Path, prefix: &str) -> anyhow::Result<PathBuf> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut found: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found
        .pop()
        .with_context(|| format!("{} has no {prefix}*", folder.display()))
}
