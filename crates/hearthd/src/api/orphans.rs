//! `/v1/orphans`: what is ours and not wanted, wanted and missing, or only looks like ours.

use axum::Json;
use axum::extract::State;
use hearth_types::api::Vm;
use hearth_types::orphan::{AdoptOrphan, OrphanList, OrphansRemoved, RemoveOrphans};
use hearth_types::problem::{Code, Problem};

use super::error::{ApiError, ApiResult, Body, InPath};
use super::{Api, view};

/// Looks at the host and lists orphans. Nothing is changed.
#[utoipa::path(get, path = "/v1/orphans", operation_id = "list_orphans", tag = "orphans",
    responses((status = 200, body = OrphanList), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn list(State(api): State<Api>) -> ApiResult<Json<OrphanList>> {
    let mut list = api.engine.orphans().await?;
    let differences = api.thins.differences();
    list.items
        .extend(crate::pool::compare::as_orphans(&differences));
    list.items.sort_by_key(|orphan| orphan.state);
    Ok(Json(list))
}

/// Removes orphans by hand, each with a proof at the moment of action. Only what is ours and no
/// VM has; what fails is told for each.
#[utoipa::path(post, path = "/v1/orphans/remove", operation_id = "remove_orphans", tag = "orphans", request_body = RemoveOrphans,
    responses((status = 200, body = OrphansRemoved), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn remove(
    State(api): State<Api>,
    Body(asked): Body<RemoveOrphans>,
) -> ApiResult<Json<OrphansRemoved>> {
    if asked.all != asked.ids.is_empty() {
        return Err(ApiError::new(
            Code::Invalid,
            "ids: give some, or all, not both",
        ));
    }
    if asked.kind.is_some() && !asked.all {
        return Err(ApiError::new(Code::Invalid, "kind: goes with all only"));
    }
    Ok(Json(api.engine.remove_orphans(&asked).await?))
}

/// Makes a record again for a VM whose record is lost: of a VMM that runs and goes on, or of a
/// folder with disks, which becomes a stopped VM.
#[utoipa::path(post, path = "/v1/orphans/{orphan}/adopt", operation_id = "adopt_orphan", tag = "orphans",
    params(("orphan" = String, Path)), request_body = Option<AdoptOrphan>,
    responses((status = 200, body = Vm), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn adopt(
    State(api): State<Api>,
    InPath(orphan): InPath<String>,
    Body(asked): Body<AdoptOrphan>,
) -> ApiResult<Json<Vm>> {
    let row = api.engine.adopt_orphan(&orphan, asked).await?;
    Ok(Json(view::vm(&api.engine, row)))
}
