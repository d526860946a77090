//! `/v1/version`, `/health`, `/info`.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use hearth_types::api::{HealthView, InfoView, Version};
use hearth_types::problem::Problem;

use super::Api;
use super::error::ApiResult;

/// Shows the versions.
#[utoipa::path(get, path = "/v1/version", tag = "daemon",
    responses((status = 200, body = Version), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn version(State(api): State<Api>) -> Json<Version> {
    Json(Version {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        api: "v1".to_owned(),
        schema: api.engine.parts.store.schema_version(),
        mode: api.engine.modes.mode(),
    })
}

/// Says whether the daemon works: its loop has ended a pass.
#[utoipa::path(get, path = "/health", tag = "daemon", security(()), responses((status = 200, body = HealthView), (status = 503, body = HealthView)))]
pub async fn health(State(api): State<Api>) -> (StatusCode, Json<HealthView>) {
    let last_pass = api.engine.last_pass();
    let stance = api.engine.modes.stance();
    let (code, status) = match last_pass {
        Some(_) => (StatusCode::OK, "ok"),
        None => (StatusCode::SERVICE_UNAVAILABLE, "starting"),
    };
    (
        code,
        Json(HealthView {
            status: status.to_owned(),
            mode: stance.mode,
            mode_reason: stance.reason,
            last_pass,
        }),
    )
}

/// Shows facts about the installation.
#[utoipa::path(get, path = "/info", tag = "daemon", security(()),
    responses((status = 200, body = InfoView), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn info(State(api): State<Api>) -> ApiResult<Json<InfoView>> {
    let mut vms = BTreeMap::new();
    for row in api.engine.parts.store.vms().await {
        *vms.entry(row.status.phase.as_str().to_owned()).or_insert(0) += 1;
    }
    Ok(Json(InfoView {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        installation: api.engine.parts.store.installation(),
        domain: api.engine.settings.network.domain.clone(),
        uptime_secs: api.started.elapsed().as_secs(),
        vms,
        mode: api.engine.modes.mode(),
        host_breaker: api.engine.host_breaker().map(|open| open.reason()),
    }))
}
