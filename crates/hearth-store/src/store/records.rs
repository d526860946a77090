//! Requests about what is kept of the past: the journal, the events, the history of VMs.

use hearth_types::event::{Event, NewEvent};
use hearth_types::history::HistoryEntry;
use hearth_types::ids::{EventSeq, IntentId, VmId};
use jiff::Timestamp;
use serde_json::Value;

use super::Store;
#[cfg(doc)]
use crate::StoreError;
use crate::{OpenIntentRow, Result, events, history, journal};

impl Store {
    /// Writes down what is about to be done to the host.
    ///
    /// # Errors
    /// Only the database's own.
    pub async fn begin(&self, vm: Option<VmId>, step: Value, now: Timestamp) -> Result<IntentId> {
        self.request(move |session| journal::begin(session, vm, &step, now))
            .await
    }

    /// Writes down how it went. Finishing twice keeps the first outcome.
    ///
    /// # Errors
    /// Only the database's own.
    pub async fn finish(&self, id: IntentId, outcome: &str, now: Timestamp) -> Result<()> {
        self.close_intents(vec![id], outcome, now).await
    }

    /// Journal entries that were begun and not finished, oldest first.
    ///
    /// # Errors
    /// Only the database's own.
    pub async fn open_intents(&self) -> Result<Vec<OpenIntentRow>> {
        self.request(|session| journal::open_entries(session)).await
    }

    /// Closes several entries with the same outcome.
    ///
    /// # Errors
    /// Only the database's own.
    pub async fn close_intents(
        &self,
        ids: Vec<IntentId>,
        outcome: &str,
        now: Timestamp,
    ) -> Result<()> {
        let outcome = outcome.to_owned();
        self.request(move |session| journal::finish(session, &ids, &outcome, now))
            .await
    }

    /// Appends to the event log.
    ///
    /// # Errors
    /// Only the database's own.
    pub async fn event(&self, event: NewEvent, now: Timestamp) -> Result<Event> {
        self.request(move |session| events::append(session, event, now))
            .await
    }

    /// Up to `limit` events after the given one, oldest first. The log is bounded: the first
    /// one may be later than `after` + 1.
    ///
    /// # Errors
    /// Only the database's own.
    pub async fn events(&self, after: EventSeq, limit: usize) -> Result<Vec<Event>> {
        self.read(move |session| events::read(session, after, limit))
            .await
    }

    /// The newest event's position as of the last commit; 0 if there is none.
    pub async fn last_event(&self) -> EventSeq {
        EventSeq(self.inner.committed.last_event())
    }

    /// Adds how a run of a VM ended; the oldest ones go.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn add_history(&self, vm: VmId, entry: HistoryEntry) -> Result<()> {
        self.request(move |session| history::add(session, vm, &entry))
            .await
    }

    /// Changes the newest end of a VM's runs, if one is kept.
    ///
    /// # Errors
    /// Only the database's own.
    pub async fn amend_history(
        &self,
        vm: VmId,
        change: impl FnOnce(&mut HistoryEntry) + Send + 'static,
    ) -> Result<()> {
        self.request(move |session| history::amend(session, vm, change))
            .await
    }

    /// How a VM's runs ended, the newest first.
    ///
    /// # Errors
    /// Only the database's own.
    pub async fn history(&self, vm: VmId) -> Result<Vec<HistoryEntry>> {
        self.read(move |session| history::read(session, vm)).await
    }
}
