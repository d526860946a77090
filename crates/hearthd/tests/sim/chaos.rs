//! Random words of the user, random fate and random deaths of the daemon, over virtual hours.
//! What must hold is looked at before and after each step; when fate has tired, every word that
//! was answered has come true.
//!
//! ```text
//!  seed ──► script ──► play ──► fails? ──► smaller scripts that still fail ──► the smallest, printed
//!                       │ watch: each place between steps, each plan
//! ```
//! | variable | means |
//! | --- | --- |
//! | `HEARTH_SIM_SEED` | this world alone |
//! | `HEARTH_SIM_STEPS` | of it, these strokes alone (`0,3,5`) |
//! | `HEARTH_SIM_WORLDS` | so many worlds in all tests together |
//! | `HEARTH_SIM_FIRST` | other worlds: the seeds begin at this number, shifted by 32 bits |
//! | `HEARTH_SIM_ALOUD` | each seed is printed before its world begins |

mod panics;
mod play;
mod script;
mod shrink;
mod watch;

use std::time::Instant;

use super::world::root;
use play::{Facts, play};
pub(super) use script::Dice;
use script::Script;

/// Worlds of all tests together, which run side by side.
const WORLDS: u64 = 200;
/// Tests that share them.
const SHARES: u64 = 8;

fn number(key: &str) -> Option<u64> {
    let text = std::env::var(key).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{key} is no number")),
    )
}

/// The one world that was asked for.
fn asked_for() -> Option<Script> {
    let whole = Script::new(number("HEARTH_SIM_SEED")?);
    let Ok(text) = std::env::var("HEARTH_SIM_STEPS") else {
        return Some(whole);
    };
    let places: Vec<usize> = text.split(',').map(|n| n.trim().parse().unwrap()).collect();
    let strokes = whole.strokes.iter().copied();
    let kept = strokes
        .filter(|(place, _)| places.contains(place))
        .collect();
    Some(whole.with(kept))
}

/// The same worlds in each run of the tests, other ones in a soak, and none twice.
fn first_seed(share: u64) -> u64 {
    number("HEARTH_SIM_FIRST").unwrap_or(0) << 32 | share << 28
}

/// One share of the worlds.
fn worlds(share: u64) {
    if !root() {
        return;
    }
    if let Some(script) = asked_for() {
        if let Err(failure) = play(&script) {
            panic!("{failure}\n{}", shrink::recipe(&script));
        }
        return;
    }
    let count = number("HEARTH_SIM_WORLDS")
        .unwrap_or(WORLDS)
        .div_ceil(SHARES);
    let (first, begun) = (first_seed(share), Instant::now());
    let mut all = Facts::default();
    let aloud = std::env::var_os("HEARTH_SIM_ALOUD").is_some();
    for seed in first..first + count {
        let (script, began) = (Script::new(seed), Instant::now());
        if aloud {
            eprintln!("HEARTH_SIM_SEED={seed}");
        }
        match play(&script) {
            Ok(facts) => {
                if aloud {
                    eprintln!("{facts:?} in {:?}", began.elapsed());
                }
                all.places += facts.places;
                all.plans += facts.plans;
                all.seconds += facts.seconds;
            }
            Err(failure) => {
                println!("HEARTH_SIM_SEED={seed} fails; a smaller script is looked for");
                let (script, failure) = shrink::shrink(&script, failure);
                panic!("{failure}\n{}", shrink::recipe(&script));
            }
        }
    }
    let (took, hours) = (begun.elapsed(), all.seconds / 3600);
    let rate = count as f64 / took.as_secs_f64();
    println!(
        "{count} worlds, {rate:.0} a second: {hours} virtual hours, {} plans, {} places; seeds from {first}",
        all.plans, all.places
    );
}

macro_rules! shares {
    ($($name:ident $share:literal)*) => {$(
        #[test]
        fn $name() {
            worlds($share);
        }
    )*};
}

shares! {
    every_word_comes_true_in_worlds_0 0
    every_word_comes_true_in_worlds_1 1
    every_word_comes_true_in_worlds_2 2
    every_word_comes_true_in_worlds_3 3
    every_word_comes_true_in_worlds_4 4
    every_word_comes_true_in_worlds_5 5
    every_word_comes_true_in_worlds_6 6
    every_word_comes_true_in_worlds_7 7
}
