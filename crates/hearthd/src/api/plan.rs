//! `/v1/plan`, `/v1/doctor`, `/v1/config`: what would be done, what works, what is set.

use axum::Json;
use axum::extract::State;
use hearth_types::api::{ConfigView, DoctorReport, PlanView};
use hearth_types::problem::Problem;

use super::Api;
use super::error::ApiResult;

/// Shows what the next pass would do and why. Nothing is changed.
#[utoipa::path(get, path = "/v1/plan", tag = "loop",
    responses((status = 200, body = PlanView), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn plan(State(api): State<Api>) -> ApiResult<Json<PlanView>> {
    Ok(Json(api.engine.dry_run().await?))
}

/// Checks the host and the installation.
#[utoipa::path(get, path = "/v1/doctor", tag = "daemon",
    responses((status = 200, body = DoctorReport), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn doctor(State(api): State<Api>) -> Json<DoctorReport> {
    let mut report = crate::doctor::examine(&api.engine, &api.config).await;
    let view = api.pool.view().await;
    let safeguards = crate::safeguards::doctor(&api.pool, view.made_at.is_some());
    report.checks.push(crate::pool::doctor(view));
    report.checks.extend(safeguards.await);
    Json(report)
}

/// Shows the configuration in force and where each value came from.
#[utoipa::path(get, path = "/v1/config", tag = "daemon",
    responses((status = 200, body = ConfigView), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn config(State(api): State<Api>) -> Json<ConfigView> {
    Json((*api.config).clone())
}
