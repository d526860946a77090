//! A data folder and a simulated host, and the daemons that live on them one after the other.
//!
//! ```text
//! World ── live(scenario) ──► runtime with a paused clock: Rooms, Store, Engine, scenario
//!   ▲                                    │ the scenario ends, or a failpoint ends the daemon
//!   └── the host as it was left ◄────────┘ the runtime is dropped: every task dies where it is
//! ```
//! What a life leaves behind is the host, the data folder and the database, nothing else.

mod host;
mod library;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use camino::Utf8PathBuf;
use futures::FutureExt as _;
use hearth_net::NetworkConfig;
use hearth_plan::{OrphanAction, Policy, recovery};
use hearth_sim::SimHost;
use hearth_sim::rooms::Rooms;
use hearth_store::{LeaseRanges, NewVm, Store, StoreError, VmRow};
use hearth_types::OwnerMark;
use hearth_types::ids::VmId;
use hearth_types::names::tap_name;
use hearth_types::observe::{ChangedLimit, ProcessRole};
use hearth_types::spec::{NetworkMode, VmSpec};
use hearth_types::status::{Goal, Phase};
use hearth_vmm::LogLimits;
use hearthd::engine::paths::Paths;
use hearthd::engine::{Engine, Parts, Settings};
use hearthd::failpoint::{Failpoints, Hook};
use host::Sim;
use jiff::Timestamp;
pub(super) use library::library;
use library::{Library, folder, image_id};
use tokio::sync::watch;

/// How long anything may take, in virtual time: a VM whose breaker has opened again and again
/// waits for an hour.
pub(super) const LIMIT: Duration = Duration::from_secs(7200);
/// How often a condition is looked at when nobody says that something changed.
const LOOK: Duration = Duration::from_secs(10);

/// Where and when a daemon dies: at the n-th time that a place is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// `before` or `after`.
    pub(super) side: &'static str,
    /// Which step.
    pub(super) step: &'static str,
    /// Which time, from 1.
    pub(super) nth: u32,
}

/// What outlives a daemon.
pub(super) struct World {
    dir: tempfile::TempDir,
    library: Arc<Library>,
    /// The host between two lives.
    pub(super) host: SimHost,
    /// The operator's choices.
    pub(super) policy: Policy,
    /// How often the last life came by the place where it was to die.
    seen: u32,
}

/// A daemon that lives.
pub(super) struct Life {
    pub(super) engine: Arc<Engine>,
    pub(super) rooms: Rooms,
}

/// The engine gives folders to uid 0, so these tests need root.
pub(super) fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("SKIP: needs root: VM folders are given to uid 0");
    }
    root
}

/// When each simulated host begins.
fn began() -> Timestamp {
    Timestamp::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

impl World {
    pub(super) fn new() -> Self {
        let dir = folder();
        let data = Utf8PathBuf::try_from(dir.path().to_owned()).unwrap();
        std::fs::create_dir_all(data.join("vms")).unwrap();
        let database = data.join("hearth.db");
        let library = library();
        std::fs::copy(&library.database, &database).unwrap();
        let installation = Store::open_in_place(database).unwrap().installation();
        let mut host = SimHost::new(installation, began());
        // Whatever is free where the test runs.
        host.free = Some(1 << 40);
        Self {
            dir,
            library,
            host,
            // What a test puts there is to go; who wants to see the default sets it.
            policy: Policy {
                orphan_vmms: OrphanAction::Remove,
                orphan_dirs: OrphanAction::Remove,
                ..Policy::default()
            },
            seen: 0,
        }
    }

    pub(super) fn data(&self) -> Utf8PathBuf {
        Utf8PathBuf::try_from(self.dir.path().to_owned()).unwrap()
    }

    fn engine(&self, rooms: &Rooms, failpoints: Failpoints) -> Arc<Engine> {
        let data = self.data();
        let store = Store::open_in_place(data.join("hearth.db")).unwrap();
        let network = NetworkConfig {
            bridge: "simbr".to_owned(),
            table: "sim".to_owned(),
            subnet: "10.64.0.0/16".parse().unwrap(),
            domain: "test".to_owned(),
            mark: OwnerMark::shared(store.installation()),
            dir: data.join("network"),
        };
        let settings = Settings {
            policy: self.policy.clone(),
            leases: leases(),
            network,
            unprivileged: false,
            console: LogLimits {
                max_bytes: 1,
                keep: 0,
            },
        };
        let parts = Parts {
            images: self.library.images.clone(),
            kernels: Arc::clone(&self.library.kernels),
            vmm: Arc::new(rooms.clone()),
            net: Arc::new(rooms.clone()),
            disks: Arc::new(rooms.clone()),
            processes: Arc::new(Sim(rooms.clone())),
            clock: Arc::new(Sim(rooms.clone())),
            guest_segment: Arc::default(),
            store,
        };
        Engine::with_failpoints(parts, settings, Paths::new(data), failpoints)
    }

    /// One life of a daemon, until the scenario ends.
    pub(super) fn live<T>(&mut self, scenario: impl AsyncFnOnce(&Life) -> T) -> T {
        let never = Arc::new(|_, _| std::future::ready(()).boxed());
        let dead = std::future::pending();
        self.live_with(never, dead, scenario)
            .expect("nothing ends this daemon")
    }

    /// What is left of a place that a life did not reach: it may have come near.
    pub(super) fn not_reached(&self, place: Place) -> Option<Place> {
        let nth = place.nth.saturating_sub(self.seen);
        (nth > 0).then_some(Place { nth, ..place })
    }

    /// One life of a daemon, until the scenario ends or the place is reached; `None` then.
    pub(super) fn live_until<T>(
        &mut self,
        place: Place,
        scenario: impl AsyncFnOnce(&Life) -> T,
    ) -> Option<T> {
        let (died, mut dead) = watch::channel(0);
        let hook: Hook = Arc::new(move |side, step| {
            if (side, step) != (place.side, place.step) {
                return std::future::ready(()).boxed();
            }
            died.send_modify(|count| *count += 1);
            if *died.borrow() == place.nth {
                // The daemon is dead: nothing after this place ever happens.
                std::future::pending().boxed()
            } else {
                std::future::ready(()).boxed()
            }
        });
        let counted = dead.clone();
        let dead = async move { drop(dead.wait_for(|count| *count >= place.nth).await) };
        let ended = self.live_with(hook, dead, scenario);
        self.seen = *counted.borrow();
        ended
    }

    /// One life with a hook, until the scenario ends or `dead` is done.
    pub(super) fn live_with<T>(
        &mut self,
        hook: Hook,
        dead: impl Future<Output = ()>,
        scenario: impl AsyncFnOnce(&Life) -> T,
    ) -> Option<T> {
        self.live_watched(Failpoints::hooked(hook), dead, scenario)
    }

    /// One life that is watched, until the scenario ends or `dead` is done.
    pub(super) fn live_watched<T>(
        &mut self,
        failpoints: Failpoints,
        dead: impl Future<Output = ()>,
        scenario: impl AsyncFnOnce(&Life) -> T,
    ) -> Option<T> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        let (ended, host) = runtime.block_on(async {
            let rooms = Rooms::new(self.host.clone());
            let engine = self.engine(&rooms, failpoints);
            let (_stop, stopping) = watch::channel(false);
            tokio::spawn(Arc::clone(&engine).run(stopping));
            let life = Life { engine, rooms };
            let ended = tokio::select! {
                biased;
                () = dead => None,
                ended = scenario(&life) => Some(ended),
            };
            (ended, life.rooms.see(SimHost::clone))
        });
        drop(runtime);
        self.host = host;
        ended
    }
}

pub(super) fn leases() -> LeaseRanges {
    LeaseRanges {
        subnet: "10.64.0.0/16".parse().unwrap(),
        uid_base: 0,
        uid_count: 1,
        cid_base: 3,
    }
}

/// A limit of a unit that is not what it was.
pub(super) fn changed(name: &str, found: &str, fits: bool) -> ChangedLimit {
    ChangedLimit {
        name: name.to_owned(),
        wanted: "1000".to_owned(),
        found: found.to_owned(),
        fits,
    }
}

pub(super) fn spec(name: &str) -> VmSpec {
    VmSpec::new(name.parse().unwrap(), "test")
}

impl Life {
    /// `hearth create` or `hearth run -d`.
    pub(super) async fn create(&self, spec: VmSpec, goal: Goal) -> VmId {
        let name = spec.name.to_string();
        let new = NewVm {
            spec,
            goal,
            image: image_id(),
            kernel: None,
        };
        let now = self.engine.now();
        let made = self.engine.parts.store.create_vm(new, leases(), now).await;
        let id = match made {
            Ok(row) => row.id,
            // A daemon that died before it could answer had made it.
            Err(StoreError::NameTaken { .. }) => self.vm(&name).await.unwrap().id,
            Err(error) => panic!("{name} cannot be created: {error}"),
        };
        self.engine.look_at(id);
        id
    }

    /// A new word of the user.
    pub(super) async fn set_goal(&self, vm: VmId, goal: Goal) {
        let store = &self.engine.parts.store;
        store.set_goal(vm, goal, false, None, None).await.unwrap();
        self.engine.look_at(vm);
    }

    /// The same of a VM that may be gone by now.
    pub(super) async fn say(&self, vm: VmId, goal: Goal) {
        let store = &self.engine.parts.store;
        let said = store.set_goal(vm, goal, false, None, None).await;
        if !matches!(
            said,
            Err(StoreError::NotFound { .. } | StoreError::Leaving { .. })
        ) {
            said.unwrap();
        }
        self.engine.look_at(vm);
    }

    /// `hearth restart`.
    pub(super) async fn restart(&self, vm: VmId) {
        let now = self.engine.now();
        let begin = move |row: &VmRow| recovery::restart(&row.status, row.generation, now);
        let store = &self.engine.parts.store;
        let said = store
            .set_goal_and_status(vm, Goal::Running, false, None, None, begin)
            .await;
        if !matches!(
            said,
            Err(StoreError::NotFound { .. } | StoreError::Leaving { .. })
        ) {
            said.unwrap();
        }
        self.engine.look_at(vm);
    }

    pub(super) async fn vm(&self, name: &str) -> Option<VmRow> {
        let rows = self.engine.parts.store.vms().await;
        rows.into_iter().find(|row| row.spec.name.as_str() == name)
    }

    pub(super) async fn row(&self, vm: VmId) -> VmRow {
        self.engine.parts.store.vm(vm).await.unwrap()
    }

    /// Waits until it holds, in virtual time.
    pub(super) async fn until(&self, what: &str, holds: impl Fn(&[VmRow], &SimHost) -> bool) {
        let mut changes = self.engine.changes();
        let waited = tokio::time::timeout(LIMIT, async {
            loop {
                changes.mark_unchanged();
                let rows = self.engine.parts.store.vms().await;
                if self.rooms.see(|host| holds(&rows, host)) {
                    return;
                }
                // Each is a reason to look again.
                tokio::select! {
                    biased;
                    _ = changes.changed() => {}
                    () = self.rooms.news() => {}
                    () = tokio::time::sleep(LOOK) => {}
                }
            }
        });
        if waited.await.is_err() {
            let rows = self.engine.parts.store.vms().await;
            let host = self.rooms.see(SimHost::clone);
            panic!("{what}: not reached in virtual time\n{rows:#?}\n{host:#?}");
        }
    }

    /// Waits until each VM is as the user wants it.
    pub(super) async fn settled(&self, what: &str) {
        self.until(what, |rows, host| rows.iter().all(|row| reached(row, host)))
            .await;
        self.sane().await;
    }

    /// What holds whenever the engine is at rest, and most of it always.
    pub(super) async fn sane(&self) {
        let rows = self.engine.parts.store.vms().await;
        let host = self.rooms.see(SimHost::clone);
        assert_eq!(host.violations, Vec::<String>::new());
        let leased: Vec<_> = rows.iter().filter_map(|row| row.leases.ip).collect();
        let distinct: BTreeSet<_> = leased.iter().collect();
        assert_eq!(distinct.len(), leased.len(), "an address is leased twice");
        for process in host.processes.values().filter(|p| !p.foreign) {
            let vm = process.identity.mark.vm().unwrap();
            let vmms = host.vmms(vm).count();
            assert!(vmms <= 1, "{vm} has {vmms} VMMs");
            let of_record = rows.iter().any(|row| row.id == vm);
            if process.role == ProcessRole::Vmm && of_record {
                let folder = self.engine.paths.vm(vm);
                assert!(folder.is_dir(), "{vm} lost its folder while it runs");
            }
        }
    }

    /// Waits until the VM's folder keeps its record: it follows the start that it is kept for.
    pub(super) async fn kept(&self, vm: VmId) {
        let file = self.engine.paths.vm(vm).join("vm.json");
        let kept = |_: &[VmRow], _: &SimHost| file.exists();
        self.until("its record is kept", kept).await;
    }

    /// Events with this code so far.
    pub(super) async fn events(&self, code: &str) -> usize {
        let from = hearth_types::ids::EventSeq(0);
        let events = self.engine.parts.store.events(from, 100_000).await.unwrap();
        events.iter().filter(|event| event.code == code).count()
    }

    /// Waits until so many events with this code are told: an event follows what it tells.
    pub(super) async fn told(&self, code: &str, count: usize) {
        let mut changes = self.engine.changes();
        let waited = tokio::time::timeout(LIMIT, async {
            while self.events(code).await < count {
                // Either is a reason to look again.
                let _either = tokio::time::timeout(LOOK, changes.changed()).await;
            }
        });
        drop(waited.await);
        assert_eq!(self.events(code).await, count, "events {code}");
    }

    /// Nothing of ours is left on the host.
    pub(super) async fn clean(&self) {
        self.until("everything is gone", |rows, host| {
            rows.is_empty()
                && !host.processes.values().any(|p| !p.foreign)
                && !host.taps.values().any(|tap| !tap.foreign)
                && host.bridge.is_none()
                && host.rules.is_none()
                && !host.names.running
                && host.tracked.is_empty()
        })
        .await;
        let left: Vec<_> = self.engine.paths.vms().read_dir_utf8().unwrap().collect();
        assert!(left.is_empty(), "folders are left: {left:?}");
        self.sane().await;
    }
}

/// Whether a VM is as the user wants it.
pub(super) fn reached(row: &VmRow, host: &SimHost) -> bool {
    let vmms: Vec<_> = host.vmms(row.id).collect();
    let shims = host
        .processes
        .values()
        .any(|p| p.role == ProcessRole::Shim && p.identity.mark.vm() == Some(row.id));
    let tap = host.taps.contains_key(&tap_name(row.id));
    let heard = row.status.observed_generation == row.generation;
    let lives = |phase, paused| {
        row.status.phase == phase
            && matches!(vmms.as_slice(), [vmm] if vmm.paused == paused && row.status.vmm.as_ref() == Some(&vmm.identity))
            && tap == (row.spec.network.mode == NetworkMode::Bridge)
            && row.status.stop.is_none()
    };
    let dead = row.status.vmm.is_none() && vmms.is_empty() && !shims && !tap;
    heard
        && match row.goal {
            Goal::Running => lives(Phase::Running, false),
            Goal::Paused => lives(Phase::Paused, true),
            Goal::Stopped => {
                dead && matches!(
                    row.status.phase,
                    Phase::Exited | Phase::Failed | Phase::Created
                )
            }
            Goal::Absent => false,
        }
}
