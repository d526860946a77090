//! Benches measure optimised code: this program, built again in release mode with the rooms
//! that are measured.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::Context;

use crate::Benches;
use crate::workspace::root;

/// Becomes that program; returns only when that fails.
pub(crate) fn with_benches(benches: &Benches) -> anyhow::Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["run", "--quiet", "--release", "-p", "xtask"])
        .args(["--features", "bench", "--", "bench"])
        .args(["--runs", &benches.runs.to_string()])
        .args(benches.list.then_some("--list"))
        .args(&benches.names)
        .current_dir(root());
    Err(command.exec()).context("cannot run cargo")
}
