//! The routes about the daemon as a whole.

use futures::Stream;
use hyper::header::ACCEPT;

use hearth_types::api::{
    ConfigView, DatabaseBackup, DatabaseView, DoctorReport, EventList, HealthView, InfoView,
    Overview, PlanView, Version, Vm,
};
use hearth_types::event::Event;
use hearth_types::history::{Dump, History};
use hearth_types::ids::EventSeq;
use hearth_types::mode::{ModeView, SetMode};
use hearth_types::orphan::{AdoptOrphan, OrphanList, OrphansRemoved, RemoveOrphans};

use crate::lines::sse;
use crate::request::Call;
use crate::{Client, ClientError};

/// After which event to begin; from the first one that is kept when absent.
pub type SinceSeq = Option<EventSeq>;

impl Client {
    /// What the next pass of the daemon's loop would do.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn plan(&self) -> Result<PlanView, ClientError> {
        self.fetch(Call::get(&["v1", "plan"])).await
    }

    /// The host and its VMs at one moment.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn overview(&self) -> Result<Overview, ClientError> {
        self.fetch(Call::get(&["v1", "overview"])).await
    }

    /// The database and its backups.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn database(&self) -> Result<DatabaseView, ClientError> {
        self.fetch(Call::get(&["v1", "db"])).await
    }

    /// Makes a backup of the database.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn back_up_database(&self) -> Result<DatabaseBackup, ClientError> {
        self.fetch(Call::post(&["v1", "db", "backup"])).await
    }

    /// Whether this host has what VMs need.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn doctor(&self) -> Result<DoctorReport, ClientError> {
        self.fetch(Call::get(&["v1", "doctor"])).await
    }

    /// The configuration in force.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn config(&self) -> Result<ConfigView, ClientError> {
        self.fetch(Call::get(&["v1", "config"])).await
    }

    /// The daemon's version.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn version(&self) -> Result<Version, ClientError> {
        self.fetch(Call::get(&["v1", "version"])).await
    }

    /// The mode in force and where it comes from.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn mode(&self) -> Result<ModeView, ClientError> {
        self.fetch(Call::get(&["v1", "mode"])).await
    }

    /// Sets the mode by hand.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn set_mode(&self, set: &SetMode) -> Result<ModeView, ClientError> {
        let call = Call::new(hyper::Method::PUT, &["v1", "mode"]);
        self.fetch(call.json(set)?).await
    }

    /// How a VM's runs ended, and what was done about it.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn history(&self, vm: &str) -> Result<History, ClientError> {
        self.fetch(Call::get(&["v1", "vms", vm, "history"])).await
    }

    /// Writes a guest's memory into a file on the host.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn dump(&self, vm: &str) -> Result<Dump, ClientError> {
        self.fetch(Call::post(&["v1", "vms", vm, "dump"])).await
    }

    /// What is ours and not wanted, wanted and missing, or only looks like ours.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn orphans(&self) -> Result<OrphanList, ClientError> {
        self.fetch(Call::get(&["v1", "orphans"])).await
    }

    /// Removes orphans by hand.
    ///
    /// # Errors
    /// See [`ClientError`]; what failed for one of them is in the answer.
    pub async fn remove_orphans(
        &self,
        asked: &RemoveOrphans,
    ) -> Result<OrphansRemoved, ClientError> {
        let call = Call::post(&["v1", "orphans", "remove"]);
        self.fetch(call.json(asked)?).await
    }

    /// Makes a record again for a VM whose record is lost.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn adopt_orphan(&self, id: &str, asked: &AdoptOrphan) -> Result<Vm, ClientError> {
        let call = Call::post(&["v1", "orphans", id, "adopt"]);
        self.fetch(call.json(asked)?).await
    }

    /// Whether the daemon works.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn health(&self) -> Result<HealthView, ClientError> {
        self.fetch(Call::get(&["health"])).await
    }

    /// Facts about the installation.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn info(&self) -> Result<InfoView, ClientError> {
        self.fetch(Call::get(&["info"])).await
    }

    /// A page of events after `after`, oldest first.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn events(
        &self,
        after: SinceSeq,
        limit: Option<u32>,
    ) -> Result<EventList, ClientError> {
        let call = Call::get(&["v1", "events"])
            .query_some("after", after.map(|seq| seq.0))
            .query_some("limit", limit);
        self.fetch(call).await
    }

    /// Events after `after`, and those to come, until the connection ends. Continue with
    /// the last one's `seq` after a lost connection: nothing is missed.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn follow_events(
        &self,
        after: SinceSeq,
    ) -> Result<impl Stream<Item = Result<Event, ClientError>> + Send + use<>, ClientError> {
        let call = Call::get(&["v1", "events"])
            .query_some("after", after.map(|seq| seq.0))
            .header(ACCEPT, "text/event-stream");
        let name = call.name();
        Ok(sse(name, self.fetch_bytes(call).await?))
    }
}
