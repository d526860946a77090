//! Garbage collection: what is there and nobody needs, found in one look and cleaned on order alone.
//!
//! ```text
//!  find: database, ledger, images, orphans, dumps ──► graph (pure) ──► items ──► dry run: told
//!                                                                       │ force
//!   host not idle or in trouble: refused, nothing begun ◄── examine ◄───┤
//!                                                                       ▼
//!                                              one after the other, each proved again, with a deadline
//! ```
//! Devices of the pool whose making failed stay until somebody says this: taking one down may hang a kernel that is in
//! trouble, and leaking is the safer failure.

mod downloads;
mod files;
mod find;
pub mod keeper;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use camino::Utf8PathBuf;
use hearth_image::ImageJobs;
use hearth_plan::gc::schedule::Trigger;
use hearth_pool::{ThinError, Thins};
use hearth_safeguards::{GuardError, Purpose, Weight};
use hearth_types::gc::{GcItem, GcKind, GcOutcome, GcReport, GcSummary, RunGc};
use hearth_types::orphan::RemoveOrphans;
use hearth_types::status::Phase;
use jiff::Timestamp;
use tokio::time::timeout;

use crate::engine::Engine;
use find::{Found, What};

/// How long the cleaning of one piece may take: its steps have deadlines of their own, and this is
/// longer than all of them.
const DEADLINE: Duration = Duration::from_secs(300);

/// Where garbage is looked for.
#[derive(Debug, Clone)]
pub struct Ground {
    /// VMs, images, folders.
    pub engine: Arc<Engine>,
    /// The pool.
    pub thins: Thins,
    /// Pulls and imports.
    pub jobs: ImageJobs,
}

/// What is looked for.
#[derive(Debug, Clone, Copy)]
struct Order<'a> {
    kinds: &'a [GcKind],
    /// Somebody asks at this moment.
    by_hand: bool,
    now: Timestamp,
}

impl Order<'_> {
    fn means(&self, kind: GcKind) -> bool {
        kind.is_meant(self.kinds)
    }

    /// Somebody has named this kind at this moment.
    fn names(&self, kind: GcKind) -> bool {
        self.by_hand && self.kinds.contains(&kind)
    }
}

/// Why nothing was begun.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The host is in no state for it.
    #[error("the host is in no state for it: {why}")]
    Unwell {
        /// What speaks against it.
        why: String,
        /// What to do.
        hint: &'static str,
    },
    /// Something is being done.
    #[error("the host is not idle: {0}")]
    Busy(String),
    /// The database or the host cannot be looked at.
    #[error("what is garbage cannot be told")]
    Failed(#[source] anyhow::Error),
}

impl Refused {
    /// What to do next.
    #[must_use]
    pub const fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Unwell { hint, .. } => Some(hint),
            Self::Busy(_) => {
                Some("wait until it has ended, then again: hearth pool status, hearth ps")
            }
            Self::Failed(_) => None,
        }
    }
}

/// Finds garbage, and cleans it if that is asked for.
///
/// # Errors
/// [`Refused`]: nothing was begun. What fails for one piece is told in its place.
pub async fn run(ground: &Ground, asked: &RunGc, trigger: Trigger) -> Result<GcReport, Refused> {
    let done = look(ground, asked, trigger).await;
    let metrics = &ground.engine.metrics;
    metrics.gc_ran(trigger, done.as_ref().ok());
    done
}

async fn look(ground: &Ground, asked: &RunGc, trigger: Trigger) -> Result<GcReport, Refused> {
    let order = Order {
        kinds: &asked.kinds,
        by_hand: trigger == Trigger::Asked,
        now: ground.engine.now(),
    };
    let engine = &ground.engine;
    if !asked.force {
        tracing::info!("Running in DRY RUN mode - no changes will be made");
        let found = find::find(ground, &order).await;
        return Ok(report(true, found.map_err(Refused::Failed)?));
    }
    tracing::warn!("Running in FORCE mode - orphaned devices will be deleted");
    idle(ground).await?;
    // Nobody begins to use an image, or the device that it is in, between the look and the act.
    let no_user_comes = engine.image_use.write().await;
    let mut found = find::find(ground, &order).await.map_err(Refused::Failed)?;
    clean(ground, &mut found).await;
    drop(no_user_comes);
    engine.look_at_everything();
    Ok(report(false, found))
}

/// An idle host, in good health.
async fn idle(ground: &Ground) -> Result<(), Refused> {
    let guard = ground.thins.pool().guard();
    // The pool's state is no reason: one that is full gets room by this, one that takes no changes says so itself.
    let report = guard.examine(Purpose::Change, None).await;
    let mut against = report.at_least(Weight::Refuses);
    if let Some(first) = against.next() {
        return Err(Refused::Unwell {
            why: first.to_string(),
            hint: first.hint,
        });
    }
    if let Some(operation) = guard.queue().first() {
        let (what, state) = (&operation.operation, operation.state);
        return Err(Refused::Busy(format!("{what} is {state}")));
    }
    let rows = ground.engine.parts.store.vms().await;
    let busy = rows.iter().find(|row| {
        matches!(
            row.status.phase,
            Phase::Starting | Phase::Stopping | Phase::Removing
        )
    });
    match busy {
        Some(row) => Err(Refused::Busy(format!(
            "VM {} is {}",
            row.spec.name,
            row.status.phase.as_str()
        ))),
        None => Ok(()),
    }
}

async fn clean(ground: &Ground, found: &mut Found) {
    let mut stuck = false;
    for (item, what) in &mut found.items {
        if item.outcome != GcOutcome::Found {
            continue;
        }
        if stuck {
            skip(item, "an operation before it does not come back");
            continue;
        }
        tracing::info!(device_id = item.id, device_name = item.object, kind = %item.kind, "Attempting to clean up orphaned device");
        let cleaned = timeout(DEADLINE, clean_one(ground, item, what)).await;
        let cleaned = cleaned.unwrap_or_else(|_| {
            stuck = true;
            Err(anyhow::anyhow!(
                "it did not end within {} s",
                DEADLINE.as_secs()
            ))
        });
        match cleaned {
            Ok(()) => {
                tracing::info!(device_id = item.id, device_name = item.object, kind = %item.kind, "Successfully cleaned up orphaned device");
                item.outcome = GcOutcome::Cleaned;
            }
            Err(error) => {
                stuck |= is_stuck(&error);
                tracing::warn!(device_id = item.id, device_name = item.object, kind = %item.kind, timed_out = stuck, "deactivate failed or timed out: {error:#}");
                item.outcome = GcOutcome::Failed;
                item.why = Some(format!("{error:#}"));
            }
        }
    }
}

fn is_stuck(error: &anyhow::Error) -> bool {
    let guard = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<GuardError>());
    matches!(
        guard,
        Some(GuardError::Stuck { .. } | GuardError::Behind { .. })
    )
}

async fn clean_one(ground: &Ground, item: &GcItem, what: &What) -> anyhow::Result<()> {
    let engine = &ground.engine;
    match what {
        What::Device { id, image } => {
            let cleared = ground
                .thins
                .clear(*id, |device| Some(&device.name) == image.as_ref());
            cleared.await.map_err(plain)
        }
        What::Image(id) => {
            let parts = &engine.parts;
            if let Some(_nobody_makes_it_again) = parts.images.take(id.as_str()).await? {
                let volume = parts.images.volume_path(id);
                parts.disks.forget_source(&volume).await?;
            }
            Ok(())
        }
        What::File { path, changed } => {
            let (path, changed) = (path.clone(), *changed);
            tokio::task::spawn_blocking(move || remove_file(&path, changed)).await?
        }
        What::Download(name) => {
            let gone = ground.jobs.remove_spare(name).await?;
            anyhow::ensure!(gone, "somebody needs it by now, or it is gone");
            Ok(())
        }
        What::Job(id) => {
            let gone = ground.jobs.forget(id).await?;
            anyhow::ensure!(gone, "it is under way again, or gone");
            Ok(())
        }
        What::Leftover => {
            let asked = RemoveOrphans {
                ids: vec![item.id.clone()],
                ..RemoveOrphans::default()
            };
            let removed = engine.remove_orphans(&asked).await?;
            let problem = removed.items.into_iter().find_map(|item| item.problem);
            problem.map_or(Ok(()), |problem| Err(anyhow::anyhow!(problem)))
        }
    }
}

/// A file that nobody has written to since it was found.
fn remove_file(path: &Utf8PathBuf, changed: SystemTime) -> anyhow::Result<()> {
    let meta = path.symlink_metadata()?;
    let same = meta.is_file() && meta.modified()? == changed;
    anyhow::ensure!(same, "it was written to since it was found");
    Ok(std::fs::remove_file(path)?)
}

/// With its advice.
fn plain(error: ThinError) -> anyhow::Error {
    let hint = error.hint();
    let error = anyhow::Error::new(error);
    match hint {
        Some(hint) => error.context(format!("it is left as it is ({hint})")),
        None => error,
    }
}

fn skip(item: &mut GcItem, why: &str) {
    item.outcome = GcOutcome::Skipped;
    item.why = Some(why.to_owned());
}

fn report(dry_run: bool, found: Found) -> GcReport {
    let items: Vec<GcItem> = found.items.into_iter().map(|(item, _)| item).collect();
    let count = |outcome| items.iter().filter(|item| item.outcome == outcome).count();
    let summary = GcSummary {
        cleaned: count(GcOutcome::Cleaned),
        failed: count(GcOutcome::Failed),
        orphaned: items.len(),
        skipped: count(GcOutcome::Skipped),
        total_devices: found.devices,
    };
    let counts = if dry_run {
        GcOutcome::Found
    } else {
        GcOutcome::Cleaned
    };
    let bytes = items.iter().filter(|item| item.outcome == counts);
    let bytes = bytes.filter_map(|item| item.bytes).sum();
    let GcSummary {
        cleaned,
        failed,
        orphaned,
        skipped,
        total_devices,
    } = summary;
    tracing::info!(cleaned, failed, orphaned, skipped, total_devices, "Summary");
    if failed > 0 {
        tracing::warn!("Some devices could not be cleaned - manual intervention may be required");
    }
    GcReport {
        dry_run,
        items,
        summary,
        bytes,
        unknown: found.unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_written_to_since_it_was_found_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(dir.path().join("console.log.9")).unwrap();
        std::fs::write(&path, "old").unwrap();
        let seen = path.metadata().unwrap().modified().unwrap();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(seen + Duration::from_secs(1)).unwrap();
        let error = remove_file(&path, seen).unwrap_err();
        assert!(error.to_string().contains("written to"), "{error}");
        assert!(path.exists());
        remove_file(&path, seen + Duration::from_secs(1)).unwrap();
        assert!(!path.exists());
    }
}
