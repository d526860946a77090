//! What the survey does not look at: what folders say and weigh, and objects of cheap kinds
//! that lie about. Nothing here is acted on; nothing is started for it.

use std::collections::{BTreeMap, BTreeSet};

use camino::{Utf8Path, Utf8PathBuf};
use hearth_types::ids::{InstallationId, VmId};
use hearth_types::orphan::{Fate, FateKind, Orphan, OrphanKind, OrphanState};
use jiff::Timestamp;

use super::keepsake::{self, Keepsake};
use super::unproven;
use crate::engine::paths::Paths;

/// Entries of one folder that are weighed: a VM's folder has a dozen.
const ENTRIES: usize = 10_000;

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

/// What else lies about under the data folder: names that are no VM's, sockets that nobody
/// serves, loop devices, mounts.
pub(super) fn beyond(
    paths: &Paths,
    living: &Living,
    desired: &BTreeMap<VmId, String>,
) -> Vec<Orphan> {
    let mut found = Vec::new();
    for entry in paths.vms().read_dir_utf8().into_iter().flatten().flatten() {
        match entry.file_name().parse::<VmId>() {
            Ok(vm) if living.known && !living.any.contains(&vm) => {
                if let Some(name) = desired.get(&vm) {
                    sockets(entry.path(), vm, name, &mut found);
                }
            }
            Ok(_) => {}
            Err(_) => found.push(unproven(
                format!("folder-{}", entry.file_name()),
                OrphanKind::Folder,
                entry.path().to_string(),
                "it lies among the VMs' folders and its name is no VM's id".to_owned(),
                "nothing proves that it is ours",
            )),
        }
    }
    found.extend(loop_devices(paths.data()));
    found.extend(mounts(paths.data()));
    found
}

/// Sockets in the folder of a VM that has no process: nobody listens on them.
fn sockets(dir: &Utf8Path, vm: VmId, name: &str, found: &mut Vec<Orphan>) {
    use std::os::unix::fs::FileTypeExt as _;
    for entry in dir.read_dir_utf8().into_iter().flatten().flatten() {
        let Ok(meta) = entry.path().symlink_metadata() else {
            continue;
        };
        if !meta.file_type().is_socket() {
            continue;
        }
        let since = meta
            .modified()
            .ok()
            .and_then(|time| Timestamp::try_from(time).ok());
        found.push(Orphan {
            id: format!("socket-{vm}-{}", entry.file_name()),
            kind: OrphanKind::Socket,
            state: OrphanState::Unwanted,
            object: entry.path().to_string(),
            vm: Some(vm),
            name: Some(name.to_owned()),
            image: None,
            since,
            bytes: None,
            reason: "no process of its VM lives".to_owned(),
            fate: Fate {
                what: FateKind::Kept,
                at: None,
                why: "its VM's next start takes its place; it goes with its VM".to_owned(),
            },
            adoptable: false,
        });
    }
}

/// Loop devices over files below the data folder. Each frees itself when its last user goes.
fn loop_devices(data: &Utf8Path) -> Vec<Orphan> {
    let block = Utf8Path::new("/sys/block");
    let devices = block.read_dir_utf8().into_iter().flatten().flatten();
    let backed = devices.filter_map(|entry| {
        let file = entry.path().join("loop/backing_file");
        let backing = Utf8PathBuf::from(std::fs::read_to_string(file).ok()?.trim_end());
        let ours = backing.starts_with(data);
        ours.then(|| (entry.file_name().to_owned(), backing))
    });
    backed
        .map(|(device, backing)| Orphan {
            id: format!("loop_device-{device}"),
            kind: OrphanKind::LoopDevice,
            state: OrphanState::Unwanted,
            object: format!("/dev/{device} over {backing}"),
            vm: None,
            name: None,
            image: None,
            since: None,
            bytes: None,
            reason: "it is over a file of the data folder; images are made with such devices"
                .to_owned(),
            fate: Fate {
                what: FateKind::Kept,
                at: None,
                why: "it frees itself when its last user is gone".to_owned(),
            },
            adoptable: false,
        })
        .collect()
}

/// Mounts below the data folder: Hearth attaches none, so they are somebody's.
fn mounts(data: &Utf8Path) -> Vec<Orphan> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mount_points(&table)
        .filter(|point| point.starts_with(data) && point != data)
        .map(|point| {
            unproven(
                format!(
                    "mount-{}",
                    point.as_str().trim_start_matches('/').replace('/', "-")
                ),
                OrphanKind::Mount,
                point.to_string(),
                "it is mounted below the data folder, and Hearth mounts nothing there".to_owned(),
                "it is somebody else's",
            )
        })
        .collect()
}

/// The fifth field of each line, with the kernel's escapes of blanks undone (proc(5)).
fn mount_points(table: &str) -> impl Iterator<Item = Utf8PathBuf> + '_ {
    table.lines().filter_map(|line| {
        let point = line.split(' ').nth(4)?;
        let plain = point
            .replace("\\040", " ")
            .replace("\\011", "\t")
            .replace("\\012", "\n")
            .replace("\\134", "\\");
        Some(Utf8PathBuf::from(plain))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_with_blanks() {
        let table = "29 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
                     40 29 0:33 / /var/lib/my\\040data/vms rw shared:7 - tmpfs none rw\n";
        let points: Vec<_> = mount_points(table).collect();
        assert_eq!(points, ["/", "/var/lib/my data/vms"]);
    }
}
