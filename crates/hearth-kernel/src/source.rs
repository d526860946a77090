//! From a kernel as it comes to what is kept of it.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::deb::{self, DebError};
use crate::elf::{self, Elf};
use crate::format::FormatError;
use crate::fsutil::read_limited;
use crate::modules::{Index, Module, ModuleError, WANTED, Wanted};
use crate::{bzimage, deb::is_deb};

/// A vmlinux with debug information has about 700 MB.
const FILE_LIMIT: u64 = 1 << 30;
/// Enough of a file to tell what it is.
const HEAD: u64 = 4096;

/// Where a kernel comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A vmlinuz (bzImage), a vmlinux (ELF) or a Debian kernel package.
    File(PathBuf),
    /// The newest kernel of the running distribution: `/boot` and `/lib/modules`.
    Running,
}

/// Why a kernel cannot be taken in.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is none of the kinds that are known.
    #[error("{} is no kernel: expected a vmlinuz (bzImage), a vmlinux (ELF) or a Debian kernel package", path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
    },
    /// The file is bigger than any kernel.
    #[error("{} is bigger than {FILE_LIMIT} bytes and cannot be a kernel", path.display())]
    TooBig {
        /// The file.
        path: PathBuf,
    },
    /// The file is damaged or of a kind that is not supported.
    #[error("cannot use {} as kernel", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: FormatError,
    },
    /// The package cannot be used.
    #[error("cannot use the package {}", path.display())]
    Package {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: DebError,
    },
    /// The modules cannot be put together.
    #[error("cannot collect the modules for {}", path.display())]
    Modules {
        /// The kernel's file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: ModuleError,
    },
    /// A bare kernel whose drivers are neither built in nor given as files.
    #[error(
        "{} has no built-in {name} driver and no modules were given: name the folder with its modules (lib/modules/VERSION), or import the package that the kernel comes from",
        path.display()
    )]
    NoModules {
        /// The kernel's file.
        path: PathBuf,
        /// The driver that is missing.
        name: &'static str,
    },
    /// The distribution has no kernel installed.
    #[error("no kernel with its modules was found in {} and {}: install one, or name a kernel's file or package", boot.display(), modules.display())]
    NothingInstalled {
        /// Where kernels were looked for.
        boot: PathBuf,
        /// Where modules were looked for.
        modules: PathBuf,
    },
}

/// A kernel, ready to be stored.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) version: String,
    pub(crate) bzimage: Option<Vec<u8>>,
    pub(crate) elf: Vec<u8>,
    pub(crate) modules: Vec<Module>,
}

/// A file that was found to be one of the known kinds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) path: PathBuf,
    pub(crate) kind: Kind,
    /// `sha256:` and the digest of the file in hexadecimal.
    pub(crate) digest: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Package,
    BzImage,
    Elf,
}

/// Finds the file of a source and tells its kind. `root` is `/` but in tests.
pub(crate) fn find(source: &Source, root: &Path) -> Result<Found, SourceError> {
    let path = match source {
        Source::File(path) => path.clone(),
        Source::Running => newest_installed(root)?,
    };
    let failed = |source| SourceError::Read {
        path: path.clone(),
        source,
    };
    let mut file = File::open(&path).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    if !meta.is_file() {
        return Err(SourceError::Unknown { path });
    }
    if meta.len() > FILE_LIMIT {
        return Err(SourceError::TooBig { path });
    }
    let mut head = Vec::new();
    (&mut file)
        .take(HEAD)
        .read_to_end(&mut head)
        .map_err(failed)?;
    let kind = if is_deb(&head) {
        Kind::Package
    } else if bzimage::is_bzimage(&head) {
        Kind::BzImage
    } else if elf::is_elf(&head) {
        Kind::Elf
    } else {
        return Err(SourceError::Unknown { path });
    };
    let digest = digest(&head, file).map_err(failed)?;
    Ok(Found { path, kind, digest })
}

fn digest(head: &[u8], mut rest: File) -> std::io::Result<String> {
    let mut hash = Sha256::new();
    hash.update(head);
    let mut buffer = vec![0; 256 << 10];
    loop {
        let count = rest.read(&mut buffer)?;
        if count == 0 {
            return Ok(hex_digest(&hash.finalize()));
        }
        hash.update(&buffer[..count]);
    }
}

/// `sha256:` and the digest of these bytes.
pub(crate) fn digest_of(bytes: &[u8]) -> String {
    hex_digest(&Sha256::digest(bytes))
}

fn hex_digest(digest: &[u8]) -> String {
    use std::fmt::Write as _;
    digest.iter().fold("sha256:".to_owned(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes all that is written");
        text
    })
}

/// Reads the kernel and the modules it needs. `work` is an empty folder for spilled files.
pub(crate) fn load(
    found: &Found,
    modules_dir: Option<&Path>,
    extra: &[Wanted],
    root: &Path,
    work: &Path,
) -> Result<Loaded, SourceError> {
    let path = &found.path;
    let format = |source| SourceError::Format {
        path: path.clone(),
        source,
    };
    let (kernel, named_version, packaged) = match found.kind {
        Kind::Package => {
            let contents = deb::read(path, work).map_err(|source| SourceError::Package {
                path: path.clone(),
                source,
            })?;
            (
                contents.kernel,
                Some(contents.version),
                Some(contents.modules),
            )
        }
        Kind::BzImage | Kind::Elf => (read(path)?, None, None),
    };
    let (version, bzimage, elf) = if elf::is_elf(&kernel) {
        Elf::parse(&kernel)
            .and_then(|elf| elf.check_kernel())
            .map_err(format)?;
        (elf::kernel_version(&kernel), None, kernel)
    } else {
        let image = bzimage::parse(&kernel).map_err(format)?;
        let elf = bzimage::extract_elf(&image).map_err(format)?;
        (image.version, Some(kernel), elf)
    };
    let version = version.or(named_version).ok_or_else(|| {
        format(FormatError::damaged(
            "kernel",
            "it does not say its version",
        ))
    })?;
    let modules = collect(path, &elf, &version, modules_dir, packaged, extra, root)?;
    Ok(Loaded {
        version,
        bzimage,
        elf,
        modules,
    })
}

fn read(path: &Path) -> Result<Vec<u8>, SourceError> {
    read_limited(path, FILE_LIMIT)
        .map_err(|source| SourceError::Read {
            path: path.to_owned(),
            source,
        })?
        .ok_or_else(|| SourceError::TooBig {
            path: path.to_owned(),
        })
}

fn collect(
    path: &Path,
    elf: &[u8],
    version: &str,
    modules_dir: Option<&Path>,
    packaged: Option<Index>,
    extra: &[Wanted],
    root: &Path,
) -> Result<Vec<Module>, SourceError> {
    let failed = |source| SourceError::Modules {
        path: path.to_owned(),
        source,
    };
    let installed = root.join("lib/modules").join(version);
    let index = match (modules_dir, packaged) {
        (Some(dir), _) => Index::read_dir(dir).map_err(failed)?,
        (None, Some(index)) if !index.is_empty() => index,
        // A version with a slash in it is no folder's name.
        _ if !version.contains('/') && installed.is_dir() => {
            Index::read_dir(&installed).map_err(failed)?
        }
        _ => {
            built_in(path, elf)?;
            return Ok(Vec::new());
        }
    };
    let wanted: Vec<Wanted> = WANTED.iter().chain(extra).copied().collect();
    index.resolve(&wanted).map_err(failed)
}

/// A kernel without modules must have the essential drivers inside.
fn built_in(path: &Path, elf: &[u8]) -> Result<(), SourceError> {
    match WANTED
        .iter()
        .find(|wanted| wanted.essential && !elf::names_driver(elf, wanted.name))
    {
        None => Ok(()),
        Some(missing) => Err(SourceError::NoModules {
            path: path.to_owned(),
            name: missing.name,
        }),
    }
}

/// The newest `/boot/vmlinuz-VERSION` that has its modules installed.
fn newest_installed(root: &Path) -> Result<PathBuf, SourceError> {
    let boot = root.join("boot");
    let modules = root.join("lib/modules");
    let failed = |source| SourceError::Read {
        path: boot.clone(),
        source,
    };
    let mut newest: Option<(String, PathBuf)> = None;
    let entries = match std::fs::read_dir(&boot) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(SourceError::NothingInstalled { boot, modules });
        }
        Err(source) => return Err(failed(source)),
    };
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let Some(version) = name.to_str().and_then(|name| name.strip_prefix("vmlinuz-")) else {
            continue;
        };
        if !modules.join(version).is_dir() {
            continue;
        }
        if newest
            .as_ref()
            .is_none_or(|(best, _)| version_key(version) > version_key(best))
        {
            newest = Some((version.to_owned(), entry.path()));
        }
    }
    newest
        .map(|(_, path)| path)
        .ok_or(SourceError::NothingInstalled { boot, modules })
}

/// Numbers compare as numbers: 6.1.0-10 is newer than 6.1.0-9.
fn version_key(version: &str) -> Vec<(u64, String)> {
    let mut key = Vec::new();
    let mut rest = version;
    while !rest.is_empty() {
        let word = rest
            .find(|letter: char| letter.is_ascii_digit())
            .unwrap_or(rest.len());
        let (text, tail) = rest.split_at(word);
        let digits = tail
            .find(|letter: char| !letter.is_ascii_digit())
            .unwrap_or(tail.len());
        let (number, tail) = tail.split_at(digits);
        key.push((number.parse().unwrap_or(0), text.to_owned()));
        rest = tail;
    }
    key
}

#[cfg(test)]
mod tests;
