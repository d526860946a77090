//! One pass: survey, plan, act.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::Context as _;
use hearth_host::aside::aside;
use hearth_plan::model::OpenIntent;
use hearth_plan::{Facts, Plan, PlannedStep, Policy, Step, World};
use hearth_store::VmRow;
use hearth_types::api::PlanReason;
use hearth_types::ids::VmId;
use hearth_types::observe::Observed;
use hearth_types::status::StopRung;
use hearth_types::survey::Survey;
use jiff::Timestamp;
use tracing::Instrument as _;

use super::Engine;
use super::hands::Moment;
use super::shared::Ready;

/// Pause before what all VMs share is tried again.
pub(super) const SHARED_PAUSE: std::time::Duration = std::time::Duration::from_secs(5);

impl Engine {
    /// Looks at everything and does what the plan says.
    pub(super) async fn full_pass(self: Arc<Self>) -> anyhow::Result<Option<Timestamp>> {
        let seen = self.moment();
        self.pass_at("the survey of the host");
        let observed = self.survey_all().await;
        self.pass_at("its records and its plan");
        self.report_unknown(&observed);
        self.watch_all(&observed);
        let (world, rows) = self.world(observed).await?;
        self.metrics.surveyed(&world);
        let busy = self.work.lock().hands.since(&seen);
        let plan = without(hearth_plan::plan(&world), &busy, &rows);
        self.failpoints.planned(&world, &plan);
        self.metrics.planned(true, plan.steps.len());
        self.host_breaker_is(&world, &plan).await;
        self.follow_bootstrap(&world, plan.host_breaker.is_some())
            .await;
        for note in &plan.notes {
            tracing::debug!("[reconcile] {}", note.text);
        }
        // Everything was looked at, so what an earlier daemon left half done is now part
        // of the plan itself; its journal entries have served.
        let open: Vec<_> = world
            .intents
            .iter()
            .filter(|intent| intent.vm.is_none_or(|vm| !busy.contains(&vm)))
            .map(|intent| intent.id)
            .collect();
        self.tell_rebooted(&world).await;
        self.tell_adopted(&world);
        self.keep_records_once(&rows);
        self.tell_disagreements(&world).await;
        self.work.lock().shared = Some(world.observed);
        let next = self.clone().act_on(plan, &rows, &seen).await;
        // Nobody can, while the mode says that the database cannot be written.
        if !open.is_empty() && self.database_writable() {
            self.parts
                .store
                .close_intents(open, "settled by a survey", self.now())
                .await
                .context("cannot close journal entries")?;
        }
        Ok(next)
    }

    /// Looks at some VMs and does what the plan says of them.
    pub(super) async fn quick_pass(
        self: Arc<Self>,
        vms: &BTreeSet<VmId>,
    ) -> anyhow::Result<Option<Timestamp>> {
        let shared = self.work.lock().shared.clone();
        let Some(shared) = shared else {
            return self.full_pass().await;
        };
        let seen = self.moment();
        // The owner task of a busy VM asks for a look of its own when it is done.
        let vms: BTreeSet<VmId> = &self.with_waiters(vms) - &self.busy();
        self.pass_at("the survey of some VMs");
        let observed = self.survey_some(&vms, &shared).await;
        self.pass_at("its records and its plan");
        self.watch_all(&observed);
        let (world, rows) = self.world(observed).await?;
        let plan = hearth_plan::plan_for(&world, &vms.into_iter().collect::<Vec<_>>());
        self.failpoints.planned(&world, &plan);
        self.metrics.planned(false, plan.steps.len());
        self.host_breaker_is(&world, &plan).await;
        self.follow_bootstrap(&world, plan.host_breaker.is_some())
            .await;
        Ok(self.clone().act_on(plan, &rows, &seen).await)
    }

    /// What the next pass would do, without doing it.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn dry_run(&self) -> anyhow::Result<hearth_types::api::PlanView> {
        let (world, plan) = self.foresee().await?;
        let mut view = hearth_plan::view::plan(&plan, &world);
        let stuck = self.under_way.stuck();
        let words = stuck.iter().map(crate::stuck::Work::words);
        view.notes.extend(words);
        Ok(view)
    }

    /// Looks at everything and plans, without doing anything.
    pub(crate) async fn foresee(&self) -> anyhow::Result<(World, Plan)> {
        let observed = self.survey_all().await;
        let (world, _) = self.world(observed).await?;
        let plan = hearth_plan::plan(&world);
        Ok((world, plan))
    }

    /// What the next pass would do to one VM and why, without doing it; `None` if it is gone.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn dry_run_of(&self, vm: VmId) -> anyhow::Result<Option<hearth_types::api::VmPlan>> {
        let observed = self.survey_all().await;
        let (world, _) = self.world(observed).await?;
        let plan = hearth_plan::plan(&world);
        let mut view = hearth_plan::view::vm(&plan, &world, vm);
        if let Some(view) = &mut view {
            let stuck = self.under_way.stuck().into_iter();
            let concerns = stuck.filter(|work| work.vm.is_none_or(|of| of == vm));
            view.reasons.extend(concerns.map(|work| PlanReason {
                topic: "stuck".to_owned(),
                text: work.words(),
            }));
        }
        Ok(view)
    }

    async fn world(&self, observed: Observed) -> anyhow::Result<(World, BTreeMap<VmId, VmRow>)> {
        let rows = self.parts.store.vms().await;
        self.keep_guests(&rows);
        let intents = self
            .parts
            .store
            .open_intents()
            .await
            .context("cannot read the journal")?;
        let journaled = self.journaled(&observed, &rows).await?;
        let mut world = World {
            journaled,
            now: self.now(),
            boot_id: self.parts.processes.boot_id(),
            installation: self.parts.store.installation(),
            vms: Self::desired(&rows),
            observed,
            ill: self.health.ill(),
            intents: intents
                .into_iter()
                .map(|row| OpenIntent {
                    id: row.id,
                    vm: row.vm,
                    begun_at: row.begun_at,
                })
                .collect(),
            load: self.load(),
            facts: Facts::default(),
            host: self.host_memory(),
            policy: Policy {
                stance: self.modes.stance(),
                ..self.settings.policy.clone()
            },
        };
        world.facts = self.facts(&world, &rows).await;
        Ok((world, rows.into_iter().map(|row| (row.id, row)).collect()))
    }

    /// Of the VMs that are found and have no record, those that the journal knows.
    async fn journaled(
        &self,
        observed: &Observed,
        rows: &[VmRow],
    ) -> anyhow::Result<BTreeSet<VmId>> {
        let processes = observed.processes.known().into_iter().flatten();
        let dirs = observed.dirs.known().into_iter().flatten();
        let found = processes
            .filter_map(|process| process.identity.mark.vm())
            .chain(dirs.map(|dir| dir.vm));
        let known: BTreeSet<VmId> = rows.iter().map(|row| row.id).collect();
        let strangers: BTreeSet<VmId> = found.filter(|vm| !known.contains(vm)).collect();
        if strangers.is_empty() {
            return Ok(strangers);
        }
        let store = &self.parts.store;
        let named = store.journaled(strangers.into_iter().collect()).await;
        Ok(named
            .context("cannot read the journal")?
            .into_iter()
            .collect())
    }

    /// VMs that an older daemon made have nothing in their folders to make their records from.
    fn keep_records_once(self: &Arc<Self>, rows: &BTreeMap<VmId, VmRow>) {
        let first = self.work.lock().shared.is_none();
        if first && self.modes.mode() != hearth_types::mode::Mode::Readonly {
            let (engine, rows) = (Arc::clone(self), rows.values().cloned().collect::<Vec<_>>());
            // Nobody waits for it.
            drop(tokio::spawn(aside(move || {
                for row in &rows {
                    engine.keep_record(row);
                }
            })));
        }
    }

    /// Keeps the record of a VM whose folder was made, or which was started, when whoever waits
    /// for that has been told.
    async fn keep_what_began(self: &Arc<Self>, vm: VmId, steps: &[PlannedStep]) {
        let began = |planned: &PlannedStep| {
            matches!(
                planned.step,
                Step::EnsureDisks { .. } | Step::StartVmm { .. }
            )
        };
        if steps.iter().any(began)
            && let Some(row) = self.parts.store.vm(vm).await
        {
            self.keep_record_aside(&row).await;
        }
    }

    /// Says once, after the first survey, which VMs an earlier daemon left running.
    fn tell_adopted(&self, world: &World) {
        if self.work.lock().shared.is_some() {
            return;
        }
        let Some(processes) = world.observed.processes.known() else {
            return;
        };
        let living: BTreeSet<_> = processes
            .iter()
            .map(|process| (process.identity.pid, process.identity.start_time))
            .collect();
        let lives = |vm: &&hearth_plan::DesiredVm| {
            vm.status
                .vmm
                .as_ref()
                .is_some_and(|vmm| living.contains(&(vmm.pid, vmm.start_time)))
        };
        let adopted: Vec<_> = world
            .vms
            .iter()
            .filter(lives)
            .map(|vm| vm.spec.name.as_str())
            .collect();
        tracing::info!(
            count = adopted.len(),
            vms = adopted.join(" "),
            "[recovery] adopted the VMs that live"
        );
    }

    fn report_unknown(&self, observed: &Observed) {
        for (kind, reason) in [
            ("processes", unknown(&observed.processes)),
            ("units", unknown(&observed.units)),
            ("taps", unknown(&observed.taps)),
            ("dirs", unknown(&observed.dirs)),
            ("bridge", unknown(&observed.bridge)),
            ("rules", unknown(&observed.rules)),
            ("names", unknown(&observed.names)),
        ] {
            let Some(reason) = reason else { continue };
            self.metrics.unknown(kind);
            tracing::warn!(
                kind,
                reason,
                "[reconcile] a survey failed; nothing of this kind is acted on"
            );
        }
    }

    /// Hands each VM's steps to a task of its own and takes the shared ones here.
    async fn act_on(
        self: Arc<Self>,
        plan: Plan,
        rows: &BTreeMap<VmId, VmRow>,
        seen: &Moment,
    ) -> Option<Timestamp> {
        let (mut shared, mut orphans) = (Vec::new(), Vec::new());
        let mut by_vm: BTreeMap<VmId, Vec<PlannedStep>> = BTreeMap::new();
        for planned in plan.steps {
            match owner(&planned.step, rows) {
                Some(vm) => by_vm.entry(vm).or_default().push(planned),
                None if is_orphan(&planned.step) => orphans.push(planned),
                None => shared.push(planned),
            }
        }
        let (told, ready) = Ready::channel();
        for (vm, steps) in by_vm {
            let row = rows.get(&vm).cloned();
            self.clone().hand_over(vm, row, steps, ready.clone(), seen);
        }
        self.hand_over_orphans(orphans, seen);
        self.pass_at("the steps on what all VMs share");
        let outcome = self.take_shared(&shared).await;
        if !shared.is_empty() {
            self.network_made(outcome.as_ref().err().map(ToString::to_string));
        }
        let again = match outcome {
            Err(_) => Some(self.now() + SHARED_PAUSE),
            Ok(()) => None,
        };
        if outcome.is_ok() && plan.network_awaited && !shared.is_empty() {
            // Who waits for the network has no steps whose end would wake the loop.
            self.look_at_everything();
        }
        told.send_replace(Some(outcome));
        // What is due at once is what has just been handed over.
        again.into_iter().chain(plan.next_timer).min()
    }

    /// Lets a VM's owner task take its steps if nobody worked on it since `seen`. Whether it does.
    pub(super) fn hand_over(
        self: Arc<Self>,
        vm: VmId,
        row: Option<VmRow>,
        mut steps: Vec<PlannedStep>,
        mut ready: Ready,
        seen: &Moment,
    ) -> bool {
        let generation = row.as_ref().map_or(0, |row| row.generation);
        {
            let mut work = self.work.lock();
            work.retries.hold_back(vm, generation, &mut steps);
            if steps.is_empty() {
                return false;
            }
            if !work.hands.take(vm, seen) {
                if !work.hands.is_busy(vm) {
                    // What is due now is seen by another look.
                    work.dirty.insert(vm);
                    self.wake.notify_one();
                }
                return false;
            }
            if steps.iter().any(|planned| starts(&planned.step)) {
                work.starting.insert(vm);
            }
        }
        let name = row.as_ref().map(|row| row.spec.name.clone());
        let span = crate::logging::vm_span(vm, name.as_ref().map(|name| name.as_str()));
        let start = steps.iter().find(|planned| starts(&planned.step));
        let blamed = start.unwrap_or(&steps[0]).step.clone();
        let engine = Arc::clone(&self);
        let taking = async move {
            let (intents, mut leading) =
                tokio::join!(self.begin_all(&steps), self.leading_status(&steps));
            self.steps_begin(vm, row.as_ref(), &steps).await;
            let mut failed = false;
            for (index, planned) in steps.iter().enumerate() {
                let result = if let Some(stored) = leading.take() {
                    stored
                } else {
                    let blocked = ready.wait_for(&planned.step, row.as_ref()).await.err();
                    let _turn = self.turn_to_launch(&planned.step).await;
                    // A stricter mode holds what has not begun.
                    if !self.may(planned.origin)
                        || !self.still_wanted(vm, row.as_ref(), &planned.step).await
                    {
                        break;
                    }
                    match blocked {
                        Some(blocked) => {
                            self.metrics.step_blocked(planned.step.kind());
                            self.start_blocked(vm, blocked)
                        }
                        None => {
                            self.take_begun(planned, row.as_ref(), &intents, index)
                                .await
                        }
                    }
                };
                if let Err(error) = result {
                    tracing::error!(
                        error = format!("{error:#}"),
                        "[reconcile] step failed: {}",
                        planned.reason
                    );
                    if !self
                        .start_waits(vm, &planned.step, &error, generation)
                        .await
                    {
                        self.step_failed(vm, &planned.step, &error, generation)
                            .await;
                    }
                    failed = true;
                    // A limit that cannot be put back has nothing to do with what comes after it.
                    if !matches!(planned.step, Step::EnsureLimits { .. }) {
                        break;
                    }
                }
            }
            self.abandon(intents).await;
            self.keep_what_began(vm, &steps).await;
            let pause = {
                let mut work = self.work.lock();
                work.hands.give_back(vm);
                work.starting.remove(&vm);
                if !failed {
                    work.waiting
                        .done(vm, steps.iter().map(|planned| &planned.step));
                }
                match killed_again(row.as_ref(), &steps) {
                    Some(kill) if !failed => Some(work.retries.failed(vm, kill, generation)),
                    None if !failed => {
                        work.retries.done(vm, &steps);
                        None
                    }
                    _ => None,
                }
            };
            if let Some(pause) = pause {
                self.look_later(vm, pause);
            }
            self.tell_changed();
            if !failed {
                self.look_at(vm);
            }
        };
        let owned = engine.own(vm, generation, blamed, taking);
        tokio::spawn(owned.instrument(span));
        true
    }

    /// What the user asked last is what holds: a start that was planned for an older word
    /// is not taken any more, nor is anything that was planned before an operator's word.
    async fn still_wanted(&self, vm: VmId, row: Option<&VmRow>, step: &Step) -> bool {
        let Some(row) = row else { return true };
        let starts = matches!(step, Step::StartVmm { .. });
        match self.parts.store.vm(vm).await {
            Some(current) => {
                current.status.recovery.word == row.status.recovery.word
                    && (!starts || current.generation == row.generation)
            }
            None => !starts,
        }
    }
}

/// The SIGKILL of a VMM that had got one before and lives: it waits in the kernel, and dies when
/// it comes back from there. Another one is not due before a pause.
fn killed_again<'a>(row: Option<&VmRow>, steps: &'a [PlannedStep]) -> Option<&'a Step> {
    let stop = row?.status.stop.as_ref()?;
    let killed = stop.rung == Some(StopRung::Kill);
    let kill = |step: &Step| {
        let rung = StopRung::Kill;
        matches!(step, Step::Stop { rung: taken, .. } if *taken == rung)
    };
    let mut steps = steps.iter().map(|planned| &planned.step);
    steps.find(|step| killed && kill(step))
}

/// Whose task takes the step; `None` for what is shared and for orphans. A second VMM of a
/// VM that is wanted is that VM's own affair.
fn owner(step: &Step, rows: &BTreeMap<VmId, VmRow>) -> Option<VmId> {
    step.vm()
        .filter(|vm| !is_orphan(step) || rows.contains_key(vm))
}

/// Leaves out the steps of VMs that were worked on while the survey ran: it may be older than that.
fn without(mut plan: Plan, busy: &BTreeSet<VmId>, rows: &BTreeMap<VmId, VmRow>) -> Plan {
    plan.steps.retain(|planned| {
        let vm = owner(&planned.step, rows).or_else(|| planned.step.vm());
        vm.is_none_or(|vm| !busy.contains(&vm))
    });
    plan
}

const fn starts(step: &Step) -> bool {
    matches!(step, Step::StartVmm { .. })
}

pub(super) const fn is_orphan(step: &Step) -> bool {
    matches!(
        step,
        Step::KillOrphan { .. }
            | Step::RemoveOrphanUnit { .. }
            | Step::RemoveOrphanTap { .. }
            | Step::RemoveOrphanDir { .. }
    )
}

/// Why a kind of objects could not be seen, if it could not.
fn unknown<T>(survey: &Survey<T>) -> Option<&str> {
    match survey {
        Survey::Unknown(reason) => Some(reason),
        Survey::Known(_) => None,
    }
}
