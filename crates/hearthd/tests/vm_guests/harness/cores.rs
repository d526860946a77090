//! Where the kernel writes cores, for the duration of a test.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use camino::Utf8Path;

const PATTERN: &str = "/proc/sys/kernel/core_pattern";
/// What lets a test change it: it is the whole host's.
const ALLOWED: &str = "HEARTH_TEST_CORE_PATTERN";
/// The most that the kernel takes of a pattern (`CORENAME_MAX_SIZE`).
const LONGEST: usize = 127;

/// A folder that cores go to, and the pattern that was there before.
pub(crate) struct Cores {
    folder: tempfile::TempDir,
    before: String,
}

impl Cores {
    /// Has cores written to a folder of the file system that `dir` is on, where any user may make files.
    pub(crate) fn here(dir: &Utf8Path) -> Option<Self> {
        if std::env::var_os(ALLOWED).is_none() {
            println!(
                "SKIP: kernel.core_pattern is the whole host's; {ALLOWED}=1 lets a test change it"
            );
            return None;
        }
        let folder = tempfile::Builder::new()
            .permissions(std::fs::Permissions::from_mode(0o1777))
            .tempdir_in("/var/tmp")
            .unwrap();
        let device = |path: &std::path::Path| path.metadata().unwrap().dev();
        if device(folder.path()) != device(dir.as_std_path()) {
            println!("SKIP: /var/tmp and {dir} are different file systems");
            return None;
        }
        // The umask has had its say.
        let open = std::fs::Permissions::from_mode(0o1777);
        std::fs::set_permissions(folder.path(), open).unwrap();
        let before = std::fs::read_to_string(PATTERN).unwrap();
        let pattern = format!("{}/core.%p", folder.path().display());
        assert!(pattern.len() <= LONGEST, "{pattern}");
        if let Err(error) = std::fs::write(PATTERN, pattern) {
            println!("SKIP: kernel.core_pattern cannot be set: {error}");
            return None;
        }
        Some(Self { folder, before })
    }

    /// Cores that nobody has taken.
    pub(crate) fn left(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name());
        names
            .map(|name| name.to_string_lossy().into_owned())
            .collect()
    }
}

impl Drop for Cores {
    fn drop(&mut self) {
        if let Err(error) = std::fs::write(PATTERN, self.before.trim()) {
            println!("kernel.core_pattern cannot be set back: {error}");
        }
    }
}
