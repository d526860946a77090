//! `/metrics`: what Prometheus reads.

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use hearth_types::problem::Problem;

use super::Api;
use super::error::ApiResult;
use crate::metrics::CONTENT_TYPE;

/// Shows counters, gauges and histograms as OpenMetrics text.
#[utoipa::path(get, path = "/metrics", tag = "daemon",
    responses((status = 200, body = String, content_type = "application/openmetrics-text"), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn metrics(State(api): State<Api>) -> ApiResult<Response> {
    api.engine.metrics.image_jobs(&api.jobs.list());
    let guard = api.pool.guard();
    let text = api.engine.scrape_with(|registry| guard.register(registry));
    let text = text.await.map_err(anyhow::Error::from)?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response())
}
