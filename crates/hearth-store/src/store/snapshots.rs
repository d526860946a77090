//! Requests about snapshots.

use hearth_types::ids::{SnapshotId, VmId};
use hearth_types::snapshot::Snapshot;
use jiff::Timestamp;

use super::Store;
use crate::{LeaseRanges, NewVm, Result, VmRow, snapshots};

impl Store {
    /// Every snapshot, oldest first.
    ///
    /// # Errors
    /// Only the database's own.
    pub async fn snapshots(&self) -> Result<Vec<Snapshot>> {
        self.request(|session| snapshots::read(session)).await
    }

    /// Writes a snapshot down whose disks are about to be made.
    ///
    /// # Errors
    /// [`StoreError::SnapshotNamed`](crate::StoreError::SnapshotNamed).
    pub async fn begin_snapshot(&self, snapshot: Snapshot) -> Result<()> {
        self.request(move |session| snapshots::begin(session, &snapshot))
            .await
    }

    /// Writes over the record of a snapshot.
    ///
    /// # Errors
    /// Only the database's own.
    pub async fn put_snapshot(&self, snapshot: Snapshot) -> Result<()> {
        self.request(move |session| snapshots::put(session, &snapshot))
            .await
    }

    /// Records that a snapshot is being removed.
    ///
    /// # Errors
    /// [`StoreError::SnapshotUsed`](crate::StoreError::SnapshotUsed) while a VM's disks are still to be made of it.
    pub async fn begin_snapshot_removal(&self, snapshot: Snapshot) -> Result<()> {
        self.request(move |session| snapshots::begin_removal(session, &snapshot))
            .await
    }

    /// Drops the record of a snapshot whose disks are gone.
    ///
    /// # Errors
    /// Only the database's own.
    pub async fn forget_snapshot(&self, id: SnapshotId) -> Result<()> {
        self.request(move |session| snapshots::forget(session, id))
            .await
    }

    /// Records a VM whose disks are to be made of a snapshot, and that they are.
    ///
    /// # Errors
    /// As [`Store::create_vm`], and [`StoreError::SnapshotGone`](crate::StoreError::SnapshotGone).
    pub async fn create_vm_of(
        &self,
        origin: Snapshot,
        new: NewVm,
        ranges: LeaseRanges,
        now: Timestamp,
    ) -> Result<VmRow> {
        self.request(move |session| snapshots::create_vm(session, new, &origin, ranges, now))
            .await
    }

    /// The snapshot that a VM's disks are still to be made of.
    ///
    /// # Errors
    /// Only the database's own.
    pub async fn origin(&self, vm: VmId) -> Result<Option<Snapshot>> {
        self.request(move |session| snapshots::origin(session, vm))
            .await
    }

    /// Records that a VM's disks are made: the snapshot that they came from is free.
    ///
    /// # Errors
    /// Only the database's own.
    pub async fn forget_origin(&self, vm: VmId) -> Result<()> {
        self.request(move |session| snapshots::forget_origin(session, vm))
            .await
    }
}
