//! Where things are.

use std::path::{Path, PathBuf};

use anyhow::Context;

/// The workspace's folder: the one that cargo runs this in. Two checkouts may share a target folder, and then
/// this program may have been built in the other.
#[must_use]
pub fn workspace() -> PathBuf {
    let mine = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    mine.as_deref()
        .unwrap_or(Path::new(env!("CARGO_MANIFEST_DIR")))
        .ancestors()
        .nth(2)
        .expect("the crate lies in crates/ of the workspace")
        .to_owned()
}

/// The folder that cargo builds into.
#[must_use]
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}

/// Where evidence and logs of runs go.
#[must_use]
pub fn results() -> PathBuf {
    target().join("testbed")
}

/// Where host images are kept between runs.
///
/// # Errors
/// When neither `XDG_CACHE_HOME` nor `HOME` is set.
pub fn cache() -> anyhow::Result<PathBuf> {
    let folder = match std::env::var_os("XDG_CACHE_HOME").filter(|value| !value.is_empty()) {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cache"),
    };
    Ok(folder.join("hearth-testbed"))
}
