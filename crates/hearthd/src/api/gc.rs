//! `/v1/gc`: what is there and nobody needs.

use axum::Json;
use axum::extract::State;
use hearth_plan::gc::schedule::Trigger;
use hearth_types::gc::{GcReport, RunGc};
use hearth_types::problem::{Code, Problem};
use hearth_types::survey::chain;

use super::Api;
use super::error::{ApiError, ApiResult, Body};
use crate::gc::{self, Refused};

/// Looks for garbage. Nothing is changed.
#[utoipa::path(get, path = "/v1/gc", operation_id = "find_garbage", tag = "gc",
    responses((status = 200, body = GcReport), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn find(State(api): State<Api>) -> ApiResult<Json<GcReport>> {
    run(&api, &RunGc::default()).await
}

/// Looks for garbage of some kinds, and cleans it with `force`. Refused on a host that is not idle or
/// in no state for it. What fails for one piece is told in its place.
#[utoipa::path(post, path = "/v1/gc", operation_id = "clean_garbage", tag = "gc", request_body = Option<RunGc>,
    responses((status = 200, body = GcReport), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn clean(State(api): State<Api>, Body(asked): Body<RunGc>) -> ApiResult<Json<GcReport>> {
    run(&api, &asked).await
}

async fn run(api: &Api, asked: &RunGc) -> ApiResult<Json<GcReport>> {
    let ground = gc::Ground {
        engine: api.engine.clone(),
        thins: api.thins.clone(),
        jobs: api.jobs.clone(),
    };
    let done = gc::run(&ground, asked, Trigger::Asked).await;
    done.map(Json).map_err(|refused| {
        let code = match refused {
            Refused::Unwell { .. } => Code::Unavailable,
            Refused::Busy(_) => Code::Conflict,
            Refused::Failed(_) => Code::Internal,
        };
        let problem = ApiError::new(code, chain(&refused));
        match refused.hint() {
            Some(hint) => problem.hint(hint),
            None => problem,
        }
    })
}
