//! The daemon's part: which helper is asked, and what becomes of it.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::os::unix::net::UnixStream;
use std::process::Child;
use std::sync::Arc;

use hearth_safeguards::Elsewhere;
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use serde::de::DeserializeOwned;

use super::start::Started;
use super::wire::{self, Call, Reply, Request};
use crate::error::PoolError;
use crate::ground::Place;
use crate::thin::ThinError;

/// So many helpers are kept that have nothing to do: one for changes, one for looks.
const IDLE: usize = 2;
/// So many live at most. More than the guard and the looks can have under way at once hang.
pub(super) const MOST: usize = 16;

/// Starts a helper.
type Start = Box<dyn Fn() -> io::Result<Started> + Send + Sync>;

/// The helpers. Its clones are the same ones. The first is started when it is needed.
#[derive(Clone)]
pub struct Helpers(Arc<Inner>);

struct Inner {
    start: Start,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    idle: Vec<Helper>,
    /// Who works for which thread of this process.
    busy: HashMap<i32, Worker>,
    started: u64,
}

#[derive(Debug, Clone, Copy)]
struct Worker {
    /// `None`: it is a thread of this process, in tests.
    pid: Option<Pid>,
    call: &'static str,
}

/// A helper that nobody else asks.
struct Helper {
    stream: UnixStream,
    process: Option<Child>,
}

impl Helper {
    fn pid(&self) -> Option<Pid> {
        self.process.as_ref().map(Pid::from_child)
    }

    /// It has closed its end, or shall now: it ends at once.
    fn end(self) {
        let Self { stream, process } = self;
        drop(stream);
        if let Some(mut process) = process {
            // Nobody else learns how it ended, and there is nothing to be done about it.
            process.wait().ok();
        }
    }
}

impl fmt::Debug for Helpers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.state.lock();
        f.debug_struct("Helpers")
            .field("idle", &state.idle.len())
            .field("busy", &state.busy)
            .finish()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        for helper in self.state.get_mut().idle.drain(..) {
            helper.end();
        }
    }
}

impl Helpers {
    /// Helpers that are started like this.
    #[must_use]
    pub fn new(start: impl Fn() -> io::Result<Started> + Send + Sync + 'static) -> Self {
        Self(Arc::new(Inner {
            start: Box::new(start),
            state: Mutex::default(),
        }))
    }

    /// How many were started.
    #[must_use]
    pub fn started(&self) -> u64 {
        self.0.state.lock().started
    }

    /// Has a call made, and waits for its answer, however long that takes.
    pub(super) fn ask<T: DeserializeOwned>(
        &self,
        place: &Place,
        call: Call,
    ) -> Result<T, ThinError> {
        let name = call.name();
        let request = Request {
            place: place.clone(),
            call,
        };
        let request = wire::pack(&request).map_err(|source| no_helper("be asked", source))?;
        let mut helper = self.begin(&request)?;
        let said = {
            let _at_work = self.at_work(&helper, name);
            wire::receive::<Reply>(&mut helper.stream)
        };
        let pid = helper.pid().map_or(0, |pid| pid.as_raw_nonzero().get());
        let lost = |why: io::Error| PoolError::Helper {
            what: format!("{pid} has ended in the middle of {name}"),
            source: why,
        };
        match said {
            Ok(Some(reply)) => {
                self.keep(helper);
                match reply {
                    Reply::Failed(error) => Err(error.into()),
                    Reply::Done(value) => {
                        serde_json::from_value(value).map_err(|error| lost(error.into()).into())
                    }
                }
            }
            Ok(None) => {
                helper.end();
                Err(lost(io::ErrorKind::UnexpectedEof.into()).into())
            }
            Err(error) => {
                helper.end();
                Err(lost(error).into())
            }
        }
    }

    /// Hands the call to an idle helper, or to a new one. Nothing was begun if it fails.
    fn begin(&self, request: &[u8]) -> Result<Helper, ThinError> {
        use io::Write as _;
        loop {
            let idle = self.0.state.lock().idle.pop();
            let old = idle.is_some();
            let mut helper = match idle {
                Some(helper) => helper,
                None => self.start()?,
            };
            match helper.stream.write_all(request) {
                Ok(()) => return Ok(helper),
                // It was ended while it had nothing to do, and so has begun nothing.
                Err(error) => {
                    helper.end();
                    if !old {
                        return Err(no_helper("be asked", error).into());
                    }
                }
            }
        }
    }

    fn start(&self) -> Result<Helper, PoolError> {
        {
            let mut state = self.0.state.lock();
            if state.busy.len() >= MOST {
                let why = format!("{MOST} are at work and do not come back");
                return Err(no_helper("be started", io::Error::other(why)));
            }
            state.started += 1;
        }
        let Started { stream, process } =
            (self.0.start)().map_err(|source| no_helper("be started", source))?;
        let pid = process.as_ref().map(Child::id);
        tracing::debug!(pid, "a helper process for device-mapper is started");
        Ok(Helper { stream, process })
    }

    fn at_work(&self, helper: &Helper, call: &'static str) -> AtWork<'_> {
        let tid = rustix::thread::gettid().as_raw_nonzero().get();
        let pid = helper.pid();
        let worker = Worker { pid, call };
        self.0.state.lock().busy.insert(tid, worker);
        AtWork { helpers: self, tid }
    }

    fn keep(&self, helper: Helper) {
        let mut state = self.0.state.lock();
        if state.idle.len() < IDLE {
            state.idle.push(helper);
            return;
        }
        drop(state);
        helper.end();
    }
}

/// A helper works for a thread, until this is dropped.
struct AtWork<'a> {
    helpers: &'a Helpers,
    tid: i32,
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.helpers.0.state.lock().busy.remove(&self.tid);
    }
}

impl Elsewhere for Helpers {
    fn of_thread(&self, tid: i32) -> Option<i32> {
        let pid = self.0.state.lock().busy.get(&tid)?.pid?;
        Some(pid.as_raw_nonzero().get())
    }

    fn give_up(&self, tid: i32) {
        // Held, so that it stays a child of ours that nobody has waited for: its pid is its own.
        let state = self.0.state.lock();
        let Some(Worker {
            pid: Some(pid),
            call,
        }) = state.busy.get(&tid)
        else {
            return;
        };
        tracing::warn!(
            pid = pid.as_raw_nonzero().get(),
            call,
            "a helper process does not come back; it is told to break off, and left alone"
        );
        if let Err(error) = kill_process(*pid, Signal::TERM) {
            tracing::debug!(%error, "it cannot be told");
        }
    }
}

fn no_helper(what: &'static str, source: io::Error) -> PoolError {
    PoolError::NoHelper { what, source }
}
