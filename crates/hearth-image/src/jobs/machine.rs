//! What a job does next. Pure: events go in, the next thing to do comes out.
//!
//! ```text
//! resolve ─► download ─► verify ─► unpack ─► seal ─► ready
//!    │ temporary failure, deadline: wait, then the same state again
//!    │ out of attempts, any other failure, too many restarts ──► aborted ─┐
//!    │ somebody's word ─────────────────────────────────────► cancelled ─┤
//!    ◄─────────────────────────────── retry: from the state it ended in ──┘
//! ```
//! A state never goes back: what it has done is on the disk. Later states may have begun before
//! an earlier one is done (layers are unpacked while others are on their way), so a failure says
//! in which of them it happened.

use std::collections::BTreeMap;
use std::time::Duration;

use hearth_types::image_job::JobState;
use serde::{Deserialize, Serialize};

/// How patient a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Attempts in all at finding out what a name leads to. Default 2: a person waits.
    pub resolve: u32,
    /// Attempts at downloading. Default 6, which is half a minute of pauses.
    pub download: u32,
    /// Attempts at each of the states on this host. Default 2.
    pub local: u32,
    /// So often the daemon may end under a job. Default 20: an image that ends it is not tried forever.
    pub restarts: u32,
    /// The first pause; it doubles. Default 1 s.
    pub first_pause: Duration,
    /// The longest pause. Default 30 s.
    pub longest_pause: Duration,
    /// How long a name may take to be resolved, an image to be sealed. Default 10 minutes.
    pub short: Duration,
    /// How long a download, its comparison, and unpacking may take. Default 6 hours.
    pub long: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            resolve: 2,
            download: 6,
            local: 2,
            restarts: 20,
            first_pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(30),
            short: Duration::from_secs(600),
            long: Duration::from_secs(6 * 3600),
        }
    }
}

impl Patience {
    /// Attempts at a state.
    #[must_use]
    pub const fn attempts(&self, state: JobState) -> u32 {
        match state {
            JobState::Resolve => self.resolve,
            JobState::Download => self.download,
            _ => self.local,
        }
    }

    /// How long one attempt at a state may take; time in a queue does not count.
    #[must_use]
    pub const fn deadline(&self, state: JobState) -> Duration {
        match state {
            JobState::Download | JobState::Verify | JobState::Unpack => self.long,
            _ => self.short,
        }
    }

    /// The pause after so many attempts.
    fn pause(&self, attempts: u32) -> Duration {
        let factor = 2_u32.saturating_pow(attempts.saturating_sub(1).min(16));
        self.first_pause
            .saturating_mul(factor)
            .min(self.longest_pause)
    }
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The work of this state, and of all before it, is done.
    Done(JobState),
    /// It failed there.
    Failed {
        /// In this state, which is the job's own or a later one.
        at: JobState,
        /// The same may go better a little later.
        temporary: bool,
    },
    /// The state's deadline has passed.
    TimedOut,
    /// The pause is over.
    Paused,
    /// The daemon has ended under it and is back.
    Restarted,
    /// Somebody does not want it any more.
    Cancel,
    /// Somebody wants it again.
    Retry,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Go on as before.
    Same,
    /// Work, from the job's state on.
    Work,
    /// Wait, then say so.
    Pause(Duration),
    /// It has ended; work that is under way ends, too.
    End,
}

/// Where a job is, as it is written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    state: JobState,
    attempts: BTreeMap<JobState, u32>,
    restarts: u32,
    /// The state in which it ended.
    ended_in: Option<JobState>,
    /// Work waits for a pause to end.
    pausing: bool,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            state: JobState::Resolve,
            attempts: BTreeMap::from([(JobState::Resolve, 1)]),
            restarts: 0,
            ended_in: None,
            pausing: false,
        }
    }
}

impl Machine {
    /// Where it is.
    #[must_use]
    pub const fn state(&self) -> JobState {
        self.state
    }

    /// How often each state was begun.
    #[must_use]
    pub const fn attempts(&self) -> &BTreeMap<JobState, u32> {
        &self.attempts
    }

    /// How often the daemon ended under it.
    #[must_use]
    pub const fn restarts(&self) -> u32 {
        self.restarts
    }

    /// Takes an event in.
    pub fn on(&mut self, event: Event, patience: &Patience) -> Next {
        if self.state.is_end() {
            return match (event, self.ended_in) {
                (Event::Retry, Some(state)) => {
                    *self = Self {
                        state,
                        attempts: BTreeMap::from([(state, 1)]),
                        restarts: 0,
                        ended_in: None,
                        pausing: false,
                    };
                    Next::Work
                }
                _ => Next::Same,
            };
        }
        match event {
            Event::Done(state) => self.done(state),
            Event::Failed { at, temporary } => self.failed(at, temporary, patience),
            Event::TimedOut => self.failed(self.state, true, patience),
            Event::Paused if self.pausing => {
                self.pausing = false;
                *self.attempts.entry(self.state).or_default() += 1;
                Next::Work
            }
            Event::Restarted => {
                self.pausing = false;
                self.restarts += 1;
                if self.restarts > patience.restarts {
                    return self.end(JobState::Aborted, self.state);
                }
                Next::Work
            }
            Event::Cancel => self.end(JobState::Cancelled, self.state),
            Event::Paused | Event::Retry => Next::Same,
        }
    }

    fn done(&mut self, state: JobState) -> Next {
        // What comes late of work that was ended, or twice.
        if self.pausing || state < self.state || state.is_end() {
            return Next::Same;
        }
        self.state = after(state);
        if self.state == JobState::Ready {
            return Next::End;
        }
        *self.attempts.entry(self.state).or_default() += 1;
        Next::Same
    }

    fn failed(&mut self, at: JobState, temporary: bool, patience: &Patience) -> Next {
        if self.pausing {
            return Next::Same;
        }
        let at = if at.is_end() {
            self.state
        } else {
            at.max(self.state)
        };
        // A later state that fails while an earlier one is under way has been begun, too.
        let attempts = self.attempts.entry(at).or_default();
        if at > self.state {
            *attempts += 1;
        }
        let attempts = *attempts;
        if !temporary || attempts >= patience.attempts(at) {
            return self.end(JobState::Aborted, at);
        }
        self.pausing = true;
        Next::Pause(patience.pause(attempts))
    }

    fn end(&mut self, end: JobState, ended_in: JobState) -> Next {
        // A retry goes on where the job itself was: a later state was only begun ahead.
        self.ended_in = Some(self.state.min(ended_in));
        self.state = end;
        self.pausing = false;
        Next::End
    }
}

/// The state after one that is done.
const fn after(state: JobState) -> JobState {
    match state {
        JobState::Resolve => JobState::Download,
        JobState::Download => JobState::Verify,
        JobState::Verify => JobState::Unpack,
        JobState::Unpack => JobState::Seal,
        _ => JobState::Ready,
    }
}

#[cfg(test)]
mod tests;
