//! What the operator has set: how long is waited, how often is tried, and when it is enough.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use hearth_types::spec::BootstrapPolicy;

use crate::mode::{Reserve, Stance, Switches};
use crate::storm::StormPolicy;

/// What to do with orphans of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OrphanAction {
    /// Remove them.
    Remove,
    /// Remove those whose VM the journal names: this database made it and was told to remove
    /// it. Report the others: they may be all that is left of a record that was lost.
    Proven,
    /// Only say that they are there.
    Report,
}

/// The operator's choices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// An orphan is left alone until it is this old.
    pub orphan_grace: Duration,
    /// If a pass finds more orphans to remove than this, it removes none and says so.
    pub orphan_cap: usize,
    /// Orphaned processes other than VMMs.
    pub orphan_processes: OrphanAction,
    /// VMMs that run and have no record.
    pub orphan_vmms: OrphanAction,
    /// Orphaned units.
    pub orphan_units: OrphanAction,
    /// Orphaned TAPs.
    pub orphan_taps: OrphanAction,
    /// Orphaned VM folders.
    pub orphan_dirs: OrphanAction,
    /// First wait before a restart; doubles with each failure in a row.
    pub backoff_first: Duration,
    /// The longest wait before a restart.
    pub backoff_max: Duration,
    /// A run that lasted this long clears the count of failures.
    pub stable_after: Duration,
    /// After the stop timeout: how long the power button may take before QMP quit.
    pub power_button_wait: Duration,
    /// How long the VMM may take to quit before it is killed.
    pub quit_wait: Duration,
    /// A pass is due at least this often.
    pub resync: Duration,
    /// Which VMs are started again after a reboot of the host.
    pub bootstrap: BootstrapPolicy,
    /// How long an automatic start waits for the VMs that it comes after.
    pub after_wait: Duration,
    /// What may be done without the user's word.
    pub auto: Switches,
    /// The mode in force.
    pub stance: Stance,
    /// How much of the data folder's file system is kept free.
    pub reserve: Reserve,
    /// The circuit breaker of each VM.
    pub breaker: BreakerPolicy,
    /// The circuit breaker of the host.
    pub host_breaker: HostBreakerPolicy,
    /// How fast automatic starts follow each other.
    pub storm: StormPolicy,
}

/// When a VM's circuit breaker opens, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerPolicy {
    /// So many failures within the window open it; 0: it never opens.
    pub failures: u32,
    /// The window.
    pub window: Duration,
    /// How long it stays open before the first trial; doubles with each trial that fails.
    pub cooldown: Duration,
    /// The longest wait for a trial.
    pub cooldown_max: Duration,
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        Self {
            failures: 5,
            window: Duration::from_secs(600),
            cooldown: Duration::from_secs(300),
            cooldown_max: Duration::from_secs(3600),
        }
    }
}

/// When the host's circuit breaker opens, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostBreakerPolicy {
    /// So many VMs that fail for one cause within the window open it; 0: it never opens.
    pub vms: u32,
    /// Half of the VMs that should run are enough, too, if they are so many.
    pub least: u32,
    /// The window.
    pub window: Duration,
    /// How long it stays open before the first trial; doubles with each trial that fails.
    pub cooldown: Duration,
    /// The longest wait for a trial.
    pub cooldown_max: Duration,
    /// A VM on trial that has run for so long closes it.
    pub hold: Duration,
}

impl Default for HostBreakerPolicy {
    fn default() -> Self {
        Self {
            vms: 5,
            least: 3,
            window: Duration::from_secs(60),
            cooldown: Duration::from_secs(60),
            cooldown_max: Duration::from_secs(900),
            hold: Duration::from_secs(30),
        }
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            orphan_grace: Duration::from_secs(30),
            orphan_cap: 20,
            orphan_processes: OrphanAction::Remove,
            orphan_vmms: OrphanAction::Proven,
            orphan_units: OrphanAction::Remove,
            orphan_taps: OrphanAction::Remove,
            orphan_dirs: OrphanAction::Proven,
            backoff_first: Duration::from_secs(1),
            backoff_max: Duration::from_secs(300),
            stable_after: Duration::from_secs(600),
            power_button_wait: Duration::from_secs(5),
            quit_wait: Duration::from_secs(3),
            resync: Duration::from_secs(60),
            bootstrap: BootstrapPolicy::default(),
            after_wait: Duration::from_secs(300),
            auto: Switches::default(),
            stance: Stance::default(),
            reserve: Reserve::default(),
            breaker: BreakerPolicy::default(),
            host_breaker: HostBreakerPolicy::default(),
            storm: StormPolicy::default(),
        }
    }
}
