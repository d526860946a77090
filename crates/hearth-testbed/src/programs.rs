//! What is under test: Hearth's programs, built from this checkout or given as a folder or
//! a package, on a small read-only disk that each run makes for itself. The disk also holds
//! the keys of the run's SSH connection.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context;

use crate::{paths, process};

/// A build of the workspace's programs may queue behind another.
const BUILD_DEADLINE: Duration = Duration::from_mins(40);
const STEP_DEADLINE: Duration = Duration::from_mins(2);

/// Programs that a host needs.
const NEEDED: [&str; 4] = ["hearthd", "hearth", "hearth-shim", "hearth-guest"];
/// Programs that only some scenarios use.
const WELCOME: [&str; 1] = ["hearth-vmm-standin"];

/// Where the programs under test are.
#[derive(Debug, Clone)]
pub struct Programs {
    folder: PathBuf,
    guest: PathBuf,
    /// The Debian package that is installed instead of single files.
    pub package: Option<PathBuf>,
    firecracker: Option<PathBuf>,
}

impl Programs {
    /// Takes programs from `folder`, or builds them (debug) when there is none given.
    ///
    /// # Errors
    /// When they do not build or one is missing.
    pub fn obtain(
        folder: Option<&Path>,
        package: Option<&Path>,
        say: &dyn Fn(&str),
    ) -> anyhow::Result<Self> {
        let folder = match folder {
            Some(folder) => folder.to_owned(),
            None => build(say)?,
        };
        let beside = folder.join("hearth-guest");
        // Cargo's own hearth-guest is linked dynamically: no use inside of a guest.
        let guest = if folder.starts_with(paths::target()) {
            paths::target().join("hearth-guest")
        } else {
            beside
        };
        let firecracker = std::env::var_os("HEARTH_TEST_FIRECRACKER")
            .map(PathBuf::from)
            .filter(|path| path.is_file());
        Ok(Self {
            folder,
            guest,
            package: package.map(Path::to_owned),
            firecracker,
        })
    }

    /// Makes the run's seed disk `image` from the programs and the keys in `keys`.
    ///
    /// # Errors
    /// When a program is missing or the disk cannot be made.
    pub fn seed(&self, keys: &Path, scratch: &Path, image: &Path) -> anyhow::Result<()> {
        let tree = scratch.join("seed");
        let bin = tree.join("bin");
        fs::create_dir_all(&bin)?;
        for name in NEEDED {
            self.strip(name, &bin)?;
        }
        for name in WELCOME {
            if self.source(name).is_file() {
                self.strip(name, &bin)?;
            }
        }
        if let Some(firecracker) = &self.firecracker {
            fs::copy(firecracker, bin.join("firecracker"))?;
        }
        if let Some(package) = &self.package {
            fs::copy(package, tree.join("hearth.deb"))
                .with_context(|| format!("cannot read {}", package.display()))?;
        }
        for (name, mode) in [
            ("authorized_keys", 0o644),
            ("ssh_host_ed25519_key", 0o600),
            ("ssh_host_ed25519_key.pub", 0o644),
        ] {
            let to = tree.join(name);
            fs::copy(keys.join(name), &to)
                .with_context(|| format!("cannot read the key {name}"))?;
            fs::set_permissions(&to, fs::Permissions::from_mode(mode))?;
        }
        let disk = disk_from(&tree, image, "testbed-seed");
        fs::remove_dir_all(&tree)?;
        disk
    }

    fn source(&self, name: &str) -> PathBuf {
        if name == "hearth-guest" {
            self.guest.clone()
        } else {
            self.folder.join(name)
        }
    }

    /// Copies a program without its debug information, which is most of a debug build.
    fn strip(&self, name: &str, to: &Path) -> anyhow::Result<()> {
        let from = self.source(name);
        process::check(
            Command::new("objcopy")
                .arg("--strip-debug")
                .arg(&from)
                .arg(to.join(name)),
            STEP_DEADLINE,
        )
        .with_context(|| format!("the program {} cannot be used", from.display()))
        .map(drop)
    }
}

fn build(say: &dyn Fn(&str)) -> anyhow::Result<PathBuf> {
    say("building hearthd, hearth, hearth-shim and the guest agent (debug)");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let packages = ["-p", "hearthd", "-p", "hearth", "-p", "hearth-shim"];
    process::check(
        Command::new(&cargo)
            .args(["build", "--quiet"])
            .args(packages)
            .current_dir(paths::workspace()),
        BUILD_DEADLINE,
    )?;
    process::check(
        Command::new(&cargo)
            .args(["xtask", "guest"])
            .current_dir(paths::workspace()),
        BUILD_DEADLINE,
    )?;
    Ok(paths::target().join("debug"))
}

/// Makes an ext4 disk that holds a folder's files and little more.
fn disk_from(tree: &Path, image: &Path, label: &str) -> anyhow::Result<()> {
    let used = process::check(Command::new("du").arg("-sm").arg(tree), STEP_DEADLINE)?;
    let mib: u64 = used
        .text()
        .split_whitespace()
        .next()
        .and_then(|word| word.parse().ok())
        .context("du says no number")?;
    fs::File::create(image)?.set_len((mib + mib / 4 + 16) << 20)?;
    process::check(
        Command::new("mkfs.ext4")
            .args([
                "-q",
                "-F",
                "-m",
                "0",
                "-O",
                "^has_journal",
                "-L",
                label,
                "-d",
            ])
            .arg(tree)
            .arg(image),
        STEP_DEADLINE,
    )
    .map(drop)
}
