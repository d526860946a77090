//! Watching over VMs that run: are they well?
//!
//! ```text
//!  VMM runs ──► Ward (one task per VM) ──► a round for each check:
//!
//!      rest ──► may it be asked? ──► slot ──► probe ──► may it still? ──► machine ──► book
//!       ▲            │ no: paused, still, stopping, held (deadline)          │
//!       └────────────┴───────────────────────────────────────────────────────┘
//!
//!  book ──► API, metrics, log, events        ill, and asked to restart ──► fact for the planner
//! ```
//!
//! Nothing here acts on a VM. What is known is kept in memory: a daemon that is started anew asks
//! again, and calls nobody unhealthy before it has asked as often as it takes.
//!
//! | module | holds |
//! | --- | --- |
//! | `hush` | who is not asked while a snapshot is made |
//! | `machine` | what results add up to |
//! | `book` | what is known of one VM |
//! | `slots` | how many are asked at once, and who waits for the silent |
//! | `probe` | making a check once; a module for each kind that needs one |

mod book;
mod console;
mod exec;
mod hush;
mod machine;
mod net;
mod probe;
mod process;
mod qemu_agent;
mod slots;
mod unit;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hearth_plan::Ill;
use hearth_plan::transition::elapsed;
use hearth_store::VmRow;
use hearth_types::VmId;
use hearth_types::api::{Health, Verdict, VmHealth};
use hearth_types::event::{NewEvent, Severity};
use hearth_types::process::ProcessIdentity;
use hearth_types::spec::health::{Check, CheckKind, Probe};
use hearth_types::status::{Goal, Phase};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::engine::Engine;
use book::{Book, Change};

pub(crate) use hush::Hush;

pub use console::Mark as ConsoleMark;
pub(crate) use console::mark as console_mark;

/// All VMs that are watched over.
#[derive(Default)]
pub struct Wards {
    wards: Mutex<BTreeMap<Run, Arc<Ward>>>,
    slots: slots::Slots,
    units: unit::Units,
    /// VMs whose guests a snapshot holds still.
    pub(crate) hushed: hush::Hushed,
}

impl std::fmt::Debug for Wards {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wards")
            .field("vms", &self.wards.lock().len())
            .finish_non_exhaustive()
    }
}

/// A VM, and pid and start time of a VMM of it: there may be two for a moment.
type Run = (VmId, i32, u64);

const fn run(vm: VmId, vmm: &ProcessIdentity) -> Run {
    (vm, vmm.pid, vmm.start_time)
}

/// One run of one VM.
pub(crate) struct Ward {
    pub(crate) vm: VmId,
    /// The VMM of the run.
    pub(crate) vmm: ProcessIdentity,
    /// Something about the VM may have changed.
    poke: Notify,
    /// Something about its process may have changed.
    hurry: Notify,
    book: Mutex<Book>,
    task: Mutex<Option<AbortHandle>>,
}

impl Ward {
    fn end(&self) {
        if let Some(task) = self.task.lock().take() {
            task.abort();
        }
    }
}

impl Wards {
    /// A VM's health with its checks; `None` when it is not watched over.
    #[must_use]
    pub fn view(&self, vm: &VmRow) -> Option<VmHealth> {
        self.ward(vm).map(|ward| ward.book.lock().view())
    }

    /// The VMs that should be started again because a check of them says so.
    #[must_use]
    pub(crate) fn ill(&self) -> BTreeMap<VmId, Ill> {
        let wards = self.wards.lock();
        let ill = wards.values().filter_map(|ward| {
            let (since, reason) = ward.book.lock().calls_for_restart()?;
            let ill = Ill {
                vmm: ward.vmm.clone(),
                since,
                reason,
            };
            Some((ward.vm, ill))
        });
        ill.collect()
    }

    /// Something about a VM may have changed.
    pub(crate) fn poke(&self, vm: VmId) {
        let runs = (vm, i32::MIN, 0)..=(vm, i32::MAX, u64::MAX);
        for (_, ward) in self.wards.lock().range(runs) {
            ward.poke.notify_waiters();
        }
    }

    /// The process of a VM is to be looked at now.
    pub(crate) fn look_at_process(&self, vm: VmId) {
        let runs = (vm, i32::MIN, 0)..=(vm, i32::MAX, u64::MAX);
        for (_, ward) in self.wards.lock().range(runs) {
            ward.hurry.notify_one();
        }
    }

    /// This run is over.
    pub(crate) fn run_over(&self, vm: VmId, vmm: &ProcessIdentity) {
        if let Some(ward) = self.wards.lock().remove(&run(vm, vmm)) {
            ward.end();
        }
        self.hushed.forget(vm);
    }

    /// The ward of the VMM that is recorded.
    fn ward(&self, row: &VmRow) -> Option<Arc<Ward>> {
        let vmm = row.status.vmm.as_ref()?;
        self.wards.lock().get(&run(row.id, vmm)).cloned()
    }
}

/// What a ward's checks were made of.
#[derive(Debug, Clone)]
struct Orders {
    generation: u64,
    checks: Vec<Check>,
}

impl Engine {
    /// Watches over a run until [`Wards::run_over`].
    pub(crate) fn watch_over(self: &Arc<Self>, vm: VmId, vmm: &ProcessIdentity) {
        let ward = Arc::new(Ward {
            vm,
            vmm: vmm.clone(),
            poke: Notify::new(),
            hurry: Notify::new(),
            book: Mutex::default(),
            task: Mutex::default(),
        });
        let (engine, watched) = (Arc::clone(self), Arc::clone(&ward));
        let task = tokio::spawn(async move {
            let span = engine.span_of(vm).await;
            engine.keep_watch(&watched).instrument(span).await;
        });
        *ward.task.lock() = Some(task.abort_handle());
        let run = run(vm, vmm);
        if let Some(before) = self.health.wards.lock().insert(run, ward) {
            before.end();
        }
    }

    /// A VM's health as it is shown: that of a run.
    #[must_use]
    pub fn health_of(&self, row: &VmRow) -> Health {
        if row.status.vmm.is_none() || row.status.phase != Phase::Running {
            return Health::None;
        }
        let ward = self.health.ward(row);
        ward.map_or(Health::Starting, |ward| ward.book.lock().health())
    }

    async fn keep_watch(&self, ward: &Ward) {
        let mut orders = self.orders(ward).await;
        while let Some(now) = orders.take() {
            if ward.book.lock().set(&now.checks, self.now()) {
                self.tell_changed();
            }
            let rounds = now.checks.iter().enumerate();
            let rounds = rounds.map(|(index, check)| self.rounds(ward, index, check));
            tokio::select! {
                biased;
                never = futures::future::join_all(rounds) => drop(never),
                next = self.new_orders(ward, &now) => orders = next,
            }
            if now.checks.is_empty() && orders.is_none() {
                orders = self.new_orders(ward, &now).await;
            }
        }
    }

    /// The checks that are to be made of a VM; `None` when it is gone.
    async fn orders(&self, ward: &Ward) -> Option<Orders> {
        let row = self.parts.store.vm(ward.vm).await?;
        let image = match self.parts.images.get(row.image.as_str()).await {
            Ok(image) => image.config.healthcheck,
            Err(error) => {
                let error = hearth_types::survey::chain(&error);
                tracing::debug!(error, "the image cannot say how it wants to be checked");
                None
            }
        };
        let mut checks = row.spec.health.checks(image.as_ref());
        checks.retain(|check| check.probe != Probe::Unit || unit::Units::are_here());
        Some(Orders {
            generation: row.generation,
            checks,
        })
    }

    /// Returns when other checks are to be made; `None` when the VM is gone.
    async fn new_orders(&self, ward: &Ward, before: &Orders) -> Option<Orders> {
        let mut generation = before.generation;
        loop {
            let poked = ward.poke.notified();
            let row = self.parts.store.vm(ward.vm).await?;
            if row.generation != generation {
                generation = row.generation;
                let orders = self.orders(ward).await?;
                if orders.checks != before.checks {
                    return Some(orders);
                }
            }
            poked.await;
        }
    }

    /// Makes one check again and again.
    async fn rounds(&self, ward: &Ward, index: usize, check: &Check) {
        let mut dice = Dice::new(ward, index);
        let mut memory = probe::Memory::default();
        let mut silence = slots::Silence::default();
        // Many VMs may have been found at once; from now on each has times of its own.
        let mut first = true;
        loop {
            let poked = ward.poke.notified();
            let Some(run) = self.may_ask(ward).await else {
                ward.book.lock().interrupted(index);
                // Either is a reason to look again.
                let _either = tokio::time::timeout(check.interval, poked).await;
                continue;
            };
            let booting = ward.book.lock().booting(index, self.age(&run));
            // A guest that boots is waited for, which takes no work; nobody has to wait behind it.
            let kind = check.probe.kind();
            let patient = booting && matches!(kind, CheckKind::Agent);
            let make = async {
                let (begun, age) = (Instant::now(), self.age(&run));
                let waiting = (booting, patient);
                let outcome = probe::make(self, ward, &run, check, waiting, &mut memory).await;
                (begun, age, outcome)
            };
            let (begun, age, outcome) = if patient {
                make.await
            } else {
                self.health.slots.take(kind, &mut silence, make).await
            };
            // What was asked of a VM that was paused meanwhile says nothing.
            let held = self.health.hushed.was_since(ward.vm, begun);
            if !held && self.may_ask(ward).await.is_some() {
                self.result(ward, index, check, outcome, begun.elapsed(), age)
                    .await;
            }
            let spread = dice.roll();
            let rest = ward.book.lock().rest(index, check, self.age(&run), spread);
            let settled = std::mem::take(&mut first) && rest > check.interval.mul_f64(0.9);
            let rest = if settled { rest.mul_f64(spread) } else { rest };
            tokio::select! {
                biased;
                () = ward.hurry.notified(), if kind == CheckKind::Process => {}
                () = tokio::time::sleep_until(begun + rest) => {}
            }
        }
    }

    /// The VM's row, unless nothing may be asked of it now: it is paused or about to be, on its
    /// way down, held by its operator, held still for a snapshot, or runs in another VMM.
    async fn may_ask(&self, ward: &Ward) -> Option<VmRow> {
        if self.health.hushed.is(ward.vm) {
            return None;
        }
        let row = self.parts.store.vm(ward.vm).await?;
        let status = &row.status;
        let runs = row.goal == Goal::Running
            && status.phase == Phase::Running
            && status.stop.is_none()
            && status.recovery.hold.is_none()
            && status.vmm.as_ref() == Some(&ward.vmm);
        runs.then_some(row)
    }

    /// How old a run is. One whose guest was well before is past coming up, even if this daemon
    /// has not seen it.
    fn age(&self, run: &VmRow) -> Duration {
        if run.status.came_up() {
            return Duration::MAX;
        }
        run.status
            .started_at
            .map_or(Duration::ZERO, |at| elapsed(at, self.now()))
    }

    async fn result(
        &self,
        ward: &Ward,
        index: usize,
        check: &Check,
        outcome: probe::Outcome,
        took: Duration,
        age: Duration,
    ) {
        let (verdict, kind) = (outcome.verdict, check.probe.kind());
        let message = outcome.message.clone();
        let change = {
            let mut book = ward.book.lock();
            book.result(index, outcome, took, age, self.now())
        };
        if change.counts {
            self.health_checked(ward.vm, kind, &check.name, verdict, &message);
        }
        if change.state {
            self.tell_changed();
        }
        if change.calls_for_restart {
            self.look_at(ward.vm);
        }
        if change.state {
            self.look_at_waiters(ward.vm);
        }
        self.tell_health(ward, &change).await;
    }

    async fn tell_health(&self, ward: &Ward, change: &Change) {
        let Some((before, health)) = change.health else {
            return;
        };
        tracing::info!(?before, ?health, "health changed");
        let Some(row) = self.parts.store.vm(ward.vm).await else {
            return;
        };
        self.keep_illness(&row, ward, health).await;
        if health == Health::Healthy && !row.status.came_up() {
            self.keep_came_up(&row, ward).await;
        }
        let name = &row.spec.name;
        let event = match (change.told, &change.reason) {
            (Some(Health::Unhealthy), reason) => {
                let reason = reason.as_deref().unwrap_or("a check fails");
                NewEvent::info("vm.unhealthy", format!("{name} is unhealthy: {reason}"))
                    .severity(Severity::Warning)
                    .details(serde_json::json!({ "reason": reason }))
            }
            (Some(_), _) => NewEvent::info("vm.healthy", format!("{name} is healthy again")),
            (None, _) => return,
        };
        self.tell(event.vm(ward.vm, name)).await;
    }

    /// Remembers that a guest is past coming up: a new daemon takes its silence for what it is.
    async fn keep_came_up(&self, row: &VmRow, ward: &Ward) {
        let (vmm, now) = (ward.vmm.clone(), self.now());
        let change = move |row: &VmRow| {
            let mut status = row.status.clone();
            if status.vmm.as_ref() == Some(&vmm) {
                status.came_up_at = Some(now);
            }
            status
        };
        if let Err(error) = self.parts.store.change_status(row.id, change).await {
            let error = hearth_types::survey::chain(&error);
            tracing::warn!(error, "that a guest came up could not be stored");
        }
    }

    /// Remembers that a VM is unhealthy: a daemon of the host's next boot may have to know.
    async fn keep_illness(&self, row: &VmRow, ward: &Ward, health: Health) {
        let unhealthy = match health {
            Health::Unhealthy => true,
            Health::Healthy => false,
            _ => return,
        };
        if row.status.unhealthy == unhealthy {
            return;
        }
        let vmm = ward.vmm.clone();
        let change = move |row: &VmRow| hearth_types::status::VmStatus {
            unhealthy: unhealthy && row.status.vmm.as_ref() == Some(&vmm),
            ..row.status.clone()
        };
        if let Err(error) = self.parts.store.change_status(row.id, change).await {
            let error = hearth_types::survey::chain(&error);
            tracing::warn!(error, "that a VM is unhealthy could not be stored");
        }
    }

    /// A check of a running VM was made and counts.
    fn health_checked(
        &self,
        vm: VmId,
        kind: CheckKind,
        check: &str,
        verdict: Verdict,
        reason: &str,
    ) {
        self.metrics.health_checked(kind, verdict);
        match verdict {
            Verdict::Pass if kind == CheckKind::Agent => self.guest_answers(vm),
            Verdict::Fail => tracing::warn!(check, reason, "vm health check failed"),
            Verdict::Pass | Verdict::Unknown => {}
        }
    }
}

/// Numbers below 1, other ones for each check of each VM, and the same ones each time.
struct Dice(u64);

impl Dice {
    fn new(ward: &Ward, index: usize) -> Self {
        let (high, low) = ward.vm.as_uuid().as_u64_pair();
        let started = ward.vmm.start_time;
        Self(high ^ low.rotate_left(32) ^ started ^ (index as u64).rotate_right(8))
    }

    /// SplitMix64 (Steele, Lea and Flood, 2014).
    fn roll(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let top = u32::try_from((mixed ^ (mixed >> 31)) >> 32).unwrap_or_default();
        f64::from(top) / (f64::from(u32::MAX) + 1.0)
    }
}
