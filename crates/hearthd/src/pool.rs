//! The thin pool's place in the daemon: put together when it starts, told about in events and by
//! `hearth doctor`. What the pool is and does is `hearth-pool`'s.

pub(crate) mod compare;
mod keeper;
mod told;
pub(crate) mod whose;

use std::sync::Arc;
use std::time::Duration;

use hearth_config::Config;
use hearth_pool::space::Growth;
use hearth_pool::{HelperGround, Limits, Place, Pool, PoolError, Thins};
use hearth_safeguards::OperationGuard;
use hearth_types::InstallationId;
use hearth_types::api::{DoctorCheck, DoctorStatus};
use hearth_types::event::{NewEvent, Severity};
use hearth_types::mode::Mode;
use hearth_types::pool::{PoolBackup, PoolState, PoolView};
use hearth_types::survey::chain;
use hearth_types::units::Bytes;

use tokio::sync::watch;

use crate::engine::Engine;
use crate::engine::paths::Paths;
pub use compare::Comparer;
pub use keeper::Keeper;

/// The pool of this host and installation.
#[must_use]
pub fn of_host(
    paths: &Paths,
    installation: InstallationId,
    ground: Arc<HelperGround>,
    guard: OperationGuard,
) -> Pool {
    let place = Place::new(&paths.pool(), installation);
    Pool::new(place, ground).with_guard(guard)
}

/// What the operator allows it.
pub(crate) fn limits(config: &Config) -> Limits {
    Limits {
        grow: config.pool_extend,
        most: config.pool_max.map(|most| most.0),
        overcommit: config.pool_overcommit,
        data_danger: config.pool_data_danger,
        metadata_danger: config.pool_metadata_danger,
        backups: config.pool_backup_keep,
    }
}

/// Puts the pool together, if there is one that the kernel has forgotten, and looks after it from
/// then on: it is compared with what is written down so often, and its metadata is backed up so often, never for
/// zero. The loop and the API do not wait for it: the check of large metadata takes its time.
pub(crate) async fn keep(
    engine: Arc<Engine>,
    thins: Thins,
    survey_every: Duration,
    backup_every: Duration,
    stopping: watch::Receiver<bool>,
) {
    let pool = thins.pool().clone();
    engine.tell_helpers_left().await;
    if engine.modes.mode() == Mode::Readonly {
        tracing::info!("the pool is not put together: the mode is readonly");
    } else {
        match pool.bring_up().await {
            Ok(false) => {}
            Ok(true) => engine.tell(up(&pool.view().await)).await,
            Err(error) => engine.tell(failed("put together", &error)).await,
        }
    }
    let mut comparer = Comparer::new(Arc::clone(&engine), thins);
    comparer.begin().await;
    drop(tokio::spawn(comparer.run(survey_every, stopping.clone())));
    Keeper::new(engine, pool, backup_every).run(stopping).await;
}

/// The pool was put together.
pub(crate) fn up(view: &PoolView) -> NewEvent {
    let checked = view.last_check.as_ref().map(|check| check.took_ms);
    let checked = checked.map(|took| format!(" (its metadata was checked in {took} ms)"));
    NewEvent::info(
        "pool.up",
        format!(
            "the pool is put together with what is in it{}",
            checked.unwrap_or_default()
        ),
    )
}

/// The pool has become larger.
pub(crate) fn extended(now: Growth, why: &str) -> NewEvent {
    let message = format!(
        "the pool has {} for data and {} for metadata now, {why}",
        Bytes(now.data).human(),
        Bytes(now.metadata).human()
    );
    NewEvent::info("pool.extended", message)
}

/// Its metadata was backed up.
pub(crate) fn backed_up(backup: &PoolBackup) -> NewEvent {
    let message = format!(
        "the pool's metadata is backed up at transaction {}: {} ({})",
        backup.transaction_id,
        backup.file,
        Bytes(backup.bytes).human()
    );
    NewEvent::info("pool.backed_up", message)
}

/// Something could not be done to the pool.
pub(crate) fn failed(what: &str, error: &PoolError) -> NewEvent {
    let hint = error.hint().map(|hint| format!("; {hint}"));
    let message = format!(
        "the pool cannot be {what}: {}{}",
        chain(error),
        hint.unwrap_or_default()
    );
    NewEvent::info("pool.failed", message).severity(Severity::Error)
}

/// What `hearth doctor` says of it. Nobody needs one.
pub(crate) fn doctor(view: PoolView) -> DoctorCheck {
    let none = view.made_at.is_none();
    let (status, detail) = match view.state {
        PoolState::Absent => (DoctorStatus::Ok, "none; volumes are files".to_owned()),
        PoolState::Unavailable if none => (
            DoctorStatus::Ok,
            "none, and this host cannot have one; volumes are files".to_owned(),
        ),
        PoolState::Up => (DoctorStatus::Ok, "up".to_owned()),
        state => {
            let status = match state {
                PoolState::Full | PoolState::Failed | PoolState::Damaged => DoctorStatus::Failed,
                _ => DoctorStatus::Warning,
            };
            let reason = view.reason.as_deref().unwrap_or("no reason was told");
            (status, format!("{state}: {reason}"))
        }
    };
    DoctorCheck {
        name: "pool".to_owned(),
        status,
        detail,
        hint: view.hint.filter(|_| status != DoctorStatus::Ok),
    }
}
