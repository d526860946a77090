//! Which Firecracker this is, and whether it is one that this driver knows.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::process::Stdio;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};

use crate::VmmError;

/// How long it may take to say its version.
const DEADLINE: Duration = Duration::from_secs(10);
/// The oldest version that is used: the first with `--enable-pci`.
pub const OLDEST: Version = Version(1, 13, 0);
/// The first that is not: a new major version changes its API.
pub const BEYOND: Version = Version(2, 0, 0);

/// Versions that lose their vsock device, and may hang, when a guest goes on after a pause:
/// the device waits for an answer to an event that it did not send (Firecracker's pull
/// request 6100 and issue 6074).
pub const NO_PAUSE: std::ops::Range<Version> = Version(1, 16, 0)..Version(1, 17, 0);

/// Major, minor and patch level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32, pub u32);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// The answers so far, by path and stamp of the file.
#[derive(Debug, Default)]
pub(super) struct Known(tokio::sync::Mutex<Option<(Utf8PathBuf, String, Version)>>);

impl Known {
    /// The version of this program, refused outside the range.
    pub(super) async fn version(&self, binary: &Utf8Path) -> Result<Version, VmmError> {
        let mut known = self.0.lock().await;
        let stamp = stamp(binary)?;
        if let Some((path, seen, version)) = &*known
            && path == binary
            && *seen == stamp
        {
            return Ok(*version);
        }
        let version = ask(binary).await?;
        *known = Some((binary.to_owned(), stamp, version));
        Ok(version)
    }
}

/// Tells one content of a file from another without reading it.
pub(super) fn stamp(path: &Utf8Path) -> Result<String, VmmError> {
    let meta = std::fs::metadata(path).map_err(|error| VmmError::Missing {
        what: path.to_string(),
        detail: error.to_string(),
    })?;
    Ok(format!(
        "{}-{}.{:09}",
        meta.len(),
        meta.mtime(),
        meta.mtime_nsec()
    ))
}

async fn ask(binary: &Utf8Path) -> Result<Version, VmmError> {
    let missing = |detail: String| VmmError::Missing {
        what: "a Firecracker that can be used".to_owned(),
        detail,
    };
    let output = tokio::process::Command::new(binary)
        .arg("--version")
        .env_clear()
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(DEADLINE, output)
        .await
        .map_err(|_| missing(format!("{binary} --version does not end")))?
        .map_err(|error| missing(format!("{binary} cannot be run: {error}")))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = parse(&text).ok_or_else(|| {
        let first = text.lines().next().unwrap_or_default();
        missing(format!(
            "{binary} --version says {first:?}, which is not Firecracker's answer"
        ))
    })?;
    if (OLDEST..BEYOND).contains(&version) {
        return Ok(version);
    }
    Err(missing(format!(
        "{binary} is version {version}, and versions from {OLDEST} up to, but not including, {BEYOND} are supported; name another with FIRECRACKER_PATH"
    )))
}

/// The version in the first line: `Firecracker v1.16.1`.
fn parse(text: &str) -> Option<Version> {
    let first = text.lines().next()?.trim();
    number(first.strip_prefix("Firecracker v")?)
}

/// A version alone: `1.16.1`, `1.17.0-dev`.
pub(super) fn number(number: &str) -> Option<Version> {
    // A development version is what it will be.
    let number = number.split(['-', '+', ' ']).next()?;
    let mut parts = number.split('.').map(|part| part.parse().ok());
    let version = Version(parts.next()??, parts.next()??, parts.next()??);
    parts.next().is_none().then_some(version)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn versions_as_they_are_said() {
        let line = "Firecracker v1.16.1\n\n2026-01-01T00:00:00 [anonymous-instance:main] Firecracker exiting successfully. exit_code=0\n";
        assert_eq!(parse(line), Some(Version(1, 16, 1)));
        assert_eq!(parse("Firecracker v1.17.0-dev"), Some(Version(1, 17, 0)));
        for wrong in [
            "",
            "Firecracker",
            "Firecracker v1.2",
            "QEMU emulator version 7.2.0",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[tokio::test]
    async fn versions_outside_the_range_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(dir.path()).unwrap().join("vmm");
        for (says, expected) in [
            ("Firecracker v1.16.1", None),
            ("Firecracker v1.12.9", Some("is version 1.12.9")),
            ("Firecracker v2.0.0", Some("1.13.0")),
            ("cloud-hypervisor v40.0", Some("not Firecracker's answer")),
        ] {
            // Written under another name: a program that is being written cannot be run.
            let draft = path.with_extension("new");
            std::fs::write(&draft, format!("#!/bin/sh\necho '{says}'\n")).unwrap();
            std::fs::set_permissions(&draft, PermissionsExt::from_mode(0o755)).unwrap();
            std::fs::rename(&draft, &path).unwrap();
            // Each is asked afresh: files this quick to follow each other may look the same.
            match (Known::default().version(&path).await, expected) {
                (Ok(version), None) => assert_eq!(version, Version(1, 16, 1)),
                (Err(error), Some(words)) => {
                    assert!(error.to_string().contains(words), "{error}");
                }
                (answer, _) => panic!("{says}: {answer:?}"),
            }
        }
    }
}
