//! A file that a test's disk is made of.

use std::fs::File;

/// An empty one of so many bytes, and the folder that it goes with. Not in memory: a test of disks is one of a disk.
pub(crate) fn file(bytes: u64) -> (tempfile::TempDir, File) {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let mut options = File::options();
    let options = options.read(true).write(true).create_new(true);
    let file = options.open(folder.path().join("disk")).unwrap();
    file.set_len(bytes).unwrap();
    (folder, file)
}
