//! The writer thread: takes requests off the queue, commits them in groups, answers.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use hearth_types::ids::VmId;

use crate::session::{Rows, Session};
use crate::{Result, VmRow};

/// The most requests that share a transaction: bounds how long the first one waits.
const GROUP: usize = 64;

/// Answers a request, once it is known whether the transaction was committed.
pub(crate) type Answer = Box<dyn FnOnce(Result<()>) + Send>;
/// A request: runs inside the transaction, in a savepoint of its own.
pub(crate) type Request = Box<dyn FnOnce(&mut Session) -> Answer + Send>;

/// What the writer is asked to do.
pub(crate) enum Job {
    /// A request: it shares a transaction with others.
    Request(Request),
    /// Something that no transaction may be open for.
    Between(Box<dyn FnOnce(&Session) + Send>),
}

/// Who is told of each transaction: how long it took, and whether it was committed.
pub(crate) type Told = Box<dyn Fn(Duration, bool) + Send + Sync>;

/// The state as of the last commit, for readers.
pub(crate) struct Committed {
    rows: RwLock<Rows>,
    last_event: AtomicU64,
    /// At most one.
    pub(crate) told: OnceLock<Told>,
}

impl std::fmt::Debug for Committed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Committed").finish_non_exhaustive()
    }
}

impl Committed {
    pub(crate) fn new(session: &Session) -> Self {
        Self {
            rows: RwLock::new(session.rows().clone()),
            last_event: AtomicU64::new(session.last_event),
            told: OnceLock::new(),
        }
    }

    pub(crate) fn read<T>(&self, f: impl FnOnce(&BTreeMap<VmId, Arc<VmRow>>) -> T) -> T {
        // Nothing panics while it holds the lock, and a poisoned map is still a whole one:
        // each change is a single insertion or removal.
        f(&self.rows.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn last_event(&self) -> u64 {
        self.last_event.load(Ordering::Acquire)
    }

    fn publish(&self, session: &Session, changes: Vec<(VmId, Option<Arc<VmRow>>)>) {
        if !changes.is_empty() {
            let mut rows = self.rows.write().unwrap_or_else(PoisonError::into_inner);
            for (id, row) in changes {
                match row {
                    Some(row) => rows.insert(id, row),
                    None => rows.remove(&id),
                };
            }
        }
        self.last_event.store(session.last_event, Ordering::Release);
    }
}

/// Works until every handle is gone.
pub(crate) fn run(mut session: Session, queue: &Receiver<Job>, committed: &Committed) {
    let mut next = None;
    while let Some(job) = next.take().or_else(|| queue.recv().ok()) {
        let first = match job {
            Job::Request(request) => request,
            Job::Between(work) => {
                work(&session);
                continue;
            }
        };
        let mut group = vec![first];
        while group.len() < GROUP && next.is_none() {
            match queue.try_recv() {
                Ok(Job::Request(request)) => group.push(request),
                Ok(other) => next = Some(other),
                Err(_) => break,
            }
        }
        commit_group(&mut session, group, committed);
    }
}

pub(crate) fn commit_group(session: &mut Session, group: Vec<Request>, committed: &Committed) {
    let mut answers = Vec::with_capacity(group.len());
    let mut group = group.into_iter();
    let begun = Instant::now();
    let result = session.transaction(
        |session| {
            for request in group.by_ref() {
                answers.push(request(session));
                if session.conn.is_autocommit() {
                    break;
                }
            }
        },
        |session, changes| committed.publish(session, changes),
    );
    if let Some(told) = committed.told.get() {
        told(begun.elapsed(), result.is_ok());
    }
    if let Err(error) = &result {
        tracing::error!(
            error = %hearth_types::survey::chain(error),
            "a transaction of the database failed; nothing of it was recorded"
        );
    }
    for answer in answers {
        answer(result.clone());
    }
    // What was not reached when the transaction broke off is tried by itself.
    for request in group {
        commit_group(session, vec![request], committed);
    }
}
