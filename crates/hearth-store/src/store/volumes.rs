//! Requests about data volumes of their own.

use hearth_types::ids::{VmId, VolumeId};
use hearth_types::volume::{Attachment, Volume};

use super::Store;
use crate::{Result, volumes};

impl Store {
    /// Every volume, oldest first.
    ///
    /// # Errors
    /// Only the database's own.
    pub async fn volumes(&self) -> Result<Vec<Volume>> {
        self.request(|session| volumes::read(session)).await
    }

    /// Writes a volume down that is about to be made.
    ///
    /// # Errors
    /// [`StoreError::VolumeNamed`](crate::StoreError::VolumeNamed).
    pub async fn begin_volume(&self, volume: Volume) -> Result<()> {
        self.request(move |session| volumes::begin(session, &volume))
            .await
    }

    /// Writes over the record of a volume.
    ///
    /// # Errors
    /// Only the database's own.
    pub async fn put_volume(&self, volume: Volume) -> Result<()> {
        self.request(move |session| volumes::put(session, &volume))
            .await
    }

    /// Records that a volume is being removed; `None` when there is none.
    ///
    /// # Errors
    /// [`StoreError::VolumeUsed`](crate::StoreError::VolumeUsed) while a VM has it.
    pub async fn begin_volume_removal(&self, id: VolumeId) -> Result<Option<Volume>> {
        self.request(move |session| volumes::begin_removal(session, id))
            .await
    }

    /// Drops the record of a volume whose disk is gone.
    ///
    /// # Errors
    /// Only the database's own.
    pub async fn forget_volume(&self, id: VolumeId) -> Result<()> {
        self.request(move |session| volumes::forget(session, id))
            .await
    }

    /// Which VM has which volume, the VMs in the order of their age.
    ///
    /// # Errors
    /// Only the database's own.
    pub async fn attachments(&self) -> Result<Vec<Attachment>> {
        self.request(|session| volumes::attachments(session)).await
    }

    /// Gives a VM a volume. Asked for again in the same way it is a success.
    ///
    /// # Errors
    /// [`StoreError::NotAttached`](crate::StoreError::NotAttached) with the reason,
    /// [`StoreError::NotFound`](crate::StoreError::NotFound),
    /// [`StoreError::Leaving`](crate::StoreError::Leaving).
    pub async fn attach_volume(&self, new: Attachment) -> Result<()> {
        self.request(move |session| volumes::attach(session, &new))
            .await
    }

    /// Takes a volume from a VM. Whether it had it.
    ///
    /// # Errors
    /// Only the database's own.
    pub async fn detach_volume(&self, volume: VolumeId, vm: VmId) -> Result<bool> {
        self.request(move |session| volumes::detach(session, volume, vm))
            .await
    }
}
