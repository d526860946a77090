//! `/v1/volumes`: data volumes of their own, and moving disks between files and the pool.

use axum::Json;
use axum::body::Body as HttpBody;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures::TryStreamExt as _;
use hearth_types::Bytes;
use hearth_types::api::Vm;
use hearth_types::names::VmName;
use hearth_types::problem::Problem;
use hearth_types::volume::{
    AttachVolume, CreateVolume, DetachVolume, GrowVolume, GrownVolume, MigrateStorage,
    SnapshotVolume, VolumeList, VolumeView,
};
use serde::Deserialize;
use tokio::io::AsyncReadExt as _;
use tokio_util::io::{ReaderStream, StreamReader};

use super::error::{ApiResult, Body, InPath, Params};
use super::{Api, lifecycle, recovery, vms};

/// Bytes sent at once.
const PART: usize = 256 << 10;

/// Lists volumes, oldest first.
#[utoipa::path(get, path = "/v1/volumes", operation_id = "list_volumes", tag = "volumes",
    responses((status = 200, body = VolumeList), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn list(State(api): State<Api>) -> ApiResult<Json<VolumeList>> {
    let items = api.engine.volume_views().await?;
    Ok(Json(VolumeList { items }))
}

/// Makes a volume: an empty ext4 file system, or a copy of another volume.
#[utoipa::path(post, path = "/v1/volumes", operation_id = "create_volume", tag = "volumes", request_body = CreateVolume,
    responses((status = 201, body = VolumeView), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn create(
    State(api): State<Api>,
    Body(asked): Body<CreateVolume>,
) -> ApiResult<(StatusCode, Json<VolumeView>)> {
    let volume = api.engine.create_volume(asked).await?;
    Ok((StatusCode::CREATED, Json(volume)))
}

/// Shows one volume.
#[utoipa::path(get, path = "/v1/volumes/{volume}", operation_id = "get_volume", tag = "volumes", params(("volume" = String, Path, description = "Name, id, or the beginning of an id.")),
    responses((status = 200, body = VolumeView), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn get(
    State(api): State<Api>,
    InPath(volume): InPath<String>,
) -> ApiResult<Json<VolumeView>> {
    Ok(Json(api.engine.find_volume(&volume).await?))
}

/// Removes a volume with what is on it, unless a VM has it.
#[utoipa::path(delete, path = "/v1/volumes/{volume}", operation_id = "delete_volume", tag = "volumes", params(("volume" = String, Path)),
    responses((status = 204), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn delete(
    State(api): State<Api>,
    InPath(volume): InPath<String>,
) -> ApiResult<StatusCode> {
    let volume = api.engine.find_volume(&volume).await?;
    api.engine.remove_volume(&volume).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Makes a volume larger. VMs that have it and run are told, and their guests' file systems fill it.
#[utoipa::path(post, path = "/v1/volumes/{volume}/grow", operation_id = "grow_volume", tag = "volumes", request_body = GrowVolume, params(("volume" = String, Path)),
    responses((status = 200, body = GrownVolume), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn grow(
    State(api): State<Api>,
    InPath(volume): InPath<String>,
    Body(asked): Body<GrowVolume>,
) -> ApiResult<Json<GrownVolume>> {
    let volume = api.engine.find_volume(&volume).await?;
    Ok(Json(api.engine.grow_volume(&volume, asked.size).await?))
}

/// Gives a VM that does not run a volume, from its next start on. One VM may write to a volume, or many
/// may read it.
#[utoipa::path(post, path = "/v1/volumes/{volume}/attach", operation_id = "attach_volume", tag = "volumes", request_body = AttachVolume, params(("volume" = String, Path)),
    responses((status = 200, body = VolumeView), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn attach(
    State(api): State<Api>,
    InPath(volume): InPath<String>,
    Body(asked): Body<AttachVolume>,
) -> ApiResult<Json<VolumeView>> {
    let volume = api.engine.find_volume(&volume).await?;
    let row = lifecycle::found(&api, &asked.vm).await?;
    let engine = &api.engine;
    let view = engine.attach_volume(&row, &volume, asked.at, asked.read_only);
    Ok(Json(view.await?))
}

/// Takes a volume from a VM that does not run.
#[utoipa::path(post, path = "/v1/volumes/{volume}/detach", operation_id = "detach_volume", tag = "volumes", request_body = DetachVolume, params(("volume" = String, Path)),
    responses((status = 200, body = VolumeView), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn detach(
    State(api): State<Api>,
    InPath(volume): InPath<String>,
    Body(asked): Body<DetachVolume>,
) -> ApiResult<Json<VolumeView>> {
    let volume = api.engine.find_volume(&volume).await?;
    let row = lifecycle::found(&api, &asked.vm).await?;
    Ok(Json(api.engine.detach_volume(&row, &volume).await?))
}

/// Makes a snapshot of a volume: a volume that is attached read-only.
#[utoipa::path(post, path = "/v1/volumes/{volume}/snapshots", operation_id = "snapshot_volume", tag = "volumes", request_body = Option<SnapshotVolume>, params(("volume" = String, Path)),
    responses((status = 201, body = VolumeView), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn snapshot(
    State(api): State<Api>,
    InPath(volume): InPath<String>,
    Body(asked): Body<SnapshotVolume>,
) -> ApiResult<(StatusCode, Json<VolumeView>)> {
    let volume = api.engine.find_volume(&volume).await?;
    let snapshot = api.engine.snapshot_volume(&volume, asked).await?;
    Ok((StatusCode::CREATED, Json(snapshot)))
}

/// What a volume that is brought is to be.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ImportParams {
    /// Its size, at least that of what comes; as large as that when absent.
    #[param(value_type = Option<Bytes>)]
    size: Option<Bytes>,
}

/// Makes a new volume of what is sent: a raw disk or file system. Zeros take no room.
#[utoipa::path(put, path = "/v1/volumes/{volume}/content", operation_id = "import_volume", tag = "volumes", params(("volume" = VmName, Path, description = "The new volume's name."), ImportParams),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 201, body = VolumeView), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn import(
    State(api): State<Api>,
    InPath(volume): InPath<VmName>,
    Params(params): Params<ImportParams>,
    body: HttpBody,
) -> ApiResult<(StatusCode, Json<VolumeView>)> {
    let content = StreamReader::new(body.into_data_stream().map_err(std::io::Error::other));
    let volume = api.engine.import_volume(volume, params.size, content);
    Ok((StatusCode::CREATED, Json(volume.await?)))
}

/// Sends a volume as it is: raw, byte for byte. No VM writes to it meanwhile.
#[utoipa::path(get, path = "/v1/volumes/{volume}/content", operation_id = "export_volume", tag = "volumes", params(("volume" = String, Path)),
    responses((status = 200, content_type = "application/octet-stream", body = Vec<u8>), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn export(State(api): State<Api>, InPath(volume): InPath<String>) -> ApiResult<Response> {
    let volume = api.engine.find_volume(&volume).await?;
    let content = api.engine.read_volume(&volume).await?;
    let (length, hold) = (content.length, content.hold);
    let bytes = ReaderStream::with_capacity(content.file.take(length), PART);
    // Nobody writes to it before the last byte is sent, or the client has gone.
    let bytes = bytes.inspect_ok(move |_| {
        let _held = &hold;
    });
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, length.to_string()),
    ];
    Ok((headers, HttpBody::from_stream(bytes)).into_response())
}

/// Moves a volume that no VM has between files and the thin pool.
#[utoipa::path(post, path = "/v1/volumes/{volume}/migrate", operation_id = "migrate_volume", tag = "volumes", request_body = MigrateStorage, params(("volume" = String, Path)),
    responses((status = 200, body = VolumeView), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn migrate(
    State(api): State<Api>,
    InPath(volume): InPath<String>,
    Body(asked): Body<MigrateStorage>,
) -> ApiResult<Json<VolumeView>> {
    let volume = api.engine.find_volume(&volume).await?;
    Ok(Json(api.engine.migrate_volume(&volume, asked.to).await?))
}

/// Moves the disks of a VM that does not run between files and the thin pool: its root disk and its own
/// volumes.
#[utoipa::path(post, path = "/v1/vms/{vm}/migrate", operation_id = "migrate_vm", tag = "volumes", request_body = MigrateStorage, params(("vm" = String, Path)),
    responses((status = 200, body = Vm), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn migrate_vm(
    State(api): State<Api>,
    InPath(vm): InPath<String>,
    Body(asked): Body<MigrateStorage>,
) -> ApiResult<Response> {
    let row = lifecycle::found(&api, &vm).await?;
    recovery::refuse_held(&row)?;
    api.engine.migrate_vm(&row, asked.to).await?;
    let row = lifecycle::found(&api, &row.id.to_string()).await?;
    Ok(vms::answer(&api, StatusCode::OK, row))
}
