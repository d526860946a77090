//! Nodes of disks in the pool that somebody has removed under a VM that runs: put back, and named as what they are.

use std::io::ErrorKind;

use camino::Utf8PathBuf;
use hearth_host::aside::aside;
use hearth_store::VmRow;
use hearth_types::event::{NewEvent, Severity};
use hearth_types::mode::Mode;
use hearth_types::orphan::{Fate, FateKind, Orphan, OrphanKind, OrphanState};
use hearth_types::survey::chain;

use super::Engine;
use super::paths::{Paths, ROOT_DISK};

impl Engine {
    /// Puts back the nodes of disks of VMs that run. The VM itself has the device open and does not notice; who
    /// opens the path finds the disk again.
    pub(crate) async fn put_nodes_back(&self) {
        if self.modes.mode() == Mode::Readonly {
            return;
        }
        let rows = self.parts.store.vms().await;
        let busy = self.busy();
        let run = rows
            .into_iter()
            .filter(|row| row.status.vmm.is_some() && !busy.contains(&row.id));
        let files = run.map(|row| {
            let dir = self.paths.vm(row.id);
            let volumes = row.spec.volumes.iter();
            let volumes = volumes.map(|volume| Paths::volume_file(volume.name.as_str()));
            let files = std::iter::once(ROOT_DISK.to_owned()).chain(volumes);
            let files: Vec<_> = files.map(|file| dir.join(file)).collect();
            (row, files)
        });
        let files: Vec<(VmRow, Vec<Utf8PathBuf>)> = files.collect();
        let gone = aside(move || {
            let all = files.into_iter();
            let gone = all.flat_map(|(row, files)| {
                let gone = files.into_iter().filter(is_gone);
                gone.map(move |path| (row.clone(), path))
                    .collect::<Vec<_>>()
            });
            gone.collect::<Vec<_>>()
        });
        for (row, path) in gone.await.unwrap_or_default() {
            self.put_node_back(&row, &path).await;
        }
    }

    async fn put_node_back(&self, row: &VmRow, path: &Utf8PathBuf) {
        // A file that is gone is gone; and what cannot be told is looked at again.
        if !matches!(self.parts.disks.is_lost(path).await, Ok(false)) {
            return;
        }
        let put = self.parts.disks.ready(path, self.vmm_uid(row)).await;
        let event = match put {
            Ok(standing) if standing.device.is_some() => {
                let message =
                    format!("the node {path} of a disk in the pool was gone; it is put back");
                NewEvent::info("volume.node_put_back", message).severity(Severity::Warning)
            }
            Ok(_) => return,
            Err(error) => {
                tracing::warn!(%path, error = %chain(&error), "the node of a disk in the pool is gone and cannot be put back");
                return;
            }
        };
        self.tell(event.vm(row.id, &row.spec.name)).await;
    }

    /// What of the disks that are missing is in the pool all the same: only their nodes are gone.
    pub(crate) async fn name_nodes(&self, items: &mut [Orphan]) {
        let missing = items.iter_mut().filter(|orphan| {
            orphan.kind == OrphanKind::Volume && orphan.state == OrphanState::Missing
        });
        for orphan in missing {
            let path = Utf8PathBuf::from(&orphan.object);
            if !matches!(self.parts.disks.is_lost(&path).await, Ok(false)) {
                continue;
            }
            orphan.reason = "the disk is in the pool, and only its node is gone".to_owned();
            orphan.fate = Fate {
                what: FateKind::PutBack,
                at: None,
                why: "the next survey puts it back while the VM runs, else its next start"
                    .to_owned(),
            };
        }
    }
}

fn is_gone(path: &Utf8PathBuf) -> bool {
    matches!(path.symlink_metadata(), Err(error) if error.kind() == ErrorKind::NotFound)
}
