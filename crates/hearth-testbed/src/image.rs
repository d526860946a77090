//! The host image: a Debian root file system as a disk, with its kernel beside it, made
//! once for each recipe and shared by all runs, which never write to it.
//!
//! ```text
//!  cache/<hash of the recipe>/root.ext4  kernel  initrd  cmdline  packages
//!  cache/<hash>.new-<pid>/               being made; renamed when whole
//!  cache/kernel/                         Debian's kernel package, for guests
//!  cache/lock                            held while an image is made
//! ```

mod recipe;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::fs::FlockOperation;
use sha2::{Digest, Sha256};

use crate::{paths, process};

/// How long mmdebstrap may take; a minute is usual.
const BOOTSTRAP_DEADLINE: Duration = Duration::from_mins(20);
/// How long smaller steps may take.
const STEP_DEADLINE: Duration = Duration::from_mins(5);
/// Images kept beside the newest, for those who go back and forth between two branches.
const KEPT: usize = 1;

/// A host image, ready to boot.
#[derive(Debug, Clone)]
pub struct Image {
    folder: PathBuf,
}

impl Image {
    /// The root file system: a raw disk that must not be written to.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.folder.join("root.ext4")
    }

    /// The kernel.
    #[must_use]
    pub fn kernel(&self) -> PathBuf {
        self.folder.join("kernel")
    }

    /// The initramfs.
    #[must_use]
    pub fn initrd(&self) -> PathBuf {
        self.folder.join("initrd")
    }

    /// The kernel's command line.
    #[must_use]
    pub fn cmdline(&self) -> &'static str {
        recipe::CMDLINE
    }

    /// Its name: a hash of the recipe.
    #[must_use]
    pub fn name(&self) -> String {
        let name = self.folder.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }
}

/// The image of this recipe: from the cache, or made now.
///
/// # Errors
/// When it cannot be made: not root, a program missing, no Debian mirror.
pub fn obtain(say: &dyn Fn(&str)) -> anyhow::Result<Image> {
    let cache = paths::cache()?;
    fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
    let folder = cache.join(key());
    if folder.is_dir() {
        return Ok(Image { folder });
    }
    let lock = fs::File::create(cache.join("lock")).context("cannot make the cache's lock")?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).context("cannot lock the cache")?;
    // Another run may have made it meanwhile.
    if !folder.is_dir() {
        preconditions()?;
        let begun = Instant::now();
        say("making the host image; it is kept for later runs");
        make(&cache, &folder, say)?;
        prune(&cache, &folder)?;
        say(&format!("made in {} s", begun.elapsed().as_secs()));
    }
    Ok(Image { folder })
}

/// Hash of all that the image is made from. Package versions are not in it: a new image
/// follows from a new recipe, or from removing the cache.
fn key() -> String {
    let sources = [include_str!("image/recipe.rs"), include_str!("image.rs")];
    let mut hash = Sha256::new();
    for source in sources {
        hash.update(source);
        hash.update([0]);
    }
    hash.finalize()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn preconditions() -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("the host image is made by root: it holds device nodes and other users' files");
    }
    for (program, package) in [("mmdebstrap", "mmdebstrap"), ("mkfs.ext4", "e2fsprogs")] {
        let found = process::run(Command::new("which").arg(program), STEP_DEADLINE)?;
        if !found.success() {
            bail!("{program} is not installed: apt-get install {package}");
        }
    }
    Ok(())
}

fn make(cache: &Path, folder: &Path, say: &dyn Fn(&str)) -> anyhow::Result<()> {
    let fresh = folder.with_extension(format!("new-{}", std::process::id()));
    let result = make_in(cache, &fresh, say).and_then(|()| {
        fs::rename(&fresh, folder).with_context(|| format!("cannot name {}", folder.display()))
    });
    if result.is_err() {
        // The error that matters is the one above.
        drop(fs::remove_dir_all(&fresh));
    }
    result
}

fn make_in(cache: &Path, fresh: &Path, say: &dyn Fn(&str)) -> anyhow::Result<()> {
    let root = fresh.join("rootfs");
    fs::create_dir_all(fresh)?;
    say("  Debian packages, by mmdebstrap");
    bootstrap(&root)?;
    say("  kernel package and root file system for guests");
    guest_kernel(cache, &root)?;
    guest_root(fresh, &root)?;
    say("  configuration and initramfs");
    configure(&root)?;
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
    fs::remove_dir_all(&root).context("cannot remove the folder of the root file system")
}

fn bootstrap(root: &Path) -> anyhow::Result<()> {
    let include = format!("--include={}", recipe::PACKAGES.join(","));
    process::check(
        Command::new("mmdebstrap")
            .args(["--quiet", "--variant=minbase", "--format=directory"])
            .arg(include)
            .arg("--aptopt=APT::Install-Recommends \"false\"")
            .arg("--dpkgopt=path-exclude=/usr/share/locale/*")
            .arg("--dpkgopt=path-exclude=/usr/share/doc/*")
            .arg(recipe::SUITE)
            .arg(root),
        BOOTSTRAP_DEADLINE,
    )
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

fn configure(root: &Path) -> anyhow::Result<()> {
    for (path, content) in recipe::FILES {
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

/// Removes images that no run has wanted for long, and what interrupted builds left.
fn prune(cache: &Path, current: &Path) -> anyhow::Result<()> {
    let mut old = Vec::new();
    for entry in fs::read_dir(cache)? {
        let path = entry?.path();
        if !path.join("root.ext4").exists() && !path.to_string_lossy().contains(".new-") {
            continue;
        }
        if path != current {
            old.push((fs::metadata(&path)?.modified()?, path));
        }
    }
    old.sort();
    let unfinished = |path: &Path| path.to_string_lossy().contains(".new-");
    let (left_over, mut whole): (Vec<_>, Vec<_>) =
        old.into_iter().partition(|(_, path)| unfinished(path));
    whole.truncate(whole.len().saturating_sub(KEPT));
    for (_, path) in left_over.iter().chain(&whole) {
        // A run may still boot from it: its files are open and stay until it ends.
        fs::remove_dir_all(path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}
