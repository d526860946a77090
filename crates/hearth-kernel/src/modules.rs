//! Which modules a VM needs and in which order they load.
//!
//! A kernel package has no `modules.dep` (depmod writes it at installation), so what a module
//! needs is read from the `.modinfo` section of the module itself. Names are compared the way
//! the kernel does: `-` and `_` are the same.

mod modinfo;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::compression::{Compression, expand};
use crate::format::FormatError;

pub use modinfo::ModInfo;

const WHAT: &str = "kernel module";
/// A module as file or expanded; the biggest real ones (amdgpu) have under 40 MiB.
const MODULE_LIMIT: u64 = 128 << 20;
/// Module files below one folder; distributions ship about 4,000.
const FILES_LIMIT: usize = 50_000;
/// Folders below each other; real trees have under 10.
const DEPTH_LIMIT: usize = 32;
/// Endings of a module's file, in any of which a distribution may ship it.
const ENDINGS: [&str; 4] = [".ko", ".ko.xz", ".ko.zst", ".ko.gz"];

/// Why the modules for a VM cannot be put together.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// A VM cannot do without it.
    #[error(
        "the kernel has no module {name}{} and it is not built in; a VM needs it, choose a kernel that has it",
        wanted_by.as_ref().map(|by| format!(" (needed by {by})")).unwrap_or_default()
    )]
    Missing {
        /// The module.
        name: String,
        /// The module that needs it, if it is not one that Hearth asks for by itself.
        wanted_by: Option<String>,
    },
    /// Modules that need each other.
    #[error("the modules of the kernel need each other in a circle at {name}")]
    Circle {
        /// One of them.
        name: String,
    },
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is no module.
    #[error("cannot use the module {name}")]
    Format {
        /// The module.
        name: String,
        /// What is wrong.
        #[source]
        source: FormatError,
    },
    /// Far more files than any kernel has.
    #[error("{} holds more than {FILES_LIMIT} modules or folders deeper than {DEPTH_LIMIT}", path.display())]
    TooMany {
        /// The folder.
        path: PathBuf,
    },
}

/// A module that goes into the initramfs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Its name, with `_`.
    pub name: String,
    /// The file, expanded: the kernel's loader takes only plain ELF everywhere.
    pub bytes: Vec<u8>,
}

/// A module that Hearth asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Its name.
    pub name: &'static str,
    /// Whether a VM cannot do without it.
    pub essential: bool,
}

const fn essential(name: &'static str) -> Wanted {
    Wanted {
        name,
        essential: true,
    }
}

const fn useful(name: &'static str) -> Wanted {
    Wanted {
        name,
        essential: false,
    }
}

/// What every VM loads, in this order: transports first, so that the devices are found as
/// soon as their drivers come.
pub const WANTED: [Wanted; 13] = [
    useful("virtio_mmio"),
    useful("virtio_pci"),
    essential("virtio_console"),
    essential("virtio_blk"),
    essential("virtio_net"),
    useful("virtio_rng"),
    useful("virtio_balloon"),
    useful("vmw_vsock_virtio_transport"),
    essential("ext4"),
    // The power button is how a VMM asks a guest to end; evdev shows it to an init.
    useful("button"),
    useful("evdev"),
    // DHCP clients of images open packet sockets.
    useful("af_packet"),
    // Tells the VMM of a panic, where its guest's memory is to be dumped then.
    useful("pvpanic_mmio"),
];

/// Every module of one kernel, by name, and what is built in.
#[derive(Debug, Default)]
pub struct Index {
    files: BTreeMap<String, ModuleFile>,
    builtin: BTreeSet<String>,
}

#[derive(Debug)]
struct ModuleFile {
    path: PathBuf,
    /// Whether it stands below `crypto` or `lib` in the kernel's tree: where modules are that
    /// others ask for by an alias.
    library: bool,
}

/// The name of the module in a file of this name; `None` for other files.
#[must_use]
pub fn module_name(file: &str) -> Option<String> {
    ENDINGS
        .iter()
        .find_map(|ending| file.strip_suffix(ending))
        .filter(|stem| !stem.is_empty())
        .map(normal)
}

/// `-` and `_` are one to the kernel.
fn normal(name: &str) -> String {
    name.replace('-', "_")
}

impl Index {
    /// Adds a module's file; `origin` is its path in the kernel's tree. The first one of a
    /// name stays.
    pub fn add(&mut self, name: String, path: PathBuf, origin: &str) {
        let library = origin.contains("/crypto/") || origin.contains("/lib/");
        self.files
            .entry(name)
            .or_insert(ModuleFile { path, library });
    }

    /// Adds the lines of a `modules.builtin`.
    pub fn add_builtin(&mut self, text: &str) {
        let names = text
            .lines()
            .filter_map(|line| module_name(line.rsplit('/').next().unwrap_or(line)));
        self.builtin.extend(names);
    }

    /// Number of module files.
    #[must_use]
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether there are no module files.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Reads a folder such as `/lib/modules/VERSION`. Symbolic links are not followed: they
    /// lead to the sources that the kernel was built from.
    ///
    /// # Errors
    /// When the folder cannot be read or holds far too much.
    pub fn read_dir(dir: &Path) -> Result<Self, ModuleError> {
        let mut index = Self::default();
        let list = dir.join("modules.builtin");
        match std::fs::read_to_string(&list) {
            Ok(text) => index.add_builtin(&text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(ModuleError::Read { path: list, source }),
        }
        // depmod's default search order: what an administrator put into updates comes first.
        let updates = dir.join("updates");
        if updates.is_dir() {
            index.walk(dir, &updates, 0)?;
        }
        index.walk(dir, dir, 0)?;
        Ok(index)
    }

    fn walk(&mut self, top: &Path, dir: &Path, depth: usize) -> Result<(), ModuleError> {
        let failed = |source| ModuleError::Read {
            path: dir.to_owned(),
            source,
        };
        if depth > DEPTH_LIMIT || self.files.len() > FILES_LIMIT {
            return Err(ModuleError::TooMany {
                path: dir.to_owned(),
            });
        }
        for entry in std::fs::read_dir(dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let kind = entry.file_type().map_err(failed)?;
            if kind.is_dir() {
                self.walk(top, &entry.path(), depth + 1)?;
            } else if kind.is_file()
                && let Some(name) = entry.file_name().to_str().and_then(module_name)
            {
                let path = entry.path();
                let origin = path.strip_prefix(top).unwrap_or(&path);
                let origin = origin.to_string_lossy().into_owned();
                self.add(name, path, &origin);
            }
        }
        Ok(())
    }

    /// The wanted modules that are not built in, with everything they need, each after what
    /// it needs. What is not essential and not there is left out.
    ///
    /// # Errors
    /// An essential module is missing, or a file cannot be read.
    pub fn resolve(&self, wanted: &[Wanted]) -> Result<Vec<Module>, ModuleError> {
        let mut resolver = Resolver {
            index: self,
            done: BTreeSet::new(),
            open: BTreeSet::new(),
            order: Vec::new(),
            aliases: None,
        };
        for root in wanted {
            if self.has(root.name) {
                resolver.visit(root.name, None)?;
            } else if root.essential {
                return Err(ModuleError::Missing {
                    name: root.name.to_owned(),
                    wanted_by: None,
                });
            } else {
                tracing::debug!(module = root.name, "kernel has no such module, left out");
            }
        }
        Ok(resolver.order)
    }

    fn has(&self, name: &str) -> bool {
        // virtio_rng's file is virtio-rng.ko; normal() makes the two one.
        self.builtin.contains(name) || self.files.contains_key(name)
    }

    fn load(&self, name: &str) -> Result<Option<Vec<u8>>, ModuleError> {
        let Some(ModuleFile { path, .. }) = self.files.get(name) else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| file.take(MODULE_LIMIT + 1).read_to_end(&mut bytes))
            .map_err(|source| ModuleError::Read {
                path: path.clone(),
                source,
            })?;
        plain(bytes)
            .map(Some)
            .map_err(|source| ModuleError::Format {
                name: name.to_owned(),
                source,
            })
    }

    /// Modules of the crypto and library folders by the aliases they carry.
    fn aliases(&self) -> Result<BTreeMap<String, String>, ModuleError> {
        let mut aliases = BTreeMap::new();
        for (name, _) in self.files.iter().filter(|(_, file)| file.library) {
            // A damaged module that nothing asks for by name must not stop the import.
            let Ok(Some(bytes)) = self.load(name) else {
                continue;
            };
            let Ok(info) = ModInfo::read(&bytes) else {
                continue;
            };
            for alias in info.aliases {
                aliases
                    .entry(normal(&alias))
                    .or_insert_with(|| name.clone());
            }
        }
        Ok(aliases)
    }
}

/// The module as plain ELF.
fn plain(bytes: Vec<u8>) -> Result<Vec<u8>, FormatError> {
    if bytes.len() as u64 > MODULE_LIMIT {
        return Err(FormatError::TooBig {
            what: WHAT,
            limit: MODULE_LIMIT,
        });
    }
    match Compression::detect(&bytes, WHAT)? {
        None => Ok(bytes),
        Some(compression) => expand(compression, &bytes, MODULE_LIMIT, WHAT),
    }
}

struct Resolver<'a> {
    index: &'a Index,
    done: BTreeSet<String>,
    open: BTreeSet<String>,
    order: Vec<Module>,
    aliases: Option<BTreeMap<String, String>>,
}

impl Resolver<'_> {
    /// Depth first: what a module needs is put in before it. The depth is bounded by the
    /// number of modules, because a circle is refused.
    fn visit(&mut self, name: &str, wanted_by: Option<&str>) -> Result<(), ModuleError> {
        if self.done.contains(name) || self.index.builtin.contains(name) {
            return Ok(());
        }
        let Some(bytes) = self.index.load(name)? else {
            return Err(ModuleError::Missing {
                name: name.to_owned(),
                wanted_by: wanted_by.map(str::to_owned),
            });
        };
        if !self.open.insert(name.to_owned()) {
            return Err(ModuleError::Circle {
                name: name.to_owned(),
            });
        }
        let info = ModInfo::read(&bytes).map_err(|source| ModuleError::Format {
            name: name.to_owned(),
            source,
        })?;
        for soft in &info.soft_before {
            self.visit_soft(soft, name)?;
        }
        for dependency in &info.depends {
            self.visit(dependency, Some(name))?;
        }
        self.open.remove(name);
        self.done.insert(name.to_owned());
        self.order.push(Module {
            name: name.to_owned(),
            bytes,
        });
        Ok(())
    }

    /// A soft dependency may be an alias (`crc32c` is crc32c_generic) or be missing.
    fn visit_soft(&mut self, soft: &str, wanted_by: &str) -> Result<(), ModuleError> {
        if self.index.has(soft) {
            return self.visit(soft, Some(wanted_by));
        }
        if self.aliases.is_none() {
            self.aliases = Some(self.index.aliases()?);
        }
        match self.aliases.as_ref().and_then(|all| all.get(soft)).cloned() {
            Some(name) if !self.open.contains(&name) => self.visit(&name, Some(wanted_by)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
