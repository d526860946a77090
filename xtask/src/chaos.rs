//! Chaos on real guests, for as long as asked: the test of that name, beside the others' limits.

use std::process::Command;

use anyhow::{Context, ensure};

use crate::workspace::root;

/// The test that it is.
const TEST: &str = "chaos::vm_hosts_survive_chaos";

/// How long, and which.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Minutes in which rounds are begun.
    #[arg(long, default_value_t = 30)]
    minutes: u64,
    /// The list of faults; another one each time when absent.
    #[arg(long)]
    seed: Option<u64>,
}

/// Runs it; a table on the standard output, JSON in `target/chaos`.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    crate::guest::build()?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(&cargo)
        .args(["build", "--quiet", "-p", "hearth-shim", "--bins"])
        .current_dir(root())
        .status()
        .context("cannot run cargo")?;
    ensure!(built.success(), "the shim does not build ({built})");
    let mut test = Command::new(&cargo);
    test.args(["test", "--quiet", "-p", "hearthd", "--all-features"])
        .args(["--test", "vm_guests", "--", "--exact", TEST, "--nocapture"])
        .env("HEARTH_CHAOS_MINUTES", options.minutes.to_string())
        .current_dir(root());
    if let Some(seed) = options.seed {
        test.env("HEARTH_CHAOS_SEED", seed.to_string());
    }
    let status = test.status().context("cannot run cargo")?;
    ensure!(
        status.success(),
        "something is broken ({status}); see above"
    );
    Ok(())
}
