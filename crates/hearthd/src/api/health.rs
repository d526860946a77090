//! `/v1/vms/{vm}/health`: what the checks of a VM's health say.

use axum::Json;
use axum::extract::State;
use hearth_types::api::{Health, VmHealth};
use hearth_types::problem::Problem;

use super::error::{ApiResult, InPath};
use super::{Api, view};

/// Shows a VM's checks with their last results.
#[utoipa::path(get, path = "/v1/vms/{vm}/health", operation_id = "vm_health", tag = "vms", params(("vm" = String, Path)),
    responses((status = 200, body = VmHealth), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn health(
    State(api): State<Api>,
    InPath(vm): InPath<String>,
) -> ApiResult<Json<VmHealth>> {
    let row = view::find(&api.engine, &vm).await?;
    let health = api.engine.health_of(&row);
    let found = match health {
        Health::None => None,
        _ => api.engine.health.view(&row),
    };
    Ok(Json(found.unwrap_or(VmHealth {
        health,
        since: None,
        reason: None,
        checks: Vec::new(),
    })))
}
