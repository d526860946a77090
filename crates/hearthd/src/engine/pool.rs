//! What the planner is told of the thin pool: whether VMs may write, and which have a disk in it.

use std::collections::BTreeSet;
use std::os::unix::fs::FileTypeExt as _;

use camino::Utf8PathBuf;
use hearth_plan::PoolRoom;
use hearth_store::VmRow;
use hearth_types::event::{NewEvent, Severity};
use hearth_types::ids::VmId;

use super::Engine;
use super::paths::{Paths, ROOT_DISK};

impl Engine {
    /// How much room the pool has, as it was seen last.
    #[must_use]
    pub fn pool_room(&self) -> PoolRoom {
        self.pool_room.lock().clone()
    }

    /// The pool was looked at. A change of what VMs may do is told, and acted on at once.
    pub async fn pool_has(&self, room: PoolRoom) {
        let before = std::mem::replace(&mut *self.pool_room.lock(), room.clone());
        if std::mem::discriminant(&before) == std::mem::discriminant(&room) {
            return;
        }
        match (&before, &room) {
            (_, PoolRoom::Tight { why }) => {
                let message = format!(
                    "VMs with a disk in the pool wait, so that they lose nothing: {why}. They go on by themselves \
                     when there is room: remove volumes, discard what guests do not use, or: hearth pool extend"
                );
                let event = NewEvent::info("pool.tight", message).severity(Severity::Error);
                self.tell(event).await;
            }
            (PoolRoom::Tight { .. }, PoolRoom::Enough) => {
                let message = "the pool has room again; VMs that waited for it go on";
                self.tell(NewEvent::info("pool.room", message)).await;
            }
            _ => {}
        }
        self.look_at_everything();
    }

    /// VMs with a disk in the pool: those whose disk is a device. Nobody is asked while nobody waits or
    /// should. What cannot be looked at is on the pool still if it waits for it.
    pub(super) async fn on_pool(&self, rows: &[VmRow]) -> BTreeSet<VmId> {
        let waits = |row: &VmRow| row.status.pool_wait.is_some();
        if !self.pool_room().is_tight() && !rows.iter().any(waits) {
            return BTreeSet::new();
        }
        let alive = rows.iter().filter(|row| row.status.vmm.is_some());
        let disks: Vec<(VmId, bool, Vec<Utf8PathBuf>)> = alive
            .map(|row| {
                let dir = self.paths.vm(row.id);
                let volumes = row.spec.volumes.iter();
                let volumes = volumes.map(|volume| Paths::volume_file(volume.name.as_str()));
                let files = std::iter::once(ROOT_DISK.to_owned()).chain(volumes);
                (
                    row.id,
                    waits(row),
                    files.map(|file| dir.join(file)).collect(),
                )
            })
            .collect();
        let waiting: BTreeSet<VmId> = disks
            .iter()
            .filter(|disk| disk.1)
            .map(|disk| disk.0)
            .collect();
        let looked = hearth_host::aside::aside(move || {
            let on = disks.into_iter().filter(|(_, waits, files)| {
                files.iter().any(|file| {
                    file.metadata()
                        .map_or(*waits, |meta| meta.file_type().is_block_device())
                })
            });
            on.map(|(vm, ..)| vm).collect()
        });
        looked.await.unwrap_or(waiting)
    }
}
