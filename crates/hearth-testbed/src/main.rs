//! `cargo xtask testbed`: builds the host image, runs scenarios, gives a shell.

#![forbid(unsafe_code)]

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Parser, Subcommand};
use hearth_testbed::evidence::say;
use hearth_testbed::image::{self, Kind};
use hearth_testbed::paths;
use hearth_testbed::programs::Programs;
use hearth_testbed::runner::{Outcome, Runner};
use hearth_testbed::scenarios::{self, Scenario};

/// A whole host as a VM, where promises are proved.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask testbed", bin_name = "cargo xtask testbed")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make the host image, unless this recipe's is there.
    Build {
        /// The bare host's image, too; otherwise its scenarios make it.
        #[arg(long)]
        all: bool,
    },
    /// List the scenarios, what each shows and about how long it takes.
    List,
    /// Run scenarios; the exit code is 1 when one fails.
    Run {
        /// Their names, or `all`.
        #[arg(required = true)]
        names: Vec<String>,
        /// Keep the disks of the runs.
        #[arg(long)]
        keep: bool,
        #[command(flatten)]
        under_test: UnderTest,
    },
    /// Boot a host with Hearth and give a shell on it; it ends with the shell.
    Shell {
        #[command(flatten)]
        under_test: UnderTest,
    },
    /// Show where the logs of a scenario's last run are, and the end of its console.
    Logs {
        /// The scenario.
        name: String,
    },
}

#[derive(Debug, Args)]
struct UnderTest {
    /// Folder with hearthd, hearth, hearth-shim and hearth-guest; built (debug) when absent.
    #[arg(long, value_name = "DIR", env = "HEARTH_TESTBED_PROGRAMS")]
    programs: Option<PathBuf>,
    /// Debian package to install instead of single files.
    #[arg(long, value_name = "FILE", env = "HEARTH_TESTBED_PACKAGE")]
    package: Option<PathBuf>,
}

fn main() -> ExitCode {
    match act() {
        Ok(code) => code,
        Err(error) => {
            say(&format!("error: {error:#}"));
            ExitCode::from(2)
        }
    }
}

fn act() -> anyhow::Result<ExitCode> {
    match Arguments::parse().command {
        Command::Build { all } => {
            let kinds = if all {
                &Kind::ALL[..]
            } else {
                &[Kind::Equipped]
            };
            for kind in kinds {
                let image = image::obtain(*kind, &say)?;
                print(&format!("{}\n", image.root().display()))?;
            }
        }
        Command::List => list()?,
        Command::Run {
            names,
            keep,
            under_test,
        } => return run(&names, &runner(&under_test, keep)?),
        Command::Shell { under_test } => shell(&runner(&under_test, true)?)?,
        Command::Logs { name } => logs(&name)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn runner(under_test: &UnderTest, keep: bool) -> anyhow::Result<Runner> {
    let programs = Programs::obtain(
        under_test.programs.as_deref(),
        under_test.package.as_deref(),
        &say,
    )?;
    Ok(Runner { programs, keep })
}

fn list() -> anyhow::Result<()> {
    let mut text = String::new();
    for scenario in scenarios::ALL {
        text.push_str(&format!(
            "{:<20} {:>3} min  {}\n",
            scenario.name, scenario.minutes, scenario.proves
        ));
    }
    print(&text)
}

fn run(names: &[String], runner: &Runner) -> anyhow::Result<ExitCode> {
    let mut outcomes = Vec::new();
    for scenario in choose(names)? {
        outcomes.push(runner.run(scenario)?);
    }
    print(&table(&outcomes))?;
    let failed = outcomes.iter().any(|outcome| outcome.error.is_some());
    Ok(ExitCode::from(u8::from(failed)))
}

fn choose(names: &[String]) -> anyhow::Result<Vec<&'static Scenario>> {
    if names.iter().any(|name| name == "all") {
        return Ok(scenarios::ALL.iter().collect());
    }
    names
        .iter()
        .map(|name| {
            scenarios::find(name)
                .with_context(|| format!("no scenario {name}; see: cargo xtask testbed list"))
        })
        .collect()
}

fn table(outcomes: &[Outcome]) -> String {
    let mut text = "\n".to_owned();
    for outcome in outcomes {
        let how = match &outcome.error {
            None => "passed".to_owned(),
            Some(error) => format!("FAILED  {error:#}"),
        };
        text.push_str(&format!(
            "{:<20} {:>5} s  {how}\n",
            outcome.name,
            outcome.took.as_secs()
        ));
    }
    text.push_str(&format!("evidence: {}\n", paths::results().display()));
    text
}

fn shell(runner: &Runner) -> anyhow::Result<()> {
    let (host, folder) = runner.shell_host()?;
    say("the host is up, with kernel and image `busybox:1`; leave with exit or Ctrl-D");
    host.shell()
        .command(&["-t"])
        .status()
        .context("cannot run ssh")?;
    drop(host);
    std::fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))
}

fn logs(name: &str) -> anyhow::Result<()> {
    let folder = paths::results().join(name);
    if !folder.is_dir() {
        bail!("{name} has not run here: {} is missing", folder.display());
    }
    let mut files: Vec<_> = std::fs::read_dir(&folder)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    files.sort();
    let mut text = String::new();
    for file in files {
        text.push_str(&format!("{}\n", file.display()));
    }
    let console = std::fs::read(folder.join("console.log")).unwrap_or_default();
    let console = String::from_utf8_lossy(&console);
    let lines: Vec<_> = console.lines().collect();
    for line in &lines[lines.len().saturating_sub(40)..] {
        text.push_str(&format!("| {line}\n"));
    }
    print(&text)
}

fn print(text: &str) -> anyhow::Result<()> {
    Ok(std::io::stdout().lock().write_all(text.as_bytes())?)
}
