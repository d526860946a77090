//! The Debian package: programs, units, configuration, man pages and completions in a staging
//! folder, put together by `dpkg-deb`.
//!
//! ```text
//! cargo build ─► hearth, hearthd, hearth-shim ─┐
//! xtask guest ─► hearth-guest ─────────────────┼─► target/debian/stage ─► hearth_VERSION_ARCH.deb
//! packaging/ ─► units, scripts ────────────────┤
//! hearth man, completions ─────────────────────┘
//! ```

mod control;
mod stage;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::workspace::{root, target};

/// What to package.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The profile whose programs go into the package
    #[arg(long, default_value = "release")]
    profile: String,
    /// Take the programs as they were built before
    #[arg(long)]
    no_build: bool,
    /// Another version than the workspace's, to try an upgrade
    #[arg(long)]
    version: Option<String>,
}

/// The programs that cargo builds, and where each is installed.
const PROGRAMS: [(&str, &str); 3] = [
    ("hearth", "usr/bin"),
    ("hearthd", "usr/sbin"),
    ("hearth-shim", "usr/lib/hearth"),
];

/// Builds the package and prints its path.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    if !options.no_build {
        build(&options.profile)?;
    }
    let version = options.version.as_deref();
    let version = version.unwrap_or(env!("CARGO_PKG_VERSION"));
    let folder = target().join("debian");
    let stage = folder.join("stage");
    if stage.exists() {
        fs::remove_dir_all(&stage).with_context(|| format!("cannot empty {}", stage.display()))?;
    }
    stage::fill(&stage, &programs(&options.profile))?;
    let architecture = control::write_all(&stage, version)?;
    let package = folder.join(format!("hearth_{version}_{architecture}.deb"));
    // What is only tried out must be made quickly, what is published must be small.
    let compression = match options.profile.as_str() {
        "release" => "-Zxz",
        _ => "-Zgzip",
    };
    // Owners and times as in no particular build: the same sources give the same package.
    tool(
        Command::new("dpkg-deb")
            .args(["--root-owner-group", compression, "--build"])
            .arg(&stage)
            .arg(&package)
            .env("SOURCE_DATE_EPOCH", commit_time()?),
    )?;
    #[expect(clippy::print_stdout, reason = "the path is this command's answer")]
    {
        println!("{}", package.display());
    }
    Ok(())
}

fn build(profile: &str) -> anyhow::Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let packages = PROGRAMS.iter().flat_map(|(name, _)| ["-p", name]);
    tool(
        Command::new(cargo)
            .args(["build", "--quiet", "--profile", profile])
            .args(packages)
            .current_dir(root()),
    )?;
    crate::guest::build().map(drop)
}

/// Each program and its folder in the package.
fn programs(profile: &str) -> Vec<(PathBuf, &'static str)> {
    // Cargo's folder for the profile `dev` is `debug`.
    let built = target().join(if profile == "dev" { "debug" } else { profile });
    let guest = (target().join("hearth-guest"), "usr/lib/hearth");
    PROGRAMS
        .iter()
        .map(|(name, folder)| (built.join(name), *folder))
        .chain([guest])
        .collect()
}

/// When the sources were committed, in seconds since the epoch.
fn commit_time() -> anyhow::Result<String> {
    let output = Command::new("git")
        .args(["log", "-1", "--format=%ct"])
        .current_dir(root())
        .output();
    // Sources without their history, from an archive, have no time of their own; nor have they
    // where there is no git.
    let time = match output {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        output => String::from_utf8(output.context("cannot run git")?.stdout)?,
    };
    let time = time.trim().to_owned();
    Ok(if time.is_empty() {
        "0".to_owned()
    } else {
        time
    })
}

/// Runs a program, whose output is shown only when it fails.
fn tool(command: &mut Command) -> anyhow::Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        bail!(
            "{program} failed ({}): {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Where the files that are not built lie.
fn packaging() -> PathBuf {
    root().join("packaging")
}

fn read(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}
