//! The simulated host at length: more worlds, more VMs. The rooms that a world's time goes into
//! are built optimised for it, beside what tests are built from otherwise.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;

use crate::workspace::root;

/// Where a world's time goes; assertions stay on.
const HOT: [&str; 15] = [
    "hearth-types",
    "hearth-plan",
    "hearth-store",
    "hearth-sim",
    "hearth-vmm",
    "hearth-guest-proto",
    "hearth-host",
    "hearthd",
    "rusqlite",
    "libsqlite3-sys",
    "tokio",
    "serde_json",
    "tracing",
    "uuid",
    "jiff",
];

/// What to simulate.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// So many worlds of random words, fate and deaths.
    #[arg(long, default_value_t = 10_000)]
    worlds: u64,
    /// The first seed, shifted by 32 bits; another one each time when absent.
    #[arg(long)]
    first: Option<u32>,
    /// Instead: a day of so many VMs under load.
    #[arg(long, conflicts_with = "worlds")]
    vms: Option<u64>,
    /// How many hours the day has.
    #[arg(long, default_value_t = 24, requires = "vms")]
    hours: u64,
}

/// Becomes cargo; returns only when that fails.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.arg("nextest").arg("run");
    for package in HOT {
        let set = format!("profile.dev.package.{package}.opt-level=2");
        command.args(["--config", &set]);
    }
    let tests = match options.vms {
        Some(vms) => {
            command.env("HEARTH_SIM_VMS", vms.to_string());
            command.env("HEARTH_SIM_HOURS", options.hours.to_string());
            "test(/sim::day::/)"
        }
        None => {
            command.env("HEARTH_SIM_WORLDS", options.worlds.to_string());
            let since = SystemTime::now().duration_since(UNIX_EPOCH)?;
            // Other worlds each time; 32 bits are left for each run.
            let first = u64::from(options.first.unwrap_or(since.subsec_micros()));
            command.env("HEARTH_SIM_FIRST", first.to_string());
            "test(/sim::chaos::every_word/)"
        }
    };
    command
        .args(["-p", "hearthd", "--test", "sim", "--profile", "soak"])
        .args(["--success-output", "final", "-E", tests])
        .current_dir(root());
    Err(command.exec()).context("cannot run cargo")
}
