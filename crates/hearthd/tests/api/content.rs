//! A few letters on a disk: written and read again where no file system looks.

use camino::Utf8Path;

/// Where a test writes, past what ext4 has there.
const AT: u64 = 3 << 20;

pub(crate) fn write(path: &Utf8Path, text: &str) {
    use std::os::unix::fs::FileExt as _;
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(text.as_bytes(), AT).unwrap();
}

pub(crate) fn read(path: &Utf8Path) -> String {
    use std::os::unix::fs::FileExt as _;
    let mut bytes = [0; 5];
    let file = std::fs::File::open(path).unwrap();
    file.read_exact_at(&mut bytes, AT).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}
