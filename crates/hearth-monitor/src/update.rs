//! What news and keys change.

mod keys;

use hearth_types::api::Overview;
use hearth_types::event::Event;
use hearth_types::ids::VmId;
use hearth_types::orphan::OrphanList;
use jiff::{SignedDuration, Timestamp};

use crate::model::{EVENTS, Link, Model, Notice, Page};
use crate::table;
use crate::view;

/// How long a notice stays.
const NOTICE: SignedDuration = SignedDuration::from_secs(8);

/// A key, as far as the dashboard knows any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// A character that was typed.
    Char(char),
    /// One up.
    Up,
    /// One down.
    Down,
    /// A page up.
    PageUp,
    /// A page down.
    PageDown,
    /// To the beginning.
    Home,
    /// To the end.
    End,
    /// Yes, or more about it.
    Enter,
    /// Back.
    Escape,
    /// Takes a character back.
    Backspace,
    /// Takes all of them back (Ctrl-U).
    Clear,
    /// Ctrl-C.
    Interrupt,
}

/// What became known.
#[derive(Debug, Clone)]
pub enum News {
    /// A key was pressed.
    Key(Key),
    /// The terminal has another size: columns and rows.
    Size(u16, u16),
    /// The daemon told how all is.
    Overview(Box<Overview>),
    /// The daemon does not answer.
    Lost {
        /// Why, in one sentence.
        why: String,
        /// When it is tried again.
        again: Timestamp,
    },
    /// Something happened.
    Event(Box<Event>),
    /// What is ours and not wanted.
    Orphans(OrphanList),
    /// What was asked for was done, or was not: a sentence.
    Acted(Result<String, String>),
    /// Time has passed.
    Tick,
}

/// What may be done to a VM, each after a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A clean stop.
    Stop,
    /// A start of one that does not run and waits for nothing.
    Start,
    /// Starts it now, if it waits for its restart.
    Recover {
        /// Also if its breaker or its restart policy keeps it down.
        force: bool,
    },
}

/// What the program around the dashboard is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// To end.
    Quit,
    /// To show what the VM wrote.
    Logs {
        /// Its id.
        vm: VmId,
    },
    /// To join the person and the VM's console.
    Console {
        /// Its id.
        vm: VmId,
    },
    /// To ask the daemon for this.
    Act {
        /// What.
        action: Action,
        /// The VM's id.
        vm: VmId,
        /// Its name, to tell what came of it.
        name: String,
    },
    /// To ask the daemon now how all is.
    Look,
    /// To ask the daemon for orphans.
    LookForOrphans,
}

impl Model {
    /// Takes in what became known at this moment.
    pub fn update(&mut self, news: News, now: Timestamp) -> Option<Effect> {
        self.now = now;
        let gone = |notice: &Notice| now.duration_since(notice.at) > NOTICE;
        if self.notice.as_ref().is_some_and(gone) {
            self.notice = None;
        }
        match news {
            News::Key(key) => return self.key(key),
            News::Size(columns, rows) => self.resize(columns, rows),
            News::Overview(overview) => self.told(*overview),
            News::Lost { why, again } => self.lose(why, again),
            News::Event(event) => self.happened(*event),
            News::Orphans(orphans) => self.orphans = Some(orphans),
            News::Acted(Ok(text)) => self.say(text, false),
            News::Acted(Err(text)) => self.say(text, true),
            News::Tick => {}
        }
        None
    }

    fn resize(&mut self, columns: u16, rows: u16) {
        self.size = (columns, rows);
        self.rows = view::table_rows(columns, rows);
        self.follow_choice();
        self.scroll_by(0);
    }

    fn told(&mut self, overview: Overview) {
        if let Some(before) = &self.overview {
            // A second answer of the same moment says nothing new of shares.
            if overview.at > before.at {
                self.cpu = table::shares(before, &overview);
            }
        }
        // A database that was restored counts its events anew.
        let newest = self.events.back().map(|event| event.seq);
        if newest.is_some_and(|newest| newest > overview.last_event) {
            self.events.retain(|event| event.seq <= overview.last_event);
        }
        self.overview = Some(overview);
        self.told_at = Some(self.now);
        self.link = Link::Up;
        if let Some(question) = &self.question {
            let vms = self.overview.iter().flat_map(|overview| &overview.vms);
            if !vms.into_iter().any(|vm| vm.id == question.vm) {
                let text = format!("{} is gone.", question.name);
                self.question = None;
                self.say(text, true);
            }
        }
        self.arrange();
        self.scroll_by(0);
    }

    fn lose(&mut self, why: String, again: Timestamp) {
        let since = match &self.link {
            Link::Lost { since, .. } => *since,
            Link::Up | Link::Connecting => self.now,
        };
        self.link = Link::Lost { since, why, again };
        // Nothing could be done upon a yes.
        self.question = None;
    }

    fn happened(&mut self, event: Event) {
        // A stream that was taken up again may begin with what is known.
        if self.events.back().is_some_and(|last| last.seq >= event.seq) {
            return;
        }
        self.events.push_back(event);
        if self.events.len() > EVENTS {
            self.events.pop_front();
        }
        if self.page == Page::Events && self.scroll > 0 {
            // What the person reads stays where it is.
            self.scroll += 1;
            self.scroll_by(0);
        }
    }

    pub(crate) fn say(&mut self, text: String, bad: bool) {
        let at = self.now;
        self.notice = Some(Notice { text, bad, at });
    }

    /// Scrolls a page of text, not beyond its end.
    pub(crate) fn scroll_by(&mut self, lines: isize) {
        let (length, room) = view::page_length(self);
        let most = length.saturating_sub(room);
        self.scroll = self.scroll.saturating_add_signed(lines).min(most);
    }
}
