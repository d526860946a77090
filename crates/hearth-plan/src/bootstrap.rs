//! What is done about the VMs after a reboot of the host: pure functions.
//!
//! ```text
//! new boot ──► wanted by its user? ── no ──► stopped
//!                    │ yes
//!              a word that no pass has taken up, or a start it asked for? ── yes ──► due
//!                    │ no
//!              restart policy wants it? ── no ──► left
//!                    │ yes
//!              bootstrap policy:  restart-all ──────────────────────────────► due
//!                                 restart-healthy: ran, not failing? ── yes ► due, no ► left
//!                                 manual ───────────────────────────────────► left
//!
//! due ──► network and disks verified ──► those it is started after ──► its turn ──► started
//! left, due ──► the user's word (start, recover, stop) ──► as the user said
//! ```
//! What is decided is stored with the VM's status, once for each boot: a daemon that is
//! started again in the same boot decides nothing anew.

use jiff::Timestamp;

use hearth_types::ids::VmId;
use hearth_types::spec::{BootstrapPolicy, RestartPolicy, VmSpec};
use hearth_types::status::{Bootstrap, Fate, Goal, Phase, VmStatus};

use crate::index::{effective_goal, word_is_new};
use crate::mode::Automatic;
use crate::model::{DesiredVm, Policy, World};
use crate::transition::elapsed;

/// What a new boot means for a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is started.
    Start,
    /// It is left stopped, and why.
    Left {
        /// The policy that says so; `None`: its restart policy.
        policy: Option<BootstrapPolicy>,
        /// One sentence for people.
        reason: String,
    },
    /// Its user had stopped it.
    Stopped,
    /// Nothing: it had ended before, or is being removed.
    Nothing,
}

/// The policy that holds for a VM.
#[must_use]
pub fn policy_of(policy: &Policy, spec: &VmSpec) -> BootstrapPolicy {
    spec.bootstrap.unwrap_or(policy.bootstrap)
}

/// Whether no pass has taken up this VM in the present boot, and there is something to take up.
#[must_use]
pub fn is_untaken(world: &World, vm: &DesiredVm) -> bool {
    match &vm.status.vmm {
        Some(vmm) => vmm.boot_id != world.boot_id,
        None => {
            let boot = vm.status.boot_id.as_ref();
            boot.is_some_and(|boot| *boot != world.boot_id)
        }
    }
}

/// Whether a VM is still to be started by the bootstrap: what it needs is verified first.
#[must_use]
pub fn is_due(world: &World, vm: &DesiredVm) -> bool {
    let status = &vm.status;
    let due = || {
        status
            .bootstrap
            .as_ref()
            .is_some_and(|b| b.fate == Fate::Due)
    };
    is_untaken(world, vm) || (status.vmm.is_none() && due())
}

/// What a new boot means for a VM that no pass has taken up in it.
#[must_use]
pub fn judge(world: &World, vm: &DesiredVm) -> Verdict {
    let status = &vm.status;
    match vm.goal {
        Goal::Stopped => return Verdict::Stopped,
        Goal::Absent => return Verdict::Nothing,
        Goal::Running | Goal::Paused => {}
    }
    let ran = status.vmm.is_some();
    if word_is_new(vm) || (!ran && status.asked && status.phase == Phase::Starting) {
        // The user's word comes first, and it was not carried out yet.
        return Verdict::Start;
    }
    let restart = vm.spec.restart;
    let was_up = ran || matches!(status.phase, Phase::Starting | Phase::Backoff);
    if !wants(restart, status) {
        return if was_up {
            Verdict::Left {
                policy: None,
                reason: left_by("restart policy", restart),
            }
        } else {
            Verdict::Nothing
        };
    }
    let policy = policy_of(&world.policy, &vm.spec);
    let why = match policy {
        BootstrapPolicy::RestartAll => return Verdict::Start,
        BootstrapPolicy::RestartHealthy | BootstrapPolicy::Manual if !was_up => {
            return Verdict::Nothing;
        }
        BootstrapPolicy::Manual => None,
        BootstrapPolicy::RestartHealthy => match ailment(world, status) {
            None => return Verdict::Start,
            why => why,
        },
    };
    let why = why.map_or_else(String::new, |why| format!(": {why}"));
    Verdict::Left {
        policy: Some(policy),
        reason: format!("{}{why}", left_by("policy", policy)),
    }
}

fn left_by(kind: &str, policy: impl std::fmt::Display) -> String {
    format!("left stopped after the reboot by {kind} {policy}")
}

/// Whether the restart policy wants a start in a new boot.
fn wants(policy: RestartPolicy, status: &VmStatus) -> bool {
    if status.vmm.is_some() {
        return policy != RestartPolicy::No;
    }
    match policy {
        _ if status.phase == Phase::Starting => true,
        RestartPolicy::Always | RestartPolicy::UnlessStopped => true,
        RestartPolicy::OnFailure(_) => status.phase == Phase::Backoff,
        RestartPolicy::No => false,
    }
}

/// What was wrong with a VM when the host went down.
fn ailment(world: &World, status: &VmStatus) -> Option<String> {
    let stable = |at: Timestamp| elapsed(at, world.now) >= world.policy.stable_after;
    let stable = status.vmm.is_some() && status.started_at.is_some_and(stable);
    let failures = status.failures;
    if status.unhealthy || status.unresponsive.is_some() {
        Some("it was unhealthy".to_owned())
    } else if status.recovery.breaker.is_some() && !stable {
        Some("its breaker was open".to_owned())
    } else if failures > 0 && !stable {
        let word = if failures == 1 { "failure" } else { "failures" };
        Some(format!("it was failing, {failures} {word} in a row"))
    } else {
        None
    }
}

/// The status of a VM without VMM as the verdict leaves it.
#[must_use]
pub fn taken_up(status: &VmStatus, verdict: &Verdict, now: Timestamp) -> VmStatus {
    let bootstrap = |fate, policy| {
        Some(Bootstrap {
            since: now,
            fate,
            policy,
        })
    };
    let next = VmStatus {
        wait: None,
        unhealthy: false,
        ..status.clone()
    };
    match verdict {
        Verdict::Start => VmStatus {
            phase: Phase::Starting,
            bootstrap: bootstrap(Fate::Due, None),
            ..next
        },
        Verdict::Left { policy, reason } => VmStatus {
            phase: Phase::Exited,
            reason: match policy {
                Some(_) => Some(reason.clone()),
                None => next.reason,
            },
            next_start: None,
            bootstrap: bootstrap(Fate::Left, *policy),
            ..next
        },
        Verdict::Stopped => VmStatus {
            bootstrap: bootstrap(Fate::Stopped, None),
            ..next
        },
        Verdict::Nothing => VmStatus {
            bootstrap: None,
            ..next
        },
    }
}

/// The policy that has left a VM stopped, while it is.
#[must_use]
pub fn left_by_policy(status: &VmStatus) -> Option<BootstrapPolicy> {
    let decided = status.bootstrap.as_ref()?;
    let left = decided.fate == Fate::Left && status.vmm.is_none();
    decided.policy.filter(|_| left)
}

/// What has become of the VMs of a bootstrap, each counted once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// They run.
    pub started: Vec<VmId>,
    /// They are to be started, and wait: held, for other VMs, for what could not be verified.
    pub waiting: Vec<VmId>,
    /// Left stopped by a policy.
    pub left: Vec<VmId>,
    /// Stopped by their users.
    pub stopped: Vec<VmId>,
    /// Their start has failed, or their run since.
    pub failed: Vec<VmId>,
    /// Nothing more is about to happen.
    pub settled: bool,
}

impl Tally {
    /// How many VMs it is about.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.started.len()
            + self.waiting.len()
            + self.left.len()
            + self.stopped.len()
            + self.failed.len()
    }
}

/// Counts what has become of each VM of the bootstrap so far. `restrained`: the host's
/// breaker is open, so that who waits for no other thing may wait for long.
#[must_use]
pub fn tally(world: &World, restrained: bool) -> Tally {
    let mut tally = Tally {
        settled: true,
        ..Tally::default()
    };
    for vm in &world.vms {
        let Some(outcome) = outcome(world, vm, restrained) else {
            continue;
        };
        let list = match outcome {
            Outcome::Started => &mut tally.started,
            Outcome::Waiting => &mut tally.waiting,
            Outcome::Left => &mut tally.left,
            Outcome::Stopped => &mut tally.stopped,
            Outcome::Failed => &mut tally.failed,
            Outcome::UnderWay => {
                tally.settled = false;
                &mut tally.waiting
            }
        };
        list.push(vm.id);
    }
    tally
}

enum Outcome {
    Started,
    Waiting,
    Left,
    Stopped,
    Failed,
    UnderWay,
}

fn outcome(world: &World, vm: &DesiredVm, restrained: bool) -> Option<Outcome> {
    let status = &vm.status;
    if is_untaken(world, vm) {
        return untaken(world, vm);
    }
    let decided = status.bootstrap.as_ref()?;
    if status.vmm.is_some() {
        return Some(Outcome::Started);
    }
    match (vm.goal, decided.fate) {
        (Goal::Absent, _) => None,
        (Goal::Stopped, _) => Some(Outcome::Stopped),
        (_, Fate::Left | Fate::Stopped) => Some(Outcome::Left),
        (_, Fate::Started) => Some(match status.phase {
            Phase::Backoff | Phase::Failed => Outcome::Failed,
            _ => Outcome::Started,
        }),
        (_, Fate::Due) => Some(match status.phase {
            Phase::Backoff if status.failures == 0 => Outcome::Waiting,
            Phase::Backoff | Phase::Failed => Outcome::Failed,
            Phase::Exited => Outcome::Left,
            _ if waits_long(world, vm, decided, restrained) => Outcome::Waiting,
            _ => Outcome::UnderWay,
        }),
    }
}

/// A VM that no pass has taken up: its time comes, unless somebody holds it.
fn untaken(world: &World, vm: &DesiredVm) -> Option<Outcome> {
    let outcome = match judge(world, vm) {
        Verdict::Nothing => return None,
        Verdict::Stopped => Outcome::Stopped,
        Verdict::Left { .. } => Outcome::Left,
        Verdict::Start => Outcome::UnderWay,
    };
    if vm.status.vmm.is_some() {
        // Its end is not recorded yet, which nothing holds.
        return Some(Outcome::UnderWay);
    }
    if !world.policy.auto.on(Automatic::Bootstrap) || vm.status.recovery.hold.is_some() {
        return Some(match outcome {
            Outcome::UnderWay => Outcome::Waiting,
            outcome => outcome,
        });
    }
    // The status that says so is on its way.
    Some(Outcome::UnderWay)
}

/// Whether what it waits for will not come by itself within the time that others are waited for.
fn waits_long(world: &World, vm: &DesiredVm, decided: &Bootstrap, restrained: bool) -> bool {
    let status = &vm.status;
    if status.recovery.hold.is_some() || !world.policy.auto.on(Automatic::Bootstrap) {
        return true;
    }
    let long = |since| elapsed(since, world.now) > world.policy.after_wait;
    match &status.wait {
        Some(wait) => !wait.over && long(wait.since),
        // The host's breaker lets one through after the other; else it is only a matter of turns.
        None => restrained && long(decided.since),
    }
}

/// Whether a VM will be started without anybody's word, as far as is known now.
#[must_use]
pub fn will_start(world: &World, vm: &DesiredVm) -> bool {
    if !matches!(effective_goal(vm), Goal::Running | Goal::Paused) {
        return false;
    }
    if word_is_new(vm) {
        return true;
    }
    if vm.status.recovery.hold.is_some() {
        return false;
    }
    if is_untaken(world, vm) {
        return judge(world, vm) == Verdict::Start;
    }
    matches!(
        vm.status.phase,
        Phase::Starting | Phase::Backoff | Phase::Stopping
    )
}

/// What the bootstrap means for a VM, in words; `None` when it is not part of one.
#[must_use]
pub fn explain(world: &World, vm: &DesiredVm) -> Option<String> {
    let status = &vm.status;
    let policy = policy_of(&world.policy, &vm.spec);
    if is_untaken(world, vm) {
        return Some(match judge(world, vm) {
            Verdict::Start => format!("policy {policy}: it is to be started after the reboot"),
            Verdict::Left { reason, .. } => reason,
            Verdict::Stopped => "its user had stopped it before the reboot".to_owned(),
            Verdict::Nothing => "it did not run before the reboot".to_owned(),
        });
    }
    let decided = status.bootstrap.as_ref()?;
    Some(match decided.fate {
        Fate::Due => match &status.wait {
            Some(wait) => format!("policy {policy}: it is to be started, and {}", wait.reason),
            None => format!("policy {policy}: it is to be started after the reboot"),
        },
        Fate::Started => "it was started after the reboot".to_owned(),
        Fate::Stopped => "its user had stopped it".to_owned(),
        Fate::Left => match decided.policy {
            Some(policy) => {
                let name = &vm.spec.name;
                let reason = status.reason.clone();
                let reason = reason.unwrap_or_else(|| left_by("policy", policy));
                format!("{reason}, until hearth start {name} or hearth recover {name}")
            }
            None => left_by("restart policy", vm.spec.restart),
        },
    })
}
