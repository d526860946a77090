//! Which VMs are shown, in which order; shares of the CPU.

use std::cmp::{Ordering, Reverse};
use std::collections::HashMap;

use hearth_types::api::{Health, Overview, VmGlance};
use hearth_types::ids::VmId;
use hearth_types::status::Phase;

use crate::model::Model;

/// What the table is sorted by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Column {
    /// The name, from A.
    #[default]
    Name,
    /// The state, what needs somebody first.
    State,
    /// The health, the worst first.
    Health,
    /// The share of the CPU, the largest first.
    Cpu,
    /// Resident memory, the largest first.
    Memory,
    /// How long it has run, the longest first.
    Uptime,
    /// Restarts, the most first.
    Restarts,
}

impl Column {
    /// All of them, as they stand from left to right.
    pub const ALL: [Self; 7] = [
        Self::Name,
        Self::State,
        Self::Health,
        Self::Cpu,
        Self::Memory,
        Self::Uptime,
        Self::Restarts,
    ];

    /// The word above the column, as `--sort` takes it, too.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::State => "state",
            Self::Health => "health",
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Uptime => "uptime",
            Self::Restarts => "restarts",
        }
    }

    /// The next one to the right, and from the last one the first.
    pub(crate) fn next(self) -> Self {
        let at = Self::ALL.iter().position(|column| *column == self);
        Self::ALL[at.map_or(0, |at| (at + 1) % Self::ALL.len())]
    }
}

/// The order of the table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Order {
    /// By which column.
    pub column: Column,
    /// The other way round.
    pub reversed: bool,
}

/// What needs somebody comes first.
const fn urgency(phase: Phase) -> u8 {
    match phase {
        Phase::Failed => 0,
        Phase::Unknown => 1,
        Phase::Backoff => 2,
        Phase::Starting => 3,
        Phase::Stopping => 4,
        Phase::Removing => 5,
        Phase::Paused => 6,
        Phase::Running => 7,
        Phase::Exited => 8,
        Phase::Created => 9,
    }
}

const fn illness(health: Health) -> u8 {
    match health {
        Health::Unhealthy => 0,
        Health::Degraded => 1,
        Health::Unknown => 2,
        Health::Starting => 3,
        Health::Healthy => 4,
        Health::None => 5,
    }
}

impl Model {
    /// Chooses and sorts anew, after the VMs, the filter or the order have changed.
    pub(crate) fn arrange(&mut self) {
        let Some(overview) = &self.overview else {
            return;
        };
        let wanted = self.filter.to_lowercase();
        let vms = &overview.vms;
        let mut shown: Vec<usize> = (0..vms.len())
            .filter(|at| matches(&vms[*at], &wanted))
            .collect();
        let cpu = |vm: &VmGlance| self.cpu.get(&vm.id).copied().unwrap_or(-1.0);
        // The sort is stable and VMs come by name: equals stay in the order of their names.
        shown.sort_by(|a, b| {
            let (a, b) = (&vms[*a], &vms[*b]);
            let by = match self.order.column {
                Column::Name => a.name.cmp(&b.name),
                Column::State => (Reverse(a.breaker), urgency(a.phase))
                    .cmp(&(Reverse(b.breaker), urgency(b.phase))),
                Column::Health => illness(a.health).cmp(&illness(b.health)),
                Column::Cpu => cpu(b).total_cmp(&cpu(a)),
                Column::Memory => b.rss.cmp(&a.rss),
                Column::Uptime => earliest(a).cmp(&earliest(b)),
                Column::Restarts => b.restarts.cmp(&a.restarts),
            };
            if self.order.reversed {
                by.reverse()
            } else {
                by
            }
        });
        self.shown = shown;
        self.keep_choice();
    }

    /// A VM that is shown stays chosen; else the one that has come into its place is.
    fn keep_choice(&mut self) {
        if self.chosen_row().is_none() {
            let at = self.top.min(self.shown.len().saturating_sub(1));
            self.chosen = self.id_at(at);
        }
        self.follow_choice();
    }

    fn id_at(&self, row: usize) -> Option<VmId> {
        self.visible().nth(row).map(|vm| vm.id)
    }

    /// Scrolls as little as needed to have the chosen VM on the screen, and no further than
    /// the last row.
    pub(crate) fn follow_choice(&mut self) {
        let rows = self.rows.max(1);
        self.top = self.top.min(self.shown.len().saturating_sub(rows));
        if let Some(row) = self.chosen_row() {
            self.top = self.top.clamp((row + 1).saturating_sub(rows), row);
        }
    }

    /// Chooses the VM so many rows below, or above; the first and the last are the ends.
    pub(crate) fn choose_by(&mut self, rows: isize) {
        let last = self.shown.len().saturating_sub(1);
        let from = self.chosen_row().unwrap_or_default();
        let to = from.saturating_add_signed(rows).min(last);
        self.chosen = self.id_at(to);
        self.follow_choice();
    }
}

fn matches(vm: &VmGlance, wanted: &str) -> bool {
    let held = if vm.held { "held" } else { "" };
    let breaker = if vm.breaker { "breaker" } else { "" };
    let reason = vm.reason.as_deref().unwrap_or_default();
    let words = [
        &vm.name,
        &vm.image,
        vm.phase.as_str(),
        vm.health.as_str(),
        reason,
        held,
        breaker,
    ];
    wanted.is_empty()
        || words
            .iter()
            .any(|word| word.to_lowercase().contains(wanted))
}

/// The VMs that do not run come last.
fn earliest(vm: &VmGlance) -> (bool, Option<jiff::Timestamp>) {
    (vm.started_at.is_none(), vm.started_at)
}

/// Shares of one CPU in per cent, from what VMMs had used at two moments. A VM that was started
/// anew between them has none.
pub(crate) fn shares(before: &Overview, after: &Overview) -> HashMap<VmId, f64> {
    let passed = after.at.duration_since(before.at).as_secs_f64() * 1000.0;
    if passed <= 0.0 {
        return HashMap::new();
    }
    let earlier: HashMap<VmId, &VmGlance> = before.vms.iter().map(|vm| (vm.id, vm)).collect();
    let share = |vm: &VmGlance| {
        let was = earlier.get(&vm.id)?;
        let used = vm.cpu_millis?.checked_sub(was.cpu_millis?)?;
        let same_run = vm.started_at.cmp(&was.started_at) == Ordering::Equal;
        // 2^52 milliseconds are longer than anything runs.
        #[expect(clippy::cast_precision_loss, reason = "exact below 2^52")]
        let share = used as f64 * 100.0 / passed;
        same_run.then_some((vm.id, share))
    };
    after.vms.iter().filter_map(share).collect()
}
