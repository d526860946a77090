//! The planner's input ([`World`]) and output ([`Plan`]) as data.

mod policy;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use jiff::Timestamp;

use hearth_types::api::Health;
use hearth_types::event::NewEvent;
use hearth_types::ids::{InstallationId, IntentId, VmId};
use hearth_types::names::VmName;
use hearth_types::net::RuleSet;
use hearth_types::observe::{ChangedLimit, Observed, ObservedTap, ObservedUnit};
use hearth_types::process::ProcessIdentity;
use hearth_types::spec::VmSpec;
use hearth_types::status::{Goal, Leases, StopRung, VmStatus};
use hearth_types::units::Span;

use crate::breaker::host::{HostBreaker, HostMemory};
use crate::mode::{Automatic, Origin};
pub use crate::storm::StormPolicy;
pub use policy::{BreakerPolicy, HostBreakerPolicy, OrphanAction, Policy};

/// Everything that a decision may depend on.
#[derive(Debug, Clone, PartialEq)]
pub struct World {
    /// The time of the pass.
    pub now: Timestamp,
    /// The boot the host is in.
    pub boot_id: String,
    /// Whose world it is.
    pub installation: InstallationId,
    /// What the user asked for.
    pub vms: Vec<DesiredVm>,
    /// What the survey found.
    pub observed: Observed,
    /// VMs with a check of their health that has failed for too long and asks for a restart.
    pub ill: BTreeMap<VmId, Ill>,
    /// Journal entries that were begun and not finished.
    pub intents: Vec<OpenIntent>,
    /// What the host is busy with.
    pub load: Load,
    /// What is remembered of the host's circuit breaker.
    pub host: HostMemory,
    /// What is known beside the survey.
    pub facts: Facts,
    /// VMs without a record that the journal names all the same.
    pub journaled: BTreeSet<VmId>,
    /// The operator's choices.
    pub policy: Policy,
}

/// A VM that should be started again, because a check of its health says so and its
/// specification asks for that. Who cannot be checked is not ill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ill {
    /// The VMM of the run that is ill: no other is stopped for it.
    pub vmm: ProcessIdentity,
    /// Since when.
    pub since: Timestamp,
    /// Which check, and why.
    pub reason: String,
}

/// What the host is busy with, as far as starts of VMs are concerned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Load {
    /// VMs whose start is being carried out at this moment.
    pub starting: BTreeSet<VmId>,
    /// Percent of the last ten seconds in which some task waited for a CPU; `None`: unknown.
    pub cpu_pressure: Option<u32>,
    /// Percent of the last ten seconds in which some task waited for memory; `None`: unknown.
    pub memory_pressure: Option<u32>,
}

/// What is known beside the survey, where a start may depend on it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// How those VMs are that others are started after; one that is missing has no checks.
    pub health: BTreeMap<VmId, Health>,
    /// What is missing of the disks of VMs that are to be started in a new boot.
    pub missing_disks: BTreeMap<VmId, String>,
    /// Why the network that all VMs share could not be made the last time.
    pub network_failure: Option<String>,
    /// How much room the thin pool has.
    pub pool: PoolRoom,
    /// VMs with a disk in it. Asked only while somebody waits or should.
    pub on_pool: BTreeSet<VmId>,
}

/// Whether VMs may write into the thin pool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum PoolRoom {
    /// It cannot be told; who waits goes on waiting.
    #[default]
    Unknown,
    /// They may.
    Enough,
    /// It is about to run out, and can get no more.
    Tight {
        /// How much is left, and what bounds it.
        why: String,
    },
}

impl PoolRoom {
    /// Whether it is about to run out.
    #[must_use]
    pub const fn is_tight(&self) -> bool {
        matches!(self, Self::Tight { .. })
    }
}

/// One VM of the database.
#[derive(Debug, Clone, PartialEq)]
pub struct DesiredVm {
    /// Its id.
    pub id: VmId,
    /// What was asked for.
    pub spec: VmSpec,
    /// Grows with every change of spec or goal.
    pub generation: u64,
    /// What the user wants now.
    pub goal: Goal,
    /// Skip the clean rungs when stopping (`--force`, `kill`).
    pub force_stop: bool,
    /// A stop timeout that overrides the spec's for the current stop.
    pub stop_timeout: Option<Span>,
    /// What was leased to it.
    pub leases: Leases,
    /// The status stored last.
    pub status: VmStatus,
}

/// A journal entry that was begun and not finished: its effect may or may not have happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenIntent {
    /// Which entry.
    pub id: IntentId,
    /// The VM it acts for; `None` for shared objects.
    pub vm: Option<VmId>,
    /// When it was begun.
    pub begun_at: Timestamp,
}

/// One thing to do, with all that the executor needs to prove it again when it acts.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Make our bridge, or put it right.
    EnsureBridge,
    /// Take our bridge away: no VM uses it.
    RemoveBridge,
    /// Make our nftables table say exactly this, in one transaction.
    ApplyRules(RuleSet),
    /// Take our nftables table away.
    RemoveRules,
    /// Run the name server with these names.
    EnsureNames(BTreeMap<String, Ipv4Addr>),
    /// End the name server.
    RemoveNames,

    /// Make the VM's folder, root disk and data volumes.
    EnsureDisks {
        /// For which VM.
        vm: VmId,
    },
    /// Make the VM's TAP, or put it right.
    EnsureTap {
        /// For which VM.
        vm: VmId,
    },
    /// Put back limits of the VM's unit that somebody has changed, as far as the VMM keeps
    /// within them. The executor compares again when it acts.
    EnsureLimits {
        /// For which VM.
        vm: VmId,
        /// Its VMM, which must live in that unit.
        identity: ProcessIdentity,
        /// What was found.
        limits: Vec<ChangedLimit>,
    },
    /// Start the VMM. The executor writes the outcome into the status.
    StartVmm {
        /// For which VM.
        vm: VmId,
        /// By the restart policy rather than by the user's word.
        restart: bool,
    },
    /// Change what is wanted, as the user's restart policy asks for after a reboot. The
    /// executor does nothing if the generation is another one by then: the user's word is newer.
    SetGoal {
        /// For which VM.
        vm: VmId,
        /// The new goal.
        goal: Goal,
        /// The generation that the decision was taken on; it grows by one.
        generation: u64,
    },
    /// Take a living VMM, found by its mark, as this VM's.
    Adopt {
        /// For which VM.
        vm: VmId,
        /// The process.
        identity: ProcessIdentity,
    },
    /// Stop the vCPUs.
    Pause {
        /// For which VM.
        vm: VmId,
        /// The process.
        identity: ProcessIdentity,
    },
    /// Let the vCPUs run.
    Resume {
        /// For which VM.
        vm: VmId,
        /// The process.
        identity: ProcessIdentity,
    },
    /// Climb one rung of the clean stop. Does not wait for the end. The executor stores the
    /// rung that it took with [`crate::transition::rung_taken`]; if a rung cannot work (the guest has no
    /// agent) it takes [`crate::transition::skip_rung`] at once.
    Stop {
        /// For which VM.
        vm: VmId,
        /// The process.
        identity: ProcessIdentity,
        /// Which rung.
        rung: StopRung,
    },
    /// Store a new status; nothing on the host changes.
    SetStatus {
        /// For which VM.
        vm: VmId,
        /// The new status.
        status: Box<VmStatus>,
        /// What to tell the world.
        event: Option<Box<NewEvent>>,
    },
    /// Remove the VM's TAP.
    RemoveTap {
        /// For which VM.
        vm: VmId,
        /// The TAP as it was seen.
        tap: ObservedTap,
    },
    /// Forget the connections of an address before it can be leased again.
    FlushConntrack {
        /// For which VM.
        vm: VmId,
        /// The address.
        ip: Ipv4Addr,
    },
    /// Remove the VM's folder with its disks.
    RemoveDir {
        /// For which VM.
        vm: VmId,
    },
    /// Delete the VM's record and give its leases back. Always the last step of a VM.
    Forget {
        /// For which VM.
        vm: VmId,
    },

    /// Kill a process of ours that belongs to no VM, or a second VMM of one.
    KillOrphan {
        /// The process.
        identity: ProcessIdentity,
    },
    /// Remove a TAP of ours that belongs to no VM.
    RemoveOrphanTap {
        /// The TAP as it was seen.
        tap: ObservedTap,
    },
    /// Remove a unit of ours that belongs to no VM and has no living process of one: stop it,
    /// and let systemd forget it.
    RemoveOrphanUnit {
        /// The unit as it was seen.
        unit: ObservedUnit,
    },
    /// Remove a VM folder of ours that belongs to no VM.
    RemoveOrphanDir {
        /// The id it is named after.
        vm: VmId,
    },
}

/// A step with its reason.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedStep {
    /// What to do.
    pub step: Step,
    /// Why, in one sentence for people.
    pub reason: String,
    /// Who asked for it.
    pub origin: Origin,
}

/// A step that is due and not taken.
#[derive(Debug, Clone, PartialEq)]
pub struct Held {
    /// The step.
    pub planned: PlannedStep,
    /// What holds it: `mode readonly`, or a key of the configuration.
    pub by: String,
}

/// Something that is not acted on, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The VM it is about, if any.
    pub vm: Option<(VmId, VmName)>,
    /// One sentence for people.
    pub text: String,
}

/// What the next pass does.
///
/// The steps of one VM are taken in order; a step that fails ends that VM's steps for this
/// pass. Shared steps that make things come before all VM steps, those that remove come last.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    /// The steps.
    pub steps: Vec<PlannedStep>,
    /// What is left alone, and why.
    pub notes: Vec<Note>,
    /// Steps that would be due and that the mode or a switch holds.
    pub held: Vec<Held>,
    /// When the next pass is due even if nothing happens.
    pub next_pass: Option<Timestamp>,
    /// The same without what is due at once: steps of this plan bring that about, and who takes
    /// them looks again when they have ended.
    pub next_timer: Option<Timestamp>,
    /// When it was made.
    pub(crate) made_at: Timestamp,
    /// Some VM that is to be started after a reboot waits for the network that all share.
    pub network_awaited: bool,
    /// The host's circuit breaker, unless it is closed.
    pub host_breaker: Option<HostBreaker>,
    /// What is to be remembered of it.
    pub host: HostMemory,
}

impl Plan {
    /// Adds a step.
    pub(crate) fn push(&mut self, step: Step, reason: impl Into<String>) {
        self.steps.push(PlannedStep {
            step,
            reason: reason.into(),
            origin: Origin::Automatic(Automatic::Cleanup),
        });
    }

    /// Adds a note.
    pub(crate) fn note(&mut self, vm: Option<&DesiredVm>, text: impl Into<String>) {
        self.notes.push(Note {
            vm: vm.map(|vm| (vm.id, vm.spec.name.clone())),
            text: text.into(),
        });
    }

    /// A pass is due at `at` at the latest.
    pub(crate) fn due(&mut self, at: Timestamp) {
        self.next_pass = Some(self.next_pass.map_or(at, |next| next.min(at)));
        if at > self.made_at {
            self.next_timer = Some(self.next_timer.map_or(at, |next| next.min(at)));
        }
    }
}
