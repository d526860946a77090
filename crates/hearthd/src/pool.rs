//! The thin pool's place in the daemon: put together when it starts, told about in events and by
//! `hearth doctor`. What the pool is and does is `hearth-pool`'s.

use std::sync::Arc;

use hearth_pool::space::Growth;
use hearth_pool::{HostGround, Place, Pool, PoolError, Thins};
use hearth_safeguards::OperationGuard;
use hearth_types::InstallationId;
use hearth_types::api::{DoctorCheck, DoctorStatus};
use hearth_types::event::{NewEvent, Severity};
use hearth_types::mode::Mode;
use hearth_types::pool::{PoolState, PoolView};
use hearth_types::survey::chain;
use hearth_types::units::Bytes;

use crate::engine::Engine;
use crate::engine::paths::Paths;

/// The pool of this host and installation.
#[must_use]
pub fn of_host(paths: &Paths, installation: InstallationId, guard: OperationGuard) -> Pool {
    let place = Place::new(&paths.pool(), installation);
    Pool::new(place, Arc::new(HostGround)).with_guard(guard)
}

/// Puts the pool together, if there is one that the kernel has forgotten. The loop and the API do
/// not wait for it: the check of large metadata takes its time.
pub(crate) async fn bring_up(engine: Arc<Engine>, thins: Thins) {
    let pool = thins.pool();
    if engine.modes.mode() == Mode::Readonly {
        tracing::info!("the pool is not put together: the mode is readonly");
        return;
    }
    match pool.bring_up().await {
        Ok(false) => {}
        Ok(true) => engine.tell(up(&pool.view().await)).await,
        Err(error) => engine.tell(failed("put together", &error)).await,
    }
    crate::volumes::compare(&engine, &thins).await;
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
pub(crate) async fn doctor(pool: &Pool) -> DoctorCheck {
    let view = pool.view().await;
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
