//! The planner's own example measures itself; this runs it and takes its numbers over.

use std::cell::RefCell;
use std::process::Command;
use std::rc::Rc;

use anyhow::{Context as _, ensure};

use super::{Case, Context, Unit};
use crate::workspace::root;

pub(crate) fn cases(_: &Context) -> anyhow::Result<Vec<Case>> {
    let output = Rc::new(RefCell::new(String::new()));
    let sizes = [("1000", "-"), ("10000", "20 ms"), ("100000", "-")];
    let cases = sizes.map(|(count, target)| {
        let (before, work) = (Rc::clone(&output), Rc::clone(&output));
        let case = Case::measured(format!("{count} VMs"), Unit::Seconds, move || {
            median_in(&work.borrow(), count)
        });
        // The first case of a round has the example run for all of them.
        let case = case.before(move || {
            if count == sizes[0].0 {
                *before.borrow_mut() = example()?;
            }
            Ok(())
        });
        case.target(target)
    });
    Ok(cases.into())
}

fn example() -> anyhow::Result<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["run", "--quiet", "--release", "-p", "hearth-plan"])
        .args(["--example", "plan_bench"])
        .current_dir(root())
        .output()
        .context("cannot run cargo")?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the planner's example: {error}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The example's median for worlds of this size.
fn median_in(output: &str, count: &str) -> anyhow::Result<f64> {
    let mut lines = output.lines().map(str::split_whitespace);
    let millis: f64 = lines
        .find_map(|mut words| (words.next()? == count).then(|| words.next())?)
        .and_then(|millis| millis.parse().ok())
        .with_context(|| format!("the planner's example prints no line for {count} VMs"))?;
    Ok(millis / 1000.0)
}
