//! What the writer thread owns: the connection, and the rows as the open transaction has them.
//!
//! Every change of `rows` goes through [`Session::put`] or [`Session::remove`], which keep
//! the old value: a savepoint or transaction that fails takes the rows back, too.

use std::collections::BTreeMap;
use std::sync::Arc;

use camino::Utf8PathBuf;
use hearth_types::ids::VmId;
use rusqlite::Connection;

use crate::{Reserved, Result, StoreError, VmRow};

/// VMs by id.
pub(crate) type Rows = BTreeMap<VmId, Arc<VmRow>>;

/// Where each kind of lease was handed out last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Cursors {
    pub(crate) ip: u32,
    pub(crate) cid: u32,
    pub(crate) uid: u32,
}

#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) path: Utf8PathBuf,
    pub(crate) conn: Connection,
    pub(crate) cursors: Cursors,
    pub(crate) last_event: u64,
    /// What VMs have whose record is lost. Not stored: it is what was seen on the host.
    pub(crate) reserved: Vec<Reserved>,
    rows: Rows,
    /// Old values of the rows that this transaction has changed, oldest first.
    undo: Vec<(VmId, Option<Arc<VmRow>>)>,
}

/// A point that a failed request is taken back to.
struct Mark {
    undo: usize,
    cursors: Cursors,
    last_event: u64,
}

impl Session {
    pub(crate) fn new(
        path: Utf8PathBuf,
        conn: Connection,
        rows: Rows,
        cursors: Cursors,
        last_event: u64,
    ) -> Self {
        Self {
            path,
            conn,
            cursors,
            last_event,
            reserved: Vec::new(),
            rows,
            undo: Vec::new(),
        }
    }

    /// Wraps SQLite's refusals: `session.run("record the VM", |conn| …)`.
    pub(crate) fn run<T>(
        &self,
        what: &'static str,
        f: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T> {
        f(&self.conn).map_err(|error| StoreError::sqlite(&self.path, what, error))
    }

    /// One of the words around each request: parsed once.
    fn say(&self, what: &'static str, word: &'static str) -> Result<()> {
        self.run(what, |conn| conn.prepare_cached(word)?.execute([]))
            .map(drop)
    }

    pub(crate) fn rows(&self) -> &Rows {
        &self.rows
    }

    pub(crate) fn row(&self, id: VmId) -> Result<&Arc<VmRow>> {
        self.rows.get(&id).ok_or(StoreError::NotFound { id })
    }

    pub(crate) fn put(&mut self, row: VmRow) -> Arc<VmRow> {
        let row = Arc::new(row);
        let old = self.rows.insert(row.id, Arc::clone(&row));
        self.undo.push((row.id, old));
        row
    }

    pub(crate) fn remove(&mut self, id: VmId) {
        let old = self.rows.remove(&id);
        self.undo.push((id, old));
    }

    fn mark(&self) -> Mark {
        Mark {
            undo: self.undo.len(),
            cursors: self.cursors,
            last_event: self.last_event,
        }
    }

    fn take_back(&mut self, mark: &Mark) {
        for (id, old) in self.undo.drain(mark.undo..).rev() {
            match old {
                Some(row) => self.rows.insert(id, row),
                None => self.rows.remove(&id),
            };
        }
        self.cursors = mark.cursors;
        self.last_event = mark.last_event;
    }

    /// Runs one request in a savepoint: it happens as a whole or not at all.
    pub(crate) fn savepoint<T>(&mut self, f: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let mark = self.mark();
        self.say("begin", "SAVEPOINT request")?;
        let result = f(self).and_then(|value| {
            self.say("end", "RELEASE request")?;
            Ok(value)
        });
        if result.is_err() {
            self.take_back(&mark);
            // Some failures (no space, I/O) make SQLite roll the whole transaction back by
            // itself; `transaction` notices that. Then there is no savepoint to go back to.
            if !self.conn.is_autocommit() {
                self.run("undo", |conn| {
                    conn.execute_batch("ROLLBACK TO request; RELEASE request")
                })?;
            }
        }
        result
    }

    /// Runs requests in one transaction. On success `changed` gets the rows that are
    /// different now, before anyone is answered.
    pub(crate) fn transaction(
        &mut self,
        requests: impl FnOnce(&mut Self),
        changed: impl FnOnce(&Self, Vec<(VmId, Option<Arc<VmRow>>)>),
    ) -> Result<()> {
        let start = Mark {
            undo: 0,
            ..self.mark()
        };
        let result = self.say("begin", "BEGIN IMMEDIATE").and_then(|()| {
            requests(self);
            self.commit()
        });
        if let Err(error) = result {
            self.take_back(&start);
            if !self.conn.is_autocommit() {
                self.run("roll back", |conn| conn.execute_batch("ROLLBACK"))?;
            }
            return Err(error);
        }
        let ids: std::collections::BTreeSet<_> = self.undo.drain(..).map(|(id, _)| id).collect();
        let now = ids
            .into_iter()
            .map(|id| (id, self.rows.get(&id).cloned()))
            .collect();
        changed(self, now);
        Ok(())
    }

    fn commit(&self) -> Result<()> {
        if self.conn.is_autocommit() {
            // SQLite has rolled back by itself in the middle.
            return Err(StoreError::Full {
                path: self.path.clone(),
            });
        }
        self.say("commit", "COMMIT")
    }
}
