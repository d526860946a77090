//! A day of many VMs under load: nobody is called ill, started again, given up or taken for an
//! orphan; and who hangs then is noticed as soon as ever.
//!
//! `HEARTH_SIM_VMS` and `HEARTH_SIM_HOURS` set its size; `cargo xtask soak day` runs the large one.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hearth_types::api::Health;
use hearth_types::ids::{EventSeq, VmId, seeded};
use hearth_types::spec::health::OnFailure;
use hearth_types::spec::{RestartPolicy, VmSpec};
use hearth_types::status::{Goal, Phase};

use super::chaos::Dice;
use super::world::{Life, World, root, spec};

const VMS: u64 = 20;
const HOURS: u64 = 24;
/// How long the host is as busy as it is.
const SPELL: Duration = Duration::from_secs(600);
/// How long agents and VMMs take to answer, in ms: a check has 5 s, the loop's question 500 ms.
const LATENCIES: [u64; 5] = [0, 5, 50, 200, 400];
/// What would be a mistake: nothing has failed.
const MISTAKES: [&str; 8] = [
    "vm.unhealthy",
    "vm.unresponsive",
    "vm.restarted",
    "vm.start_failed",
    "vm.step_failed",
    "vm.breaker_opened",
    "host.breaker_opened",
    "orphan.removed",
];
/// One interval, three timeouts, and half a second for those who wait for a slot.
const BOUND: Duration = Duration::from_millis(30_000 + 3 * 5_000 + 500);

fn size(key: &str, or: u64) -> u64 {
    std::env::var(key).map_or(or, |text| text.parse().unwrap())
}

fn web(number: u64) -> VmSpec {
    let mut spec = spec(&format!("vm-{number}"));
    spec.restart = RestartPolicy::Always;
    spec.health.on_failure = Some(OnFailure::Restart);
    spec
}

/// Everybody who should run does, and is well.
async fn all_well(life: &Life, vms: &[VmId]) {
    life.until("all are well", |rows, _| {
        rows.len() == vms.len()
            && rows.iter().all(|row| {
                row.status.phase == Phase::Running && life.engine.health_of(row) == Health::Healthy
            })
    })
    .await;
}

/// Users at work for a while: some VMs are paused, some restarted.
async fn work(life: &Life, vms: &[VmId], dice: &mut Dice) {
    let latency = dice.pick(&LATENCIES);
    life.rooms
        .change(|host| host.latency = Duration::from_millis(latency));
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < SPELL {
        let vm = dice.pick(vms);
        match dice.throw(4) {
            0 => life.say(vm, Goal::Paused).await,
            1 => life.restart(vm).await,
            _ => life.say(vm, Goal::Running).await,
        }
        tokio::time::sleep(Duration::from_secs(dice.throw(60))).await;
    }
    for row in life.engine.parts.store.vms().await {
        if row.goal == Goal::Paused {
            life.say(row.id, Goal::Running).await;
        }
    }
}

/// Events after the given one, by code; and the last one's position.
async fn events(life: &Life, after: EventSeq) -> (BTreeMap<String, usize>, EventSeq) {
    let store = &life.engine.parts.store;
    let mut codes = BTreeMap::new();
    for event in store.events(after, 100_000).await.unwrap() {
        *codes.entry(event.code).or_default() += 1;
    }
    (codes, store.last_event().await)
}

/// Some guests hang, at moments of their own. How long it took to notice each.
async fn hangs(life: &Life, vms: &[VmId], dice: &mut Dice) -> Vec<Duration> {
    let mut took = Vec::new();
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_secs(dice.throw(40))).await;
        let vm = dice.pick(vms);
        let begun = tokio::time::Instant::now();
        life.rooms.change(|host| host.hang(vm));
        let mut turn = life.engine.changes();
        while let Health::Healthy | Health::Degraded = life.engine.health_of(&life.row(vm).await) {
            assert!(begun.elapsed() <= BOUND, "{vm} hangs, and nobody says so");
            // Either is a reason to look again.
            let _either = tokio::time::timeout(Duration::from_millis(100), turn.changed()).await;
        }
        took.push(begun.elapsed());
        all_well(life, vms).await;
    }
    took.sort();
    took
}

#[test]
fn nobody_is_taken_for_ill_or_lost_in_a_day_of_many() {
    if !root() {
        return;
    }
    let (count, hours) = (size("HEARTH_SIM_VMS", VMS), size("HEARTH_SIM_HOURS", HOURS));
    let real = Instant::now();
    seeded::seed(Some(size("HEARTH_SIM_SEED", 1)));
    let mut dice = Dice(size("HEARTH_SIM_SEED", 1));
    let mut world = World::new();
    let mut vms = Vec::new();
    // A new daemon every few hours: it knows nothing and calls nobody ill.
    for part in 0..hours.div_ceil(6) {
        world.live(async |life| {
            if part == 0 {
                for number in 0..count {
                    vms.push(life.create(web(number), Goal::Running).await);
                }
            }
            all_well(life, &vms).await;
            let (_, mut last) = events(life, EventSeq(0)).await;
            for _ in 0..6.min(hours) * 3600 / SPELL.as_secs() {
                work(life, &vms, &mut dice).await;
                let (codes, seq) = events(life, last).await;
                let wrong = MISTAKES.map(|code| codes.get(code).copied().unwrap_or(0));
                assert_eq!(wrong, [0; MISTAKES.len()], "{codes:?}");
                last = seq;
            }
            all_well(life, &vms).await;
            for row in life.engine.parts.store.vms().await {
                assert_eq!(
                    row.status.restarts, 0,
                    "{} was started again",
                    row.spec.name
                );
            }
            life.sane().await;
        });
    }
    let day = real.elapsed();
    let took = world.live(async |life| {
        life.rooms.change(|host| host.latency = Duration::ZERO);
        all_well(life, &vms).await;
        hangs(life, &vms, &mut dice).await
    });
    println!(
        "{count} VMs, {hours} hours in {day:?}; hangs are noticed within {:?} (median) to {:?}",
        took[took.len() / 2],
        took[took.len() - 1]
    );
    seeded::seed(None);
}
