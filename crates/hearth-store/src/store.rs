//! The handle that the rest of the daemon holds.

mod snapshots;

use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use camino::Utf8Path;
use hearth_types::event::{Event, NewEvent};
use hearth_types::history::HistoryEntry;
use hearth_types::ids::{EventSeq, InstallationId, IntentId, VmId};
use hearth_types::status::{Goal, VmStatus};
use hearth_types::thin::{NewThin, ThinDevice};
use hearth_types::units::Span;
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::oneshot;

use crate::offline::Checked;
use crate::open::{self, SCHEMA_VERSION};
use crate::session::Session;
use crate::writer::{self, Committed, Job, Request};
use crate::{
    Created, FindResult, IdempotencyKey, IdempotentHit, LeaseRanges, NewSpec, NewVm, OpenIntentRow,
    Reserved, Result, StoreError, VmRow, backup, events, history, journal, keys, leases, settings,
    thin, vms,
};

/// The database of one installation. Clones share it; the last one to go closes it.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    installation: InstallationId,
    committed: Arc<Committed>,
    writer: Writer,
}

/// Who carries requests out.
#[derive(Debug)]
enum Writer {
    Thread {
        queue: Option<Sender<Job>>,
        thread: Mutex<Option<JoinHandle<()>>>,
    },
    /// Whoever asks.
    #[cfg(feature = "in-place")]
    Asker(Box<Mutex<Session>>),
}

impl Drop for Inner {
    /// Waits for the thread, so that the file is closed and free when the last handle is gone.
    fn drop(&mut self) {
        let (queue, thread) = match &mut self.writer {
            Writer::Thread { queue, thread } => (queue, thread),
            #[cfg(feature = "in-place")]
            Writer::Asker(_) => return,
        };
        *queue = None;
        let thread = thread
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the store's thread had panicked");
        }
    }
}

impl Store {
    /// Opens the database, making it if there is none. Blocks while it is checked: a few
    /// milliseconds per megabyte.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], [`StoreError::NewerSchema`] (the file is not touched then),
    /// [`StoreError::Locked`], [`StoreError::Full`], [`StoreError::Io`].
    pub fn open(path: impl AsRef<Utf8Path>) -> Result<Self> {
        let path = path.as_ref();
        let (session, installation) = Self::load(path)?;
        let committed = Arc::new(Committed::new(&session));
        let (queue, requests) = mpsc::channel();
        let shared = Arc::clone(&committed);
        let thread = std::thread::Builder::new()
            .name("hearth-store".to_owned())
            .spawn(move || writer::run(session, &requests, &shared))
            .map_err(|error| StoreError::io("start a thread for", path, error))?;
        let writer = Writer::Thread {
            queue: Some(queue),
            thread: Mutex::new(Some(thread)),
        };
        Ok(Self::of(installation, committed, writer))
    }

    /// The same without a thread: who asks does the work, one transaction for each request, and
    /// lets others go on before it gets its answer. In virtual time no other thread is waited
    /// for, and the order follows from the requests alone.
    ///
    /// # Errors
    /// As [`Store::open`].
    #[cfg(feature = "in-place")]
    pub fn open_in_place(path: impl AsRef<Utf8Path>) -> Result<Self> {
        let (session, installation) = Self::load(path.as_ref())?;
        let committed = Arc::new(Committed::new(&session));
        let writer = Writer::Asker(Box::new(Mutex::new(session)));
        Ok(Self::of(installation, committed, writer))
    }

    fn of(installation: InstallationId, committed: Arc<Committed>, writer: Writer) -> Self {
        let inner = Inner {
            installation,
            committed,
            writer,
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    fn load(path: &Utf8Path) -> Result<(Session, InstallationId)> {
        let conn = open::open(path)?;
        let installation = open::installation(path, &conn)?;
        let fail = |error| StoreError::sqlite(path, "read the database", error);
        let rows = vms::load(&conn)
            .map_err(fail)?
            .map_err(|detail| open::corrupt(path, detail))?;
        let cursors = vms::load_cursors(&conn).map_err(fail)?;
        let last_event = events::load_last(&conn).map_err(fail)?;
        let session = Session::new(path.to_owned(), conn, rows, cursors, last_event);
        Ok((session, installation))
    }

    /// The installation's id, made when the database was.
    #[must_use]
    pub fn installation(&self) -> InstallationId {
        self.inner.installation
    }

    /// Has `told` called after each transaction with how long it took and whether it was
    /// committed, on the writer's thread: it must be quick. The first one to ask is told.
    pub fn on_commit(&self, told: impl Fn(std::time::Duration, bool) + Send + Sync + 'static) {
        // A second one would be told nothing, which is what the doc says.
        drop(self.inner.committed.told.set(Box::new(told)));
    }

    /// The schema's version.
    #[must_use]
    pub fn schema_version(&self) -> u32 {
        SCHEMA_VERSION
    }

    /// Sends a request to the writer and waits for its commit.
    async fn request<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Session) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let request: Request = Box::new(move |session| {
            let result = session.savepoint(f);
            Box::new(move |committed: Result<()>| {
                let result = result.and_then(|value| committed.map(|()| value));
                // Nobody waits any more: the request has taken effect all the same.
                drop(reply.send(result));
            })
        });
        match &self.inner.writer {
            Writer::Thread { queue, .. } => {
                let queue = queue.as_ref().ok_or(StoreError::Stopped)?;
                let job = Job::Request(request);
                queue.send(job).map_err(|_| StoreError::Stopped)?;
            }
            #[cfg(feature = "in-place")]
            Writer::Asker(session) => {
                {
                    let mut session = session.lock().unwrap_or_else(PoisonError::into_inner);
                    writer::commit_group(&mut session, vec![request], &self.inner.committed);
                }
                tokio::task::yield_now().await;
            }
        }
        answer.await.map_err(|_| StoreError::Stopped)?
    }

    /// Writes a whole copy of the database to a file, while others go on, and looks through it.
    /// A file that is there already is replaced when the copy is whole, and not before.
    ///
    /// # Errors
    /// When the copy cannot be written, or is not whole, which means that the database is not.
    pub async fn back_up(&self, to: &Utf8Path) -> Result<Checked> {
        let to = to.to_owned();
        match &self.inner.writer {
            Writer::Thread { queue, .. } => {
                let (reply, answer) = oneshot::channel();
                let file = to.clone();
                let work = Job::Between(Box::new(move |session: &Session| {
                    let copied = backup::copy_pages(&session.conn, &session.path, &file);
                    drop(reply.send(copied));
                }));
                let queue = queue.as_ref().ok_or(StoreError::Stopped)?;
                queue.send(work).map_err(|_| StoreError::Stopped)?;
                answer.await.map_err(|_| StoreError::Stopped)??;
                let finished = tokio::task::spawn_blocking(move || backup::finish(&to));
                finished.await.map_err(|_| StoreError::Stopped)?
            }
            #[cfg(feature = "in-place")]
            Writer::Asker(session) => {
                let session = session.lock().unwrap_or_else(PoisonError::into_inner);
                backup::copy_pages(&session.conn, &session.path, &to)?;
                backup::finish(&to)
            }
        }
    }

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
        self.request(move |session| events::read(session, after, limit))
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
        self.request(move |session| history::read(session, vm))
            .await
    }

    /// A setting of the installation.
    ///
    /// # Errors
    /// Only the database's own.
    pub async fn setting(&self, key: &'static str) -> Result<Option<Value>> {
        self.request(move |session| settings::read(session, key))
            .await
    }

    /// Records a setting of the installation, or forgets it.
    ///
    /// # Errors
    /// Only the database's own.
    pub async fn set_setting(&self, key: &'static str, value: Option<Value>) -> Result<()> {
        self.request(move |session| settings::write(session, key, value.as_ref()))
            .await
    }

    /// The ledger of thin devices, by their ids.
    ///
    /// # Errors
    /// Only the database's own.
    pub async fn thin_devices(&self) -> Result<Vec<ThinDevice>> {
        self.request(|session| thin::read(session)).await
    }

    /// Writes a thin device down that is to be made, under the next free id.
    ///
    /// # Errors
    /// [`StoreError::Exhausted`], or the database's own: one for a name that is taken.
    pub async fn begin_thin(&self, new: NewThin) -> Result<ThinDevice> {
        self.request(move |session| thin::begin(session, new)).await
    }

    /// Writes an entry of the ledger, a new one or over the one of its id.
    ///
    /// # Errors
    /// Only the database's own.
    pub async fn put_thin(&self, device: ThinDevice) -> Result<()> {
        self.request(move |session| thin::put(session, &device))
            .await
    }

    /// Drops an entry of the ledger; one that is gone is a success.
    ///
    /// # Errors
    /// Only the database's own.
    pub async fn forget_thin(&self, id: u32) -> Result<()> {
        self.request(move |session| thin::forget(session, id)).await
    }

    /// Writes something that means nothing, to find out whether the database can be written.
    ///
    /// # Errors
    /// Why it cannot.
    pub async fn probe(&self) -> Result<()> {
        self.request(|session| settings::probe(session)).await
    }

    /// What was answered to an earlier request with this key.
    ///
    /// # Errors
    /// Only the database's own.
    pub async fn idempotent(&self, key: &str, request_hash: &str) -> Result<Option<IdempotentHit>> {
        let (key, hash) = (key.to_owned(), request_hash.to_owned());
        self.request(move |session| keys::look_up(session, &key, &hash))
            .await
    }

    /// Remembers the answer to a request with this key for a day.
    ///
    /// # Errors
    /// Only the database's own.
    pub async fn remember(
        &self,
        key: &str,
        request_hash: &str,
        response: Value,
        now: Timestamp,
    ) -> Result<()> {
        let key = IdempotencyKey {
            key: key.to_owned(),
            hash: request_hash.to_owned(),
        };
        self.request(move |session| keys::remember(session, &key, None, &response, now))
            .await
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
