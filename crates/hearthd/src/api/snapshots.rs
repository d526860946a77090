//! `/v1/snapshots` and what is done to VMs with them.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use hearth_types::api::Vm;
use hearth_types::problem::Problem;
use hearth_types::snapshot::{
    CloneSnapshot, CreateSnapshot, RestoreSnapshot, Snapshot, SnapshotList,
};
use hearth_types::status::Goal;
use serde::Deserialize;

use super::error::{ApiResult, Body, InPath, Params};
use super::{Api, lifecycle, ports, recovery, vms};

/// Selection.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ListParams {
    /// Only those of the VM with this name or id, whether it is still there or not.
    vm: Option<String>,
}

/// Lists snapshots, oldest first.
#[utoipa::path(get, path = "/v1/snapshots", operation_id = "list_snapshots", tag = "snapshots", params(ListParams),
    responses((status = 200, body = SnapshotList), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn list(
    State(api): State<Api>,
    Params(params): Params<ListParams>,
) -> ApiResult<Json<SnapshotList>> {
    let all = api.engine.parts.store.snapshots().await?;
    let of = |one: &Snapshot| {
        let asked = params.vm.as_deref();
        asked.is_none_or(|vm| one.vm_name.as_str() == vm || one.vm.to_string() == vm)
    };
    let items = all.into_iter().filter(of).collect();
    Ok(Json(SnapshotList { items }))
}

/// Makes a snapshot of all disks of a VM. The guest of one that runs holds its writes meanwhile, or,
/// where no agent answers, its vCPUs stand still.
#[utoipa::path(post, path = "/v1/vms/{vm}/snapshots", operation_id = "create_snapshot", tag = "snapshots", request_body = Option<CreateSnapshot>, params(("vm" = String, Path)),
    responses((status = 201, body = Snapshot), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn create(
    State(api): State<Api>,
    InPath(vm): InPath<String>,
    Body(asked): Body<CreateSnapshot>,
) -> ApiResult<(StatusCode, Json<Snapshot>)> {
    let row = lifecycle::found(&api, &vm).await?;
    let snapshot = api.engine.create_snapshot(&row, asked).await?;
    Ok((StatusCode::CREATED, Json(snapshot)))
}

/// Shows one snapshot.
#[utoipa::path(get, path = "/v1/snapshots/{snapshot}", operation_id = "get_snapshot", tag = "snapshots", params(("snapshot" = String, Path, description = "Name, id, or the beginning of an id.")),
    responses((status = 200, body = Snapshot), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn get(
    State(api): State<Api>,
    InPath(snapshot): InPath<String>,
) -> ApiResult<Json<Snapshot>> {
    Ok(Json(api.engine.find_snapshot(&snapshot).await?))
}

/// Removes a snapshot. VMs that were made of it or restored from it keep their disks.
#[utoipa::path(delete, path = "/v1/snapshots/{snapshot}", operation_id = "delete_snapshot", tag = "snapshots", params(("snapshot" = String, Path)),
    responses((status = 204), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn delete(
    State(api): State<Api>,
    InPath(snapshot): InPath<String>,
) -> ApiResult<StatusCode> {
    let snapshot = api.engine.find_snapshot(&snapshot).await?;
    api.engine.remove_snapshot(&snapshot).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Gives a stopped VM the disks of one of its snapshots. What was on them since is lost. The present
/// disks are kept until the new ones are whole; the VM is not started.
#[utoipa::path(post, path = "/v1/vms/{vm}/restore", operation_id = "restore_snapshot", tag = "snapshots", request_body = RestoreSnapshot, params(("vm" = String, Path)),
    responses((status = 200, body = Vm), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn restore(
    State(api): State<Api>,
    InPath(vm): InPath<String>,
    Body(asked): Body<RestoreSnapshot>,
) -> ApiResult<Response> {
    let row = lifecycle::found(&api, &vm).await?;
    recovery::refuse_held(&row)?;
    let snapshot = api.engine.find_snapshot(&asked.snapshot).await?;
    let row = if asked.stop && row.goal != Goal::Stopped {
        let store = &api.engine.parts.store;
        let row = store
            .set_goal(row.id, Goal::Stopped, false, None, None)
            .await?;
        api.engine.tell_changed();
        api.engine.look_at(row.id);
        lifecycle::reach(&api, row, Goal::Stopped, None).await?
    } else {
        row
    };
    let keep_volumes = asked.keep_volumes;
    api.engine
        .restore_snapshot(&row, &snapshot, keep_volumes)
        .await?;
    let row = lifecycle::found(&api, &row.id.to_string()).await?;
    Ok(vms::answer(&api, StatusCode::OK, row))
}

/// Makes a new VM of a snapshot: its specification and disks, with an id, addresses and ports of its
/// own.
#[utoipa::path(post, path = "/v1/snapshots/{snapshot}/clone", operation_id = "clone_snapshot", tag = "snapshots", request_body = CloneSnapshot, params(("snapshot" = String, Path)),
    responses((status = 201, body = Vm, headers(("ETag" = String))), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn clone_vm(
    State(api): State<Api>,
    InPath(snapshot): InPath<String>,
    Body(asked): Body<CloneSnapshot>,
) -> ApiResult<Response> {
    let snapshot = api.engine.find_snapshot(&snapshot).await?;
    ports::check_free(&asked.ports)?;
    let mut row = api.engine.clone_snapshot(&snapshot, &asked).await?;
    if asked.start {
        let store = &api.engine.parts.store;
        row = store
            .set_goal(row.id, Goal::Running, false, None, None)
            .await?;
        api.engine.tell_changed();
        api.engine.look_at(row.id);
    }
    Ok(vms::answer(&api, StatusCode::CREATED, row))
}
