//! The routes about snapshots of VMs' disks.

use hyper::Method;

use hearth_types::api::Vm;
use hearth_types::snapshot::{
    CloneSnapshot, CreateSnapshot, RestoreSnapshot, Snapshot, SnapshotList,
};

use crate::request::Call;
use crate::{Client, ClientError};

impl Client {
    /// All snapshots, or those of the VM with this name or id.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn snapshots(&self, vm: Option<&str>) -> Result<SnapshotList, ClientError> {
        let call = Call::get(&["v1", "snapshots"]).query_some("vm", vm);
        self.fetch(call).await
    }

    /// One snapshot by name, id or unique id prefix.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn snapshot(&self, snapshot: &str) -> Result<Snapshot, ClientError> {
        self.fetch(Call::get(&["v1", "snapshots", snapshot])).await
    }

    /// Makes a snapshot of a VM's disks; answers when it is whole.
    ///
    /// # Errors
    /// See [`ClientError`]; `Conflict` where the VM runs and its disks would have to be copied.
    pub async fn create_snapshot(
        &self,
        vm: &str,
        body: &CreateSnapshot,
    ) -> Result<Snapshot, ClientError> {
        let call = Call::post(&["v1", "vms", vm, "snapshots"]).json(body)?;
        self.fetch(call).await
    }

    /// Removes a snapshot.
    ///
    /// # Errors
    /// See [`ClientError`]; `InUse` while something is done with it.
    pub async fn delete_snapshot(&self, snapshot: &str) -> Result<(), ClientError> {
        let call = Call::new(Method::DELETE, &["v1", "snapshots", snapshot]);
        self.send(call).await.map(drop)
    }

    /// Gives a VM the disks of one of its snapshots; answers when they are in place.
    ///
    /// # Errors
    /// See [`ClientError`]; `Conflict` while the VM runs.
    pub async fn restore_snapshot(
        &self,
        vm: &str,
        body: &RestoreSnapshot,
    ) -> Result<Vm, ClientError> {
        let call = Call::post(&["v1", "vms", vm, "restore"]).json(body)?;
        self.fetch(call).await
    }

    /// Makes a VM of a snapshot; answers when its disks are made.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn clone_snapshot(
        &self,
        snapshot: &str,
        body: &CloneSnapshot,
    ) -> Result<Vm, ClientError> {
        let call = Call::post(&["v1", "snapshots", snapshot, "clone"]).json(body)?;
        self.fetch(call).await
    }
}
