//! `/v1/vms/{vm}/history`: how runs ended, and what was done about it.

use axum::Json;
use axum::extract::State;
use hearth_types::history::History;
use hearth_types::problem::Problem;

use super::error::{ApiResult, InPath};
use super::{Api, view};

/// Shows how a VM's last runs ended that the user did not end, the newest first.
#[utoipa::path(get, path = "/v1/vms/{vm}/history", operation_id = "history", tag = "vms", params(("vm" = String, Path)),
    responses((status = 200, body = History), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn history(
    State(api): State<Api>,
    InPath(vm): InPath<String>,
) -> ApiResult<Json<History>> {
    let row = view::find(&api.engine, &vm).await?;
    let items = api.engine.parts.store.history(row.id).await?;
    Ok(Json(History { items }))
}
