//! `/v1/images/jobs`: pulls and imports, under way and ended.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use hearth_types::api::Progress;
use hearth_types::image_job::{ImageJob, ImageJobList, RetryJob};
use hearth_types::problem::Problem;

use super::Api;
use super::error::{ApiResult, Body, InPath};
use super::images::{follow, problem};

/// Lists jobs, the newest first. Of those that have ended the last fifty are kept.
#[utoipa::path(get, path = "/v1/images/jobs", operation_id = "list_image_jobs", tag = "images",
    responses((status = 200, body = ImageJobList), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn list(State(api): State<Api>) -> Json<ImageJobList> {
    let items = api.jobs.list();
    Json(ImageJobList { items })
}

/// Shows one job.
#[utoipa::path(get, path = "/v1/images/jobs/{job}", operation_id = "get_image_job", tag = "images", params(("job" = String, Path, description = "Id, the end of one, or an image's name: its newest job.")),
    responses((status = 200, body = ImageJob), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn get(State(api): State<Api>, InPath(job): InPath<String>) -> ApiResult<Json<ImageJob>> {
    let job = api.jobs.find(&job).map_err(|error| problem(&error))?;
    Ok(Json(job))
}

/// Stops a job. What it has downloaded stays for a day. One that has ended stays as it is.
#[utoipa::path(post, path = "/v1/images/jobs/{job}/cancel", operation_id = "cancel_image_job", tag = "images", params(("job" = String, Path)),
    responses((status = 200, body = ImageJob), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn cancel(
    State(api): State<Api>,
    InPath(job): InPath<String>,
) -> ApiResult<Json<ImageJob>> {
    let job = api.jobs.cancel(&job).await;
    Ok(Json(job.map_err(|error| problem(&error))?))
}

/// Tries a job again from the state in which it ended; answers like pull.
#[utoipa::path(post, path = "/v1/images/jobs/{job}/retry", operation_id = "retry_image_job", tag = "images", params(("job" = String, Path)), request_body = Option<RetryJob>,
    responses((status = 200, body = Progress, content_type = "application/x-ndjson"), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn retry(
    State(api): State<Api>,
    InPath(job): InPath<String>,
    Body(request): Body<RetryJob>,
) -> ApiResult<Response> {
    let follower = api.jobs.retry(&job, request.auth, request.detach).await;
    let follower = follower.map_err(|error| problem(&error))?;
    Ok(follow(&api, follower, request.detach))
}
