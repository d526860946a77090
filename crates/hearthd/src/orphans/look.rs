//! What the survey does not look at: what folders say and weigh, and objects of cheap kinds
//! that lie about. Nothing here is acted on; nothing is started for it.
//!
//! Each kind is looked at by itself. One that cannot be is told as unknown, and no object of it
//! is listed: not to have seen any is not to know that there is none.

mod files;
mod kernel;
mod spaces;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use camino::{Utf8Path, Utf8PathBuf};
use hearth_types::ids::{InstallationId, VmId};
use hearth_types::orphan::{Fate, FateKind, Orphan, OrphanKind, OrphanState};
use hearth_types::process::ProcessIdentity;
use jiff::Timestamp;

use super::keepsake::{self, Keepsake};
use super::{Found, unproven};
use crate::engine::paths::Paths;

/// Entries of one folder that are weighed: a VM's folder has a dozen.
const ENTRIES: usize = 10_000;

/// Where the kernel tells of what.
#[derive(Debug, Clone)]
pub(super) struct Places {
    block: Utf8PathBuf,
    mounts: Utf8PathBuf,
    namespaces: Utf8PathBuf,
    processes: Utf8PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            block: "/sys/block".into(),
            mounts: "/proc/self/mountinfo".into(),
            namespaces: "/run/netns".into(),
            processes: "/proc".into(),
        }
    }
}

/// A VM of the database, as far as its folder is concerned.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    /// Its name.
    pub(super) name: String,
    /// Names of its data volumes.
    pub(super) volumes: BTreeSet<String>,
}

/// All that a look needs to know.
#[derive(Debug)]
pub(super) struct Scene {
    pub(super) paths: Paths,
    pub(super) living: Living,
    /// The VMs of the database.
    pub(super) desired: BTreeMap<VmId, Wanted>,
    /// VMMs of no VM.
    pub(super) strangers: Vec<ProcessIdentity>,
    /// Old logs that are kept beside the current one.
    pub(super) old_logs: u32,
    pub(super) places: Places,
}

/// VMs of which processes live.
#[derive(Debug, Default)]
pub(super) struct Living {
    /// The processes could be looked at.
    pub(super) known: bool,
    /// Any process.
    pub(super) any: BTreeSet<VmId>,
    /// A VMM.
    pub(super) vmms: BTreeSet<VmId>,
}

/// Adds what the VMs' folders say: names, images, sizes, and whether a record can be made.
pub(super) fn look_closer(
    items: &mut [Orphan],
    paths: &Paths,
    installation: InstallationId,
    living: &Living,
) {
    for orphan in items
        .iter_mut()
        .filter(|orphan| orphan.state == OrphanState::Unwanted)
    {
        let Some(vm) = orphan.vm else { continue };
        let dir = paths.vm(vm);
        if orphan.kind == OrphanKind::Folder {
            orphan.object = dir.to_string();
            orphan.bytes = weigh(&dir);
        }
        match keepsake::read(&dir) {
            Ok(kept) if kept.installation == installation => tell(orphan, &kept, living),
            Ok(kept) if orphan.kind == OrphanKind::Folder => {
                orphan.state = OrphanState::Unproven;
                orphan.reason = format!(
                    "it says that it belongs to installation {}",
                    kept.installation
                );
                orphan.fate = Fate {
                    what: FateKind::Never,
                    at: None,
                    why: "it is another installation's".to_owned(),
                };
            }
            Ok(_) | Err(_) => {}
        }
    }
}

fn tell(orphan: &mut Orphan, kept: &Keepsake, living: &Living) {
    orphan.name = Some(kept.spec.name.to_string());
    orphan.image = Some(kept.spec.image.clone());
    orphan.adoptable = match orphan.kind {
        OrphanKind::Vmm => true,
        OrphanKind::Folder => living.known && !living.any.contains(&kept.vm),
        _ => false,
    };
}

/// What the files of a folder take on the disk; `None` if it cannot be seen.
fn weigh(dir: &Utf8Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt as _;
    let mut bytes = 0;
    let mut folders = vec![dir.to_owned()];
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        for entry in folder.read_dir_utf8().ok()?.flatten() {
            seen += 1;
            if seen > ENTRIES {
                return Some(bytes);
            }
            let Ok(meta) = entry.path().symlink_metadata() else {
                continue;
            };
            bytes += meta.blocks() * 512;
            if meta.is_dir() {
                folders.push(entry.path().to_owned());
            }
        }
    }
    Some(bytes)
}

impl Scene {
    /// Looks at each kind that the survey leaves out.
    pub(super) fn beyond(&self) -> Found {
        let mut found = Found::default();
        found.add("files of VMs", self.files());
        found.add("loop devices", self.loop_devices());
        found.add("mounts", self.mounts());
        found.add("cgroups", self.cgroups());
        found.add("network namespaces", self.network_namespaces());
        found.add("cages", self.cages());
        found
    }
}

/// When a file was last changed.
fn changed(meta: &std::fs::Metadata) -> Option<Timestamp> {
    let time = meta.modified().ok()?;
    Timestamp::try_from(time).ok()
}

fn kept(why: &str) -> Fate {
    Fate {
        what: FateKind::Kept,
        at: None,
        why: why.to_owned(),
    }
}
