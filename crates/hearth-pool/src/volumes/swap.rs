//! Volumes that are what others were at a moment, and that take their place.

use camino::Utf8Path;
use hearth_disk::{DiskError, Made};
use hearth_types::thin::{ThinKind, ThinState};
use hearth_types::units::Bytes;

use super::{Present, ThinVolumes, failed, volume_name};
use crate::thin::Under;

impl ThinVolumes {
    /// A volume of the same kind: one of the pool is snapshotted, a file is copied as files are.
    pub(super) async fn same_kind(
        &self,
        source: &Utf8Path,
        path: &Utf8Path,
        size: Bytes,
        owner: u32,
    ) -> Result<Made, DiskError> {
        let _lock = self.lock(&volume_name(path)).await;
        if let Present::Thin(device) = self.present(path).await?
            && device.state == ThinState::Ready
        {
            return self.keep(device, path, size, owner).await;
        }
        match self.present(source).await? {
            Present::Thin(origin) => self.snapshot(&origin, source, path, size, owner).await,
            Present::File | Present::Nothing => {
                self.files.duplicate(source, path, size, owner).await
            }
        }
    }

    /// The volume of an image with what another one has: a snapshot that is never switched on, so that
    /// snapshots of it suspend nothing.
    pub(super) async fn image_of_same_kind(
        &self,
        source: &Utf8Path,
        path: &Utf8Path,
        size: Bytes,
    ) -> Result<Made, DiskError> {
        let _lock = self.lock(&volume_name(path)).await;
        if let Present::Thin(device) = self.present(path).await?
            && device.state == ThinState::Ready
        {
            return Ok(Made::Present);
        }
        match self.present(source).await? {
            Present::Thin(origin) => {
                self.share(&origin, source, path, size, ThinKind::Image)
                    .await?;
                Ok(Made::Snapshot)
            }
            Present::File | Present::Nothing => self.files.duplicate(source, path, size, 0).await,
        }
    }

    /// How large it is: the ledger knows, also of one that is off.
    pub(super) async fn size_of(&self, path: &Utf8Path) -> Result<Bytes, DiskError> {
        match self.present(path).await? {
            Present::Thin(device) => Ok(Bytes(device.bytes)),
            Present::File | Present::Nothing => self.files.size(path).await,
        }
    }

    /// Whether a duplicate shares blocks.
    pub(super) async fn shares(
        &self,
        source: &Utf8Path,
        path: &Utf8Path,
    ) -> Result<bool, DiskError> {
        match self.present(source).await? {
            Present::Thin(_) => Ok(true),
            Present::File | Present::Nothing => self.files.clones_at_once(source, path).await,
        }
    }

    /// Puts a volume in the place of another one.
    ///
    /// ```text
    ///  both named ─► the old one deleting: its name is free ─► the new one has it ─► the old one gone
    /// ```
    /// Each arrow is one entry of the ledger; begun again, it goes on from where it was: the node of the
    /// new one is the last to go, and tells that its device has been renamed. The new one
    /// is off then: its name is that of its device, and it is switched on before the next start.
    pub(super) async fn swap(&self, path: &Utf8Path, new: &Utf8Path) -> Result<(), DiskError> {
        let name = volume_name(path);
        let _lock = self.lock(&name).await;
        let what = "put another volume in the place of";
        let named = self.thins.find(&name).await.map_err(failed(what, path))?;
        let nameless = self.thins.find(&volume_name(new)).await;
        let nameless = nameless.map_err(failed(what, path))?.is_none();
        if named.is_some() && nameless && matches!(self.under(new).await?, Under::Node(_)) {
            // Cut off between the ledger and the folder: its device has the name already.
            self.files.remove(path).await?;
            return self.files.remove(new).await;
        }
        match self.present(new).await? {
            Present::Thin(device) => {
                self.thins.up().await.map_err(failed(what, path))?;
                let swapped = self.thins.take_over(&device, named, &name).await;
                swapped.map_err(failed(what, path))?;
                // Nodes, or the file that the old one was.
                self.files.remove(path).await?;
                self.files.remove(new).await
            }
            Present::File => {
                self.files.replace(path, new).await?;
                let removed = self.thins.remove(|device| device.name == name).await;
                removed.map_err(failed(what, path))
            }
            // It was put there before.
            Present::Nothing => match self.present(path).await? {
                Present::Nothing => self.files.replace(path, new).await,
                Present::Thin(_) => Ok(()),
                // The device that it came in the place of may still be there.
                Present::File => {
                    let removed = self.thins.remove(|device| device.name == name).await;
                    removed.map_err(failed(what, path))
                }
            },
        }
    }
}
