//! Debian kernel packages: an `ar` archive whose `data.tar.*` holds `/boot/vmlinuz-VERSION`
//! and `/lib/modules/VERSION/`.
//!
//! The package is read once, as a stream. Nothing is written under a name that the package
//! chooses: modules are spilled into a work folder under numbers. Only regular files count;
//! links and everything else are passed over.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::compression::{Compression, reader};
use crate::format::FormatError;
use crate::modules::{Index, module_name};

const WHAT: &str = "Debian package";
const TAR: &str = "data of the Debian package";
const AR_MAGIC: &[u8; 8] = b"!<arch>\n";
const AR_HEADER: usize = 60;
/// Members of the `ar` archive; a package has three.
const MEMBERS_LIMIT: usize = 16;
/// Expanded package; Debian's biggest kernel expands to about 500 MB.
const EXPANDED_LIMIT: u64 = 4 << 30;
/// Entries in the package; a big kernel has about 5,000.
const ENTRIES_LIMIT: usize = 100_000;
/// The kernel itself; a bzImage has 6 to 15 MB.
const KERNEL_LIMIT: u64 = 256 << 20;
/// `modules.builtin` has some kilobytes.
const BUILTIN_LIMIT: u64 = 4 << 20;
/// One module file.
const MODULE_LIMIT: u64 = 128 << 20;
/// A long name (GNU `L` entry) or a set of PAX records.
const NAME_LIMIT: u64 = 64 << 10;

/// Why a package cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DebError {
    /// The package cannot be read.
    #[error("cannot read the package")]
    Read(#[source] std::io::Error),
    /// It is not a kernel package.
    #[error(
        "the package holds no /boot/vmlinuz-*: it is not a kernel package, or only depends on one (such as linux-image-cloud-amd64 on linux-image-VERSION-cloud-amd64); import the package it depends on"
    )]
    NoKernel,
    /// More than one kernel in it.
    #[error("the package holds more than one kernel: {first} and {second}")]
    TwoKernels {
        /// One version.
        first: String,
        /// Another one.
        second: String,
    },
    /// A file for the work folder cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The package is damaged.
    #[error(transparent)]
    Format(#[from] FormatError),
}

/// What was found in a package.
#[derive(Debug)]
pub struct Contents {
    /// The version in the name of the kernel's file.
    pub version: String,
    /// The bzImage.
    pub kernel: Vec<u8>,
    /// The package's modules; the files are in the work folder.
    pub modules: Index,
}

/// Whether the bytes start like a Debian package.
#[must_use]
pub fn is_deb(bytes: &[u8]) -> bool {
    bytes.starts_with(AR_MAGIC) && bytes[AR_MAGIC.len()..].starts_with(b"debian-binary")
}

/// Reads a kernel package; module files go into `work`, which must be empty.
///
/// # Errors
/// No kernel package, damaged, beyond the limits, or the work folder cannot be written.
pub fn read(package: &Path, work: &Path) -> Result<Contents, DebError> {
    let mut file = File::open(package).map_err(DebError::Read)?;
    let (name, size) = find_data(&mut file)?;
    let data = file.take(size);
    match name.as_str() {
        "data.tar" => walk(data, work),
        "data.tar.xz" => walk(reader(Compression::Xz, data, TAR)?, work),
        "data.tar.zst" => walk(reader(Compression::Zstd, data, TAR)?, work),
        "data.tar.gz" => walk(reader(Compression::Gzip, data, TAR)?, work),
        "data.tar.bz2" => Err(FormatError::Unsupported {
            what: TAR,
            format: "bzip2",
        }
        .into()),
        "data.tar.lzma" => Err(FormatError::Unsupported {
            what: TAR,
            format: "lzma",
        }
        .into()),
        other => Err(FormatError::damaged(WHAT, format!("unknown member {other:?}")).into()),
    }
}

/// Leaves the file at the start of the `data.tar*` member and returns its name and size.
fn find_data(file: &mut File) -> Result<(String, u64), DebError> {
    let mut magic = [0; AR_MAGIC.len()];
    read_exact(file, &mut magic)?;
    if magic != *AR_MAGIC {
        return Err(FormatError::damaged(WHAT, "the ar magic is missing").into());
    }
    for _ in 0..MEMBERS_LIMIT {
        let mut header = [0; AR_HEADER];
        read_exact(file, &mut header)?;
        let (name, size) = member(&header)?;
        if name.starts_with("data.tar") {
            return Ok((name, size));
        }
        // Members start at even offsets.
        let step = size
            .checked_add(size % 2)
            .and_then(|step| i64::try_from(step).ok())
            .ok_or(FormatError::Truncated { what: WHAT })?;
        file.seek(SeekFrom::Current(step)).map_err(DebError::Read)?;
    }
    Err(FormatError::damaged(WHAT, "it has no data.tar").into())
}

/// Name and size of a member: 16 bytes name, 10 bytes decimal size at 48, magic at 58.
fn member(header: &[u8; AR_HEADER]) -> Result<(String, u64), FormatError> {
    if header[58..] != *b"`\n" {
        return Err(FormatError::damaged(WHAT, "a member's header is damaged"));
    }
    let text = |range: std::ops::Range<usize>| {
        std::str::from_utf8(&header[range])
            .map(str::trim_end)
            .map_err(|_| FormatError::damaged(WHAT, "a member's header is not text"))
    };
    let name = text(0..16)?.trim_end_matches('/').to_owned();
    let size = text(48..58)?
        .parse()
        .map_err(|_| FormatError::damaged(WHAT, "a member's size is not a number"))?;
    Ok((name, size))
}

fn read_exact(file: &mut File, bytes: &mut [u8]) -> Result<(), DebError> {
    file.read_exact(bytes).map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => FormatError::Truncated { what: WHAT }.into(),
        _ => DebError::Read(error),
    })
}

/// What one file of the package is to us.
enum Role {
    Kernel(String),
    Builtin,
    Module(String),
    Other,
}

fn role(path: &str) -> Role {
    let path = path.trim_start_matches("./").trim_start_matches('/');
    if let Some(version) = path.strip_prefix("boot/vmlinuz-")
        && !version.contains('/')
    {
        return Role::Kernel(version.to_owned());
    }
    let path = path.strip_prefix("usr/").unwrap_or(path);
    let Some((_version, rest)) = path
        .strip_prefix("lib/modules/")
        .and_then(|rest| rest.split_once('/'))
    else {
        return Role::Other;
    };
    if rest == "modules.builtin" {
        return Role::Builtin;
    }
    rest.rsplit('/')
        .next()
        .and_then(module_name)
        .map_or(Role::Other, Role::Module)
}

fn damaged_tar(source: std::io::Error) -> DebError {
    FormatError::Expand {
        what: TAR,
        format: "tar",
        source,
    }
    .into()
}

fn walk(data: impl Read, work: &Path) -> Result<Contents, DebError> {
    // One byte more than allowed tells "ended by the limit" from "ended".
    let mut archive = tar::Archive::new(data.take(EXPANDED_LIMIT + 1));
    let mut state = Walk {
        work,
        kernel: None,
        modules: Index::default(),
        spilled: 0,
    };
    let mut long_name = None;
    // Raw entries: long names are read here, with a limit.
    let entries = archive.entries().map_err(damaged_tar)?.raw(true);
    for (count, entry) in entries.enumerate() {
        let mut entry = entry.map_err(damaged_tar)?;
        if count >= ENTRIES_LIMIT || entry.raw_file_position() > EXPANDED_LIMIT {
            return Err(FormatError::TooBig {
                what: TAR,
                limit: EXPANDED_LIMIT,
            }
            .into());
        }
        match entry.header().entry_type() {
            tar::EntryType::GNULongName => {
                let name = read_all(&mut entry, NAME_LIMIT)?;
                long_name = Some(text(name.strip_suffix(b"\0").unwrap_or(&name)));
            }
            tar::EntryType::XHeader => {
                long_name = pax_path(&read_all(&mut entry, NAME_LIMIT)?).or(long_name);
            }
            tar::EntryType::Regular | tar::EntryType::Continuous => {
                let name = long_name
                    .take()
                    .unwrap_or_else(|| text(&entry.header().path_bytes()));
                state.take(&name, &mut entry)?;
            }
            tar::EntryType::GNULongLink | tar::EntryType::XGlobalHeader => {}
            _ => long_name = None,
        }
    }
    let (version, kernel) = state.kernel.ok_or(DebError::NoKernel)?;
    Ok(Contents {
        version,
        kernel,
        modules: state.modules,
    })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The `path` of PAX records (`LENGTH key=value\n`).
fn pax_path(records: &[u8]) -> Option<String> {
    tar::PaxExtensions::new(records)
        .filter_map(Result::ok)
        .filter(|record| record.key() == Ok("path"))
        .filter_map(|record| record.value().ok().map(str::to_owned))
        .last()
}

fn read_all(entry: &mut impl Read, limit: u64) -> Result<Vec<u8>, DebError> {
    let mut bytes = Vec::new();
    entry
        .take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(damaged_tar)?;
    if bytes.len() as u64 > limit {
        return Err(FormatError::TooBig { what: TAR, limit }.into());
    }
    Ok(bytes)
}

struct Walk<'a> {
    work: &'a Path,
    kernel: Option<(String, Vec<u8>)>,
    modules: Index,
    spilled: usize,
}

impl Walk<'_> {
    fn take(&mut self, name: &str, entry: &mut impl Read) -> Result<(), DebError> {
        match role(name) {
            Role::Kernel(version) => {
                if let Some((first, _)) = &self.kernel {
                    return Err(DebError::TwoKernels {
                        first: first.clone(),
                        second: version,
                    });
                }
                self.kernel = Some((version, read_all(entry, KERNEL_LIMIT)?));
            }
            Role::Builtin => {
                let list = read_all(entry, BUILTIN_LIMIT)?;
                self.modules.add_builtin(&text(&list));
            }
            Role::Module(module) => {
                let path = self.work.join(format!("{}.ko", self.spilled));
                self.spilled += 1;
                spill(&path, entry)?;
                self.modules.add(module, path, name);
            }
            Role::Other => {}
        }
        Ok(())
    }
}

fn spill(path: &Path, entry: &mut impl Read) -> Result<(), DebError> {
    let bytes = read_all(entry, MODULE_LIMIT)?;
    File::options()
        .write(true)
        .create_new(true)
        .open(path)
        .and_then(|mut file| file.write_all(&bytes))
        .map_err(|source| DebError::Write {
            path: path.to_owned(),
            source,
        })
}

#[cfg(test)]
mod tests;
