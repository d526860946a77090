//! The decisions for one VM. The order of the questions is drawn in the crate's header.

mod down;
mod full;
mod hold;
mod ill;
mod limits;
pub mod pool;
mod up;
mod wait;

use std::borrow::Cow;
use std::time::Duration;

use jiff::Timestamp;

use hearth_types::event::{NewEvent, Severity};
use hearth_types::observe::{ObservedProcess, RunState};
use hearth_types::process::{ExitRecord, ProcessIdentity};
use hearth_types::spec::{BootstrapPolicy, RestartPolicy};
use hearth_types::status::{Goal, RunEnd, VmStatus};
use hearth_types::survey::Survey;

use crate::bootstrap;
use crate::breaker::{
    self,
    host::{HostBreaker, HostMemory},
};
use crate::index::{Index, Seen, effective_goal, word_is_new};
use crate::model::{DesiredVm, Plan, Step, World};
use crate::order::Names;
use crate::shared::{self, Named};
use crate::transition::{self, elapsed, later};

/// How soon to look again when something is about to end by itself (a shim that writes its record, a VMM
/// whose guest has ended).
const SOON: Duration = Duration::from_millis(100);
/// How soon when it takes longer than it should.
const LESS_SOON: Duration = Duration::from_millis(500);
/// How soon to look again for what a failed survey has not told. Sooner would only keep the
/// host busy while it is unwell; the same pause as the executor's for what all VMs share.
const UNTOLD: Duration = Duration::from_secs(5);

/// What all VMs of a pass share.
#[derive(Debug)]
pub(crate) struct Pass<'a> {
    world: &'a World,
    index: &'a Index<'a>,
    named: Option<Named<'a>>,
    names: Names<'a>,
    /// Why the network that all share is not ready; only while VMs are to be started in a new boot.
    network: Option<String>,
    host: HostMemory,
    host_breaker: Option<HostBreaker>,
}

/// One VM in one pass. `status` is the stored one plus what this pass has decided so far.
#[derive(Debug)]
struct Vm<'a, 'p> {
    pass: &'p Pass<'a>,
    world: &'a World,
    vm: &'a DesiredVm,
    seen: &'p Seen<'a>,
    goal: Goal,
    status: Cow<'a, VmStatus>,
    plan: &'p mut Plan,
}

impl<'a> Pass<'a> {
    pub(crate) fn new(world: &'a World, index: &'a Index<'a>) -> Self {
        let leaving = world
            .vms
            .iter()
            .any(|vm| effective_goal(vm) == Goal::Absent);
        let (host, host_breaker) = breaker::host::remember(world);
        Self {
            world,
            index,
            named: leaving.then(|| Named::of(world)).flatten(),
            names: Names::of(world),
            network: world
                .vms
                .iter()
                .any(|vm| bootstrap::is_due(world, vm))
                .then(|| shared::unready(world, index))
                .flatten(),
            host,
            host_breaker,
        }
    }

    /// The host's circuit breaker, unless it is closed.
    pub(crate) const fn host_breaker(&self) -> Option<&HostBreaker> {
        self.host_breaker.as_ref()
    }

    /// What is to be remembered of it.
    pub(crate) const fn host_memory(&self) -> &HostMemory {
        &self.host
    }

    pub(crate) fn plan_vm(&self, vm: &'a DesiredVm, plan: &mut Plan) {
        if self.world.observed.processes.known().is_none() {
            // Said once for all VMs.
            return;
        }
        self.of(vm, plan).decide();
    }

    /// Writes down the end of `dead`, a VMM that is known not to live.
    pub(crate) fn plan_end(&self, vm: &'a DesiredVm, dead: &ProcessIdentity, plan: &mut Plan) {
        let seen = self.index.of(vm.id);
        let exit = seen.dir.and_then(|dir| dir.exit.as_ref());
        let written = exit.is_some_and(|record| record.identity == *dead);
        // Nobody is left who could write it.
        let silent = self.world.observed.processes.known().is_some()
            && seen.vmms.is_empty()
            && seen.shims.is_empty();
        let recorded = vm.status.vmm.as_ref() == Some(dead) && dead.boot_id == self.world.boot_id;
        if recorded && (written || silent) {
            self.of(vm, plan).record_end();
        }
    }

    fn of<'p>(&'p self, vm: &'a DesiredVm, plan: &'p mut Plan) -> Vm<'a, 'p> {
        Vm {
            pass: self,
            world: self.world,
            vm,
            seen: self.index.of(vm.id),
            goal: effective_goal(vm),
            status: Cow::Borrowed(&vm.status),
            plan,
        }
    }
}

impl<'a> Vm<'a, '_> {
    fn decide(mut self) {
        if self.held() {
            return self.look_only();
        }
        let live = self.one_vmm();
        if let Some(live) = live {
            if self.status.vmm.as_ref() != Some(&live.identity) {
                self.adopt(live);
            }
        } else if !self.record_end() {
            return;
        }
        match (self.goal, live) {
            (Goal::Running | Goal::Paused, Some(live)) => self.keep_up(live),
            (Goal::Running | Goal::Paused, None) => self.bring_up(),
            (Goal::Stopped | Goal::Absent, Some(live)) => self.take_down(live),
            (Goal::Stopped, None) => self.settle(),
            (Goal::Absent, None) => self.tear_down(),
        }
    }

    /// The VMM that counts. Any other is a twin that must not be: two VMMs write one disk.
    fn one_vmm(&mut self) -> Option<&'a ObservedProcess> {
        if let Some(only) = self.seen.vmms.only() {
            return Some(only);
        }
        let recorded = self.status.vmm.as_ref();
        let keep = self.seen.vmms.iter().min_by_key(|process| {
            (
                Some(&process.identity) != recorded,
                process.started_at,
                process.identity.start_time,
                process.identity.pid,
            )
        })?;
        for twin in self
            .seen
            .vmms
            .iter()
            .filter(|p| p.identity != keep.identity)
        {
            self.plan.push(
                Step::KillOrphan {
                    identity: twin.identity.clone(),
                },
                format!(
                    "a second VMM of {}; the one with pid {} stays",
                    self.vm.spec.name, keep.identity.pid
                ),
            );
        }
        Some(keep)
    }

    fn adopt(&mut self, live: &ObservedProcess) {
        let reason = if self.status.vmm.is_some() {
            "its VMM lives as another process than the recorded one"
        } else {
            "its VMM lives and is not recorded"
        };
        self.plan.push(
            Step::Adopt {
                vm: self.vm.id,
                identity: live.identity.clone(),
            },
            reason,
        );
        self.status = Cow::Owned(transition::adopted(
            &self.status,
            live.identity.clone(),
            live.started_at,
        ));
    }

    /// No VMM lives: records the end of the recorded one. `false` when that has to wait.
    fn record_end(&mut self) -> bool {
        let boot_id = self.world.boot_id.as_str();
        let Some(recorded) = self.status.vmm.clone() else {
            if !self.held() {
                self.take_up_boot();
            }
            return true;
        };
        let Some(dirs) = self.dirs_known() else {
            return false;
        };
        let record = dirs.filter(|record| record.identity == recorded);
        if recorded.boot_id != boot_id {
            let end = transition::ended_in_earlier_boot(record, self.stopping(), self.world.now);
            let next = transition::rebooted(&self.status, &self.vm.spec, end, self.goal, boot_id);
            let verdict = bootstrap::judge(self.world, self.vm);
            let next = match self.goal {
                Goal::Absent => next,
                _ => bootstrap::taken_up(&next, &verdict, self.world.now),
            };
            self.set(next, Some("vm.exited"), "the host has been rebooted since");
            return true;
        }
        if record.is_none() && !self.seen.shims.is_empty() {
            // The shim outlives its VMM by the time it takes to write the record.
            let since = self.ending_since("its VMM has ended");
            let grace = self.world.policy.orphan_grace;
            if elapsed(since, self.world.now) < grace {
                let why = "its VMM has ended; its exit record is about to be written";
                self.wait(since, grace, why);
                return false;
            }
            if self.held() {
                let why = "its shim writes no exit record and is not ended because it is held";
                self.plan.note(Some(self.vm), why);
                self.plan.due(later(self.world.now, UNTOLD));
                return false;
            }
            self.kill_shims("its VMM has ended and it writes no record");
        }
        let end = transition::classify(record, self.stopping(), self.world.now);
        let end = transition::end_of_illness(&self.status, self.goal, end);
        let next = transition::ended(
            &self.status,
            self.vm.id,
            &self.vm.spec,
            end,
            self.world.now,
            &self.world.policy,
            self.goal,
        );
        self.set(next, Some("vm.exited"), "its VMM has ended");
        true
    }

    /// The exit record of the VM's folder, if the folders are known.
    #[expect(clippy::option_option, reason = "unknown and none are two answers")]
    fn dirs_known(&self) -> Option<Option<&'a ExitRecord>> {
        self.world.observed.dirs.known()?;
        Some(self.seen.dir.and_then(|dir| dir.exit.as_ref()))
    }

    /// A stop is under way: the end is what the user wanted.
    fn stopping(&self) -> bool {
        self.status.stop.is_some() || matches!(self.goal, Goal::Stopped | Goal::Absent)
    }

    /// A VM without VMM meets a new boot, in which any back-off is over. Under `restart-all`
    /// its restart policy `always` starts it even if its user had stopped it.
    fn take_up_boot(&mut self) {
        let world = self.world;
        if !bootstrap::is_untaken(world, self.vm) {
            return;
        }
        let policy = bootstrap::policy_of(&world.policy, &self.vm.spec);
        if self.goal == Goal::Stopped
            && self.vm.spec.restart == RestartPolicy::Always
            && policy == BootstrapPolicy::RestartAll
            && !word_is_new(self.vm)
        {
            self.plan.push(
                Step::SetGoal {
                    vm: self.vm.id,
                    goal: Goal::Running,
                    generation: self.vm.generation,
                },
                "restart policy always: started again after a reboot although it was stopped",
            );
            // The next pass finds a new word; until it is stored the boot stays untaken.
            self.plan.due(world.now);
            return;
        }
        let next = VmStatus {
            next_start: None,
            stop: None,
            boot_id: Some(world.boot_id.clone()),
            ..self.status.clone().into_owned()
        };
        let verdict = bootstrap::judge(world, self.vm);
        let next = bootstrap::taken_up(&next, &verdict, world.now);
        self.set(next, None, "the host has been rebooted since");
    }

    /// Stores a status, if it is another one than before.
    fn set(&mut self, status: VmStatus, code: Option<&str>, reason: impl Into<String>) {
        if status == *self.status {
            return;
        }
        let event = code.map(|code| Box::new(self.event(code, &status)));
        self.plan.push(
            Step::SetStatus {
                vm: self.vm.id,
                status: Box::new(status.clone()),
                event,
            },
            reason,
        );
        self.status = Cow::Owned(status);
    }

    fn event(&self, code: &str, status: &VmStatus) -> NewEvent {
        let name = &self.vm.spec.name;
        let end: Option<&RunEnd> = status.last_end.as_ref().filter(|_| code == "vm.exited");
        let message = match (end, &status.reason) {
            (Some(end), _) => format!("{name} has ended: {}", end.reason),
            (None, Some(reason)) => format!("{name} is {}: {reason}", status.phase.as_str()),
            (None, None) => format!("{name} is {}", status.phase.as_str()),
        };
        let severity = if end.map_or(status.reason.is_some(), |end| end.failure) {
            Severity::Warning
        } else {
            Severity::Info
        };
        let event = NewEvent::info(code, message)
            .severity(severity)
            .vm(self.vm.id, name);
        match end.and_then(|end| end.exit_code) {
            Some(code) => event.details(serde_json::json!({ "exit_code": code })),
            None => event,
        }
    }

    /// Something ends by itself, usually within moments: look again soon, and less often the
    /// longer it has taken `since`. Until `longest` after that nothing is done about it.
    fn wait(&mut self, since: Timestamp, longest: Duration, why: &str) {
        self.plan.note(Some(self.vm), why);
        let age = elapsed(since, self.world.now);
        self.plan
            .due(later(self.world.now, age.clamp(SOON, LESS_SOON)));
        self.plan.due(later(since, longest));
    }

    fn run_state(&self) -> Option<RunState> {
        match self.world.observed.run_states.get(&self.vm.id) {
            Some(Survey::Known(state)) => Some(*state),
            Some(Survey::Unknown(_)) | None => None,
        }
    }

    /// Whether a shim is left that still holds the folder's lock. One that does not go by
    /// itself within the grace age is wedged and killed.
    fn shim_left(&mut self) -> bool {
        let Some(last_end) = self.seen.shims.iter().map(|shim| shim.started_at).max() else {
            return false;
        };
        let ended = self.status.last_end.as_ref().map(|end| end.at);
        let since = ended.map_or(last_end, |at| at.max(last_end));
        let grace = self.world.policy.orphan_grace;
        if elapsed(since, self.world.now) < grace {
            self.wait(since, grace, "a shim of an earlier run is about to end");
            return true;
        }
        self.kill_shims("a shim of an earlier run does not end by itself");
        self.plan.due(self.world.now);
        true
    }

    /// A shim may be left over after an end that was recorded while nothing might be done.
    fn end_shims(&mut self) {
        let Some(end) = self.status.last_end.as_ref().map(|end| end.at) else {
            return;
        };
        let grace = self.world.policy.orphan_grace;
        let left =
            |shim: &&ObservedProcess| elapsed(shim.started_at.max(end), self.world.now) >= grace;
        if !self.held()
            && !self.seen.shims.is_empty()
            && self.seen.shims.iter().all(|shim| left(&shim))
        {
            self.kill_shims("a shim of an earlier run does not end by itself");
        }
    }

    fn kill_shims(&mut self, reason: &str) {
        for shim in self.seen.shims.iter() {
            self.plan.push(
                Step::KillOrphan {
                    identity: shim.identity.clone(),
                },
                reason,
            );
        }
    }

    /// Since when the run is known to have ended; from now on, if it was not known before or
    /// the clock was set back.
    fn ending_since(&mut self, reason: &str) -> Timestamp {
        let now = self.world.now;
        if let Some(since) = self.status.ending_since.filter(|since| *since <= now) {
            return since;
        }
        let next = VmStatus {
            ending_since: Some(now),
            ..self.status.clone().into_owned()
        };
        self.set(next, None, reason);
        now
    }
}
