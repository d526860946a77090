//! The guest agent: one static binary that is every VM's first program.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::workspace::{root, target};

const TRIPLE: &str = "x86_64-unknown-linux-gnu";
const BINARY: &str = "hearth-guest";

/// Builds the agent and prints its path.
pub(crate) fn run() -> anyhow::Result<()> {
    let placed = build()?;
    #[expect(clippy::print_stdout, reason = "the path is this command's answer")]
    {
        println!("{}", placed.display());
    }
    Ok(())
}

/// Builds the agent and puts it where the daemon and the tests look for it.
/// With nothing changed this takes as long as cargo needs to see that.
pub(crate) fn build() -> anyhow::Result<PathBuf> {
    // Given here and not in .cargo/config.toml: the flag would hold for every other binary too.
    let static_runtime =
        format!(r#"target.{TRIPLE}.rustflags=["-C","target-feature=+crt-static"]"#);
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--profile", "guest", "-p", BINARY])
        .args(["--target", TRIPLE, "--config", &static_runtime])
        .current_dir(root())
        // Would take the place of the flags above.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .status()
        .context("cannot run cargo")?;
    if !status.success() {
        bail!("the guest agent does not build ({status})");
    }
    let built = target().join(TRIPLE).join("guest").join(BINARY);
    let placed = target().join(BINARY);
    place(&built, &placed)?;
    Ok(placed)
}

/// Copies the binary unless the same one is there; a reader never sees half of it.
fn place(built: &Path, placed: &Path) -> anyhow::Result<()> {
    let bytes = fs::read(built).with_context(|| format!("cannot read {}", built.display()))?;
    if fs::read(placed).is_ok_and(|present| present == bytes) {
        return Ok(());
    }
    let fresh = placed.with_extension(format!("new-{}", std::process::id()));
    fs::copy(built, &fresh)
        .and_then(|_| fs::rename(&fresh, placed))
        .with_context(|| format!("cannot put the agent at {}", placed.display()))
}
