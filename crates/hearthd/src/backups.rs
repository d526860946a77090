//! Backups of the database: on a schedule, on request, the newest few kept.
//!
//! ```text
//!              due ┌──────────── whole ─► older ones than `keep` go ──┐
//!  schedule ──────►│ copy, look through it                            ├──► due again after the interval
//!  on request ────►│                                                  │
//!                  └──────────── failed ─► event, counter ────────────┴──► tried again after RETRY
//! ```
//! When the next one is due follows from the newest file, so that a daemon that is started anew
//! neither makes one more nor forgets one.

use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::sync::{Arc, Weak};
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use hearth_store::{Store, StoreError};
use hearth_types::api::{DatabaseBackup, DatabaseBackupFailure, DatabaseView};
use hearth_types::event::{NewEvent, Severity};
use hearth_types::mode::Mode;
use hearth_types::survey::chain;
use jiff::{Timestamp, civil, tz};
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use tokio::sync::watch;

use crate::engine::Engine;

/// After a failure it is tried again so soon: a disk that was full may have room again.
const RETRY: Duration = Duration::from_secs(15 * 60);
/// The clock is looked at this often while nothing is due: it may be set, and hosts sleep.
const LOOK: Duration = Duration::from_secs(10 * 60);
/// How the moment is written in a file's name.
const MOMENT: &str = "%Y%m%dT%H%M%SZ";

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// Its folder cannot be used.
    #[error("cannot use the folder {folder} for backups of the database")]
    Folder {
        /// The folder.
        folder: Utf8PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The copy failed, or is not whole.
    #[error("the database could not be backed up to {file}")]
    Copy {
        /// The file.
        file: Utf8PathBuf,
        /// Why.
        #[source]
        source: StoreError,
    },
}

impl BackupError {
    /// Whether the database is damaged.
    #[must_use]
    pub const fn damaged(&self) -> bool {
        let Self::Copy { source, .. } = self else {
            return false;
        };
        matches!(source, StoreError::Corrupt { .. })
    }
}

#[derive(Debug, Default)]
struct State {
    interval: Duration,
    keep: u32,
    failure: Option<DatabaseBackupFailure>,
}

/// The backups of one installation.
#[derive(Debug)]
pub struct Backups {
    folder: Utf8PathBuf,
    state: Mutex<State>,
    /// One at a time.
    one: tokio::sync::Mutex<()>,
    failures: Family<[(&'static str, &'static str); 1], Counter>,
}

impl Backups {
    /// Backups in a folder that need not be there yet.
    #[must_use]
    pub fn new(folder: Utf8PathBuf) -> Self {
        let failures: Family<[(&'static str, &'static str); 1], Counter> = Family::default();
        for cause in ["damaged", "other"] {
            drop(failures.get_or_create(&[("cause", cause)]));
        }
        let state = State {
            keep: 7,
            ..State::default()
        };
        Self {
            folder,
            state: Mutex::new(state),
            one: tokio::sync::Mutex::default(),
            failures,
        }
    }

    /// How often, and how many are kept. Zero: none by themselves.
    pub fn configure(&self, interval: Duration, keep: u32) {
        let mut state = self.state.lock();
        (state.interval, state.keep) = (interval, keep.max(1));
    }

    /// How many are kept.
    pub(crate) fn kept(&self) -> usize {
        usize::try_from(self.state.lock().keep).unwrap_or(usize::MAX)
    }

    /// Makes one, and removes those that are too many.
    ///
    /// # Errors
    /// When it cannot be written, or the database is not whole. The older ones stay then.
    pub async fn take(&self, store: &Store, now: Timestamp) -> Result<DatabaseBackup, BackupError> {
        let _one = self.one.lock().await;
        let file = self.folder.join(name(now));
        let made = match make_folder(&self.folder) {
            Ok(()) => {
                let copied = store.back_up(&file).await;
                copied.map_err(|source| BackupError::Copy { file, source })
            }
            Err(source) => Err(BackupError::Folder {
                folder: self.folder.clone(),
                source,
            }),
        };
        if let Err(error) = made {
            let damaged = error.damaged();
            let cause = if damaged { "damaged" } else { "other" };
            self.failures.get_or_create(&[("cause", cause)]).inc();
            self.state.lock().failure = Some(DatabaseBackupFailure {
                at: now,
                damaged,
                reason: chain(&error).to_string(),
            });
            return Err(error);
        }
        self.state.lock().failure = None;
        self.prune();
        let file = self.folder.join(name(now));
        Ok(DatabaseBackup {
            at: now,
            bytes: file.metadata().map_or(0, |meta| meta.len()),
            file: file.into(),
        })
    }

    /// Removes the oldest ones beyond those to keep, and what a daemon that died has left.
    fn prune(&self) {
        let keep = self.kept();
        let old = list(&self.folder).into_iter().skip(keep);
        let old = old.map(|backup| Utf8PathBuf::from(backup.file));
        for file in old.chain(unfinished(&self.folder)) {
            if let Err(error) = std::fs::remove_file(&file) {
                tracing::warn!(%file, %error, "an old backup of the database cannot be removed");
            }
        }
    }

    /// How the database and its backups are.
    #[must_use]
    pub fn view(&self, database: &Utf8Path, schema: u32) -> DatabaseView {
        let state = self.state.lock();
        DatabaseView {
            file: database.to_string(),
            bytes: database.metadata().ok().map(|meta| meta.len()),
            schema,
            backups: list(&self.folder),
            interval_secs: state.interval.as_secs(),
            keep: state.keep,
            failure: state.failure.clone(),
        }
    }

    /// How long until the next one is due; `None` when none are made by themselves.
    fn due_in(&self, now: Timestamp) -> Option<Duration> {
        let (interval, failure) = {
            let state = self.state.lock();
            (state.interval, state.failure.clone())
        };
        if interval.is_zero() {
            return None;
        }
        let since = |at: Timestamp| Duration::try_from(now.duration_since(at)).unwrap_or_default();
        if let Some(failure) = failure {
            return Some(RETRY.min(interval).saturating_sub(since(failure.at)));
        }
        let newest = list(&self.folder).into_iter().next();
        Some(newest.map_or(Duration::ZERO, |newest| {
            interval.saturating_sub(since(newest.at))
        }))
    }

    pub(crate) fn register(&self, registry: &mut Registry) {
        let state = self.state.lock();
        let kept = list(&self.folder);
        let newest = kept
            .first()
            .map_or(0.0, |newest| newest.at.as_duration().as_secs_f64());
        let help =
            "When the newest backup of the database was made, since the epoch; 0 without one";
        registry.register_with_unit(
            "database_backup_last_success_timestamp",
            help,
            Unit::Seconds,
            ConstGauge::new(newest),
        );
        let help = "How often the database is backed up; 0: not by itself";
        registry.register_with_unit(
            "database_backup_interval",
            help,
            Unit::Seconds,
            ConstGauge::new(state.interval.as_secs_f64()),
        );
        let count = i64::try_from(kept.len()).unwrap_or(i64::MAX);
        let help = "Backups of the database that are kept";
        registry.register("database_backups", help, ConstGauge::new(count));
        let help = "Backups of the database that failed; damaged: the database is";
        registry.register("database_backup_failures", help, self.failures.clone());
    }
}

fn name(at: Timestamp) -> String {
    format!("hearth-{}.db", at.strftime(MOMENT))
}

/// The moment in a backup's name; `None` for any other file.
fn moment(name: &str) -> Option<Timestamp> {
    let text = name.strip_prefix("hearth-")?.strip_suffix(".db")?;
    let time = civil::DateTime::strptime(MOMENT, text).ok()?;
    let at = time.to_zoned(tz::TimeZone::UTC).ok()?.timestamp();
    // Written back it has to be the same: no other spelling of it is one of ours.
    (self::name(at) == name).then_some(at)
}

/// Specs hold environment variables: for root alone.
fn make_folder(folder: &Utf8Path) -> std::io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(folder)?;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))
}

/// The backups in a folder, the newest first. A folder that cannot be read has none to show.
pub(crate) fn list(folder: &Utf8Path) -> Vec<DatabaseBackup> {
    let entries = folder.read_dir_utf8().into_iter().flatten().flatten();
    let mut found: Vec<DatabaseBackup> = entries
        .filter_map(|entry| {
            let at = moment(entry.file_name())?;
            let meta = entry.metadata().ok().filter(std::fs::Metadata::is_file)?;
            Some(DatabaseBackup {
                file: entry.path().to_string(),
                at,
                bytes: meta.len(),
            })
        })
        .collect();
    found.sort_by_key(|backup| std::cmp::Reverse(backup.at));
    found
}

fn unfinished(folder: &Utf8Path) -> Vec<Utf8PathBuf> {
    let entries = folder.read_dir_utf8().into_iter().flatten().flatten();
    let left = |name: &str| name.strip_suffix(".new").and_then(moment).is_some();
    entries
        .filter(|entry| left(entry.file_name()))
        .map(|entry| entry.path().to_owned())
        .collect()
}

/// Makes a backup whenever one is due, until the daemon ends.
pub(crate) async fn keep_up(engine: Weak<Engine>, mut stopping: watch::Receiver<bool>) {
    loop {
        let Some(engine) = engine.upgrade() else {
            return;
        };
        let Some(due) = engine.backups.due_in(Timestamp::now()) else {
            return;
        };
        if due.is_zero() {
            back_up(&engine).await;
        }
        let pause = due.clamp(Duration::from_secs(1), LOOK);
        drop(engine);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stopping.changed() => return,
        }
    }
}

async fn back_up(engine: &Arc<Engine>) {
    let now = Timestamp::now();
    if engine.modes.mode() == Mode::Readonly {
        // A disk that is full gets no more files.
        engine.backups.state.lock().failure = Some(DatabaseBackupFailure {
            at: now,
            damaged: false,
            reason: "the mode is readonly".to_owned(),
        });
        return;
    }
    match engine.backups.take(&engine.parts.store, now).await {
        Ok(made) => tracing::info!(
            file = made.file,
            bytes = made.bytes,
            "the database is backed up"
        ),
        Err(error) => engine.tell(failed(&error)).await,
    }
}

/// It could not be made.
pub(crate) fn failed(error: &BackupError) -> NewEvent {
    let advice = if error.damaged() {
        "; the database is damaged: stop the daemon, then hearthd db check, restore or rebuild"
    } else {
        ""
    };
    let message = format!("{}{advice}", chain(error));
    NewEvent::info("database.backup_failed", message).severity(Severity::Error)
}

/// It was made on request.
pub(crate) fn made(backup: &DatabaseBackup) -> NewEvent {
    NewEvent::info(
        "database.backed_up",
        format!("the database is backed up to {}", backup.file),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_second(1_772_366_400 + secs).unwrap()
    }

    fn place() -> (tempfile::TempDir, Utf8PathBuf, Store) {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::try_from(dir.path().to_owned()).unwrap();
        let store = Store::open(path.join("hearth.db")).unwrap();
        (dir, path.join("backups"), store)
    }

    #[tokio::test]
    async fn the_newest_are_kept_and_nothing_else_is_touched() {
        let (_dir, folder, store) = place();
        let backups = Backups::new(folder.clone());
        backups.configure(Duration::from_secs(3600), 3);
        make_folder(&folder).unwrap();
        for foreign in ["hearth-mine.db", "notes", "hearth-20260301T120000Z.db.txt"] {
            std::fs::write(folder.join(foreign), "").unwrap();
        }
        let left = folder.join("hearth-20250101T000000Z.db.new");
        std::fs::write(&left, "half").unwrap();
        for secs in 0..5 {
            let made = backups.take(&store, at(secs)).await.unwrap();
            assert!(made.bytes > 0);
        }
        let kept: Vec<Timestamp> = list(&folder).iter().map(|backup| backup.at).collect();
        assert_eq!(kept, [at(4), at(3), at(2)]);
        assert!(!left.exists());
        assert_eq!(folder.read_dir_utf8().unwrap().count(), 6);
        let mode = folder.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[tokio::test]
    async fn when_the_next_is_due_follows_from_the_newest_and_from_failures() {
        let (_dir, folder, store) = place();
        let backups = Backups::new(folder.clone());
        assert_eq!(backups.due_in(at(0)), None, "not configured");
        backups.configure(Duration::from_secs(86_400), 7);
        assert_eq!(backups.due_in(at(0)), Some(Duration::ZERO));
        backups.take(&store, at(0)).await.unwrap();
        assert_eq!(backups.due_in(at(400)), Some(Duration::from_secs(86_000)));
        // The next daemon knows as much.
        let next = Backups::new(folder.clone());
        next.configure(Duration::from_secs(86_400), 7);
        assert_eq!(next.due_in(at(90_000)), Some(Duration::ZERO));
        // A file where the folder should be.
        std::fs::remove_dir_all(&folder).unwrap();
        std::fs::write(&folder, "").unwrap();
        let error = next.take(&store, at(90_000)).await.unwrap_err();
        assert!(!error.damaged(), "{error}");
        assert_eq!(next.due_in(at(90_000)), Some(RETRY));
        assert_eq!(next.due_in(at(90_900)), Some(Duration::ZERO));
        std::fs::remove_file(&folder).unwrap();
        next.take(&store, at(91_000)).await.unwrap();
        assert_eq!(next.due_in(at(91_000)), Some(Duration::from_secs(86_400)));
    }

    #[test]
    fn only_the_names_that_are_given_are_known() {
        assert_eq!(moment(&name(at(7))), Some(at(7)));
        for other in [
            "hearth-.db",
            "hearth-2026.db",
            "hearth-20260301T120000Z",
            "x.db",
        ] {
            assert_eq!(moment(other), None, "{other}");
        }
    }
}
