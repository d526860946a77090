//! The Debian cloud kernel's package, for the tests that need a real kernel.
//!
//! It is found by `HEARTH_TEST_KERNEL_DEB`, or in the folder `HEARTH_TEST_CACHE` (the build
//! folder's `fixtures` without it), or downloaded there with `apt-get download`.

use std::path::{Path, PathBuf};
use std::process::Command;

fn fixtures() -> PathBuf {
    if let Some(cache) = std::env::var_os("HEARTH_TEST_CACHE") {
        return cache.into();
    }
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
#[expect(clippy::print_stdout, reason = "a skipped test says why")]
pub(crate) fn package() -> Option<PathBuf> {
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
