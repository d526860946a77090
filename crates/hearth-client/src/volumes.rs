//! The routes about data volumes of their own, and about moving disks.

use bytes::Bytes;
use futures::Stream;
use hyper::Method;

use hearth_types::api::Vm;
use hearth_types::volume::{
    AttachVolume, CreateVolume, DetachVolume, GrowVolume, GrownVolume, MigrateStorage,
    SnapshotVolume, VolumeList, VolumeView,
};

use crate::request::{ByteStream, Call};
use crate::{Client, ClientError};

impl Client {
    /// All volumes.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn volumes(&self) -> Result<VolumeList, ClientError> {
        self.fetch(Call::get(&["v1", "volumes"])).await
    }

    /// One volume by name, id or unique id prefix.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn volume(&self, volume: &str) -> Result<VolumeView, ClientError> {
        self.fetch(Call::get(&["v1", "volumes", volume])).await
    }

    /// Makes a volume; answers when it is whole.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn create_volume(&self, body: &CreateVolume) -> Result<VolumeView, ClientError> {
        self.fetch(Call::post(&["v1", "volumes"]).json(body)?).await
    }

    /// Removes a volume.
    ///
    /// # Errors
    /// See [`ClientError`]; `InUse` while a VM has it.
    pub async fn delete_volume(&self, volume: &str) -> Result<(), ClientError> {
        let call = Call::new(Method::DELETE, &["v1", "volumes", volume]);
        self.send(call).await.map(drop)
    }

    /// Makes a volume larger; answers when the guests that have it were told.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn grow_volume(
        &self,
        volume: &str,
        body: &GrowVolume,
    ) -> Result<GrownVolume, ClientError> {
        let call = Call::post(&["v1", "volumes", volume, "grow"]).json(body)?;
        self.fetch(call).await
    }

    /// Gives a VM a volume.
    ///
    /// # Errors
    /// See [`ClientError`]; `Conflict` while the VM runs, or another one has the volume.
    pub async fn attach_volume(
        &self,
        volume: &str,
        body: &AttachVolume,
    ) -> Result<VolumeView, ClientError> {
        let call = Call::post(&["v1", "volumes", volume, "attach"]).json(body)?;
        self.fetch(call).await
    }

    /// Takes a volume from a VM.
    ///
    /// # Errors
    /// See [`ClientError`]; `Conflict` while the VM runs.
    pub async fn detach_volume(
        &self,
        volume: &str,
        body: &DetachVolume,
    ) -> Result<VolumeView, ClientError> {
        let call = Call::post(&["v1", "volumes", volume, "detach"]).json(body)?;
        self.fetch(call).await
    }

    /// Makes a snapshot of a volume; answers when it is whole.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn snapshot_volume(
        &self,
        volume: &str,
        body: &SnapshotVolume,
    ) -> Result<VolumeView, ClientError> {
        let call = Call::post(&["v1", "volumes", volume, "snapshots"]).json(body)?;
        self.fetch(call).await
    }

    /// What is on a volume, byte for byte.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn export_volume(&self, volume: &str) -> Result<ByteStream, ClientError> {
        let call = Call::get(&["v1", "volumes", volume, "content"]);
        self.fetch_bytes(call).await
    }

    /// Makes a volume of what comes; answers when it is whole.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn import_volume<S>(
        &self,
        volume: &str,
        size: Option<hearth_types::Bytes>,
        content: S,
    ) -> Result<VolumeView, ClientError>
    where
        S: Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    {
        let call = Call::new(Method::PUT, &["v1", "volumes", volume, "content"])
            .query_some("size", size)
            .header(hyper::header::CONTENT_TYPE, "application/octet-stream")
            .stream(content);
        self.fetch(call).await
    }

    /// Moves a volume that no VM has; answers when it is there.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn migrate_volume(
        &self,
        volume: &str,
        body: &MigrateStorage,
    ) -> Result<VolumeView, ClientError> {
        let call = Call::post(&["v1", "volumes", volume, "migrate"]).json(body)?;
        self.fetch(call).await
    }

    /// Moves the disks of a VM that does not run; answers when they are there.
    ///
    /// # Errors
    /// See [`ClientError`]; `Conflict` while the VM runs.
    pub async fn migrate_vm(&self, vm: &str, body: &MigrateStorage) -> Result<Vm, ClientError> {
        let call = Call::post(&["v1", "vms", vm, "migrate"]).json(body)?;
        self.fetch(call).await
    }
}
