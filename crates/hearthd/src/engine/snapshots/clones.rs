//! New VMs with the disks of a snapshot. That they are is recorded with the VM; the disks are made at
//! once, and if the daemon dies before they are, at the VM's first start.

use std::sync::Arc;

use anyhow::Context as _;
use camino::Utf8PathBuf;
use hearth_store::{NewVm, VmRow};
use hearth_types::event::NewEvent;
use hearth_types::ids::VmId;
use hearth_types::problem::{Code, Problem};
use hearth_types::snapshot::{CloneSnapshot, Snapshot};
use hearth_types::spec::{FieldError, VmSpec};
use hearth_types::status::Goal;
use hearth_types::survey::chain;
use hearth_types::units::Bytes;

use super::attached::own_volumes;
use super::restore::ready;
use super::{PATIENCE, about, conflict, file_of, still_worked_on};
use crate::engine::Engine;
use crate::engine::paths::Paths;

/// The snapshot that a VM's disks are still to be made of.
#[derive(Debug)]
pub(in crate::engine) struct Origin {
    folder: Utf8PathBuf,
    snapshot: Snapshot,
}

impl Origin {
    /// The disk of the snapshot that becomes this file of the VM, and how large it is.
    pub(in crate::engine) fn disk(&self, file: &str) -> Option<(Utf8PathBuf, Bytes)> {
        let mut own = self.snapshot.disks.iter();
        let own = own.find(|disk| disk.attached.is_none() && file_of(disk) == file);
        let disk = own.or_else(|| {
            let mut attached = own_volumes(&self.snapshot).into_iter();
            let found = attached.find(|(it, _)| Paths::volume_file(it.name.as_str()) == file);
            found.map(|(_, disk)| disk)
        })?;
        Some((self.folder.join(file_of(disk)), Bytes(disk.bytes)))
    }
}

/// What the new VM should be: what the other one was, without what only one VM can have.
fn spec_of(snapshot: &Snapshot, asked: &CloneSnapshot) -> VmSpec {
    let mut spec = snapshot.spec.clone();
    spec.name = asked.name.clone();
    spec.ports.clone_from(&asked.ports);
    spec.network.address = None;
    // What was attached and is in the snapshot is the new VM's own.
    let attached = own_volumes(snapshot).into_iter();
    spec.volumes.extend(attached.map(|(volume, _)| volume));
    // A volume that was not made yet is in the specification and not in the snapshot: made empty.
    spec
}

impl Engine {
    /// What a VM's disks are to be made of, unless they are made, or are made of its image.
    pub(in crate::engine) async fn origin(&self, vm: VmId) -> anyhow::Result<Option<Origin>> {
        let snapshot = self.parts.store.origin(vm).await?;
        Ok(snapshot.map(|snapshot| Origin {
            folder: self.snapshot_folder(snapshot.id),
            snapshot,
        }))
    }

    /// Makes a VM of a snapshot. It does not run yet.
    ///
    /// # Errors
    /// A [`Problem`] where it cannot be; there is no new VM then.
    pub async fn clone_snapshot(
        self: &Arc<Self>,
        snapshot: &Snapshot,
        asked: &CloneSnapshot,
    ) -> anyhow::Result<VmRow> {
        ready(snapshot)?;
        let Some(_hold) = self.snapshots.read(snapshot.id) else {
            let detail = format!("snapshot {} is being removed", snapshot.name);
            return Err(conflict(detail).into());
        };
        let spec = spec_of(snapshot, asked);
        let errors = spec.check();
        if !errors.is_empty() {
            return Err(Problem::fields(errors).into());
        }
        if let Err(error) = self.parts.vmm.admits(&spec).await {
            let field = FieldError::new("driver", chain(&error));
            return Err(Problem::fields(vec![field]).into());
        }
        let new = NewVm {
            spec,
            goal: Goal::Stopped,
            image: snapshot.image.clone(),
            kernel: self.kernel_of(snapshot).await?,
        };
        let (store, leases, now) = (&self.parts.store, self.settings.leases, self.now());
        let row = store
            .create_vm_of(snapshot.clone(), new, leases, now)
            .await?;
        self.failpoints.hit("after", "clone_recorded").await;
        if let Err(error) = self.make_clone(&row).await {
            store
                .set_goal(row.id, Goal::Absent, true, None, None)
                .await?;
            self.look_at(row.id);
            return Err(error);
        }
        self.attach_what_was_read(&row, snapshot).await;
        let name = &row.spec.name;
        let message = format!("{name} created from snapshot {}", snapshot.name);
        let event = NewEvent::info("snapshot.cloned", message);
        self.tell(about(event, snapshot).vm(row.id, name)).await;
        Ok(row)
    }

    async fn make_clone(self: &Arc<Self>, row: &VmRow) -> anyhow::Result<()> {
        let _borrowed = self
            .borrow(row.id, PATIENCE)
            .await
            .ok_or_else(|| still_worked_on(row))?;
        let made = self.ensure_disks(row).await;
        made.map_err(
            |error| match error.downcast_ref::<hearth_disk::DiskError>() {
                Some(failed) => super::disk_problem("its disks cannot be made", failed),
                None => error.context("its disks cannot be made"),
            },
        )
    }

    /// The kernel that the snapshot's VM booted.
    async fn kernel_of(&self, snapshot: &Snapshot) -> anyhow::Result<Option<String>> {
        let (kernels, wanted) = (self.parts.kernels.clone(), snapshot.kernel.clone());
        let kernel = tokio::task::spawn_blocking(move || kernels.get(wanted.as_deref()))
            .await
            .context("the kernels could not be looked at")?;
        kernel.map(|kernel| Some(kernel.name)).map_err(|error| {
            Problem::new(Code::NotFound, chain(&error))
                .hint("get one with: hearth kernel import")
                .into()
        })
    }
}
