//! Tests of the workspace that want an init, which most machines that build it do not have:
//! their programs are built here, copied to the host and run there, one test at a time.
//!
//! A test program holds the paths of the programs that it starts as they are where it was
//! built. So each of them lies on the host where it lies here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::hearth::quoted;
use crate::host::Host;
use crate::{paths, process};

/// A build of the workspace's tests may queue behind another.
const BUILD_DEADLINE: Duration = Duration::from_mins(40);
const STEP_DEADLINE: Duration = Duration::from_mins(5);
/// How long one test may take. Guests in it run without KVM, under emulation already.
const TEST_DEADLINE: Duration = Duration::from_mins(40);
/// The host's own kernel, which is Debian's, for the guests of tests.
const KERNEL: &str = "HEARTH_TEST_KERNEL=$(ls /boot/vmlinuz-* | tail -n 1)";

/// Tests of one program.
#[derive(Debug, Clone, Copy)]
pub struct Suite {
    /// The package that they belong to.
    pub package: &'static str,
    /// The test program in it.
    pub test: &'static str,
    /// What the names of those that are run begin with; all, when it is empty.
    pub prefix: &'static str,
}

/// How one test ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It ran and found nothing.
    Passed,
    /// It did not run, for this reason.
    Skipped(String),
    /// It failed, and said this.
    Failed(String),
}

impl Suite {
    /// Builds the tests and the programs that they start; the first of the paths is the tests'.
    ///
    /// # Errors
    /// When they do not build.
    pub fn build(&self) -> anyhow::Result<Vec<PathBuf>> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let built = process::check(
            Command::new(cargo)
                .args(["test", "--quiet", "--no-run", "--message-format=json"])
                .args(["-p", self.package, "--test", self.test])
                .current_dir(paths::workspace()),
            BUILD_DEADLINE,
        )?;
        let (mut tests, mut others) = (Vec::new(), Vec::new());
        for line in built.text().lines() {
            let Ok(artifact) = serde_json::from_str::<Value>(line) else {
                continue;
            };
            if let Some(path) = artifact["executable"].as_str() {
                match artifact["target"]["kind"][0].as_str() {
                    Some("test") => tests.push(PathBuf::from(path)),
                    _ => others.push(PathBuf::from(path)),
                }
            }
        }
        ensure!(
            tests.len() == 1,
            "{} tests are named {}",
            tests.len(),
            self.test
        );
        tests.append(&mut others);
        Ok(tests)
    }

    /// What it is called in figures and errors.
    #[must_use]
    pub fn name(&self) -> String {
        match self.prefix {
            "" => format!("{} {}", self.package, self.test),
            prefix => format!("{} {} {prefix}", self.package, self.test),
        }
    }
}

impl Host {
    /// Copies programs to the host, to where they lie here.
    ///
    /// # Errors
    /// When that fails.
    pub fn mirror(&self, programs: &[PathBuf]) -> anyhow::Result<()> {
        let tree = self.folder().join("mirror");
        let archive = self.folder().join("put");
        let mut names = Vec::new();
        for program in programs {
            let name = program.strip_prefix("/").context("a path is relative")?;
            let to = tree.join(name);
            fs::create_dir_all(to.parent().unwrap_or(&tree))?;
            process::check(
                Command::new("objcopy")
                    .arg("--strip-debug")
                    .arg(program)
                    .arg(to),
                STEP_DEADLINE,
            )?;
            names.push(name);
        }
        // The files alone: folders that the host has stay as they are.
        process::check(
            Command::new("tar")
                .arg("-C")
                .arg(&tree)
                .arg("-cf")
                .arg(&archive)
                .args(names),
            STEP_DEADLINE,
        )?;
        fs::remove_dir_all(&tree)?;
        self.put(&archive, "/root/mirror.tar")?;
        self.check("tar -C / -xf /root/mirror.tar --no-same-owner && rm /root/mirror.tar")?;
        Ok(())
    }

    /// The names of a suite's tests.
    ///
    /// # Errors
    /// When its program does not list them, or there are none.
    pub fn tests_of(&self, suite: &Suite, program: &Path) -> anyhow::Result<Vec<String>> {
        let path = quoted(&program.display().to_string());
        let list = self.check(&format!("{path} --list --format terse"))?;
        let names: Vec<_> = list
            .lines()
            .filter_map(|line| line.strip_suffix(": test"))
            .filter(|name| name.starts_with(suite.prefix))
            .map(str::to_owned)
            .collect();
        ensure!(!names.is_empty(), "{} has no tests: {list}", suite.name());
        Ok(names)
    }

    /// Runs one test, and keeps its figures.
    ///
    /// # Errors
    /// When the host does not answer, or the test does not end.
    pub fn run_test(&self, program: &Path, name: &str) -> anyhow::Result<Verdict> {
        let (path, test) = (quoted(&program.display().to_string()), quoted(name));
        let line = format!("env {KERNEL} {path} --exact --nocapture {test} 2>&1");
        let output = self.run_for(&line, TEST_DEADLINE)?;
        for (value, unit, name) in figures(output.text()) {
            self.measure(name, value, unit);
        }
        Ok(verdict(output.success(), output.text()))
    }
}

/// What a test has measured: lines of `FIGURE: <value> <unit> <name>`.
fn figures(said: &str) -> impl Iterator<Item = (f64, &str, &str)> {
    said.lines().filter_map(|line| {
        // The first line of a test follows its name.
        let (_, figure) = line.split_once("FIGURE: ")?;
        let mut words = figure.splitn(3, ' ');
        Some((words.next()?.parse().ok()?, words.next()?, words.next()?))
    })
}

/// What a test's output says. One that was skipped succeeds, too.
fn verdict(success: bool, said: &str) -> Verdict {
    if !success {
        return Verdict::Failed(said.to_owned());
    }
    if let Some((_, rest)) = said.split_once("SKIP: ") {
        return Verdict::Skipped(rest.lines().next().unwrap_or_default().to_owned());
    }
    // A name that fits no test is a success of libtest's.
    if said.contains("test result: ok. 1 passed;") {
        Verdict::Passed
    } else {
        Verdict::Failed(format!("it did not run: {said}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read() {
        let said =
            "test a ... FIGURE: 12.50 us by plain calls\nFIGURE: many us\nFIGURE: 2 times more\nok";
        let read: Vec<_> = figures(said).collect();
        assert_eq!(
            read,
            [(12.5, "us", "by plain calls"), (2.0, "times", "more")]
        );
    }

    #[test]
    fn a_test_that_did_not_run_has_not_passed() {
        let ok = "\nrunning 1 test\ntest result: ok. 1 passed; 0 failed; 0 ignored";
        assert_eq!(verdict(true, ok), Verdict::Passed);
        let skipped = format!("running 1 test\nSKIP: not root\n{ok}");
        assert_eq!(
            verdict(true, &skipped),
            Verdict::Skipped("not root".to_owned())
        );
        let none = "running 0 tests\ntest result: ok. 0 passed; 0 failed; 0 ignored";
        assert!(matches!(verdict(true, none), Verdict::Failed(_)));
        assert!(matches!(verdict(false, ok), Verdict::Failed(_)));
    }
}
