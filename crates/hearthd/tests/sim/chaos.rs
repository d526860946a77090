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
//! | `HEARTH_SIM_SECONDS` | no world begins after this time in each test |
//! | `HEARTH_SIM_REPORT` | a file that each test adds a line of numbers to |
//! | `HEARTH_SIM_ALOUD` | each seed is printed before its world begins |

mod panics;
mod play;
mod script;
mod shrink;
mod watch;

use std::fs::OpenOptions;
use std::io::Write as _;
use std::time::{Duration, Instant};

use super::world::{library, root};
use play::{Facts, play};
pub(super) use script::Dice;
use script::Script;

/// Worlds of all tests together, which run side by side: a taste. Optimised, 10,000 take as long
/// (`cargo xtask soak`).
const WORLDS: u64 = 40;
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
    let _kept = library();
    if let Some(script) = asked_for() {
        if let Err(failure) = play(&script) {
            panic!("{failure}\n{}", shrink::recipe(&script));
        }
        return;
    }
    let count = number("HEARTH_SIM_WORLDS")
        .unwrap_or(WORLDS)
        .div_ceil(SHARES);
    let limit = number("HEARTH_SIM_SECONDS").map_or(Duration::MAX, Duration::from_secs);
    let (first, begun) = (first_seed(share), Instant::now());
    let mut all = Facts::default();
    let mut played = 0;
    for seed in first..first + count {
        if begun.elapsed() > limit {
            break;
        }
        let facts = world(seed);
        all.places += facts.places;
        all.plans += facts.plans;
        all.seconds += facts.seconds;
        played += 1;
    }
    tell(played, first, &all, begun.elapsed());
}

/// One world. The one that fails is made smaller, and ends the test.
fn world(seed: u64) -> Facts {
    let (script, began) = (Script::new(seed), Instant::now());
    let aloud = std::env::var_os("HEARTH_SIM_ALOUD").is_some();
    if aloud {
        eprintln!("HEARTH_SIM_SEED={seed}");
    }
    match play(&script) {
        Ok(facts) => {
            if aloud {
                eprintln!("{facts:?} in {:?}", began.elapsed());
            }
            facts
        }
        Err(failure) => {
            println!("HEARTH_SIM_SEED={seed} fails; a smaller script is looked for");
            let (script, failure) = shrink::shrink(&script, failure);
            panic!("{failure}\n{}", shrink::recipe(&script));
        }
    }
}

/// What was played: to whoever reads, and to whoever adds up.
fn tell(worlds: u64, first: u64, all: &Facts, took: Duration) {
    let Facts {
        places,
        plans,
        seconds,
    } = all;
    let rate = worlds as f64 / took.as_secs_f64();
    let hours = seconds / 3600;
    println!(
        "{worlds} worlds, {rate:.0} a second: {hours} virtual hours, {plans} plans, {places} places; seeds from {first}"
    );
    if let Some(report) = std::env::var_os("HEARTH_SIM_REPORT") {
        let line = format!("{worlds} {seconds} {plans} {places}\n");
        // One write of a short line: shares that end at once do not mix.
        let file = OpenOptions::new().append(true).open(report);
        file.and_then(|mut file| file.write_all(line.as_bytes()))
            .unwrap();
    }
}

macro_rules! shares {
    ($($name:ident => $share:literal,)*) => {$(
        #[test]
        fn $name() {
            worlds($share);
        }
    )*};
}

shares! {
    every_word_comes_true_in_worlds_0 => 0,
    every_word_comes_true_in_worlds_1 => 1,
    every_word_comes_true_in_worlds_2 => 2,
    every_word_comes_true_in_worlds_3 => 3,
    every_word_comes_true_in_worlds_4 => 4,
    every_word_comes_true_in_worlds_5 => 5,
    every_word_comes_true_in_worlds_6 => 6,
    every_word_comes_true_in_worlds_7 => 7,
}
