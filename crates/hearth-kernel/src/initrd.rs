//! The initramfs of one VM: three cpio archives one after the other.
//!
//! ```text
//! base (modules, load order, device nodes) ++ guest agent (/init) ++ configuration
//! ```
//!
//! The kernel unpacks concatenated archives in order; each must start at a multiple of 4.
//! The base is padded to whole pages, so that a file system with reflinks shares it among
//! all VMs instead of copying it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Mode, Uid};

use crate::cpio::{ALIGNMENT, TooBig, Writer};
use crate::modules::Module;

/// The list of modules in load order: one absolute path per line. The guest reads it.
pub const MODULE_LIST: &str = "/hearth/modules";
/// The folder of the module files.
const MODULE_FOLDER: &str = "/hearth/ko";
/// The VM's configuration, for its guest agent only.
pub const CONFIG_FILE: &str = "/hearth/config.json";
/// Names of initramfs files that are being written start so.
const DRAFT: &str = ".initrd.tmp-";
/// Blocks of the file systems that can share data.
const BLOCK: usize = 4096;

/// Why an initramfs cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum InitrdError {
    /// A file operation failed.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A part is bigger than the format can say.
    #[error("cannot put a file into the initramfs")]
    TooBig(#[from] TooBig),
    /// A segment does not have a length that keeps the next one aligned.
    #[error("the {what} of the initramfs has {length} bytes, which is no multiple of {ALIGNMENT}")]
    Unaligned {
        /// Which segment.
        what: &'static str,
        /// Its length.
        length: u64,
    },
}

/// The base: what all VMs with this kernel share.
///
/// # Errors
/// A module of 4 GiB or more.
pub fn base(modules: &[Module]) -> Result<Vec<u8>, TooBig> {
    let mut archive = Writer::new();
    for folder in ["/dev", "/proc", "/sys", "/newroot", "/hearth"] {
        archive.dir(folder, 0o755);
    }
    // The kernel opens /dev/console for its first program before anything is mounted.
    archive.char_device("/dev/console", 0o600, 5, 1);
    archive.char_device("/dev/null", 0o666, 1, 3);
    archive.dir(MODULE_FOLDER, 0o755);
    let mut list = String::new();
    for module in modules {
        let path = format!("{MODULE_FOLDER}/{}.ko", module.name);
        archive.file(&path, 0o644, &module.bytes)?;
        list.push_str(&path);
        list.push('\n');
    }
    archive.file(MODULE_LIST, 0o644, list.as_bytes())?;
    Ok(archive.finish(BLOCK))
}

/// The segment that holds the guest agent as `/init`. It is the same for all VMs.
///
/// # Errors
/// The binary cannot be read, or has 4 GiB or more.
pub fn guest_segment(binary: &Path) -> Result<Vec<u8>, InitrdError> {
    let bytes = std::fs::read(binary).map_err(|source| InitrdError::Io {
        operation: "read the guest agent",
        path: binary.to_owned(),
        source,
    })?;
    let mut archive = Writer::new();
    archive.file("/init", 0o755, &bytes)?;
    Ok(archive.finish(ALIGNMENT))
}

/// The segment that holds the VM's configuration, readable by root only.
///
/// # Errors
/// A configuration of 4 GiB or more.
pub fn config_segment(json: &[u8]) -> Result<Vec<u8>, InitrdError> {
    let mut archive = Writer::new();
    // The base has made the folder; making it again is no error, and lets the segment stand
    // alone.
    archive.dir("/hearth", 0o755);
    archive.file(CONFIG_FILE, 0o600, json)?;
    Ok(archive.finish(ALIGNMENT))
}

/// Writes a VM's initramfs to `out`, mode 0600, owned by `uid` and the group of the same
/// number. A reader sees the old file or the whole new one. The file is not made durable, which
/// would cost a start more than everything else here: a VM that starts after a power cut gets a
/// new one. Of the writers before it that died, nothing is left.
///
/// # Errors
/// Segments that are not aligned, or a file operation that fails; `out` is then as before.
pub fn write_vm_initrd(
    out: &Path,
    base: &Path,
    guest: &[u8],
    config: &[u8],
    uid: u32,
) -> Result<(), InitrdError> {
    let failed = |operation, path: &Path| {
        let path = path.to_owned();
        move |source| InitrdError::Io {
            operation,
            path,
            source,
        }
    };
    aligned("guest segment", guest.len() as u64)?;
    aligned("configuration segment", config.len() as u64)?;
    let mut input = File::open(base).map_err(failed("open", base))?;
    let length = input.metadata().map_err(failed("inspect", base))?.len();
    aligned("base", length)?;
    let folder = match out.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    remove_drafts(folder).map_err(failed("remove what is left over in", folder))?;
    // A temporary file has mode 0600 from the start.
    let mut file = tempfile::Builder::new()
        .prefix(DRAFT)
        .tempfile_in(folder)
        .map_err(failed("create a file in", folder))?;
    copy(&mut input, file.as_file_mut(), length).map_err(failed("copy", base))?;
    file.write_all(guest)
        .and_then(|()| file.write_all(config))
        .map_err(failed("write", out))?;
    rustix::fs::fchmod(&file, Mode::RUSR | Mode::WUSR)
        .and_then(|()| {
            rustix::fs::fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(uid)))
        })
        .map_err(|error| failed("change the owner of", out)(error.into()))?;
    file.persist(out)
        .map_err(|error| failed("put in place", out)(error.error))?;
    Ok(())
}

/// Removes what writers left in the VM's folder that died while they wrote. Whoever calls is the
/// only one who writes here.
fn remove_drafts(folder: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let draft = entry.file_name().as_bytes().starts_with(DRAFT.as_bytes());
        if draft && entry.file_type()?.is_file() {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn aligned(what: &'static str, length: u64) -> Result<(), InitrdError> {
    if length.is_multiple_of(ALIGNMENT as u64) {
        Ok(())
    } else {
        Err(InitrdError::Unaligned { what, length })
    }
}

/// Copies `length` bytes inside the kernel, which shares blocks where it can. The output is
/// left positioned at its end.
fn copy(input: &mut File, output: &mut File, length: u64) -> io::Result<()> {
    let (mut from, mut to) = (0, 0);
    while from < length {
        let want = usize::try_from(length - from).unwrap_or(usize::MAX);
        match rustix::fs::copy_file_range(&*input, Some(&mut from), &*output, Some(&mut to), want) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            // Not between these file systems: the plain way.
            Err(
                rustix::io::Errno::XDEV
                | rustix::io::Errno::OPNOTSUPP
                | rustix::io::Errno::INVAL
                | rustix::io::Errno::NOSYS,
            ) => {
                input.seek(SeekFrom::Start(from))?;
                output.seek(SeekFrom::Start(to))?;
                let rest = length - from;
                return if io::copy(&mut input.take(rest), output)? == rest {
                    Ok(())
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                };
            }
            Err(error) => return Err(error.into()),
        }
    }
    output.seek(SeekFrom::Start(length))?;
    Ok(())
}

#[cfg(test)]
mod tests;
