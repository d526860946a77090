//! What a VM's disks were made as: the marker beside them, and what of a specification it
//! covers. A volume that was added, or grown, is made at the VM's next start.

use std::time::Duration;

use anyhow::Context as _;
use camino::Utf8Path;
use hearth_host::aside::aside;
use hearth_host::lock::LockFile;
use hearth_store::VmRow;
use hearth_types::Survey;
use hearth_types::ids::{ImageId, VmId};
use hearth_types::observe::ObservedDir;
use hearth_types::spec::{VmSpec, VolumeSpec};
use hearth_types::status::Goal;
use hearth_types::units::Bytes;
use serde::{Deserialize, Serialize};

use super::Engine;
use super::paths::{DISKS_MARKER, VMM_LOCK};

/// How long a marker may take to be read.
const READ_WAIT: Duration = Duration::from_secs(2);

/// The content of [`DISKS_MARKER`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MadeDisks {
    /// What the root disk was copied from.
    #[serde(default)]
    image: Option<ImageId>,
    /// The size that was asked for the root disk; markers of an older Hearth lack it.
    #[serde(default)]
    disk: Option<Bytes>,
    /// The volumes, as they were asked for.
    #[serde(default)]
    volumes: Vec<VolumeSpec>,
}

impl MadeDisks {
    pub(super) fn of(row: &VmRow) -> Self {
        Self {
            image: Some(row.image.clone()),
            disk: row.spec.disk,
            volumes: row.spec.volumes.clone(),
        }
    }

    /// A marker that cannot be read covers nothing: the disks are looked at again then, which
    /// keeps what is there.
    pub(super) fn read(dir: &Utf8Path) -> Self {
        let text = std::fs::read(dir.join(DISKS_MARKER)).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Whether the volume was made, in whatever size.
    pub(super) fn has(&self, volume: &VolumeSpec) -> bool {
        self.volumes.iter().any(|made| made.name == volume.name)
    }

    fn covers(&self, spec: &VmSpec) -> bool {
        let made = |volume: &VolumeSpec| {
            let mut made = self.volumes.iter();
            made.any(|made| made.name == volume.name && made.size >= volume.size)
        };
        spec.disk <= self.disk && spec.volumes.iter().all(made)
    }
}

impl Engine {
    /// Marks the folders whose disks are not yet what their VMs' specifications ask for.
    pub(super) async fn with_behind(
        &self,
        dirs: Survey<Vec<ObservedDir>>,
    ) -> Survey<Vec<ObservedDir>> {
        let Survey::Known(mut dirs) = dirs else {
            return dirs;
        };
        for dir in dirs.iter_mut().filter(|dir| dir.has_disk) {
            dir.behind = self.disks_behind(dir.vm).await;
        }
        Survey::Known(dirs)
    }

    /// Whether a VM that should run has disks that are not yet what its specification asks
    /// for. A generation that was covered once is not looked at again.
    async fn disks_behind(&self, vm: VmId) -> bool {
        let Some(row) = self.parts.store.vm(vm).await else {
            return false;
        };
        let wanted = matches!(row.goal, Goal::Running | Goal::Paused);
        let known = self.work.lock().covered.get(&vm) == Some(&row.generation);
        if !wanted || known {
            return false;
        }
        let dir = self.paths.vm(vm);
        let read = aside(move || MadeDisks::read(&dir));
        // A file system that does not answer keeps nobody else waiting; the step would meet it.
        let Ok(Ok(made)) = tokio::time::timeout(READ_WAIT, read).await else {
            return false;
        };
        let covers = made.covers(&row.spec);
        if covers {
            self.work.lock().covered.insert(vm, row.generation);
        }
        !covers
    }

    /// Removes a VM's folder with its disks, unless a VMM may run in it.
    pub(crate) async fn remove_dir(&self, vm: VmId) -> anyhow::Result<()> {
        let path = self.paths.vm(vm);
        let locked = path.clone();
        let unused = aside(move || {
            // The lock lives as long as the VMM, also one that no mark of ours shows.
            LockFile::of_existing(&locked.join(VMM_LOCK))
                .with_context(|| format!("{locked} is not removed: a VMM may run in it"))
        });
        let unused = unused.await.context("the removal was interrupted")??;
        // What stands behind its disks goes before their names do.
        self.parts.disks.clear(&path).await?;
        let removed = aside(move || {
            let _unused = unused;
            match std::fs::remove_dir_all(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(error).with_context(|| format!("cannot remove {path}"))
                }
                _ => Ok(()),
            }
        });
        removed.await.context("the removal was interrupted")?
    }

    /// Whether a VM's disks were made: from then on its image is theirs.
    #[must_use]
    pub fn has_disks(&self, vm: VmId) -> bool {
        self.paths.vm(vm).join(DISKS_MARKER).exists()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(disk: Option<Bytes>, volumes: &[&str]) -> VmSpec {
        let mut spec = VmSpec::new("web".parse().unwrap(), "demo:1");
        spec.disk = disk;
        spec.volumes = volumes.iter().map(|text| text.parse().unwrap()).collect();
        spec
    }

    fn made(spec: &VmSpec) -> MadeDisks {
        MadeDisks {
            image: None,
            disk: spec.disk,
            volumes: spec.volumes.clone(),
        }
    }

    #[test]
    fn what_is_new_or_larger_is_not_covered_and_what_is_smaller_or_gone_is() {
        let old = spec(Some(Bytes::mib(64)), &["data:/srv:64MiB"]);
        let marker = made(&old);
        assert!(marker.covers(&old));
        assert!(marker.covers(&spec(None, &[])));
        assert!(marker.covers(&spec(old.disk, &["data:/elsewhere:64MiB"])));
        assert!(!marker.covers(&spec(Some(Bytes::mib(65)), &[])));
        assert!(!marker.covers(&spec(old.disk, &["data:/srv:65MiB"])));
        let more = spec(old.disk, &["data:/srv:64MiB", "more:/more:64MiB"]);
        assert!(!marker.covers(&more));
        assert!(marker.has(&more.volumes[0]) && !marker.has(&more.volumes[1]));
    }

    #[test]
    fn a_marker_of_an_older_hearth_covers_its_volumes_and_no_size() {
        let text = r#"{"image": null, "volumes": [{"name":"data","mount":"/srv","size":"64MiB"}]}"#;
        let marker: MadeDisks = serde_json::from_str(text).unwrap();
        assert!(marker.covers(&spec(None, &["data:/srv:64MiB"])));
        assert!(!marker.covers(&spec(Some(Bytes::mib(64)), &["data:/srv:64MiB"])));
    }
}
