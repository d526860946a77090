//! The files of the package, laid out as they will lie on the host.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use super::{packaging, tool};
use crate::workspace::root;

/// Files of `packaging/`, where they go, and their mode.
const FILES: [(&str, &str, u32); 8] = [
    ("systemd/hearthd.service", "usr/lib/systemd/system", 0o644),
    ("systemd/hearthd.socket", "usr/lib/systemd/system", 0o644),
    ("systemd/hearth.slice", "usr/lib/systemd/system", 0o644),
    ("sysusers.d/hearth.conf", "usr/lib/sysusers.d", 0o644),
    ("tmpfiles.d/hearth.conf", "usr/lib/tmpfiles.d", 0o644),
    ("udev/11-hearth.rules", "usr/lib/udev/rules.d", 0o644),
    // It may come to hold the API's token.
    ("config", "etc/hearth", 0o600),
    ("debian/copyright", "usr/share/doc/hearth", 0o644),
];

/// Each shell, and where Debian keeps its completions.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "usr/share/bash-completion/completions/hearth"),
    ("zsh", "usr/share/zsh/vendor-completions/_hearth"),
    ("fish", "usr/share/fish/vendor_completions.d/hearth.fish"),
];

/// Lays everything out in `stage`.
pub(super) fn fill(stage: &Path, programs: &[(PathBuf, &'static str)]) -> anyhow::Result<()> {
    for (program, folder) in programs {
        let placed = install(stage, program, folder, 0o755)?;
        tool(Command::new("strip").arg("--strip-unneeded").arg(placed))?;
    }
    for (file, folder, mode) in FILES {
        install(stage, &packaging().join(file), folder, mode)?;
    }
    let changelog = install(
        stage,
        &root().join("CHANGELOG.md"),
        "usr/share/doc/hearth",
        0o644,
    )?;
    compress(&changelog)?;
    man_pages(stage)?;
    for (shell, path) in COMPLETIONS {
        let script = tool(Command::new(own(stage, "usr/bin/hearth")).args(["completions", shell]))?;
        write(&stage.join(path), script.as_bytes())?;
    }
    Ok(())
}

/// A program of the package, to be asked about itself.
fn own(stage: &Path, path: &str) -> PathBuf {
    stage.join(path)
}

fn man_pages(stage: &Path) -> anyhow::Result<()> {
    let man1 = stage.join("usr/share/man/man1");
    tool(
        Command::new(own(stage, "usr/bin/hearth"))
            .arg("man")
            .arg(&man1),
    )?;
    let page = tool(Command::new(own(stage, "usr/sbin/hearthd")).arg("man"))?;
    let man8 = stage.join("usr/share/man/man8/hearthd.8");
    write(&man8, page.as_bytes())?;
    compress(&man8)?;
    let pages = fs::read_dir(&man1).with_context(|| format!("cannot list {}", man1.display()))?;
    for page in pages {
        compress(&page?.path())?;
    }
    Ok(())
}

/// Without name and time, as Debian's policy wants it.
fn compress(path: &Path) -> anyhow::Result<()> {
    tool(Command::new("gzip").args(["-9", "-n"]).arg(path)).map(drop)
}

fn install(stage: &Path, file: &Path, folder: &str, mode: u32) -> anyhow::Result<PathBuf> {
    let name = file.file_name().context("a file without a name")?;
    let placed = stage.join(folder).join(name);
    let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    write(&placed, &bytes)?;
    fs::set_permissions(&placed, fs::Permissions::from_mode(mode))?;
    Ok(placed)
}

/// Writes a file that everybody may read, in folders that everybody may pass.
pub(super) fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let cannot = || format!("cannot write {}", path.display());
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(cannot)?;
    }
    fs::write(path, bytes).with_context(cannot)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).with_context(cannot)
}
