//! Playing a script: daemons live and die on one host until all strokes were made; then fate
//! tires, and every word that was answered comes true.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use hearth_sim::{Guest, SimHost, SimTap};
use hearth_types::OwnerMark;
use hearth_types::ids::{InstallationId, VmId, seeded};
use hearth_types::mode::{Mode, SetMode};
use hearth_types::names::tap_name;
use hearth_types::observe::ProcessRole;
use hearth_types::spec::RestartPolicy;
use hearth_types::spec::health::OnFailure;
use hearth_types::status::{Goal, Phase};
use hearthd::api::error::{ApiResult, Body, InPath, Params};
use hearthd::api::lifecycle::ActionParams;
use hearthd::api::{Api, lifecycle, recovery, vms};
use tokio::time::Instant;

use super::super::world::{Life, World, changed, reached, spec};
use super::script::{Deed, Script, Word};
use super::watch::{Watch, foreign, starts_nothing, too_many_passes};

/// What a world was like.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Facts {
    pub(super) places: u32,
    pub(super) plans: u32,
    /// Seconds of virtual time.
    pub(super) seconds: u64,
}

/// Why a daemon's life ended.
enum End {
    Done,
    Died,
    Reboot,
}

/// Plays a script. What is wrong is told in words.
pub(super) fn play(script: &Script) -> Result<Facts, String> {
    seeded::seed(Some(script.seed));
    super::panics::forget();
    let played = catch_unwind(AssertUnwindSafe(|| Play::new(script).play()));
    seeded::seed(None);
    match (played, super::panics::take()) {
        (Ok(facts), panics) if panics.is_empty() => Ok(facts),
        (_, panics) => Err(panics.join("\n")),
    }
}

struct Play<'a> {
    script: &'a Script,
    world: World,
    watch: Arc<Watch>,
    next: usize,
}

impl<'a> Play<'a> {
    fn new(script: &'a Script) -> Self {
        let mut world = World::new();
        world.host.systemd = script.systemd;
        neighbours(&mut world.host);
        let watch = Watch::new(world.policy.clone());
        watch.count_foreign(&world.host);
        Self {
            script,
            world,
            watch,
            next: 0,
        }
    }

    fn play(mut self) -> Facts {
        let began = self.world.host.now;
        while self.next < self.script.strokes.len() {
            if matches!(self.live(), End::Reboot) {
                self.world.host.reboot();
                neighbours(&mut self.world.host);
                self.watch.rebooted();
                self.watch.count_foreign(&self.world.host);
            }
        }
        self.rest();
        let now = self.world.host.now;
        Facts {
            places: self.watch.places.load(Ordering::Relaxed),
            plans: self.watch.plans.load(Ordering::Relaxed),
            seconds: hearth_plan::transition::elapsed(began, now).as_secs(),
        }
    }

    /// One daemon, until it dies or all strokes were made.
    fn live(&mut self) -> End {
        let (failpoints, dead) = self.watch.failpoints();
        let Self {
            script,
            world,
            watch,
            next,
        } = self;
        let ended = world.live_watched(failpoints, dead, async |life| {
            watch.meet(life);
            let api = api(life);
            while let Some((_, stroke)) = script.strokes.get(*next) {
                *next += 1;
                match stroke.deed {
                    Deed::DieNow => return End::Died,
                    Deed::Reboot => return End::Reboot,
                    Deed::DieAtPlace(nth) => watch.light(nth),
                    deed => do_it(life, &api, watch, deed).await,
                }
                as_guests_are(life, script.guest);
                let (begun, turns) = (Instant::now(), life.engine.turns().borrow().count);
                tokio::time::sleep(Duration::from_millis(stroke.pause)).await;
                let passes = life.engine.turns().borrow().count - turns;
                let storm = too_many_passes(passes, begun.elapsed());
                assert_eq!(storm, None);
                no_violations(life);
            }
            End::Done
        });
        self.watch.part();
        ended.unwrap_or(End::Died)
    }

    /// Fate has tired: every word comes true. Then all is removed.
    fn rest(&mut self) {
        self.watch.light(u32::MAX);
        calm(&mut self.world.host);
        let there = foreign(&self.world.host);
        let (failpoints, dead) = self.watch.failpoints();
        let watch = Arc::clone(&self.watch);
        let told = self.world.live_watched(failpoints, dead, async |life| {
            watch.meet(life);
            set_mode(life, Mode::Normal).await;
            let api = api(life);
            for row in life.engine.parts.store.vms().await {
                if row.status.recovery.hold.is_some() {
                    let name = InPath(row.spec.name.to_string());
                    assert!(told(recovery::release(State(api.clone()), name).await));
                    watch.said(row.id, starts_nothing(row.goal), life.engine.now());
                }
            }
            life.until("every word has come true", |rows, host| {
                rows.iter().all(|row| over(row, host) || reached(row, host))
            })
            .await;
            life.sane().await;
            for row in life.engine.parts.store.vms().await {
                // One that removes itself may be quicker.
                life.say(row.id, Goal::Absent).await;
            }
            life.clean().await;
            life.rooms.see(|host| assert_eq!(foreign(host), there));
            no_violations(life);
        });
        // Only the watch ends this daemon, and says why.
        let violations = self.world.host.violations.join("\n");
        assert!(told.is_some(), "{violations}");
    }
}

fn no_violations(life: &Life) {
    let violations = life.rooms.see(|host| host.violations.clone());
    assert!(violations.is_empty(), "{}", violations.join("\n"));
    let panics = super::panics::count();
    assert_eq!(panics, 0, "a task of the daemon panicked");
}

/// It has ended, its policy asks for no other start, and there is a reason.
fn over(row: &hearth_store::VmRow, host: &SimHost) -> bool {
    let again = matches!(
        row.spec.restart,
        RestartPolicy::Always | RestartPolicy::UnlessStopped
    );
    row.goal != Goal::Absent
        && matches!(row.status.phase, Phase::Exited | Phase::Failed)
        && !again
        && (row.status.last_end.is_some() || row.status.reason.is_some())
        && row.status.observed_generation == row.generation
        && host.vmms(row.id).count() == 0
}

fn api(life: &Life) -> Api {
    let (_, stopping) = tokio::sync::watch::channel(false);
    let store = &life.engine.parts.store;
    let ground = Arc::new(hearth_pool::fake::FakeGround::default());
    let place = hearth_pool::Place::new(&life.engine.paths.pool(), store.installation());
    let pool = hearth_pool::Pool::new(place, Arc::clone(&ground) as _);
    let ledger = Arc::new(hearthd::volumes::StoreLedger::new(store.clone()));
    let config = Arc::new(hearth_types::api::ConfigView {
        entries: Vec::new(),
    });
    Api {
        jobs: hearthd::image_jobs::open(
            &life.engine,
            &config,
            hearth_image::jobs::Patience::default(),
        )
        .unwrap(),
        engine: Arc::clone(&life.engine),
        thins: hearth_pool::Thins::new(pool.clone(), ground, ledger),
        pool,
        config,
        started: std::time::Instant::now(),
        stopping,
    }
}

async fn set_mode(life: &Life, mode: Mode) {
    let set = SetMode { mode, reason: None };
    life.engine.set_mode(set).await;
}

fn as_guests_are(life: &Life, guest: Guest) {
    life.rooms.change(|host| {
        for process in host.processes.values_mut().filter(|p| !p.foreign) {
            process.guest = guest;
        }
    });
}

async fn do_it(life: &Life, api: &Api, watch: &Watch, deed: Deed) {
    // The API refuses what would change something in this mode.
    let readonly = life.engine.modes.mode() == Mode::Readonly;
    match deed {
        Deed::SetMode(mode) => set_mode(life, mode).await,
        Deed::Create { .. } | Deed::Say(..) | Deed::RecoverAll | Deed::ResetBreakers
            if readonly => {}
        Deed::Create { name, .. } => {
            if life.vm(name).await.is_none() {
                create(life, deed).await;
            }
        }
        Deed::Say(name, word) => say(life, api, watch, name, word).await,
        Deed::RecoverAll => {
            let all = recovery::recover_all(State(api.clone()), Body(Default::default()));
            assert!(all.await.is_ok());
        }
        Deed::ResetBreakers => assert!(recovery::reset_breakers(State(api.clone())).await.is_ok()),
        fate => life.rooms.change(|host| befall(host, watch, fate)),
    }
}

async fn create(life: &Life, deed: Deed) {
    let Deed::Create {
        name,
        restart,
        network,
        auto_remove,
        ill_is_restarted,
        running,
    } = deed
    else {
        return;
    };
    let mut spec = spec(name);
    spec.restart = restart;
    spec.network.mode = network;
    spec.auto_remove = auto_remove;
    spec.health.on_failure = ill_is_restarted.then_some(OnFailure::Restart);
    let goal = if running {
        Goal::Running
    } else {
        Goal::Stopped
    };
    life.create(spec, goal).await;
}

async fn say(life: &Life, api: &Api, watch: &Watch, name: &str, word: Word) {
    let Some(row) = life.vm(name).await else {
        return;
    };
    let (state, path) = (State(api.clone()), InPath(name.to_owned()));
    let (headers, params) = (HeaderMap::new(), |force| {
        Params(ActionParams {
            force: Some(force),
            ..ActionParams::default()
        })
    });
    let body = |force| {
        Body(hearth_types::api::StopVm {
            force,
            ..Default::default()
        })
    };
    // These say nothing of whether it shall run; a policy that has not spoken yet after a reboot may.
    let speaks = !matches!(
        word,
        Word::Recover { .. } | Word::ResetBreaker | Word::Release
    );
    let answered = match word {
        Word::Start => told(lifecycle::start(state, path, headers, params(false)).await),
        Word::Stop { force } => {
            told(lifecycle::stop(state, path, headers, params(false), body(force)).await)
        }
        Word::Restart => {
            told(lifecycle::restart(state, path, headers, params(false), body(false)).await)
        }
        Word::Pause => told(lifecycle::pause(state, path, headers, params(false)).await),
        Word::Resume => told(lifecycle::resume(state, path, headers, params(false)).await),
        Word::Remove { force } => told(vms::delete(state, path, headers, params(force)).await),
        Word::Hold => told(recovery::hold(state, path, Body(Default::default())).await),
        Word::Release => told(recovery::release(state, path).await),
        Word::Recover { force } => {
            let how = hearth_types::api::RecoverVm { force };
            told(recovery::recover(state, path, Body(how)).await)
        }
        Word::ResetBreaker => told(recovery::reset_breaker(state, path).await),
    };
    let now = life.engine.now();
    if let (true, Some(row)) = (answered, life.engine.parts.store.vm(row.id).await) {
        let forbids = row.status.recovery.hold.is_some() || starts_nothing(row.goal);
        if speaks || !forbids {
            watch.said(row.id, forbids, now);
        }
    }
}

/// Whether it was acknowledged; a refusal has a reason.
fn told<T>(answer: ApiResult<T>) -> bool {
    match answer {
        Ok(_) => true,
        Err(error) => {
            let problem = error.into_problem();
            assert!(!problem.detail.is_empty(), "refused without a reason");
            assert!(problem.status < 500, "{problem:?}");
            false
        }
    }
}

fn befall(host: &mut SimHost, watch: &Watch, fate: Deed) {
    match fate {
        Deed::Fault(step, times) => drop(host.faults.insert(step, times)),
        Deed::Overrun(step, times) => drop(host.slow.insert(step, times)),
        Deed::Blind(kind) => drop(host.unknown.insert(kind)),
        Deed::Dwell(kind) => {
            host.hung.insert(kind);
        }
        Deed::Sight => {
            host.unknown.clear();
            host.hung.clear();
        }
        Deed::Latency(millis) => host.latency = Duration::from_millis(millis),
        Deed::DiskFull(full) => host.free = Some(if full { 0 } else { 1 << 40 }),
        Deed::Die(which, exit) => {
            if let Some(pid) = vmm(host, which) {
                host.end(pid, exit, None);
            }
        }
        Deed::Vanish(which) => {
            if let Some(pid) = vmm(host, which) {
                host.processes.remove(&pid);
            }
        }
        Deed::PidReuse(which) => {
            if let Some(pid) = vmm(host, which) {
                host.end(pid, hearth_types::process::ProcessExit::Signal(9), None);
                let mark = OwnerMark::of_vm(InstallationId::new(), VmId::new());
                host.spawn(mark, ProcessRole::Vmm, true);
                watch.count_foreign(host);
            }
        }
        Deed::Hang(which) | Deed::Stick(which) => {
            if let Some(process) = vmm(host, which).and_then(|pid| host.processes.get_mut(&pid)) {
                process.hangs = true;
                process.stuck |= matches!(fate, Deed::Stick(_));
            }
        }
        Deed::Well => {
            for process in host.processes.values_mut().filter(|p| !p.stuck) {
                process.hangs = false;
            }
        }
        Deed::Unstick => host.unstick(),
        Deed::Detach(which) | Deed::Unplug(which) => tap_trouble(host, which, fate),
        Deed::Loosen(which) => {
            let count = host.units.len().max(1);
            if let Some(unit) = host.units.values_mut().nth(which as usize % count) {
                unit.changed = vec![changed("cpu.max", "max", which % 4 != 0)];
            }
        }
        Deed::NoRules => host.rules = None,
        Deed::NoNames => host.names = hearth_types::observe::ObservedNames::default(),
        Deed::Stray => {
            let mark = OwnerMark::of_vm(host.installation, VmId::new());
            host.spawn(mark, ProcessRole::Vmm, false);
        }
        other => panic!("{other:?} is no stroke of fate"),
    }
}

fn tap_trouble(host: &mut SimHost, which: u32, fate: Deed) {
    let ours = host.taps.iter().filter(|(_, tap)| !tap.foreign);
    let names: Vec<_> = ours.map(|(name, _)| name.clone()).collect();
    if names.is_empty() {
        return;
    }
    let name = &names[which as usize % names.len()];
    match (fate, host.taps.get_mut(name)) {
        (Deed::Detach(_), Some(tap)) => tap.attached = false,
        _ => drop(host.taps.remove(name)),
    }
}

/// One of the VMMs that fate can end.
fn vmm(host: &SimHost, which: u32) -> Option<i32> {
    let ours = host
        .processes
        .values()
        .filter(|p| !p.foreign && !p.stuck && p.role == ProcessRole::Vmm);
    let pids: Vec<_> = ours.map(|p| p.identity.pid).collect();
    (!pids.is_empty()).then(|| pids[which as usize % pids.len()])
}

/// Nothing goes wrong any more.
fn calm(host: &mut SimHost) {
    host.unknown.clear();
    host.hung.clear();
    host.faults.clear();
    host.slow.clear();
    host.latency = Duration::ZERO;
    host.free = Some(1 << 40);
    host.unstick();
    for process in host.processes.values_mut() {
        process.hangs = false;
    }
}

/// Neighbours of every kind; how many there are must never change.
fn neighbours(host: &mut SimHost) {
    let vm = VmId::new();
    let mark = OwnerMark::of_vm(InstallationId::new(), vm);
    host.spawn(mark, ProcessRole::Vmm, true);
    let tap = SimTap {
        index: 7,
        mark: Some(mark),
        attached: true,
        foreign: true,
    };
    host.taps.insert(tap_name(vm), tap);
    host.leaky_survey = true;
}
