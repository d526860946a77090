//! Where things are.

use std::path::{Path, PathBuf};

/// The workspace's folder: the one that cargo runs this in. Two checkouts may share a target folder, and then
/// this program may have been built in the other.
pub(crate) fn root() -> PathBuf {
    let mine = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    mine.as_deref()
        .unwrap_or(Path::new(env!("CARGO_MANIFEST_DIR")))
        .parent()
        .expect("xtask lies in the workspace's folder")
        .to_owned()
}

/// The folder that cargo builds into.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}
