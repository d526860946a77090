//! What is known, and what the person has chosen.

use std::collections::{HashMap, VecDeque};

use hearth_types::api::{Overview, VmGlance};
use hearth_types::event::Event;
use hearth_types::ids::VmId;
use hearth_types::orphan::OrphanList;
use jiff::Timestamp;

use crate::table::Order;
use crate::text::clean;
use crate::theme::Theme;
use crate::update::Action;

/// Events that are kept to be scrolled through; older ones are in `hearth events`.
pub(crate) const EVENTS: usize = 500;

/// How the daemon answers.
///
/// ```text
/// Connecting ──► Up ⇄ Lost
///      └──────────────► Lost
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// Nothing was heard yet.
    Connecting,
    /// It answers.
    Up,
    /// It does not; what is shown is old.
    Lost {
        /// Since when.
        since: Timestamp,
        /// What went wrong, in one sentence.
        why: String,
        /// When it is tried again.
        again: Timestamp,
    },
}

/// What fills the screen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Page {
    /// VMs, and the newest events below.
    #[default]
    Vms,
    /// All that is known of one VM.
    Detail,
    /// Events.
    Events,
    /// What is being done.
    Work,
    /// Orphans.
    Orphans,
    /// Keys.
    Help,
}

/// A question that waits for its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// What is done upon a yes.
    pub action: Action,
    /// The VM's id: another VM that gets the name meanwhile is not meant.
    pub vm: VmId,
    /// Its name.
    pub name: String,
}

/// A sentence about what was done or could not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Notice {
    pub(crate) text: String,
    pub(crate) bad: bool,
    pub(crate) at: Timestamp,
}

/// The whole dashboard.
#[derive(Debug, Clone)]
pub struct Model {
    /// The terminal's clock.
    pub(crate) now: Timestamp,
    pub(crate) theme: Theme,
    pub(crate) link: Link,
    /// The last that the daemon told.
    pub(crate) overview: Option<Overview>,
    /// When it did, by the terminal's clock.
    pub(crate) told_at: Option<Timestamp>,
    /// Shares of one CPU in per cent, between the last two looks.
    pub(crate) cpu: HashMap<VmId, f64>,
    /// Newest last.
    pub(crate) events: VecDeque<Event>,
    pub(crate) orphans: Option<OrphanList>,
    pub(crate) page: Page,
    pub(crate) order: Order,
    /// What names, images, states and reasons are searched for.
    pub(crate) filter: String,
    /// The person is typing it.
    pub(crate) typing: bool,
    pub(crate) question: Option<Question>,
    pub(crate) notice: Option<Notice>,
    /// The VM that keys are about. It stays the same one when the order changes.
    pub(crate) chosen: Option<VmId>,
    /// VMs that are shown, by their place in the overview: see `table`.
    pub(crate) shown: Vec<usize>,
    /// The first row of the table that is on the screen.
    pub(crate) top: usize,
    /// Rows of the table that fit on the screen, as of the last frame's size.
    pub(crate) rows: usize,
    /// How far a page of text is scrolled.
    pub(crate) scroll: usize,
    pub(crate) size: (u16, u16),
}

impl Model {
    /// A dashboard that knows nothing yet.
    #[must_use]
    pub fn new(theme: Theme, now: Timestamp) -> Self {
        Self {
            now,
            theme,
            link: Link::Connecting,
            overview: None,
            told_at: None,
            cpu: HashMap::new(),
            events: VecDeque::new(),
            orphans: None,
            page: Page::default(),
            order: Order::default(),
            filter: String::new(),
            typing: false,
            question: None,
            notice: None,
            chosen: None,
            shown: Vec::new(),
            top: 0,
            rows: 1,
            scroll: 0,
            size: (80, 24),
        }
    }

    /// How the daemon answers.
    #[must_use]
    pub const fn link(&self) -> &Link {
        &self.link
    }

    /// The number of the newest event that the overview told of.
    #[must_use]
    pub fn last_event(&self) -> Option<hearth_types::ids::EventSeq> {
        self.overview.as_ref().map(|overview| overview.last_event)
    }

    /// The VMs that are shown, in their order.
    pub(crate) fn visible(&self) -> impl ExactSizeIterator<Item = &VmGlance> {
        let vms = self.overview.as_ref().map_or(&[][..], |all| &all.vms);
        self.shown.iter().map(|at| &vms[*at])
    }

    /// The VM that keys are about, if it is shown.
    pub(crate) fn chosen_vm(&self) -> Option<&VmGlance> {
        let chosen = self.chosen?;
        self.visible().find(|vm| vm.id == chosen)
    }

    /// Where the chosen VM is in the table.
    pub(crate) fn chosen_row(&self) -> Option<usize> {
        let chosen = self.chosen?;
        self.visible().position(|vm| vm.id == chosen)
    }

    /// The daemon's clock at this moment, as far as it is known: ages are counted from it.
    pub(crate) fn daemon_now(&self) -> Timestamp {
        match (&self.overview, self.told_at) {
            (Some(overview), Some(told)) => {
                let passed = self.now.duration_since(told);
                overview.at.checked_add(passed).unwrap_or(overview.at)
            }
            _ => self.now,
        }
    }

    /// The name that people know a VM by, fit for a terminal.
    #[must_use]
    pub fn name_of(&self, id: VmId) -> String {
        let vms = self.overview.iter().flat_map(|overview| &overview.vms);
        let known = vms.into_iter().find(|vm| vm.id == id);
        known.map_or_else(|| id.short(), |vm| clean(&vm.name))
    }
}
