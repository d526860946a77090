//! What is kept of each end of a run that nobody asked for: how, the last words of console and
//! VMM, what was tried since. In the database, the last 20 of each VM.

use std::io::{Read as _, Seek as _, SeekFrom};

use camino::Utf8Path;
use hearth_host::aside::aside;
use hearth_store::VmRow;
use hearth_types::history::{ATTEMPTS_KEPT, Attempt, HistoryEntry};
use hearth_types::ids::VmId;
use hearth_types::process::ProcessExit;
use hearth_types::status::{Cause, Goal};
use hearth_types::survey::chain;
use hearth_types::units::MIB;
use hearth_vmm::{CONSOLE_LOG, VMM_LOG};
use rustix::fs::{Mode, OFlags};

use crate::engine::Engine;

/// Lines kept of the console.
const CONSOLE_LINES: usize = 50;
/// Lines kept of the VMM's log.
const VMM_LINES: usize = 20;
/// How much of the end of a log is looked at, in bytes.
const TAIL: u64 = 32 << 10;
/// Characters kept of a line.
const LINE: usize = 400;

impl Engine {
    /// The end of a run was recorded: keeps its story, unless the user asked for the end.
    pub(crate) async fn keep_history(&self, vm: VmId) {
        let Some(row) = self.parts.store.vm(vm).await else {
            return;
        };
        let asked = matches!(row.goal, Goal::Stopped | Goal::Absent);
        let Some(end) = row.status.last_end.clone() else {
            return;
        };
        if asked && !end.failure {
            return;
        }
        let dir = self.paths.vm(vm);
        let logs = aside(move || {
            (
                tail(&dir.join(CONSOLE_LOG), CONSOLE_LINES),
                tail(&dir.join(VMM_LOG), VMM_LINES),
            )
        });
        let (console, vmm_log) = logs.await.unwrap_or_default();
        let core = self.core_of(&row, end.vmm).await;
        let entry = HistoryEntry {
            class: end.class,
            exit_code: end.exit_code,
            vmm: end.vmm,
            failure: end.failure,
            reason: end.reason,
            started_at: row.status.started_at,
            ended_at: end.at,
            recorded_at: self.now(),
            back_at: None,
            tried: Vec::new(),
            console,
            vmm_log,
            core,
        };
        if let Err(error) = self.parts.store.add_history(vm, entry).await {
            tracing::warn!(%vm, error = %chain(&error), "the story of a run's end cannot be kept");
        }
    }

    /// What became of the core of a VMM that ended like this.
    async fn core_of(&self, row: &VmRow, ended: Option<ProcessExit>) -> Option<String> {
        if !row.spec.crash_dump.vmm_core {
            return None;
        }
        let record = self.parts.vmm.exit_record(&self.paths.vm(row.id)).await;
        let record = record.ok()??;
        if ended != Some(record.vmm) {
            return None;
        }
        let core = aside(move || crate::cores::of(&record)).await.ok()??;
        let file = core.file.filter(|_| self.settings.unprivileged);
        let Some(file) = file else {
            return Some(core.words);
        };
        let told = match self.keep_core(row, file).await {
            Ok(dump) => {
                let (file, size) = (&dump.file, dump.size.human());
                // The kernel ends with the last page that fits.
                let whole = dump.size.0 + MIB < row.spec.crash_dump.max_size.0;
                let cut = if whole {
                    ""
                } else {
                    ", cut off at crash_dump.max_size"
                };
                format!("its core is kept as {file} ({size}{cut})")
            }
            Err(error) => format!("{}, and stays there: {error:#}", core.words),
        };
        Some(told)
    }

    /// An attempt to start the VM again has ended; `problem` says why it failed.
    pub(crate) async fn keep_attempt(
        &self,
        row: &VmRow,
        step: &'static str,
        problem: Option<(&str, Cause)>,
    ) {
        if row.status.last_end.is_none() {
            return;
        }
        let at = self.now();
        let attempt = Attempt {
            at,
            step: step.to_owned(),
            problem: problem.map(|(text, _)| text.chars().take(LINE).collect()),
            cause: problem.map(|(_, cause)| cause),
        };
        let change = move |entry: &mut HistoryEntry| {
            if entry.back_at.is_some() {
                // What is tried now belongs to a run that has begun since.
                return;
            }
            if attempt.problem.is_none() {
                entry.back_at = Some(at);
            }
            if entry.tried.len() == ATTEMPTS_KEPT {
                entry.tried.pop();
            }
            entry.tried.push(attempt);
        };
        if let Err(error) = self.parts.store.amend_history(row.id, change).await {
            tracing::warn!(vm = %row.id, error = %chain(&error), "an attempt cannot be kept");
        }
    }
}

/// The last lines of a log; none if it is missing or no regular file. The VMM writes into the
/// same folder as another user, so a link is not followed.
fn tail(path: &Utf8Path, lines: usize) -> Vec<String> {
    let read = || -> std::io::Result<Vec<u8>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mut file =
            std::fs::File::from(rustix::fs::open(path.as_std_path(), flags, Mode::empty())?);
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Ok(Vec::new());
        }
        file.seek(SeekFrom::Start(meta.len().saturating_sub(TAIL)))?;
        let mut bytes = Vec::new();
        file.take(TAIL).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    let last = all.iter().skip(all.len().saturating_sub(lines));
    last.map(|line| {
        let plain = line.chars().filter(|c| !c.is_control() || *c == '\t');
        plain.take(LINE).collect()
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_without_what_steers_a_terminal() {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(dir.path()).unwrap().join("console.log");
        assert!(tail(&path, 3).is_empty());
        let long = "x".repeat(1000);
        let text: String = (0..5000).map(|n| format!("line {n}\n")).collect();
        std::fs::write(&path, format!("{text}{long}\n\u{1b}[2Jlast \u{fffd}")).unwrap();
        let lines = tail(&path, 3);
        assert_eq!(lines[0], "line 4999");
        assert_eq!(lines[1].len(), LINE);
        assert_eq!(lines[2], "[2Jlast \u{fffd}");
        let link = path.with_file_name("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(tail(&link, 3).is_empty());
    }
}
