//! `/v1/vms/{vm}/history`: how runs ended, and what was done about it; `/v1/vms/{vm}/dump`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use hearth_types::history::{Dump, History};
use hearth_types::problem::{Code, Problem};
use hearth_vmm::VmmError;

use super::error::{ApiError, ApiResult, InPath};
use super::{Api, lifecycle, view};

/// Shows how a VM's last runs ended that the user did not end, the newest first.
#[utoipa::path(get, path = "/v1/vms/{vm}/history", operation_id = "history", tag = "vms", params(("vm" = String, Path)),
    responses((status = 200, body = History), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn history(
    State(api): State<Api>,
    InPath(vm): InPath<String>,
) -> ApiResult<Json<History>> {
    let row = view::find(&api.engine, &vm).await?;
    let items = api.engine.parts.store.history(row.id).await?;
    let dumps = api.engine.dumps(row.id).await?;
    let vmm_cores = row
        .spec
        .crash_dump
        .vmm_core
        .then(crate::dumps::where_cores_go);
    Ok(Json(History {
        items,
        dumps,
        vmm_cores,
    }))
}

/// Writes a guest's memory into a file now. The guest stands still meanwhile.
#[utoipa::path(post, path = "/v1/vms/{vm}/dump", tag = "vms", params(("vm" = String, Path)),
    responses((status = 200, body = Dump), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn dump(State(api): State<Api>, InPath(vm): InPath<String>) -> ApiResult<Json<Dump>> {
    let row = lifecycle::found(&api, &vm).await?;
    if row.status.vmm.is_none() {
        let detail = format!("{} does not run: there is no memory to dump", row.spec.name);
        return Err(ApiError::new(Code::Conflict, detail));
    }
    // One that begins is ended, whether its caller waits for it or not.
    let engine = Arc::clone(&api.engine);
    let dumping = tokio::spawn(async move { engine.dump_guest(&row, "asked for").await });
    let dumped = dumping.await.map_err(anyhow::Error::from)?;
    dumped
        .map(Json)
        .map_err(|error| match error.downcast_ref() {
            Some(VmmError::Unsuitable { detail }) => ApiError::new(Code::Conflict, detail.clone()),
            _ => error.into(),
        })
}
