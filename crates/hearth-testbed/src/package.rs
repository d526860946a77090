//! Hearth's Debian package as a file: what it says of itself, and the same under another
//! version, to try upgrades with.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context;

use crate::{paths, process};

/// A build of the workspace's programs may queue behind another.
const BUILD_DEADLINE: Duration = Duration::from_mins(40);
const STEP_DEADLINE: Duration = Duration::from_mins(5);

/// A package.
#[derive(Debug, Clone)]
pub struct Package {
    /// Where the file is.
    pub path: PathBuf,
    /// Its version, as dpkg compares it.
    pub version: String,
}

impl Package {
    /// The package in a file.
    ///
    /// # Errors
    /// When it is none.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let version = process::check(
            Command::new("dpkg-deb").arg("-f").arg(path).arg("Version"),
            STEP_DEADLINE,
        )?;
        Ok(Self {
            path: path.to_owned(),
            version: version.text().to_owned(),
        })
    }

    /// Builds one (debug) from this checkout.
    ///
    /// # Errors
    /// When the build fails.
    pub fn build() -> anyhow::Result<Self> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let built = process::check(
            Command::new(cargo)
                .args(["xtask", "deb", "--profile", "dev"])
                .current_dir(paths::workspace()),
            BUILD_DEADLINE,
        )?;
        let path = built.text().lines().last();
        Self::read(Path::new(path.context("cargo xtask deb named no file")?))
    }

    /// The same programs and scripts, packed under another version, in `folder`.
    ///
    /// # Errors
    /// When dpkg-deb fails.
    pub fn renamed(&self, version: &str, folder: &Path) -> anyhow::Result<Self> {
        let tree = folder.join("package");
        let path = folder.join(format!("hearth_{version}.deb"));
        process::check(
            Command::new("dpkg-deb").arg("-R").args([&self.path, &tree]),
            STEP_DEADLINE,
        )?;
        let control = tree.join("DEBIAN/control");
        let text = fs::read_to_string(&control)
            .with_context(|| format!("cannot read {}", control.display()))?;
        let old = format!("\nVersion: {}\n", self.version);
        fs::write(
            &control,
            text.replace(&old, &format!("\nVersion: {version}\n")),
        )?;
        process::check(
            Command::new("dpkg-deb")
                .args(["--root-owner-group", "-Zgzip", "-z1", "-b"])
                .args([&tree, &path]),
            STEP_DEADLINE,
        )?;
        fs::remove_dir_all(&tree)?;
        let renamed = Self::read(&path)?;
        anyhow::ensure!(
            renamed.version == version,
            "{} still has version {}",
            path.display(),
            renamed.version
        );
        Ok(renamed)
    }
}
