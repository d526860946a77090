//! The handle that the rest of the daemon holds.

mod records;
mod snapshots;
mod templates;
mod thin;
mod vms;
mod volumes;

use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use camino::Utf8Path;
use hearth_types::ids::InstallationId;
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::oneshot;

use crate::offline::Checked;
use crate::open::{self, SCHEMA_VERSION};
use crate::session::Session;
use crate::writer::{self, Committed, Job, Request};
use crate::{IdempotencyKey, IdempotentHit, Result, StoreError, backup, keys, settings};

/// So often is asked again by who only reads and had the lot of those who write.
const READ_AGAIN: u32 = 8;

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
        let rows = crate::vms::load(&conn)
            .map_err(fail)?
            .map_err(|detail| open::corrupt(path, detail))?;
        let cursors = crate::vms::load_cursors(&conn).map_err(fail)?;
        let last_event = crate::events::load_last(&conn).map_err(fail)?;
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

    /// Asks something that writes nothing. It shares a transaction with whoever writes at the time; when there is no
    /// room for what they write, it is asked again: reading needs none.
    async fn read<T: Send + 'static>(
        &self,
        f: impl Fn(&mut Session) -> Result<T> + Clone + Send + 'static,
    ) -> Result<T> {
        for _ in 0..READ_AGAIN {
            match self.request(f.clone()).await {
                Err(StoreError::Full { .. }) => {}
                done => return done,
            }
        }
        self.request(f).await
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
