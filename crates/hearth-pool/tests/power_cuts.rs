//! Power cuts at random moments of making, writing, snapshotting and removing, on the kernel's own
//! device-mapper.
//!
//! A disk is used once, while the kernel logs each write to it. What it could hold at any moment of that is
//! made of the log, also without a part of what was not flushed; each of these disks is put together as
//! after a boot and must have all that had been acknowledged by then. So a cut costs seconds and no reboot. The
//! testbed's scenario `pool-cuts` runs it where there is a device-mapper, and cuts a whole host's power beside it.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failed unwrap is a failed test; skips and seeds are said"
)]

#[path = "power_cuts/disk.rs"]
mod disk;
#[path = "power_cuts/ledger.rs"]
mod ledger;
#[path = "power_cuts/load.rs"]
mod load;
#[path = "power_cuts/log.rs"]
mod log;
#[path = "power_cuts/random.rs"]
mod random;
#[path = "kernel/run.rs"]
mod run;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use hearth_types::InstallationId;
use hearth_types::pool::PoolState;
use hearth_types::thin::{ThinDevice, ThinState};

use disk::Disk;
use load::{Moment, World, read};
use log::Log;
use random::Random;

/// A number that the environment may change.
fn from_environment(name: &str, otherwise: u64) -> u64 {
    let given = std::env::var(name).ok();
    given
        .and_then(|text| text.parse().ok())
        .unwrap_or(otherwise)
}

/// What the cuts have shown.
#[derive(Default)]
struct Tally {
    /// What was settled or told, by its kind.
    differences: BTreeMap<String, u32>,
    acknowledged: usize,
    open_done: u32,
    open_undone: u32,
    in_setup: u32,
    slowest: Duration,
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_off_at_any_write_all_that_was_acknowledged_is_there() {
    let cuts = usize::try_from(from_environment("HEARTH_TEST_CUTS", 60)).unwrap();
    let operations = usize::try_from(from_environment("HEARTH_TEST_OPERATIONS", 80)).unwrap();
    let mut random = Random::seeded();
    let Some(mut disk) = Disk::new() else { return };
    if !disk.record() {
        return;
    }
    let installation = InstallationId::new();
    let moments = load::load(&disk, installation, operations, &mut random).await;
    disk.mark("end");
    disk.stop();
    let log = Log::read(disk.file("log"));
    println!(
        "{operations} operations, {} acknowledged, {} writes in the log",
        moments.len() - 1,
        log.entries.len()
    );
    // The first of them mount the file system.
    let first = log
        .entries
        .iter()
        .position(|entry| entry.mark.is_some())
        .unwrap();
    let mut at: Vec<usize> = (0..cuts)
        .map(|_| first + 1 + random.below(log.entries.len() - first))
        .collect();
    at.sort_unstable();
    std::fs::rename(disk.path("first"), disk.path("image")).unwrap();
    let (image, mut played) = (disk.file("image"), 0);
    let mut tally = Tally::default();
    for (number, end) in at.into_iter().enumerate() {
        let flushed = log.flushed(end);
        log.play(played, flushed, &image);
        played = flushed;
        let moment = match log.mark(end) {
            Some("end") => moments.len() - 1,
            Some(mark) => mark.parse().unwrap(),
            None => 0,
        };
        println!(
            "cut {number}: after write {end}, of which {flushed} are flushed, moment {moment}"
        );
        // Each other one loses a part of what the disk's cache had.
        disk.boot(|victim| match number % 2 {
            0 => log.play(flushed, end, victim),
            _ => log.play_some(flushed, end, victim, &mut random),
        });
        let begun = Instant::now();
        survived(&disk, installation, &moments[moment], &mut tally).await;
        tally.slowest = tally.slowest.max(begun.elapsed());
        disk.unmount();
    }
    tally.say(cuts);
}

/// What a boot finds on a disk that was cut off at this moment.
async fn survived(disk: &Disk, installation: InstallationId, moment: &Moment, tally: &mut Tally) {
    let world = World::open(&disk.mount_point(), installation).await;
    if moment.data == 0 {
        // It was being set up: that begins anew, or was done.
        world.set_up().await;
        tally.in_setup += 1;
    }
    world.thins.up().await.unwrap();
    assert_eq!(world.pool.view().await.state, PoolState::Up);
    for found in world.thins.compare().await.unwrap() {
        assert!(found.repaired && found.kind == "unsettled", "{found:?}");
        *tally.differences.entry(found.kind).or_default() += 1;
    }
    let again = world.thins.compare().await.unwrap();
    assert!(again.is_empty(), "a second look: {again:?}");
    assert!(world.data().await >= moment.data, "the pool is smaller");
    let all = world.thins.devices().await.unwrap();
    for (id, name) in all.iter().map(|it| (it.id, &it.name)) {
        let owner = moment.ids.get(&id);
        assert!(
            owner.is_none_or(|owner| owner == name),
            "{id} is {name}, was {owner:?}"
        );
    }
    holds(&world, &all, moment, tally).await;
    // It goes on working, under an id that nobody ever had.
    let new = world.make("new", None).await;
    assert!(
        !moment.ids.contains_key(&new.id),
        "the id {} comes again",
        new.id
    );
    world.close().await;
}

/// Every acknowledged volume is there with what it holds, and no other one.
async fn holds(world: &World, all: &[ThinDevice], moment: &Moment, tally: &mut Tally) {
    let mut there = BTreeMap::new();
    for device in all {
        let on = world.thins.activate(device).await.unwrap();
        let filling = device.state == ThinState::Filling;
        there.insert(device.name.clone(), (filling, read(on)));
    }
    for (name, content) in &moment.holds {
        if moment.open.as_ref().is_some_and(|(open, _)| open == name) {
            continue;
        }
        let found = there.remove(name);
        assert_eq!(found, Some((false, BTreeSet::from([*content]))), "{name}");
        tally.acknowledged += 1;
    }
    if let Some((name, then)) = &moment.open {
        let before = moment.holds.get(name).copied();
        let undone = match there.remove(name) {
            None => before.is_none(),
            // Nobody was told that it is whole.
            Some((true, _)) => {
                assert_eq!(before, None, "{name}");
                true
            }
            Some((false, found)) => {
                let may: BTreeSet<u64> = before.into_iter().chain(*then).collect();
                assert!(found.is_subset(&may), "{name} holds {found:?} of {may:?}");
                then.is_none() || before.is_some_and(|before| found.contains(&before))
            }
        };
        match undone {
            true => tally.open_undone += 1,
            false => tally.open_done += 1,
        }
        // Only the removal of one that was there may leave nothing.
        assert!(undone || then.is_some() || before.is_some(), "{name}");
    }
    assert!(there.is_empty(), "nobody asked for {there:?}");
}

impl Tally {
    fn say(&self, cuts: usize) {
        println!(
            "MEASURED: {cuts} power cuts, {} of them in the set-up: {} volumes that had been \
             acknowledged were there with their data, {} that were cut off were done and {} not; \
             settled: {:?}; a boot and all looks took {:.1} s at most",
            self.in_setup,
            self.acknowledged,
            self.open_done,
            self.open_undone,
            self.differences,
            self.slowest.as_secs_f64()
        );
    }
}
