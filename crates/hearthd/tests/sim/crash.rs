//! The daemon dies before and after every step it ever takes in a story that needs every kind
//! of step; the next one goes on, and the story ends as it does without a death.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use futures::FutureExt as _;
use hearth_plan::Step;
use hearth_sim::SimUnit;
use hearth_types::OwnerMark;
use hearth_types::ids::VmId;
use hearth_types::names::tap_name;
use hearth_types::observe::{ProcessRole, UnitState};
use hearth_types::spec::{NetworkMode, RestartPolicy, VmSpec};
use hearth_types::status::{Goal, Phase, VmStatus};

use super::world::{Life, Place, World, changed, library, root, spec};

/// How far the story has come; it goes on from here in the next life.
#[derive(Debug, Default)]
struct Story {
    chapter: usize,
    /// The user's words of this chapter were all answered.
    said: bool,
    orphan: Option<VmId>,
    /// The VM of a unit that was left over, and of nothing else.
    unit: Option<VmId>,
    /// What every chapter ended with.
    ends: Vec<BTreeMap<String, Phase>>,
}

/// The chapter that begins with a reboot of the host.
const REBOOT: usize = 7;
const CHAPTERS: usize = 9;

/// A host with everything, systemd among it.
fn host() -> World {
    let mut world = World::new();
    world.host.systemd = true;
    world
}

/// Somebody changes a limit of a VM that runs.
fn loosen(life: &Life, vm: VmId) {
    life.rooms.change(|host| {
        if let Some(unit) = host.units.get_mut(&vm) {
            unit.changed = vec![changed("memory.max", "max", true)];
        }
    });
}

fn cast() -> [VmSpec; 3] {
    let mut web = spec("web");
    web.restart = RestartPolicy::Always;
    web.ports = vec!["127.0.0.1:8080:80/tcp".parse().unwrap()];
    let mut db = spec("db");
    db.volumes = vec!["data:/data:1MiB".parse().unwrap()];
    let mut lone = spec("lone");
    lone.restart = RestartPolicy::UnlessStopped;
    lone.network.mode = NetworkMode::None;
    [web, db, lone]
}

impl Story {
    /// What the user or fate does at the beginning of a chapter.
    async fn say(&mut self, life: &Life) {
        let id = async |name: &str| life.vm(name).await.expect(name).id;
        match self.chapter {
            0 => {
                for spec in cast() {
                    life.create(spec, Goal::Running).await;
                }
            }
            1 => life.set_goal(id("web").await, Goal::Paused).await,
            2 => life.set_goal(id("web").await, Goal::Running).await,
            3 => life.restart(id("db").await).await,
            4 => {
                loosen(life, id("web").await);
                self.plant_orphans(life);
            }
            5 => {
                // As if a daemon had died between the launch and its record.
                let lone = id("lone").await;
                let lost = |row: &hearth_store::VmRow| VmStatus {
                    vmm: None,
                    phase: Phase::Starting,
                    ..row.status.clone()
                };
                let store = &life.engine.parts.store;
                store.change_status(lone, lost).await.unwrap();
                life.engine.look_at(lone);
            }
            6 => life.set_goal(id("web").await, Goal::Stopped).await,
            REBOOT => {}
            _ => {
                for row in life.engine.parts.store.vms().await {
                    life.rooms.change(|host| host.tracked.extend(row.leases.ip));
                    life.set_goal(row.id, Goal::Absent).await;
                }
            }
        }
        self.said = true;
    }

    fn plant_orphans(&mut self, life: &Life) {
        let vm = *self.orphan.get_or_insert_with(VmId::new);
        life.rooms.change(|host| {
            let mark = OwnerMark::of_vm(host.installation, vm);
            host.spawn(mark, ProcessRole::Vmm, false);
            host.make_tap(vm).unwrap();
        });
        let unit = *self.unit.get_or_insert_with(VmId::new);
        life.rooms.change(|host| {
            let left = SimUnit {
                mark: Some(OwnerMark::of_vm(host.installation, unit)),
                state: UnitState::Failed,
                since: host.now,
                changed: Vec::new(),
            };
            host.units.insert(unit, left);
        });
        let folder = life.engine.paths.vm(vm);
        std::fs::create_dir_all(&folder).unwrap();
        let old = SystemTime::now() - Duration::from_secs(3600);
        std::fs::File::open(&folder)
            .unwrap()
            .set_modified(old)
            .unwrap();
        life.engine.look_at_everything();
    }

    /// Waits for the end of the chapter.
    async fn listen(&self, life: &Life) {
        let what = format!("chapter {}", self.chapter);
        match self.chapter {
            REBOOT => {
                life.until(&what, |rows, host| {
                    rows.iter().all(|row| {
                        // Without a policy it stays down: the reboot has ended it.
                        let ended = row.spec.name.as_str() == "db"
                            && row.status.phase == Phase::Exited
                            && host.vmms(row.id).count() == 0;
                        // It was stopped, and `always` starts it again: down is not the end.
                        let began =
                            row.spec.restart != RestartPolicy::Always || row.goal == Goal::Running;
                        ended || began && super::world::reached(row, host)
                    })
                })
                .await;
                life.sane().await;
            }
            8 => life.clean().await,
            _ => life.settled(&what).await,
        }
        if let Some(orphan) = self.orphan {
            let folder = life.engine.paths.vm(orphan);
            life.until("the orphans are gone", |_, host| {
                let mark = OwnerMark::of_vm(host.installation, orphan);
                !host.processes.values().any(|p| p.identity.mark == mark)
                    && !host.taps.contains_key(&tap_name(orphan))
                    && !folder.exists()
            })
            .await;
        }
        if let Some(unit) = self.unit {
            life.until("the unit is gone", |_, host| {
                !host.units.contains_key(&unit)
            })
            .await;
        }
        life.until("limits are what they were", |_, host| {
            host.units.values().all(|unit| unit.changed.is_empty())
        })
        .await;
        if matches!(self.chapter, 2 | 3 | 5) {
            let rows = life.engine.parts.store.vms().await;
            assert!(rows.iter().all(|row| row.status.phase == Phase::Running));
        }
    }

    /// From where it stands to the end of the book, or to the reboot.
    async fn go_on(&mut self, life: &Life) {
        loop {
            if !self.said {
                self.say(life).await;
            }
            self.listen(life).await;
            let rows = life.engine.parts.store.vms().await;
            let phases = rows
                .iter()
                .map(|row| (row.spec.name.to_string(), row.status.phase));
            self.ends.push(phases.collect());
            self.chapter += 1;
            self.said = false;
            if self.chapter == CHAPTERS || self.chapter == REBOOT {
                return;
            }
        }
    }

    /// Tells it on a new host. With a place, the daemon dies there once. Whether it did.
    fn tell(place: Option<Place>) -> (Self, bool) {
        let (mut world, mut story) = (host(), Self::default());
        let mut left = place;
        while story.chapter < CHAPTERS {
            let ended = match left {
                Some(place) => world.live_until(place, async |life| story.go_on(life).await),
                None => world.live_with(
                    Arc::new(|_, _| std::future::ready(()).boxed()),
                    std::future::pending(),
                    async |life| story.go_on(life).await,
                ),
            };
            match (ended, left) {
                (None, _) => left = None,
                (Some(()), Some(place)) => left = world.not_reached(place),
                (Some(()), None) => {}
            }
            if ended.is_some() && story.chapter == REBOOT {
                world.host.reboot();
            }
        }
        (story, place.is_some() && left.is_none())
    }
}

/// All places of a story without a death, and how often each is reached.
fn places() -> (Story, Vec<Place>) {
    type Seen = BTreeMap<(&'static str, &'static str), u32>;
    let seen: Arc<Mutex<Seen>> = Arc::default();
    let (mut world, mut story) = (host(), Story::default());
    while story.chapter < CHAPTERS {
        let seen = Arc::clone(&seen);
        let hook = Arc::new(move |side, step| {
            *seen.lock().unwrap().entry((side, step)).or_default() += 1;
            std::future::ready(()).boxed()
        });
        world
            .live_with(hook, std::future::pending(), async |life| {
                story.go_on(life).await;
            })
            .unwrap();
        if story.chapter == REBOOT {
            world.host.reboot();
        }
    }
    let seen = seen.lock().unwrap();
    let each = seen.iter().flat_map(|((side, step), count)| {
        let (side, step) = (*side, *step);
        (1..=*count).map(move |nth| Place { side, step, nth })
    });
    (story, each.collect())
}

#[test]
fn a_death_at_every_step_changes_nothing_in_the_end() {
    if !root() {
        return;
    }
    let _kept = library();
    let (whole, places) = places();
    for side in ["before", "after"] {
        let met: BTreeSet<_> = places
            .iter()
            .filter(|place| place.side == side && place.step != "launch")
            .map(|place| place.step)
            .collect();
        assert_eq!(
            met,
            Step::KINDS.into_iter().collect(),
            "the story lacks steps"
        );
    }
    let mut died = BTreeSet::new();
    for place in &places {
        println!("dies {place:?}");
        let (story, reached) = Story::tell(Some(*place));
        assert_eq!(story.ends, whole.ends, "after a death at {place:?}");
        if reached {
            died.insert((place.side, place.step));
        }
    }
    // How often a step is taken may differ from run to run, but each is taken once at least.
    let all: BTreeSet<_> = places
        .iter()
        .map(|place| (place.side, place.step))
        .collect();
    assert_eq!(died, all, "the daemon did not die everywhere");
    println!("{} deaths", places.len());
}
