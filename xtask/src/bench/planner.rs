//! The planner's own example measures itself; this runs it and takes its numbers over.

use std::process::Command;

use anyhow::{Context as _, ensure};

use super::{Case, Context, Unit};
use crate::workspace::root;

pub(crate) fn cases(_: &Context) -> anyhow::Result<Vec<Case>> {
    let sizes = [("1000", "-"), ("10000", "20 ms"), ("100000", "-")];
    let cases = sizes.map(|(count, target)| {
        Case::measured(format!("{count} VMs"), Unit::Seconds, move || {
            measure(count)
        })
        .target(target)
    });
    Ok(cases.into())
}

/// The example's median for worlds of this size.
fn measure(count: &str) -> anyhow::Result<f64> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "run",
            "--quiet",
            "--release",
            "-p",
            "hearth-plan",
            "--example",
            "plan_bench",
            "--",
        ])
        .arg(count)
        .current_dir(root())
        .output()
        .context("cannot run cargo")?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text
        .lines()
        .find(|line| line.split_whitespace().next() == Some(count));
    let millis: f64 = line
        .and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
        .with_context(|| format!("the planner's example prints no line for {count} VMs"))?;
    Ok(millis / 1000.0)
}
