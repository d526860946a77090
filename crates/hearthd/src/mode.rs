//! The mode that is in force: what was set by hand and what rules ask for, put together; the
//! rules' causes, looked at before each pass; the stored word, read at start.
//!
//! ```text
//!  PUT /v1/mode ──► by hand ──┐ stored in the database
//!  database, disk ──► rules ──┼──► Book (pure) ──► mode in force ──► planner's gate, executor,
//!  host's breaker ──► rule ───┘        │                             API, metrics, status line
//!                                      └──► event daemon.mode_changed, a pass over everything
//! ```
//! Nothing here decides what a mode forbids: [`hearth_plan::mode::allowed`] does.

mod book;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hearth_plan::mode::{Origin, Stance, allowed};
use hearth_types::event::{NewEvent, Severity};
use hearth_types::mode::{Mode, ModeRule, ModeView, SetMode};
use hearth_types::survey::chain;
use hearth_types::units::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::engine::Engine;
pub use book::Book;
use book::{Change, Word};

/// Where the database keeps what was set by hand.
const SETTING: &str = "mode";

/// The mode of one engine.
#[derive(Debug, Default)]
pub struct Modes {
    book: Mutex<Book>,
    database: Arc<Database>,
}

/// What the transactions of the database say of it.
#[derive(Debug, Default)]
pub struct Database {
    /// The last transaction failed, or none has told yet.
    doubtful: AtomicBool,
    /// One was committed since this was last asked.
    written: AtomicBool,
}

impl Database {
    /// A transaction ended. A failure wakes the loop, which then finds out for itself.
    pub fn told(&self, committed: bool, wake: &Notify) {
        if committed {
            self.written.store(true, Ordering::Relaxed);
        } else if !self.doubtful.swap(true, Ordering::Relaxed) {
            wake.notify_one();
        }
    }
}

impl Modes {
    /// What the transactions of the database are told to.
    #[must_use]
    pub fn database(&self) -> Arc<Database> {
        Arc::clone(&self.database)
    }

    /// The mode in force.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.book.lock().mode()
    }

    /// The mode in force and where it comes from.
    #[must_use]
    pub fn view(&self) -> ModeView {
        self.book.lock().view()
    }

    /// What the planner is told.
    #[must_use]
    pub fn stance(&self) -> Stance {
        self.book.lock().stance()
    }
}

impl Engine {
    /// Whether a step of this origin may be taken at this moment. A plan was made under the
    /// mode of its time; each of its steps asks again.
    pub(crate) fn may(&self, origin: Origin) -> bool {
        allowed(&self.modes.stance(), self.settings.policy.auto, origin)
    }

    /// Whether nothing speaks against writing to the database.
    #[must_use]
    pub fn database_writable(&self) -> bool {
        !self.modes.book.lock().has(ModeRule::DatabaseUnwritable)
    }

    /// Sets the mode by hand: `normal` takes back what was set before. Rules that yield are set
    /// aside until their cause is gone.
    ///
    /// The word holds even if it cannot be stored; the view says so.
    pub async fn set_mode(&self, set: SetMode) -> ModeView {
        let change = self.modes.book.lock().by_hand(set, self.now());
        self.store_word().await;
        self.mode_changed(change).await;
        self.modes.view()
    }

    /// A rule's cause is there, with its reason, or is gone. Whoever finds the cause says it at
    /// each look; nothing happens unless it is news.
    pub async fn mode_rule(&self, rule: ModeRule, cause: Option<String>) {
        let change = self.modes.book.lock().rule(rule, cause, self.now());
        self.mode_changed(change).await;
    }

    /// Reads what was set by hand before the daemon was started.
    pub(crate) async fn recall_mode(&self) {
        match self.parts.store.setting(SETTING).await {
            Ok(Some(value)) => match serde_json::from_value::<Word>(value) {
                Ok(word) => {
                    let change = self.modes.book.lock().recall(word);
                    if let Some(change) = change {
                        tracing::warn!(mode = %change.to, reason = change.reason, "the mode was set by hand before; it still is");
                    }
                }
                Err(error) => {
                    tracing::error!(error = %error, "the stored mode cannot be read; the mode is readonly");
                    self.recall_caution();
                }
            },
            Ok(None) => {}
            Err(error) => {
                tracing::error!(error = %chain(&error), "the stored mode cannot be read; the mode is readonly");
                self.recall_caution();
            }
        }
    }

    /// Something was set by hand and nobody knows what: until it is read, or somebody says
    /// another word, nothing is done that it may have forbidden.
    fn recall_caution(&self) {
        let word = Word::caution(self.now());
        self.modes.book.lock().recall(word);
    }

    /// Looks whether the causes of the daemon's own rules are there. `thorough` also finds a
    /// database that nobody has written to for a while.
    pub(crate) async fn look_at_rules(&self, thorough: bool) {
        let cause = self.disk_full().await;
        if let Some(cause) = cause {
            self.mode_rule(ModeRule::DiskFull, cause).await;
        }
        if let Some(cause) = self.database_unwritable(thorough).await {
            self.mode_rule(ModeRule::DatabaseUnwritable, cause).await;
        }
        if self.modes.book.lock().unstored() {
            self.store_word().await;
        }
    }

    /// Whether the data folder's file system is full; `None` when nobody can say.
    async fn disk_full(&self) -> Option<Option<String>> {
        let folder = self.paths.data();
        let room = match self.parts.disks.room(folder).await {
            Ok(room) => room,
            Err(error) => {
                tracing::warn!(error = %chain(&error), "how much room there is cannot be seen");
                return None;
            }
        };
        let reserve = self.settings.policy.reserve;
        let was = self.modes.book.lock().has(ModeRule::DiskFull);
        let full = reserve.is_full(room.free, room.size, was);
        Some(full.then(|| {
            format!(
                "the file system of {folder} has {} free, and {} are kept for the daemon (DISK_RESERVE)",
                Bytes(room.free / 1024 * 1024),
                Bytes(reserve.of(room.size))
            )
        }))
    }

    /// Whether the database cannot be written; `None` when nothing speaks against it.
    async fn database_unwritable(&self, thorough: bool) -> Option<Option<String>> {
        let database = &self.modes.database;
        let doubtful = database.doubtful.load(Ordering::Relaxed);
        let written = database.written.swap(false, Ordering::Relaxed);
        if !doubtful && (written || !thorough) {
            return None;
        }
        let probed = self.parts.store.probe().await;
        database.doubtful.store(probed.is_err(), Ordering::Relaxed);
        Some(
            probed
                .err()
                .map(|error| format!("the database cannot be written: {}", chain(&error))),
        )
    }

    /// Stores what was set by hand, if that can be done.
    async fn store_word(&self) {
        let word = self.modes.book.lock().word();
        let value = word
            .as_ref()
            .and_then(|word| serde_json::to_value(word).ok());
        match self.parts.store.set_setting(SETTING, value).await {
            Ok(()) => self.modes.book.lock().stored(word.as_ref()),
            Err(error) => {
                tracing::error!(error = %chain(&error), "the mode is held in memory only: it cannot be stored");
            }
        }
    }

    async fn mode_changed(&self, change: Option<Change>) {
        let Some(change) = change else { return };
        let severity = if change.to == Mode::Normal {
            Severity::Info
        } else {
            Severity::Warning
        };
        let event = NewEvent::info("daemon.mode_changed", change.words())
            .severity(severity)
            .details(serde_json::json!({
                "from": change.from, "to": change.to, "by": change.by, "reason": change.reason,
            }));
        self.look_at_everything();
        self.tell(event).await;
    }
}
