//! Files that are made from the sources and checked in: the OpenAPI document, the
//! configuration reference and the configuration file that packages install. `hearthd` prints
//! them, so nothing of it is linked here.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};

use crate::workspace::root;

/// What `hearthd` is asked for, and where the answer lies.
const FILES: [(&str, &str); 3] = [
    ("openapi", "api/openapi.json"),
    ("configuration", "docs/configuration.md"),
    ("default-config", "packaging/config"),
];

/// Writes the generated files, or only checks them: then stale ones are an error.
pub(crate) fn run(check: bool) -> anyhow::Result<()> {
    let mut stale = Vec::new();
    for (subcommand, file) in FILES {
        let fresh = printed(subcommand)?;
        let path = root().join(file);
        if fs::read(&path).is_ok_and(|present| present == fresh) {
            continue;
        }
        if check {
            stale.push(file);
        } else {
            write(&path, &fresh)?;
        }
    }
    if !stale.is_empty() {
        bail!("{} is stale; run: cargo xtask generate", stale.join(", "));
    }
    Ok(())
}

/// What this subcommand of `hearthd`, built from these sources, prints.
fn printed(subcommand: &str) -> anyhow::Result<Vec<u8>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["run", "--quiet", "-p", "hearthd", "--", subcommand])
        .current_dir(root())
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    if !output.status.success() || output.stdout.is_empty() {
        bail!("hearthd {subcommand} printed nothing ({})", output.status);
    }
    Ok(output.stdout)
}

fn write(path: &Path, text: &[u8]) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
