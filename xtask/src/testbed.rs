//! The testbed is a program of its own, so that the other tasks need not build it.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::Context;

use crate::workspace::root;

/// Becomes that program; returns only when that fails.
pub(crate) fn run(arguments: &[OsString]) -> anyhow::Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["run", "--quiet", "-p", "hearth-testbed", "--"])
        .args(arguments)
        .current_dir(root());
    Err(command.exec()).context("cannot run cargo")
}
