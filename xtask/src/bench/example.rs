//! A crate's own example measures itself; this runs it and takes its medians over.

use std::cell::RefCell;
use std::process::Command;
use std::rc::Rc;

use anyhow::{Context as _, ensure};

use super::{Case, Unit};
use crate::workspace::root;

/// An example whose lines are a name, a median and whatever else.
pub(super) struct Example {
    pub(super) package: &'static str,
    pub(super) name: &'static str,
    /// How many of its units are a second.
    pub(super) per_second: f64,
}

/// A row of the table: what it is called there, the name of the example's line, and what is aimed at.
pub(super) type Row = (&'static str, &'static str, &'static str);

impl Example {
    /// A case for each row. The first of a round has the example run for all of them.
    pub(super) fn cases(self, rows: &'static [Row]) -> Vec<Case> {
        let output = Rc::new(RefCell::new(String::new()));
        let example = Rc::new(self);
        let each = rows
            .iter()
            .enumerate()
            .map(|(number, (shown, line, target))| {
                let (written, read) = (Rc::clone(&output), Rc::clone(&output));
                let (runs, reads) = (Rc::clone(&example), Rc::clone(&example));
                let case = Case::measured(*shown, Unit::Seconds, move || {
                    reads.median_in(&read.borrow(), line)
                });
                let case = case.before(move || {
                    if number == 0 {
                        *written.borrow_mut() = runs.run()?;
                    }
                    Ok(())
                });
                case.target(*target)
            });
        each.collect()
    }

    fn run(&self) -> anyhow::Result<String> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .args(["run", "--quiet", "--release", "-p", self.package])
            .args(["--example", self.name])
            .current_dir(root())
            .output()
            .context("cannot run cargo")?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "the example {}: {error}",
            self.name
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The median in the line of this name.
    fn median_in(&self, output: &str, line: &str) -> anyhow::Result<f64> {
        let mut lines = output.lines().map(str::split_whitespace);
        let median: f64 = lines
            .find_map(|mut words| (words.next()? == line).then(|| words.next())?)
            .and_then(|median| median.parse().ok())
            .with_context(|| format!("the example {} prints no line {line}", self.name))?;
        Ok(median / self.per_second)
    }
}
