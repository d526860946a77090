//! Loop devices, mounts and control groups.

use anyhow::Context as _;
use camino::{Utf8Path, Utf8PathBuf};
use hearth_types::names::vm_of_unit;
use hearth_types::orphan::{Orphan, OrphanKind, OrphanState};

use super::{Scene, kept, unproven};

/// The slice that the units of VMs are in.
const SLICE: &str = "hearth.slice";

/// One line of mountinfo (proc_pid_mountinfo(5)): the fifth field and the first after the dash.
struct Mount {
    point: Utf8PathBuf,
    kind: String,
}

impl Scene {
    /// Loop devices over files below the data folder. Each frees itself when its last user goes.
    /// Those of the pool are the pool's to tell; once its files are removed they have other names.
    pub(super) fn loop_devices(&self) -> anyhow::Result<Vec<Orphan>> {
        let mut found = Vec::new();
        for entry in list(&self.places.block)?.unwrap_or_default() {
            let file = self.places.block.join(&entry).join("loop/backing_file");
            let backing = match std::fs::read_to_string(&file) {
                Ok(text) => Utf8PathBuf::from(text.trim_end()),
                // It is no loop device, or it was freed while it was looked at.
                Err(error) if is_gone(&error) => continue,
                Err(error) => return Err(error).with_context(|| format!("cannot read {file}")),
            };
            let pools = backing.parent() == Some(&self.paths.pool()) && backing.exists();
            if backing.starts_with(self.paths.data()) && !pools {
                found.push(loop_device(&entry, &backing));
            }
        }
        Ok(found)
    }

    fn mount_table(&self) -> anyhow::Result<Vec<Mount>> {
        let file = &self.places.mounts;
        let table = std::fs::read_to_string(file);
        let table = table.with_context(|| format!("cannot read {file}"))?;
        Ok(table.lines().filter_map(mount).collect())
    }

    /// Mounts below the data folder: Hearth attaches none, so they are somebody's.
    pub(super) fn mounts(&self) -> anyhow::Result<Vec<Orphan>> {
        let data = self.paths.data();
        let points = self.mount_table()?.into_iter().map(|mount| mount.point);
        let below = points.filter(|point| point.starts_with(data) && point != data);
        let below = below.map(|point| {
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
        });
        Ok(below.collect())
    }

    /// Control groups named like those of units of VMs that no VM has. A VM's own is its unit's.
    pub(super) fn cgroups(&self) -> anyhow::Result<Vec<Orphan>> {
        let mounts = self.mount_table()?.into_iter();
        let Some(root) = mounts
            .filter(|mount| mount.kind == "cgroup2")
            .map(|it| it.point)
            .next()
        else {
            return Ok(Vec::new());
        };
        let slice = root.join(SLICE);
        let mut found = Vec::new();
        for entry in list(&slice)?.unwrap_or_default() {
            let vm = vm_of_unit(&entry).filter(|vm| !self.desired.contains_key(vm));
            let Some(vm) = vm else { continue };
            let path = slice.join(&entry);
            let populated = match std::fs::read_to_string(path.join("cgroup.events")) {
                Ok(events) => events.lines().any(|line| line == "populated 1"),
                Err(error) if is_gone(&error) => continue,
                Err(error) => return Err(error).with_context(|| format!("cannot look at {path}")),
            };
            let marked = self.living.any.contains(&vm);
            let mut orphan = unproven(
                format!("cgroup-{vm}"),
                OrphanKind::Cgroup,
                path.to_string(),
                format!("no VM {vm} is in the database"),
                "nothing proves that it is ours; systemd removes it with its unit",
            );
            orphan.vm = Some(vm);
            if marked {
                orphan.state = OrphanState::Unwanted;
                orphan.fate = kept("it goes with its processes");
            } else if populated {
                orphan.reason += ", and what lives in it carries no mark of ours";
            }
            found.push(orphan);
        }
        Ok(found)
    }
}

fn loop_device(device: &str, backing: &Utf8Path) -> Orphan {
    Orphan {
        state: OrphanState::Unwanted,
        fate: kept("it frees itself when its last user is gone"),
        ..unproven(
            format!("loop_device-{device}"),
            OrphanKind::LoopDevice,
            format!("/dev/{device} over {backing}"),
            "it is over a file of the data folder; images are made with such devices".to_owned(),
            "",
        )
    }
}

/// Whether what was looked at is not there (any more). sysfs says `ENODEV` or `ENXIO` of a
/// device that goes, and `ENOTDIR` where there is a file on the way.
fn is_gone(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    let gone = [Errno::NOENT, Errno::NODEV, Errno::NXIO, Errno::NOTDIR];
    gone.iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// The names in a folder; `None` if there is no such folder.
pub(super) fn list(folder: &Utf8Path) -> anyhow::Result<Option<Vec<String>>> {
    let entries = match folder.read_dir_utf8() {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot list {folder}")),
    };
    let names = entries.map(|entry| Ok(entry?.file_name().to_owned()));
    let names: std::io::Result<Vec<String>> = names.collect();
    Ok(Some(
        names.with_context(|| format!("cannot list {folder}"))?,
    ))
}

/// With the kernel's escapes of blanks undone (proc(5)).
fn mount(line: &str) -> Option<Mount> {
    let point = line.split(' ').nth(4)?;
    let plain = point
        .replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\");
    let (_, after) = line.split_once(" - ")?;
    Some(Mount {
        point: plain.into(),
        kind: after.split(' ').next()?.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_with_blanks() {
        let table = "29 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
                     40 29 0:33 / /var/lib/my\\040data/vms rw shared:7 - tmpfs none rw\n";
        let mounts: Vec<_> = table.lines().filter_map(mount).collect();
        assert_eq!(mounts[0].point, "/");
        assert_eq!(mounts[1].point, "/var/lib/my data/vms");
        assert_eq!(mounts[1].kind, "tmpfs");
    }
}
