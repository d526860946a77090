//! Chaos on real guests: faults drawn by a seeded generator, and what became of each.
//!
//! ```text
//! draw (seed) ─► round: two or three faults ─► injure ─► watch until noticed, healed, whole
//!                  ▲                                                   │
//!                  └── one full pass later: audit of the host ◄────────┘
//! ```
//! The generator knows nothing of the run, so a seed is a list of rounds; the time given says how
//! many of them are taken. What is asserted are outcomes: everything came back, nothing is left
//! over, no VM was touched that nothing had happened to, and strangers are as they were. Times are
//! told and compared with the targets, in a table and in `target/chaos/SEED.json`.
//!
//! `cargo xtask chaos --minutes 30 --seed 7` runs it for longer than the three minutes that it
//! has among the tests.

mod draw;
mod injure;
mod report;
mod round;
mod stage;

use std::time::Duration;

use draw::{Fault, Random, Rounds};
use report::Report;
use stage::Stage;

/// Minutes among the tests.
const MINUTES: u64 = 3;

/// A number that the environment says.
fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_hosts_survive_chaos() {
    let seed = number("HEARTH_CHAOS_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    let minutes = number("HEARTH_CHAOS_MINUTES").unwrap_or(MINUTES);
    println!("chaos for {minutes} minutes with seed {seed}");
    let Some(mut stage) = Stage::set().await else {
        return;
    };
    let mut report = Report::new(seed, minutes, stage.boot);
    let until = tokio::time::Instant::now() + Duration::from_secs(minutes * 60);
    for round in Rounds::new(Random::new(seed), stage.cast()) {
        if tokio::time::Instant::now() >= until {
            break;
        }
        if !stage.play(&round, &mut report).await {
            break;
        }
    }
    stage.strike(&mut report).await;
    report.publish();
    assert!(report.broken().is_empty(), "{:#?}", report.broken());
}

#[test]
fn a_seed_is_a_list_of_faults() {
    let list = |seed| {
        Rounds::new(Random::new(seed), 3)
            .take(100)
            .collect::<Vec<_>>()
    };
    assert_eq!(list(7), list(7));
    assert_ne!(list(7), list(8));
    // No kind waits longer than a deck.
    let some: Vec<Fault> = list(7)
        .iter()
        .take(Fault::ALL.len())
        .flat_map(|round| round.faults.iter().map(|drawn| drawn.fault))
        .collect();
    for fault in Fault::ALL {
        assert!(some.contains(&fault), "{fault:?} was not drawn");
    }
}
