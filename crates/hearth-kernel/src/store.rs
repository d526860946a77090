//! The folder of imported kernels.
//!
//! ```text
//! <folder>/default                 the default kernel's name
//! <folder>/<name>/record.json      what is known of it
//! <folder>/<name>/bzImage          for QEMU
//! <folder>/<name>/vmlinux          the ELF inside, for the other VMMs
//! <folder>/<name>/initramfs        the base initramfs
//! <folder>/.tmp-*                  unfinished work; removed when the store is opened
//! ```
//!
//! A kernel is made in a temporary folder, made durable and renamed, so a name is there with
//! all its files or not at all. One process owns the folder (the daemon, by its lock file).

mod error;
mod folder;

use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use camino::Utf8PathBuf;
use hearth_types::image::KernelRecord;
use jiff::Timestamp;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::{Deserialize, Serialize};

use crate::fsutil::{TEMPORARY, read_limited, replace, sync_dir};
use crate::initrd;
use crate::modules::Wanted;
use crate::source::{self, Found, Kind, Loaded, Source, digest_of};
use error::failed;
use folder::{check_name, names_in, remove_any, write_kernel};

pub use error::KernelError;

const RECORD: &str = "record.json";
const BZIMAGE: &str = "bzImage";
const ELF: &str = "vmlinux";
const INITRAMFS: &str = "initramfs";
const DEFAULT: &str = "default";
/// A record has some kilobytes.
const RECORD_LIMIT: u64 = 1 << 20;
/// Counted up when the base initramfs changes its form: a kernel from before is built anew
/// when it is imported again.
const BUILDER: u32 = 2;
/// Length of a kernel's name; a folder's name may have 255 bytes.
const NAME_LIMIT: usize = 128;

/// What to import, and as what.
#[derive(Debug, Clone)]
pub struct Import {
    /// Where the kernel comes from.
    pub source: Source,
    /// The folder of its modules, for a bare vmlinuz or vmlinux; the installed ones of its
    /// version when absent.
    pub modules_dir: Option<PathBuf>,
    /// The name to give it; its version when absent.
    pub name: Option<String>,
    /// Make it the default. The first kernel always is.
    pub default: bool,
    /// Modules beside those that every VM loads.
    pub extra_modules: Vec<Wanted>,
}

impl Import {
    /// An import of `source` with everything else left to the store.
    #[must_use]
    pub const fn new(source: Source) -> Self {
        Self {
            source,
            modules_dir: None,
            name: None,
            default: false,
            extra_modules: Vec::new(),
        }
    }
}

/// Where a kernel's files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelFiles {
    /// A bzImage, for QEMU.
    pub bzimage: Option<Utf8PathBuf>,
    /// The ELF inside it, for Firecracker and Cloud Hypervisor.
    pub elf: Option<Utf8PathBuf>,
    /// The base initramfs, to be completed for each VM by [`crate::initrd::write_vm_initrd`].
    pub initramfs: Utf8PathBuf,
}

/// What is stored beside the public record.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    builder: u32,
    initramfs_digest: String,
    #[serde(flatten)]
    record: KernelRecord,
}

/// The store.
#[derive(Debug)]
pub struct KernelStore {
    folder: Utf8PathBuf,
    /// Where `/boot` and `/lib/modules` are looked for: `/` but in tests.
    root: PathBuf,
    /// One change at a time; readers need no lock.
    changes: Mutex<()>,
}

impl KernelStore {
    /// Opens the store, makes its folder if needed and removes what a crash left unfinished.
    ///
    /// # Errors
    /// When the folder cannot be made, read or cleaned.
    pub fn open(folder: impl Into<Utf8PathBuf>) -> Result<Self, KernelError> {
        let folder = folder.into();
        fs::create_dir_all(&folder).map_err(failed("create", &*folder))?;
        for name in names_in(&folder)? {
            if name.starts_with(TEMPORARY) {
                let path = folder.join(&name);
                tracing::info!(%path, "removing an unfinished kernel import");
                remove_any(&path)?;
            }
        }
        Ok(Self {
            folder,
            root: PathBuf::from("/"),
            changes: Mutex::new(()),
        })
    }

    #[cfg(test)]
    pub(crate) fn with_root(mut self, root: &std::path::Path) -> Self {
        root.clone_into(&mut self.root);
        self
    }

    /// Imports a kernel. The same kernel with the same modules is not stored twice: the
    /// record that is there comes back. It blocks for seconds.
    ///
    /// # Errors
    /// When the source cannot be used, the name is taken by another kernel, or the store
    /// cannot be written. Nothing is left behind then.
    pub fn import(&self, import: &Import) -> Result<KernelRecord, KernelError> {
        if let Some(name) = &import.name {
            check_name(name)?;
        }
        let found = source::find(&import.source, &self.root)?;
        let _guard = self.lock();
        let default_before = self.default_name()?;
        let name = match self.present(import, &found)? {
            Some(name) => name,
            None => self.build(import, &found)?,
        };
        // The choice is written down: with a second kernel, "the only one" says nothing more.
        match default_before {
            Some(_) if import.default => self.write_default(&name)?,
            Some(before) => self.write_default(&before)?,
            None => self.write_default(&name)?,
        }
        self.get(Some(&name))
    }

    /// The name under which this very package is stored already. A bare kernel is always
    /// built: its modules may have changed.
    fn present(&self, import: &Import, found: &Found) -> Result<Option<String>, KernelError> {
        if found.kind != Kind::Package
            || import.modules_dir.is_some()
            || !import.extra_modules.is_empty()
        {
            return Ok(None);
        }
        Ok(self.all()?.into_iter().find_map(|stored| {
            let same = stored.record.digest == found.digest && stored.builder == BUILDER;
            let named = import
                .name
                .as_ref()
                .is_none_or(|name| *name == stored.record.name);
            (same && named).then_some(stored.record.name)
        }))
    }

    fn build(&self, import: &Import, found: &Found) -> Result<String, KernelError> {
        let temporary = |what| {
            tempfile::Builder::new()
                .prefix(TEMPORARY)
                .tempdir_in(&self.folder)
                .map_err(failed(what, &*self.folder))
        };
        let work = temporary("create a work folder in")?;
        let loaded = source::load(
            found,
            import.modules_dir.as_deref(),
            &import.extra_modules,
            &self.root,
            work.path(),
        )?;
        let name = import
            .name
            .clone()
            .unwrap_or_else(|| loaded.version.clone());
        check_name(&name)?;
        let initramfs = initrd::base(&loaded.modules).map_err(|source| KernelError::Initramfs {
            name: name.clone(),
            source,
        })?;
        let initramfs_digest = digest_of(&initramfs);
        if let Some(old) = self.find(&name)? {
            if old.record.digest != found.digest {
                return Err(KernelError::NameTaken {
                    name,
                    digest: old.record.digest,
                });
            }
            if old.initramfs_digest == initramfs_digest && old.builder == BUILDER {
                return Ok(name);
            }
        }
        let stored = Stored {
            builder: BUILDER,
            initramfs_digest,
            record: record(&name, found, &loaded, &initramfs),
        };
        let folder = temporary("create a folder in")?;
        write_kernel(folder.path(), &stored, &loaded, &initramfs)
            .map_err(failed("write the kernel into", self.folder.join(&name)))?;
        self.put(folder, &name)?;
        Ok(name)
    }

    /// Puts a finished folder under its name. The folder that had the name, if any, takes the
    /// temporary name in the same step and is removed.
    fn put(&self, folder: tempfile::TempDir, name: &str) -> Result<(), KernelError> {
        let path = self.folder.join(name);
        let flags = if path.exists() {
            RenameFlags::EXCHANGE
        } else {
            RenameFlags::NOREPLACE
        };
        renameat_with(CWD, folder.path(), CWD, path.as_std_path(), flags)
            .map_err(|error| failed("put in place", &*path)(error.into()))?;
        if flags == RenameFlags::NOREPLACE {
            // The folder has another name now: there is nothing to remove.
            drop(folder.keep());
        }
        sync_dir(self.folder.as_std_path()).map_err(failed("sync", &*self.folder))
    }

    /// All kernels, by name.
    ///
    /// # Errors
    /// When a record cannot be read: a kernel that cannot be listed is not "not there".
    pub fn list(&self) -> Result<Vec<KernelRecord>, KernelError> {
        let default = self.default_name()?;
        Ok(self
            .all()?
            .into_iter()
            .map(|stored| marked(stored, default.as_deref()))
            .collect())
    }

    /// One kernel; the default one without a name.
    ///
    /// # Errors
    /// When it is not there or its record cannot be read.
    pub fn get(&self, name: Option<&str>) -> Result<KernelRecord, KernelError> {
        let default = self.default_name()?;
        let name = match (name, &default) {
            (Some(name), _) => name,
            (None, Some(name)) => name,
            (None, None) => {
                return Err(KernelError::NoDefault {
                    known: self.names()?,
                });
            }
        };
        Ok(marked(self.stored(name)?, default.as_deref()))
    }

    /// Makes a kernel the default.
    ///
    /// # Errors
    /// When it is not there or the choice cannot be written.
    pub fn set_default(&self, name: &str) -> Result<KernelRecord, KernelError> {
        let _guard = self.lock();
        let stored = self.stored(name)?;
        self.write_default(name)?;
        Ok(marked(stored, Some(name)))
    }

    /// Removes a kernel. Whether a VM uses it is the caller's question.
    ///
    /// # Errors
    /// When it is not there or cannot be removed. It is not there any more as soon as its
    /// name is gone; what an error leaves is removed when the store is opened again.
    pub fn remove(&self, name: &str) -> Result<(), KernelError> {
        let _guard = self.lock();
        check_name(name)?;
        let path = self.folder.join(name);
        if !path.exists() {
            return Err(self.unknown(name)?);
        }
        let away = tempfile::Builder::new()
            .prefix(TEMPORARY)
            .tempdir_in(&self.folder)
            .map_err(failed("create a folder in", &*self.folder))?;
        fs::rename(&path, away.path().join(name)).map_err(failed("remove", &*path))?;
        sync_dir(self.folder.as_std_path()).map_err(failed("sync", &*self.folder))?;
        if self.chosen_default()?.as_deref() == Some(name) {
            let file = self.folder.join(DEFAULT);
            fs::remove_file(&file).map_err(failed("remove", file))?;
        }
        away.close().map_err(failed("remove", path))
    }

    /// Where the files of a kernel are; of the default one without a name.
    ///
    /// # Errors
    /// When it is not there or its record cannot be read.
    pub fn files(&self, name: Option<&str>) -> Result<KernelFiles, KernelError> {
        let record = self.get(name)?;
        let folder = self.folder.join(&record.name);
        Ok(KernelFiles {
            bzimage: record.has_bzimage.then(|| folder.join(BZIMAGE)),
            elf: record.has_elf.then(|| folder.join(ELF)),
            initramfs: folder.join(INITRAMFS),
        })
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        // What is guarded is on disk and whole at every step; a panic elsewhere spoils nothing.
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn names(&self) -> Result<Vec<String>, KernelError> {
        let mut names = names_in(&self.folder)?;
        names.retain(|name| check_name(name).is_ok() && self.folder.join(name).is_dir());
        names.sort();
        Ok(names)
    }

    fn all(&self) -> Result<Vec<Stored>, KernelError> {
        self.names()?
            .iter()
            // One that is removed between the two looks is simply gone.
            .filter_map(|name| self.find(name).transpose())
            .collect()
    }

    fn stored(&self, name: &str) -> Result<Stored, KernelError> {
        check_name(name)?;
        match self.find(name)? {
            Some(stored) => Ok(stored),
            None => Err(self.unknown(name)?),
        }
    }

    fn unknown(&self, name: &str) -> Result<KernelError, KernelError> {
        Ok(KernelError::Unknown {
            name: name.to_owned(),
            known: self.names()?,
        })
    }

    fn find(&self, name: &str) -> Result<Option<Stored>, KernelError> {
        let path = self.folder.join(name).join(RECORD);
        let bytes = match read_limited(path.as_std_path(), RECORD_LIMIT) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Err(KernelError::RecordTooBig { path }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("read", path)(error)),
        };
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|source| KernelError::Record { path, source })
    }

    /// The default: the chosen one, or the only one.
    fn default_name(&self) -> Result<Option<String>, KernelError> {
        let names = self.names()?;
        if let Some(chosen) = self.chosen_default()?
            && names.contains(&chosen)
        {
            return Ok(Some(chosen));
        }
        Ok(match names.as_slice() {
            [only] => Some(only.clone()),
            _ => None,
        })
    }

    fn chosen_default(&self) -> Result<Option<String>, KernelError> {
        let path = self.folder.join(DEFAULT);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", path)(error)),
        }
    }

    fn write_default(&self, name: &str) -> Result<(), KernelError> {
        let path = self.folder.join(DEFAULT);
        replace(path.as_std_path(), format!("{name}\n").as_bytes()).map_err(failed("write", path))
    }
}

fn marked(stored: Stored, default: Option<&str>) -> KernelRecord {
    KernelRecord {
        default: default == Some(stored.record.name.as_str()),
        ..stored.record
    }
}

fn record(name: &str, found: &Found, loaded: &Loaded, initramfs: &[u8]) -> KernelRecord {
    KernelRecord {
        name: name.to_owned(),
        version: loaded.version.clone(),
        digest: found.digest.clone(),
        // The `default` file says it; see `marked`.
        default: false,
        has_bzimage: loaded.bzimage.is_some(),
        has_elf: true,
        modules: loaded
            .modules
            .iter()
            .map(|module| module.name.clone())
            .collect(),
        initramfs_bytes: initramfs.len() as u64,
        imported_at: Timestamp::now(),
    }
}

#[cfg(test)]
mod tests;
