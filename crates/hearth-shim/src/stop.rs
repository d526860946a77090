//! What the shim does when it is told to end (SIGTERM): the guest goes down first.
//!
//! systemd says so when the host goes down, or when somebody stops the VM's unit or the
//! slice. `hearthd` may be dead by then, so this needs nobody's help:
//!
//! ```text
//!          SIGTERM            the guest's time and a little are over       QUIT_WAIT
//! idle ─────────────► asked ─────────────────────────────────► ended ─────────► killed
//!                       │  a thread asks: the agent, or else     SIGTERM to      SIGKILL
//!                       │  the power button, and then the agent  the VMM
//!                       └── the VMM ends by itself: the record says that it was told to
//! ```

mod ask;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::{AFTER_WORKLOAD, QUIT_WAIT, Stop};
use ask::Asking;

/// What came of it, for the exit record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// SIGTERM came while the VMM lived.
    pub(crate) terminated: bool,
    /// The host was going down then.
    pub(crate) host_down: bool,
}

/// What the thread tells.
#[derive(Debug)]
enum News {
    /// systemd says that the host goes down.
    HostDown,
    /// A line for the VMM's log.
    Line(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    /// Until then the guest may go down by itself.
    Asked(Instant),
    /// Until then the VMM may end by itself.
    Ended(Instant),
    Killed,
}

/// Waits for SIGTERM and acts on it.
#[derive(Debug)]
pub(crate) struct Stopper {
    signal: OwnedFd,
    /// Nothing is done without it; that the signal came is remembered all the same.
    stop: Option<Stop>,
    asking: Asking,
    state: State,
    told: Told,
    news: Option<Receiver<News>>,
}

impl Stopper {
    /// `cage` is the folder of the VMM's sockets if it has one of its own; `user` the
    /// VMM's uid, to whom that folder belongs.
    pub(crate) fn new(
        stop: Option<Stop>,
        cage: Option<OwnedFd>,
        user: Option<u32>,
    ) -> io::Result<Self> {
        Ok(Self {
            signal: crate::signals::descriptor(libc::SIGTERM)?,
            stop,
            asking: Asking { cage, user },
            state: State::Idle,
            told: Told::default(),
            news: None,
        })
    }

    /// Readable when the signal has come.
    pub(crate) fn polled(&self) -> BorrowedFd<'_> {
        self.signal.as_fd()
    }

    /// When something has to be done although nothing comes.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Asked(at) | State::Ended(at) => Some(at),
            State::Idle | State::Killed => None,
        }
    }

    /// Looks whether it is time for something. Gives the signal that the VMM gets now.
    pub(crate) fn step(&mut self, log: &mut impl FnMut(&str)) -> Option<Signal> {
        self.hear(log);
        let now = Instant::now();
        if crate::signals::take(&self.signal) && !self.told.terminated {
            self.told.terminated = true;
            self.begin(now, log);
        }
        match self.state {
            State::Asked(at) if now >= at => {
                log("the guest did not go down in time; the VMM is ended");
                self.state = State::Ended(now + QUIT_WAIT);
                Some(Signal::TERM)
            }
            State::Ended(at) if now >= at => {
                log("the VMM does not end; it is killed");
                self.state = State::Killed;
                Some(Signal::KILL)
            }
            _ => None,
        }
    }

    fn begin(&mut self, now: Instant, log: &mut impl FnMut(&str)) {
        let Some(stop) = self.stop.take() else {
            return;
        };
        let patience = Duration::from_millis(stop.patience_millis) + AFTER_WORKLOAD;
        log("told to end: the guest is asked to go down");
        self.state = State::Asked(now + patience);
        let (teller, news) = channel();
        self.news = Some(news);
        let asking = std::mem::take(&mut self.asking);
        let thread = std::thread::Builder::new().name("stop".to_owned());
        if let Err(error) = thread.spawn(move || asking.run(&stop, now + patience, &teller)) {
            log(&format!("nobody can ask it: {error}"));
            self.state = State::Asked(now);
        }
    }

    fn hear(&mut self, log: &mut impl FnMut(&str)) {
        for news in self.news.iter().flat_map(Receiver::try_iter) {
            match news {
                News::HostDown => self.told.host_down = true,
                News::Line(line) => log(&line),
            }
        }
    }

    /// The VMM is dead: what is to be recorded. A signal that came in the same moment counts.
    pub(crate) fn finish(mut self, log: &mut impl FnMut(&str)) -> Told {
        self.hear(log);
        self.told.terminated |= crate::signals::take(&self.signal);
        self.told
    }
}
