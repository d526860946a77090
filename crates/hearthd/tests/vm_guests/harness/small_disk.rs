//! A file system of its own for the data folder: one that may run full.

use camino::{Utf8Path, Utf8PathBuf};

use super::tools::run;

/// A file system in a file, mounted; both go with the value.
#[derive(Debug)]
pub(crate) struct SmallDisk {
    mounted: Utf8PathBuf,
}

impl SmallDisk {
    /// Makes one in `folder`, with these words, and mounts it at `at`.
    pub(super) fn mount(folder: &Utf8Path, at: &Utf8Path, mib: u64, mkfs: &[&str]) -> Self {
        // Not below the data folder, nor with a name that begins as its does.
        let file = folder.join("disk.img");
        let made = std::fs::File::create(&file).unwrap();
        made.set_len(mib << 20).unwrap();
        let options = mkfs[1..].iter().copied().chain([file.as_str()]);
        run(mkfs[0], &options.collect::<Vec<_>>());
        std::fs::create_dir_all(at).unwrap();
        run("mount", &["-o", "loop", file.as_str(), at.as_str()]);
        Self {
            mounted: at.to_owned(),
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // What still has a file open there ends soon; the kernel waits for it.
        let unmounted = std::process::Command::new("umount")
            .args(["-l", self.mounted.as_str()])
            .status();
        drop(unmounted);
    }
}
