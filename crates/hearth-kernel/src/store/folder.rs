//! What lies in the store's folder, and under which names.

use std::fs;
use std::path::Path;

use camino::Utf8Path;

use super::error::failed;
use super::{BZIMAGE, DEFAULT, ELF, INITRAMFS, KernelError, NAME_LIMIT, RECORD, Stored};
use crate::fsutil::{sync_dir, write_new};
use crate::source::Loaded;

/// Writes all files of a kernel and makes them durable.
pub(super) fn write_kernel(
    folder: &Path,
    stored: &Stored,
    loaded: &Loaded,
    initramfs: &[u8],
) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    if let Some(bzimage) = &loaded.bzimage {
        write_new(&folder.join(BZIMAGE), bzimage)?;
    }
    write_new(&folder.join(ELF), &loaded.elf)?;
    write_new(&folder.join(INITRAMFS), initramfs)?;
    write_new(&folder.join(RECORD), &serde_json::to_vec_pretty(stored)?)?;
    // A VMM that runs as another user reads the kernel; there is nothing secret in it.
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    sync_dir(folder)
}

pub(super) fn check_name(name: &str) -> Result<(), KernelError> {
    let valid = name.len() <= NAME_LIMIT
        && name != DEFAULT
        && name.starts_with(|letter: char| letter.is_ascii_alphanumeric())
        && name
            .chars()
            .all(|letter| letter.is_ascii_alphanumeric() || "._+~-".contains(letter));
    if valid {
        Ok(())
    } else {
        Err(KernelError::InvalidName {
            name: name.to_owned(),
        })
    }
}

/// Names of the entries of a folder; those that are not UTF-8 are nobody's here.
pub(super) fn names_in(folder: &Utf8Path) -> Result<Vec<String>, KernelError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed("list", folder))? {
        let entry = entry.map_err(failed("list", folder))?;
        names.extend(entry.file_name().into_string().ok());
    }
    Ok(names)
}

pub(super) fn remove_any(path: &Utf8Path) -> Result<(), KernelError> {
    let kind = fs::symlink_metadata(path).map_err(failed("inspect", path))?;
    if kind.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    }
    .map_err(failed("remove", path))
}
