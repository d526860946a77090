//! `/v1/vms/{vm}/archive`: files out of and into a guest, as tar streams.

use std::time::Duration;

use axum::body::Body as HttpBody;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures::TryStreamExt as _;
use hearth_guest_proto::client::{AgentClient, ClientError};
use hearth_guest_proto::message::ErrorCode;
use hearth_types::problem::{Code, Problem};
use serde::Deserialize;
use tokio_util::io::{ReaderStream, StreamReader};

use super::error::{ApiError, ApiResult, InPath, Params};
use super::{Api, view};

/// How long a guest may still be booting.
pub(super) const AGENT_WAIT: Duration = Duration::from_secs(60);

/// How long a guest that was reached may take to begin what it is asked for.
pub(super) const ANSWER_WAIT: Duration = Duration::from_secs(15);

/// Where in the guest.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ArchiveParams {
    /// An absolute path in the guest.
    path: String,
}

/// Reads a file or folder of the guest.
#[utoipa::path(get, path = "/v1/vms/{vm}/archive", tag = "vms", params(("vm" = String, Path), ArchiveParams),
    responses((status = 200, content_type = "application/x-tar", body = Vec<u8>), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn copy_out(
    State(api): State<Api>,
    InPath(vm): InPath<String>,
    Params(params): Params<ArchiveParams>,
) -> ApiResult<Response> {
    let (name, client) = agent(&api, &vm, &params.path).await?;
    let tar = tokio::time::timeout(ANSWER_WAIT, client.copy_out(&params.path))
        .await
        .map_err(|_| silent(&name))?
        .map_err(|error| refused(&name, &params.path, &error))?;
    Ok((
        [(header::CONTENT_TYPE, "application/x-tar")],
        HttpBody::from_stream(ReaderStream::new(tar)),
    )
        .into_response())
}

/// Unpacks a tar stream into a folder of the guest.
#[utoipa::path(put, path = "/v1/vms/{vm}/archive", tag = "vms", params(("vm" = String, Path), ArchiveParams),
    request_body(content = Vec<u8>, content_type = "application/x-tar"),
    responses((status = 204), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn copy_in(
    State(api): State<Api>,
    InPath(vm): InPath<String>,
    Params(params): Params<ArchiveParams>,
    body: HttpBody,
) -> ApiResult<StatusCode> {
    let (name, client) = agent(&api, &vm, &params.path).await?;
    let reader = StreamReader::new(body.into_data_stream().map_err(std::io::Error::other));
    let refused = |error| refused(&name, &params.path, &error);
    let mut copy = tokio::time::timeout(ANSWER_WAIT, client.start_copy_in(&params.path))
        .await
        .map_err(|_| silent(&name))?
        .map_err(refused)?;
    copy.send_all(reader).await.map_err(refused)?;
    copy.finish().await.map_err(refused)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn agent(api: &Api, vm: &str, path: &str) -> ApiResult<(String, AgentClient)> {
    let row = view::find(&api.engine, vm).await?;
    if !path.starts_with('/') {
        return Err(ApiError::new(
            Code::Invalid,
            format!("path: is {path:?}, must be an absolute path in the guest"),
        ));
    }
    if row.status.vmm.is_none() {
        return Err(ApiError::new(
            Code::Conflict,
            format!("{} is not running", row.spec.name),
        ));
    }
    let client = api
        .engine
        .agents
        .get(&api.engine, row.id, AGENT_WAIT)
        .await
        .map_err(|error| ApiError::guest(&row.spec.name, &error))?;
    Ok((row.spec.name.to_string(), client))
}

fn refused(name: &str, path: &str, error: &ClientError) -> ApiError {
    let code = match error {
        ClientError::Refused {
            code: ErrorCode::NotFound,
            ..
        } => Code::NotFound,
        ClientError::Refused { .. } | ClientError::Copy { .. } | ClientError::Source { .. } => {
            Code::Invalid
        }
        _ => Code::GuestUnreachable,
    };
    ApiError::new(
        code,
        format!("{path} in {name}: {}", hearth_types::survey::chain(error)),
    )
}

/// A guest that was reached and then says nothing: its VMM may be stopped or starved.
pub(super) fn silent(name: &str) -> ApiError {
    let detail = format!(
        "the guest of {name} does not answer within {} s",
        ANSWER_WAIT.as_secs()
    );
    ApiError::new(Code::GuestUnreachable, detail).hint(format!(
        "see what it does: hearth ps, hearth logs {name}, hearth stop -f {name}"
    ))
}
