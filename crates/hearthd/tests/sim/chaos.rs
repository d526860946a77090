//! Random words of the user, random fate and random deaths of the daemon, over virtual hours.
//! When fate has tired, every word that was answered has come true.
//!
//! A run that fails prints its seed; `HEARTH_SIM_SEED=<seed>` runs that one alone, and
//! `HEARTH_SIM_RUNS=<count>` so many in each test.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use hearth_sim::{Guest, Kind, Reaction, SimHost, SimTap};
use hearth_types::OwnerMark;
use hearth_types::ids::{InstallationId, VmId};
use hearth_types::names::tap_name;
use hearth_types::observe::ProcessRole;
use hearth_types::process::ProcessExit;
use hearth_types::spec::{NetworkMode, RestartPolicy};
use hearth_types::status::{Goal, Phase};

use super::world::{Life, World, reached, root, spec};

/// Worlds of each of the tests, which run side by side.
const RUNS: u64 = 50;
/// Words and strokes of fate in one run, and the longest pause after one in ms.
const STROKES: u32 = 25;
const LONGEST_PAUSE: u64 = 600_000;
const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// SplitMix64, by Steele, Lea and Flood.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.throw(of.len() as u64)).unwrap()]
    }
}

async fn user(life: &Life, dice: &mut Dice) {
    let name = dice.pick(&NAMES);
    let Some(row) = life.vm(name).await else {
        let mut spec = spec(name);
        spec.restart = dice.pick(&[
            RestartPolicy::No,
            RestartPolicy::Always,
            RestartPolicy::UnlessStopped,
            RestartPolicy::OnFailure(None),
            RestartPolicy::OnFailure(Some(2)),
        ]);
        spec.network.mode =
            dice.pick(&[NetworkMode::Bridge, NetworkMode::Bridge, NetworkMode::None]);
        spec.auto_remove = dice.throw(8) == 0;
        life.create(
            spec,
            dice.pick(&[Goal::Running, Goal::Running, Goal::Stopped]),
        )
        .await;
        return;
    };
    if row.goal == Goal::Absent {
        return;
    }
    match dice.throw(8) {
        0 | 1 => life.say(row.id, Goal::Stopped).await,
        2 | 3 => life.say(row.id, Goal::Running).await,
        4 => life.say(row.id, Goal::Paused).await,
        5 => life.say(row.id, Goal::Absent).await,
        _ if row.status.vmm.is_some() => life.restart(row.id).await,
        _ => {}
    }
}

fn fate(host: &mut SimHost, dice: &mut Dice) {
    let steps = [
        "ensure_bridge",
        "apply_rules",
        "ensure_names",
        "ensure_disks",
        "ensure_tap",
        "start_vmm",
        "pause",
        "resume",
        "stop",
        "kill",
        "remove_tap",
        "flush_conntrack",
        "remove_bridge",
    ];
    let kinds = [
        Kind::Processes,
        Kind::RunStates,
        Kind::Taps,
        Kind::Bridge,
        Kind::Rules,
        Kind::Names,
    ];
    let vmms: Vec<_> = host
        .processes
        .values()
        .filter(|p| !p.foreign && p.role == ProcessRole::Vmm)
        .map(|p| p.identity.pid)
        .collect();
    match dice.throw(8) {
        0 => drop(
            host.faults
                .insert(dice.pick(&steps), u32::try_from(dice.throw(12)).unwrap()),
        ),
        1 => drop(host.unknown.insert(dice.pick(&kinds))),
        2 => host.unknown.clear(),
        3 | 4 if !vmms.is_empty() => {
            let exit = dice.pick(&[
                ProcessExit::Code(0),
                ProcessExit::Code(1),
                ProcessExit::Signal(9),
            ]);
            host.end(dice.pick(&vmms), exit, None);
        }
        5 if !vmms.is_empty() => {
            // It vanishes without a record, and its shim hangs.
            host.processes.remove(&dice.pick(&vmms));
        }
        6 => host.rules = None,
        _ => {
            let mark = OwnerMark::of_vm(host.installation, VmId::new());
            host.spawn(mark, ProcessRole::Vmm, false);
        }
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

fn foreign(host: &SimHost) -> (usize, usize) {
    let processes = host.processes.values().filter(|p| p.foreign);
    (
        processes.count(),
        host.taps.values().filter(|tap| tap.foreign).count(),
    )
}

fn run(seed: u64) {
    let mut dice = Dice(seed);
    let mut world = World::new();
    neighbours(&mut world.host);
    let slow = Guest {
        agent: Reaction::Missing,
        power_button: dice.pick(&[Reaction::Obeys(3), Reaction::Ignores]),
        quit: dice.pick(&[Reaction::Obeys(0), Reaction::Ignores]),
    };
    let mut strokes = 0;
    while strokes < STROKES {
        // Each daemon lives for some strokes and dies at a random moment.
        let moment = Duration::from_millis(dice.throw(3_000_000));
        let dead = async move { tokio::time::sleep(moment).await };
        world.live_with(
            Arc::new(|_, _| std::future::ready(()).boxed()),
            dead,
            async |life| {
                while strokes < STROKES {
                    strokes += 1;
                    if dice.throw(3) == 0 {
                        life.rooms.change(|host| fate(host, &mut dice));
                    } else {
                        user(life, &mut dice).await;
                    }
                    life.rooms.change(|host| {
                        for row in host.processes.values_mut().filter(|p| !p.foreign) {
                            row.guest = slow;
                        }
                    });
                    let longest = dice.pick(&[100, 3_000, LONGEST_PAUSE]);
                    let pause = Duration::from_millis(dice.throw(longest));
                    tokio::time::sleep(pause).await;
                    let violations = life.rooms.change(|host| host.violations.clone());
                    assert_eq!(violations, Vec::<String>::new());
                }
            },
        );
        if dice.throw(10) == 0 {
            world.host.reboot();
            neighbours(&mut world.host);
        }
    }
    world.host.unknown.clear();
    world.host.faults.clear();
    let there = foreign(&world.host);
    world.live(async |life| {
        life.until("every word has come true", |rows, host| {
            rows.iter().all(|row| {
                let over = row.goal != Goal::Absent
                    && matches!(row.status.phase, Phase::Exited | Phase::Failed)
                    && !matches!(
                        row.spec.restart,
                        RestartPolicy::Always | RestartPolicy::UnlessStopped
                    )
                    && (row.status.last_end.is_some() || row.status.reason.is_some())
                    && row.status.observed_generation == row.generation
                    && host.vmms(row.id).count() == 0;
                over || reached(row, host)
            })
        })
        .await;
        life.sane().await;
        for row in life.engine.parts.store.vms().await {
            // One that removes itself may be quicker.
            life.say(row.id, Goal::Absent).await;
        }
        life.clean().await;
        assert_eq!(life.rooms.change(|host| foreign(host)), there);
    });
}

/// The `part`-th share of the worlds.
fn worlds(part: u64) {
    if !root() {
        return;
    }
    let number = |key: &str| {
        std::env::var(key)
            .ok()
            .map(|text| text.parse::<u64>().unwrap())
    };
    if let Some(seed) = number("HEARTH_SIM_SEED") {
        return run(seed);
    }
    let first = u64::from(std::process::id()) << 20 | part << 18;
    for seed in first..first + number("HEARTH_SIM_RUNS").unwrap_or(RUNS) {
        println!("HEARTH_SIM_SEED={seed}");
        run(seed);
    }
}

#[test]
fn every_word_comes_true_when_fate_has_tired() {
    worlds(0);
}

#[test]
fn every_word_comes_true_in_other_worlds() {
    worlds(1);
}

#[test]
fn every_word_comes_true_in_yet_other_worlds() {
    worlds(2);
}

#[test]
fn every_word_comes_true_in_the_last_worlds() {
    worlds(3);
}
