//! `/v1/pool`: the thin pool. There is one at most.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use hearth_pool::{Kind, PoolError};
use hearth_types::event::NewEvent;
use hearth_types::pool::{ExtendPool, PoolBackup, PoolRepair, PoolView, RestorePool, SetUpPool};
use hearth_types::problem::{Code, Problem};
use hearth_types::survey::chain;
use hearth_types::thin::PoolVolumes;
use hearth_types::units::Bytes;
use serde::Deserialize;

use super::Api;
use super::error::{ApiError, ApiResult, Body, Params};

/// Shows how the pool is. Waits for nothing that is being done to it.
#[utoipa::path(get, path = "/v1/pool", operation_id = "pool", tag = "pool",
    responses((status = 200, body = PoolView), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn get(State(api): State<Api>) -> Json<PoolView> {
    Json(api.pool.view().await)
}

/// Sets the pool up, with its data in a file of the data folder or on a block device. One that is there already is a
/// success, unless another size or device is asked for; a set-up that fails leaves nothing. On a device nothing is
/// written before all that speaks against it was looked at.
#[utoipa::path(post, path = "/v1/pool", operation_id = "set_up_pool", tag = "pool", request_body = Option<SetUpPool>,
    responses((status = 200, body = PoolView), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn set_up(
    State(api): State<Api>,
    Body(asked): Body<SetUpPool>,
) -> ApiResult<Json<PoolView>> {
    let pool = api.pool.clone();
    let made = to_its_end(async move { pool.set_up(&asked).await }).await?;
    let view = api.pool.view().await;
    if made {
        let size = view.data.map_or(Bytes(0), |data| Bytes(data.size));
        let on = view.data_device.as_ref();
        let on = on.map_or_else(String::new, |on| format!(" on {}", on.given));
        let message = format!("the pool is set up with {} for data{on}", size.human());
        let event = NewEvent::info("pool.set_up", message);
        api.engine.tell(event).await;
    }
    Ok(Json(view))
}

/// Checks the metadata of a pool that nothing uses, and puts it together if it is good. For that
/// time the kernel does not have it.
#[utoipa::path(post, path = "/v1/pool/check", operation_id = "check_pool", tag = "pool",
    responses((status = 200, body = PoolView), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn check(State(api): State<Api>) -> ApiResult<Json<PoolView>> {
    let_go(&api).await;
    if let Err(error) = api.pool.check().await {
        if matches!(error, PoolError::Damaged { .. }) {
            api.engine
                .tell(crate::pool::failed("put together", &error))
                .await;
        }
        return Err(problem(error));
    }
    let view = api.pool.view().await;
    api.engine.tell(crate::pool::up(&view)).await;
    Ok(Json(view))
}

/// Makes the pool larger while it is used: by order, or with nothing said as its own growth would.
/// It can never become smaller.
#[utoipa::path(post, path = "/v1/pool/extend", operation_id = "extend_pool", tag = "pool", request_body = Option<ExtendPool>,
    responses((status = 200, body = PoolView), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn extend(
    State(api): State<Api>,
    Body(asked): Body<ExtendPool>,
) -> ApiResult<Json<PoolView>> {
    let now = api.pool.extend(&asked).await.map_err(problem)?;
    api.engine
        .tell(crate::pool::extended(now, "by order"))
        .await;
    Ok(Json(api.pool.view().await))
}

/// The volumes in the pool: images, VMs' disks, and what is left of some whose making failed.
#[utoipa::path(get, path = "/v1/pool/volumes", operation_id = "pool_volumes", tag = "pool",
    responses((status = 200, body = PoolVolumes), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn volumes(State(api): State<Api>) -> ApiResult<Json<PoolVolumes>> {
    let shown = api.thins.volumes().await;
    let mut shown = shown.map_err(|error| ApiError::new(Code::Internal, chain(&error)))?;
    api.engine.whose().await.tell(&mut shown.volumes);
    Ok(Json(shown))
}

/// Switches off what no VM has open, so that it does not count as a user of the pool. What cannot be
/// switched off is told by those who find the pool in use.
async fn let_go(api: &Api) {
    if let Err(error) = api.thins.let_go().await {
        tracing::info!(error = %chain(&error), "volumes of the pool stay on");
    }
}

/// Repairs the metadata of a pool that nothing uses, and puts it together. The damaged metadata is kept beside;
/// metadata without damage is left as it is.
#[utoipa::path(post, path = "/v1/pool/repair", operation_id = "repair_pool", tag = "pool",
    responses((status = 200, body = PoolRepair), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn repair(State(api): State<Api>) -> ApiResult<Json<PoolRepair>> {
    let_go(&api).await;
    let pool = api.pool.clone();
    let repaired = to_its_end(async move { pool.repair().await }).await?;
    tell_repaired(&api, &repaired, "repaired").await;
    Ok(Json(repaired))
}

/// Backs the metadata up, also while the pool is used.
#[utoipa::path(post, path = "/v1/pool/backups", operation_id = "back_up_pool", tag = "pool",
    responses((status = 200, body = PoolBackup), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn back_up(State(api): State<Api>) -> ApiResult<Json<PoolBackup>> {
    let pool = api.pool.clone();
    let backup = to_its_end(async move { pool.back_up().await }).await?;
    api.engine.tell(crate::pool::backed_up(&backup)).await;
    Ok(Json(backup))
}

/// The backups of the metadata, the newest first.
#[utoipa::path(get, path = "/v1/pool/backups", operation_id = "pool_backups", tag = "pool",
    responses((status = 200, body = Vec<PoolBackup>), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn backups(State(api): State<Api>) -> ApiResult<Json<Vec<PoolBackup>>> {
    api.pool.backups().await.map(Json).map_err(problem)
}

/// Puts a backup in the place of the metadata of a pool that nothing uses. What was made or written since the
/// backup is lost. The metadata from before is kept beside.
#[utoipa::path(post, path = "/v1/pool/restore", operation_id = "restore_pool", tag = "pool", request_body = RestorePool,
    responses((status = 200, body = PoolRepair), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn restore(
    State(api): State<Api>,
    Body(asked): Body<RestorePool>,
) -> ApiResult<Json<PoolRepair>> {
    let_go(&api).await;
    let pool = api.pool.clone();
    let restored = to_its_end(async move { pool.restore(&asked.file).await }).await?;
    tell_repaired(&api, &restored, "restored from a backup").await;
    Ok(Json(restored))
}

/// Destroys the pool with all that is in it, and sets up an empty one of the same size, on the same device.
#[utoipa::path(post, path = "/v1/pool/reset", operation_id = "reset_pool", tag = "pool", params(DestroyParams),
    responses((status = 200, body = PoolView), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn reset(
    State(api): State<Api>,
    Params(params): Params<DestroyParams>,
) -> ApiResult<Json<PoolView>> {
    let_go(&api).await;
    let (pool, thins) = (api.pool.clone(), api.thins.clone());
    let force = params.force.unwrap_or(false);
    to_its_end(async move {
        let forget = async {
            if let Err(error) = thins.forget_all().await {
                tracing::error!(error = %chain(&error), "the pool is destroyed, and its ledger is not empty");
            }
        };
        pool.reset(force, forget).await
    })
    .await?;
    let message = "the pool and all that was in it is destroyed, and an empty one is set up";
    api.engine.tell(NewEvent::info("pool.reset", message)).await;
    Ok(Json(api.pool.view().await))
}

async fn tell_repaired(api: &Api, repair: &PoolRepair, how: &str) {
    let message = match &repair.kept {
        Some(kept) => format!("the pool's metadata is {how}; what was there is kept as {kept}"),
        None => "the pool's metadata has no damage; the pool is put together".to_owned(),
    };
    api.engine
        .tell(NewEvent::info("pool.repaired", message))
        .await;
}

/// A client that hangs up takes nothing with it that is under way.
async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, PoolError>> + Send + 'static,
) -> ApiResult<T> {
    let done = tokio::spawn(work).await.map_err(anyhow::Error::from)?;
    done.map_err(problem)
}

/// How the pool is destroyed.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct DestroyParams {
    /// Also if it holds data, or nobody can tell.
    force: Option<bool>,
}

/// Destroys the pool with all that is in it. Never one that is in use. Of a device that its data is on only the pool's header
/// is taken: a logical volume stays one.
#[utoipa::path(delete, path = "/v1/pool", operation_id = "destroy_pool", tag = "pool", params(DestroyParams),
    responses((status = 204), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn destroy(
    State(api): State<Api>,
    Params(params): Params<DestroyParams>,
) -> ApiResult<StatusCode> {
    let force = params.force.unwrap_or(false);
    let_go(&api).await;
    api.pool.destroy(force).await.map_err(problem)?;
    let forgotten = api.thins.forget_all().await;
    if let Err(error) = forgotten {
        // Told as lost by the next comparison.
        tracing::warn!(error = %chain(&error), "the ledger still has what was in the pool");
    }
    let message = "the pool and all that was in it is destroyed";
    api.engine
        .tell(NewEvent::info("pool.destroyed", message))
        .await;
    Ok(StatusCode::NO_CONTENT)
}

fn problem(error: PoolError) -> ApiError {
    let code = match error.kind() {
        Kind::Unavailable => Code::Unavailable,
        Kind::Absent => Code::NotFound,
        Kind::Conflict => Code::Conflict,
        Kind::InUse => Code::InUse,
        Kind::Invalid => Code::Invalid,
        Kind::NoSpace => Code::Exhausted,
        Kind::Internal => Code::Internal,
    };
    let problem = ApiError::new(code, chain(&error));
    match error.hint() {
        Some(hint) => problem.hint(hint),
        None => problem,
    }
}
