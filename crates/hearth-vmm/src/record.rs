//! Reading what the shim leaves: the exit record and the end of the VMM's log.

use std::io::{Read, Seek, SeekFrom};
use std::time::Duration;

use camino::Utf8Path;
use hearth_shim::{EXIT_RECORD, LOCK, LockHolder, VMM_LOG};
use hearth_types::process::ExitRecord;

use crate::VmmError;

/// Longest record that is read, in bytes: a guest's report is 64 KiB at most.
const RECORD_MAX: u64 = 256 << 10;
/// How long a shim may take between its VMM's death and the record.
const RECORD_WAIT: Duration = Duration::from_secs(3);
/// How often the folder is looked at meanwhile.
const RECORD_RETRY: Duration = Duration::from_millis(2);
/// How much of the VMM's log goes into an error, in bytes.
const TAIL: u64 = 2000;

/// The record of the last VMM's end. When the VMM is dead and its shim is about to write
/// the record, waits for that.
pub(crate) async fn exit_record(dir: &Utf8Path) -> Result<Option<ExitRecord>, VmmError> {
    let give_up = tokio::time::Instant::now() + RECORD_WAIT;
    loop {
        // In this order: a shim that ends after the look at the file is still seen.
        let ending = is_ending(dir);
        let record = read(dir)?;
        if record.is_some() || !ending || tokio::time::Instant::now() >= give_up {
            return Ok(record);
        }
        tokio::time::sleep(RECORD_RETRY).await;
    }
}

/// Whether a shim lives whose VMM is dead.
fn is_ending(dir: &Utf8Path) -> bool {
    holder(dir)
        .is_some_and(|holder| holder.vmm.is_some_and(|vmm| vmm.is_ending()) && holder.shim.lives())
}

/// Whether the VMM that the lock names is dead or about to be, whatever became of its shim.
pub(crate) fn vmm_is_over(dir: &Utf8Path) -> bool {
    holder(dir).is_some_and(|holder| holder.vmm.is_some_and(|vmm| vmm.is_ending()))
}

fn holder(dir: &Utf8Path) -> Option<LockHolder> {
    let text = std::fs::read(dir.join(LOCK)).ok()?;
    serde_json::from_slice(&text).ok()
}

fn read(dir: &Utf8Path) -> Result<Option<ExitRecord>, VmmError> {
    let path = dir.join(EXIT_RECORD);
    let failed = |source| VmmError::Io {
        operation: "read",
        path: path.clone(),
        source,
    };
    let file = match std::fs::File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut text = Vec::new();
    file.take(RECORD_MAX)
        .read_to_end(&mut text)
        .map_err(failed)?;
    if text.is_empty() {
        // A power cut took what was in it: see `Draft::publish` of the shim.
        return Ok(None);
    }
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|error| failed(error.into()))
}

/// The end of what the VMM said, in one line.
pub(crate) fn vmm_log_tail(dir: &Utf8Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = std::fs::File::open(dir.join(VMM_LOG))?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
        let mut text = Vec::new();
        file.take(TAIL).read_to_end(&mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines: Vec<_> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    if lines.is_empty() {
        "it said nothing".to_owned()
    } else {
        lines.join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_record_and_a_broken_record() {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(dir.path()).unwrap();
        assert_eq!(exit_record(path).await.unwrap(), None);
        assert_eq!(vmm_log_tail(path), "it said nothing");
        std::fs::write(path.join(EXIT_RECORD), "").unwrap();
        assert_eq!(exit_record(path).await.unwrap(), None);
        std::fs::write(path.join(EXIT_RECORD), "{").unwrap();
        let error = exit_record(path).await.unwrap_err();
        assert!(error.to_string().contains("exit.json"), "{error}");
        std::fs::write(path.join(VMM_LOG), "x".repeat(5000) + "\na\n\n b \n").unwrap();
        assert!(vmm_log_tail(path).ends_with("x; a; b"));
    }
}
