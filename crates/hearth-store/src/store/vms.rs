//! Requests about VMs.

use std::sync::Arc;

use hearth_types::ids::VmId;
use hearth_types::status::{Goal, VmStatus};
use hearth_types::units::Span;
use jiff::Timestamp;

use super::Store;
#[cfg(doc)]
use crate::StoreError;
use crate::{
    Created, FindResult, IdempotencyKey, LeaseRanges, NewSpec, NewVm, Reserved, Result, VmRow,
    journal, keys, leases, vms,
};

impl Store {
    /// Records a VM and leases what it needs, or does nothing.
    ///
    /// # Errors
    /// [`StoreError::NameTaken`], [`StoreError::PortTaken`], [`StoreError::AddressTaken`],
    /// [`StoreError::AddressOutside`], [`StoreError::Exhausted`], [`StoreError::Circle`].
    pub async fn create_vm(
        &self,
        new: NewVm,
        ranges: LeaseRanges,
        now: Timestamp,
    ) -> Result<VmRow> {
        self.request(move |session| vms::create(session, new, ranges, now))
            .await
    }

    /// The same, once per key: the VM and its key are recorded in one transaction, and the
    /// same request within a day yields the same VM.
    ///
    /// # Errors
    /// As [`Store::create_vm`], and [`StoreError::KeyReused`].
    pub async fn create_vm_once(
        &self,
        new: NewVm,
        ranges: LeaseRanges,
        key: IdempotencyKey,
        now: Timestamp,
    ) -> Result<Created> {
        self.request(move |session| keys::create(session, new, ranges, &key, now))
            .await
    }

    /// Records a VM as it was recorded once, with the id and the leases that it has, or does
    /// nothing.
    ///
    /// # Errors
    /// [`StoreError::Recorded`], [`StoreError::NameTaken`], [`StoreError::PortTaken`],
    /// [`StoreError::AddressTaken`], [`StoreError::LeaseTaken`], [`StoreError::Circle`].
    pub async fn restore_vm(&self, row: VmRow) -> Result<VmRow> {
        self.request(move |session| vms::restore(session, row))
            .await
    }

    /// Those of these VMs that the journal names, in an open entry or a finished one: this
    /// database has known them. The removal of an orphan says nothing of the kind.
    ///
    /// # Errors
    /// Only the database's own.
    pub async fn journaled(&self, vms: Vec<VmId>) -> Result<Vec<VmId>> {
        self.request(move |session| journal::names(session, vms))
            .await
    }

    /// Every VM as of the last commit, by id, oldest first.
    pub async fn vms(&self) -> Vec<VmRow> {
        self.inner
            .committed
            .read(|rows| rows.values().map(|row| VmRow::clone(row)).collect())
    }

    /// One VM as of the last commit.
    pub async fn vm(&self, id: VmId) -> Option<VmRow> {
        self.inner
            .committed
            .read(|rows| rows.get(&id).map(|row| VmRow::clone(row)))
    }

    /// Looks for a VM by what a person typed: its name, its id, or the beginning of its id
    /// or short id.
    pub async fn find(&self, text: &str) -> FindResult {
        self.inner.committed.read(|rows| find(rows, text))
    }

    /// Records what the user wants now: always a new generation, even if it is the same goal.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Stale`] if `expected_generation` is not the VM's;
    /// [`StoreError::Leaving`] for any other goal of a VM that is being removed.
    pub async fn set_goal(
        &self,
        id: VmId,
        goal: Goal,
        force: bool,
        stop_timeout: Option<Span>,
        expected_generation: Option<u64>,
    ) -> Result<VmRow> {
        self.request(move |session| {
            vms::set_goal(session, id, goal, force, stop_timeout, expected_generation)
        })
        .await
    }

    /// Replaces a VM's specification and adjusts its leases, or does nothing. A VM keeps its
    /// address unless the new specification names another or wants no network.
    ///
    /// # Errors
    /// As [`Store::create_vm`], [`StoreError::NotFound`], [`StoreError::Stale`],
    /// [`StoreError::Leaving`], [`StoreError::Connected`] for another address of a VM that runs.
    pub async fn replace_spec(
        &self,
        id: VmId,
        new: NewSpec,
        ranges: LeaseRanges,
        expected_generation: Option<u64>,
    ) -> Result<VmRow> {
        self.request(move |session| {
            vms::replace_spec(session, id, new, ranges, expected_generation)
        })
        .await
    }

    /// Hands nothing out that these VMs have, which are not recorded here, until it is told of
    /// others. The one of them that is recorded after all gets what it had.
    ///
    /// # Errors
    /// Only the database's own.
    pub async fn reserve(&self, reserved: Vec<Reserved>) -> Result<()> {
        self.request(move |session| {
            session.reserved = reserved;
            Ok(())
        })
        .await
    }

    /// Leases a uid to a VM that has none of its own, because none were leased when it was
    /// made. One that has a uid keeps it.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Exhausted`].
    pub async fn lease_uid(&self, id: VmId, ranges: LeaseRanges) -> Result<VmRow> {
        self.request(move |session| leases::lease_uid(session, id, ranges))
            .await
    }

    /// Records a VM's status. Writes nothing if it is the same.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn set_status(&self, id: VmId, status: VmStatus) -> Result<()> {
        self.request(move |session| vms::set_status(session, id, status))
            .await
    }

    /// Changes a VM's status from what it is at that moment, in one transaction: no other
    /// change comes in between.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn change_status(
        &self,
        id: VmId,
        change: impl FnOnce(&VmRow) -> VmStatus + Send + 'static,
    ) -> Result<VmRow> {
        self.request(move |session| {
            let status = change(session.row(id)?);
            vms::set_status(session, id, status)?;
            Ok(VmRow::clone(session.row(id)?))
        })
        .await
    }

    /// Records a goal and, in the same transaction, the status that `change` makes of the VM
    /// as it is then.
    ///
    /// # Errors
    /// As [`Store::set_goal`].
    pub async fn set_goal_and_status(
        &self,
        id: VmId,
        goal: Goal,
        force: bool,
        stop_timeout: Option<Span>,
        expected_generation: Option<u64>,
        change: impl FnOnce(&VmRow) -> VmStatus + Send + 'static,
    ) -> Result<VmRow> {
        self.request(move |session| {
            vms::set_goal(session, id, goal, force, stop_timeout, expected_generation)?;
            let status = change(session.row(id)?);
            vms::set_status(session, id, status)?;
            Ok(VmRow::clone(session.row(id)?))
        })
        .await
    }

    /// Records several VMs' statuses in one transaction, all or none.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn set_statuses(&self, statuses: Vec<(VmId, VmStatus)>) -> Result<()> {
        self.request(move |session| {
            statuses
                .into_iter()
                .try_for_each(|(id, status)| vms::set_status(session, id, status))
        })
        .await
    }

    /// Deletes a VM's record and gives its leases back.
    ///
    /// # Errors
    /// [`StoreError::StillWanted`] unless its goal is `absent`; [`StoreError::NotFound`].
    pub async fn forget(&self, id: VmId) -> Result<()> {
        self.request(move |session| vms::forget(session, id)).await
    }
}

fn find(rows: &crate::session::Rows, text: &str) -> FindResult {
    let found = |row: &Arc<VmRow>| FindResult::Found(Box::new(VmRow::clone(row)));
    if let Some(row) = rows.values().find(|row| row.spec.name.as_str() == text) {
        return found(row);
    }
    if let Some(row) = text.parse::<VmId>().ok().and_then(|id| rows.get(&id)) {
        return found(row);
    }
    let text = text.to_ascii_lowercase();
    let begins = |row: &&Arc<VmRow>| {
        !text.is_empty()
            && (row.id.to_string().starts_with(&text) || row.id.short().starts_with(&text))
    };
    let matches: Vec<_> = rows.values().filter(begins).collect();
    match matches.as_slice() {
        [] => FindResult::NotFound,
        [row] => found(row),
        several => FindResult::Ambiguous {
            matches: several
                .iter()
                .map(|row| (row.id, row.spec.name.clone()))
                .collect(),
        },
    }
}
