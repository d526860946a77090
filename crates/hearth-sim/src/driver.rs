//! The daemon's loop over the simulated host: one pass is survey, plan, check, act.
//!
//! A crash can be set for any point: before an effect, after it, and after its outcome is
//! stored. What is left is the host and the store; the next pass knows nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use hearth_plan::breaker::{cause_of_step, host::HostMemory};
use hearth_plan::transition::{self, later};
use hearth_plan::{OrphanAction, Plan, Policy, Step, World, plan};
use hearth_types::ids::{InstallationId, VmId};
use hearth_types::process::ExitRecord;
use hearth_types::spec::NetworkMode;
use hearth_types::status::{Awaited, Goal, Phase, StopRung, VmStatus};

use crate::check;
use crate::host::{HostError, SimHost};
use crate::store::SimStore;

/// The daemon died at the set point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the simulated daemon crashed")]
pub struct Crashed;

/// What ended one VM's steps, or the whole pass.
enum Stopped {
    Failed(HostError),
    Crashed,
}

impl From<HostError> for Stopped {
    fn from(error: HostError) -> Self {
        Self::Failed(error)
    }
}

impl From<Crashed> for Stopped {
    fn from(Crashed: Crashed) -> Self {
        Self::Crashed
    }
}

/// How one VM stands when all is quiet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmEnd {
    /// Stored phase.
    pub phase: Phase,
    /// Living VMMs.
    pub vmms: usize,
    /// vCPUs stopped.
    pub paused: bool,
    /// It has a TAP.
    pub tap: bool,
    /// It has a folder.
    pub dir: bool,
}

/// How everything stands when all is quiet, without what may differ from run to run (pids, times).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndState {
    /// VMs of the database.
    pub vms: BTreeMap<VmId, VmEnd>,
    /// The bridge.
    pub bridge: Option<bool>,
    /// Guests and ports that the rules name.
    pub rules: Option<hearth_types::net::RuleSet>,
    /// Names that are served.
    pub names: hearth_types::observe::ObservedNames,
    /// Interfaces, ours or not.
    pub taps: BTreeSet<String>,
    /// Folders.
    pub dirs: BTreeSet<VmId>,
    /// How many processes live.
    pub processes: usize,
}

/// Host, store and loop.
#[derive(Debug, Clone)]
pub struct Sim {
    /// The host.
    pub host: SimHost,
    /// The database.
    pub store: SimStore,
    /// The operator's choices.
    pub policy: Policy,
    /// What is remembered of the host's breaker.
    pub breaker: HostMemory,
    /// Points that are left before the daemon crashes.
    pub crash_in: Option<u32>,
    /// Points passed so far.
    pub points: u32,
    /// What steps failed with.
    pub errors: Vec<String>,
}

impl Sim {
    /// An empty host and an empty database.
    #[must_use]
    pub fn new(installation: InstallationId) -> Self {
        let now = Timestamp::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        Self {
            host: SimHost::new(installation, now),
            store: SimStore::default(),
            policy: Policy {
                orphan_vmms: OrphanAction::Remove,
                orphan_dirs: OrphanAction::Remove,
                ..Policy::default()
            },
            breaker: HostMemory::default(),
            crash_in: None,
            points: 0,
            errors: Vec::new(),
        }
    }

    /// What the planner is asked.
    #[must_use]
    pub fn world(&self) -> World {
        World {
            now: self.host.now,
            boot_id: self.host.boot_id(),
            installation: self.host.installation,
            // The order the daemon must keep: the host first, then the database.
            observed: self.host.survey(),
            ill: self.host.ill(),
            vms: self.store.vms.values().cloned().collect(),
            intents: self.store.intents.clone(),
            facts: hearth_plan::Facts::default(),
            load: hearth_plan::Load::default(),
            host: self.breaker.clone(),
            journaled: self.store.journaled.clone(),
            policy: self.policy.clone(),
        }
    }

    /// One pass. Gives the plan that was acted on.
    ///
    /// # Errors
    /// When the set crash comes; the plan was acted on up to there.
    pub fn pass(&mut self) -> Result<Plan, Crashed> {
        let world = self.world();
        let plan = plan(&world);
        self.breaker.clone_from(&plan.host);
        for violation in check::plan(&world, &plan, &self.host) {
            self.host.violation(violation);
        }
        let before: Vec<_> = self.store.intents.iter().map(|intent| intent.id).collect();
        let mut failed = BTreeSet::new();
        for planned in &plan.steps {
            let vm = planned.step.vm();
            if vm.is_some_and(|vm| failed.contains(&vm)) {
                continue;
            }
            match self.act(&planned.step) {
                Ok(()) => {}
                Err(Stopped::Crashed) => return Err(Crashed),
                Err(Stopped::Failed(error)) => {
                    self.errors
                        .push(format!("{}: {error}", planned.step.kind()));
                    failed.extend(vm);
                }
            }
        }
        if self.host.unknown.is_empty() {
            // The whole survey has shown how these ended.
            for id in before {
                self.store.close(id);
            }
        }
        for violation in check::truth(self) {
            self.host.violation(violation);
        }
        Ok(plan)
    }

    fn point(&mut self) -> Result<(), Crashed> {
        self.points += 1;
        match &mut self.crash_in {
            Some(0) => {
                self.crash_in = None;
                Err(Crashed)
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn act(&mut self, step: &Step) -> Result<(), Stopped> {
        let stores = step.only_stores();
        let now = self.host.now;
        if !stores && !step.kind().contains("orphan") {
            self.store.journaled.extend(step.vm());
        }
        let intent = (!stores).then(|| self.store.begin(step.vm(), now));
        self.point()?;
        let fault = if stores {
            Ok(())
        } else {
            self.host.fault(step.kind())
        };
        let done = match fault {
            Ok(()) => self.effect(step),
            Err(error) => self.failed(step, error),
        };
        if let Err(Stopped::Crashed) = done {
            return done;
        }
        if let Some(intent) = intent {
            self.store.close(intent);
        }
        self.point()?;
        done
    }

    /// The executor's answer to a step that failed.
    fn failed(&mut self, step: &Step, error: HostError) -> Result<(), Stopped> {
        if let Step::StartVmm { vm, .. } | Step::EnsureDisks { vm } | Step::EnsureTap { vm } = step
        {
            let (now, policy) = (self.host.now, self.policy.clone());
            self.update(*vm, |id, desired| {
                transition::start_failed(
                    &desired.status,
                    id,
                    &desired.spec,
                    error.to_string(),
                    cause_of_step(step.kind()),
                    now,
                    &policy,
                )
            });
        }
        Err(error.into())
    }

    fn update(&mut self, vm: VmId, change: impl FnOnce(VmId, &hearth_plan::DesiredVm) -> VmStatus) {
        if let Some(desired) = self.store.vms.get(&vm) {
            let status = change(vm, desired);
            self.store.set_status(vm, status);
        }
    }

    fn effect(&mut self, step: &Step) -> Result<(), Stopped> {
        match step {
            Step::EnsureBridge => self.host.bridge = Some(true),
            Step::RemoveBridge => self.host.bridge = None,
            Step::ApplyRules(rules) => self.host.rules = Some(rules.clone()),
            Step::RemoveRules => self.host.rules = None,
            Step::EnsureNames(names) => {
                self.host.names.running = true;
                self.host.names.hosts.clone_from(names);
            }
            Step::RemoveNames => self.host.names = Default::default(),
            Step::EnsureDisks { vm } => self.host.make_dir(*vm),
            Step::EnsureTap { vm } => {
                if let Err(error) = self.host.make_tap(*vm) {
                    return self.failed(step, error);
                }
            }
            Step::StartVmm { vm, restart } => return self.start(step, *vm, *restart),
            Step::EnsureLimits { identity, .. } => self.host.restore_limits(identity)?,
            Step::Pause { identity, .. } => self.host.set_paused(identity, true)?,
            Step::Resume { identity, .. } => self.host.set_paused(identity, false)?,
            Step::Stop { vm, identity, rung } => {
                let taken = self.climb(identity, *rung)?;
                self.point()?;
                self.update(*vm, |_, desired| {
                    transition::rung_taken(&desired.status, taken)
                });
            }
            Step::RemoveTap { tap, .. } | Step::RemoveOrphanTap { tap } => {
                self.host.remove_tap(tap)?;
            }
            Step::FlushConntrack { ip, .. } => {
                self.host.tracked.remove(ip);
            }
            Step::RemoveOrphanUnit { unit } => self.host.remove_unit(unit)?,
            Step::RemoveDir { vm } | Step::RemoveOrphanDir { vm } => self.host.remove_dir(*vm),
            Step::KillOrphan { identity } => self.host.kill(identity)?,
            Step::Adopt { .. }
            | Step::SetGoal { .. }
            | Step::SetStatus { .. }
            | Step::Forget { .. } => {
                self.record(step);
            }
        }
        Ok(())
    }

    /// Steps that change the database only.
    fn record(&mut self, step: &Step) {
        match step {
            Step::SetGoal {
                vm,
                goal,
                generation,
            } => {
                let current = self.store.vms.get(vm).map(|desired| desired.generation);
                if current == Some(*generation) {
                    self.store.set_goal(*vm, *goal, false);
                }
            }
            Step::Adopt { vm, identity } => {
                let started = self.host.processes.get(&identity.pid).map(|p| p.started_at);
                let at = started.unwrap_or(self.host.now);
                self.update(*vm, |_, desired| {
                    transition::adopted(&desired.status, identity.clone(), at)
                });
            }
            Step::SetStatus { vm, status, .. } => self.store.set_status(*vm, (**status).clone()),
            Step::Forget { vm } => self.forget(*vm),
            _ => {}
        }
    }

    fn start(&mut self, step: &Step, vm: VmId, restart: bool) -> Result<(), Stopped> {
        let Some(desired) = self.store.vms.get(&vm) else {
            return Err(HostError::Missing("the record").into());
        };
        let bridged = desired.spec.network.mode == NetworkMode::Bridge;
        let ip = desired.leases.ip;
        match self.host.launch(vm, bridged) {
            Ok(identity) => {
                self.host.tracked.extend(ip);
                self.point()?;
                let now = self.host.now;
                self.update(vm, |_, desired| {
                    transition::started(&desired.status, identity, now, restart)
                });
                Ok(())
            }
            Err(error) => self.failed(step, error),
        }
    }

    /// Takes a rung, or the next one that works.
    fn climb(
        &mut self,
        identity: &hearth_types::process::ProcessIdentity,
        mut rung: StopRung,
    ) -> Result<StopRung, HostError> {
        loop {
            match self.host.stop(identity, rung) {
                Err(HostError::NoRung(_)) => rung = transition::skip_rung(rung),
                Err(error) => return Err(error),
                Ok(()) => return Ok(rung),
            }
        }
    }

    fn forget(&mut self, vm: VmId) {
        if let Some(gone) = self.store.vms.remove(&vm) {
            if gone
                .leases
                .ip
                .is_some_and(|ip| self.host.tracked.contains(&ip))
            {
                self.host.violation(format!(
                    "the address of VM {vm} was given back while connections of it are tracked"
                ));
            }
            for left in check::remains(&self.host, vm, &gone.leases) {
                self.host
                    .violation(format!("VM {vm} was forgotten and left {left}"));
            }
        }
    }

    /// Passes, and time in between, until nothing is to be done and nothing is about to happen.
    ///
    /// # Errors
    /// The last plan, when it is not quiet after `limit` passes.
    pub fn settle(&mut self, limit: usize) -> Result<usize, Box<Plan>> {
        let mut last = Plan::default();
        for passes in 0..limit {
            self.mount_what_is_waited_for();
            last = match self.pass() {
                Ok(plan) => plan,
                Err(Crashed) => {
                    self.host
                        .advance(later(self.host.now, Duration::from_secs(1)));
                    continue;
                }
            };
            let resync = later(self.host.now, self.policy.resync);
            let due = last.next_pass.unwrap_or(resync);
            // A VM that waits for its next start is not where it should be.
            let waits = self.store.vms.values().any(|vm| {
                let wanted = matches!(vm.goal, Goal::Running | Goal::Paused);
                wanted && vm.status.phase == Phase::Backoff
            });
            let event = self.host.next_event();
            if !waits && last.steps.is_empty() && due >= resync && event.is_none() {
                return Ok(passes);
            }
            if last.steps.is_empty() {
                let to = event.map_or(due, |at| at.min(due));
                self.host
                    .advance(to.max(later(self.host.now, Duration::from_millis(1))));
            } else {
                self.host
                    .advance(later(self.host.now, Duration::from_millis(1)));
            }
        }
        Err(Box::new(last))
    }

    /// A VM whose disks are not there after a reboot waits for them for as long as it takes:
    /// whoever waits for quiet is the operator who mounts them.
    fn mount_what_is_waited_for(&mut self) {
        for (id, vm) in &self.store.vms {
            let wait = vm.status.wait.as_ref();
            if wait.is_some_and(|wait| wait.on == Awaited::Disks)
                && let Some(dir) = self.host.dirs.get_mut(id)
            {
                dir.has_disk = true;
            }
        }
    }

    /// How everything stands.
    #[must_use]
    pub fn end_state(&self) -> EndState {
        let vms = self.store.vms.iter().map(|(id, desired)| {
            let end = VmEnd {
                phase: desired.status.phase,
                vmms: self.host.vmms(*id).count(),
                paused: self.host.vmms(*id).any(|p| p.paused),
                tap: self
                    .host
                    .taps
                    .contains_key(&hearth_types::names::tap_name(*id)),
                dir: self.host.dirs.contains_key(id),
            };
            (*id, end)
        });
        EndState {
            vms: vms.collect(),
            bridge: self.host.bridge,
            rules: self.host.rules.clone(),
            names: self.host.names.clone(),
            taps: self.host.taps.keys().cloned().collect(),
            dirs: self.host.dirs.keys().copied().collect(),
            processes: self.host.processes.len(),
        }
    }

    /// `hearth restart`: a stop that begins now, and the user's word to run.
    pub fn restart(&mut self, vm: VmId) {
        if self.host.vmms(vm).next().is_none() {
            self.store.set_goal(vm, Goal::Running, false);
            return;
        }
        self.store.set_goal(vm, Goal::Running, false);
        let now = self.host.now;
        self.update(vm, |_, desired| {
            if desired.goal == Goal::Running && desired.status.stop.is_none() {
                transition::stop_begun(&desired.status, desired.generation, now, Goal::Running)
            } else {
                desired.status.clone()
            }
        });
    }

    /// The record of the last end in a VM's folder.
    #[must_use]
    pub fn exit_record(&self, vm: VmId) -> Option<&ExitRecord> {
        self.host.dirs.get(&vm)?.exit.as_ref()
    }
}
