//! The simulated host at length: more worlds, more VMs. The rooms that a world's time goes into
//! are built optimised for it, beside what tests are built from otherwise; assertions and
//! checks of overflow stay.

use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};

use crate::workspace::{root, target};

/// Where a world's time goes, and how much each is optimised: the daemon takes longest to build,
/// and does least.
const HOT: [(&str, u8); 15] = [
    ("hearthd", 1),
    ("hearth-types", 2),
    ("hearth-plan", 2),
    ("hearth-store", 2),
    ("hearth-sim", 2),
    ("hearth-vmm", 2),
    ("hearth-guest-proto", 2),
    ("hearth-host", 2),
    ("rusqlite", 2),
    ("libsqlite3-sys", 2),
    ("tokio", 2),
    ("serde_json", 2),
    ("tracing", 2),
    ("uuid", 2),
    ("jiff", 2),
];
/// Tests that share the worlds: `SHARES` in `sim/chaos.rs`.
const SHARES: u64 = 8;

/// What to simulate.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// So many worlds of random words, fate and deaths.
    #[arg(long, default_value_t = 10_000)]
    worlds: u64,
    /// The first seed, shifted by 32 bits; another one each time when absent.
    #[arg(long)]
    first: Option<u32>,
    /// Begin no world after so many minutes; what is left out is said.
    #[arg(long)]
    minutes: Option<u64>,
    /// Instead: a day of so many VMs under load.
    #[arg(long, conflicts_with_all = ["worlds", "first", "minutes"])]
    vms: Option<u64>,
    /// How many hours the day has.
    #[arg(long, default_value_t = 24, requires = "vms")]
    hours: u64,
}

/// Builds and runs it.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let begun = Instant::now();
    finish(nextest().args(["--no-run", "--cargo-quiet"]), "the build")?;
    say(&format!("built in {} s", begun.elapsed().as_secs()));
    match options.vms {
        Some(vms) => finish(
            nextest()
                .env("HEARTH_SIM_VMS", vms.to_string())
                .env("HEARTH_SIM_HOURS", options.hours.to_string())
                .args(["--success-output", "final", "-E", "test(/sim::day::/)"]),
            "the day",
        ),
        None => worlds(options),
    }
}

/// The tests of the simulated host, with the features that all tests are built with.
fn nextest() -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["nextest", "run", "--workspace", "--all-features"]);
    command.args(["--test", "sim", "--profile", "soak"]);
    for (package, level) in HOT {
        let set = format!("profile.dev.package.{package}.opt-level={level}");
        command.args(["--config", &set]);
    }
    // Optimised code is better built in one go, whatever the other tests are built with.
    command.env("CARGO_INCREMENTAL", "0").current_dir(root());
    command
}

fn finish(command: &mut Command, what: &str) -> anyhow::Result<()> {
    let status = command.status().context("cannot run cargo")?;
    ensure!(status.success(), "{what} failed ({status}); see above");
    Ok(())
}

fn worlds(options: &Options) -> anyhow::Result<()> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH)?;
    // Other worlds each time; 32 bits are left for each run.
    let first = u64::from(options.first.unwrap_or(since.subsec_micros()));
    let report = fresh_report()?;
    let mut command = nextest();
    command
        .env("HEARTH_SIM_WORLDS", options.worlds.to_string())
        .env("HEARTH_SIM_FIRST", first.to_string())
        .env("HEARTH_SIM_REPORT", &report)
        .args(["-E", "test(/sim::chaos::every_word/)"]);
    if let Some(minutes) = options.minutes {
        let share = share_of(Duration::from_secs(minutes * 60));
        command.env("HEARTH_SIM_SECONDS", share.as_secs().to_string());
    }
    let begun = Instant::now();
    let ended = finish(&mut command, "a world");
    let sum = Sum::of(&report)?;
    say(&sum.words(begun.elapsed(), first << 32));
    if ended.is_ok() && sum.worlds < options.worlds {
        let (left, of) = (options.worlds - sum.worlds, options.worlds);
        say(&format!("SKIP: {left} of {of} worlds: the time was up"));
    }
    ended
}

#[expect(clippy::print_stdout, reason = "the figures are this command's answer")]
fn say(line: &str) {
    println!("{line}");
}

/// How long each share may take, so that all of them end in time: they run side by side, one on
/// each core.
fn share_of(whole: Duration) -> Duration {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get) as u64;
    let rounds = SHARES.div_ceil(cores);
    whole / u32::try_from(rounds).unwrap_or(u32::MAX)
}

/// The file that each share adds a line to.
fn fresh_report() -> anyhow::Result<PathBuf> {
    let folder = std::path::absolute(target())?.join("soak");
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make {}", folder.display()))?;
    let file = folder.join("worlds.txt");
    std::fs::write(&file, "").with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}

/// What all shares played.
#[derive(Debug, Default)]
struct Sum {
    worlds: u64,
    seconds: u64,
    plans: u64,
    places: u64,
}

impl Sum {
    /// Reads lines of `WORLDS SECONDS PLANS PLACES`.
    fn of(report: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(report)
            .with_context(|| format!("cannot read {}", report.display()))?;
        let mut sum = Self::default();
        for line in text.lines() {
            let numbers: Vec<u64> = line.split(' ').map_while(|n| n.parse().ok()).collect();
            let [worlds, seconds, plans, places] = numbers[..] else {
                anyhow::bail!("{} has a line that is none: {line:?}", report.display());
            };
            sum.worlds += worlds;
            sum.seconds += seconds;
            sum.plans += plans;
            sum.places += places;
        }
        Ok(sum)
    }

    fn words(&self, took: Duration, first: u64) -> String {
        let Self {
            worlds,
            seconds,
            plans,
            places,
        } = self;
        let rate = *worlds as f64 / took.as_secs_f64();
        let (took, hours) = (took.as_secs(), seconds / 3600);
        format!(
            "{worlds} worlds in {took} s ({rate:.0} a second): {hours} virtual hours, {plans} plans, {places} places; \
             seeds: {SHARES} times from {first} up, 2^28 apart"
        )
    }
}
