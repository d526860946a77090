//! `/v1/kernels`: import, list, choose the default, remove.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use hearth_image::ProgressSink as _;
use hearth_kernel::{Import, KernelError, Source};
use hearth_types::api::{ImportKernel, KernelList, Progress};
use hearth_types::event::NewEvent;
use hearth_types::image::KernelRecord;
use hearth_types::problem::{Code, Problem};
use hearth_types::survey::chain;

use super::error::{ApiError, ApiResult, Body, InPath};
use super::{Api, images};

/// Lists kernels.
#[utoipa::path(get, path = "/v1/kernels", operation_id = "list_kernels", tag = "kernels",
    responses((status = 200, body = KernelList), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn list(State(api): State<Api>) -> ApiResult<Json<KernelList>> {
    let kernels = api.engine.parts.kernels.clone();
    let items = blocking(move || kernels.list()).await?;
    Ok(Json(KernelList { items }))
}

/// Imports a kernel from a file on the daemon's host; answers with progress, one JSON object per line.
#[utoipa::path(post, path = "/v1/kernels", operation_id = "import_kernel", tag = "kernels", request_body = Option<ImportKernel>,
    responses((status = 200, body = Progress, content_type = "application/x-ndjson"), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn import(
    State(api): State<Api>,
    Body(request): Body<ImportKernel>,
) -> ApiResult<Response> {
    for path in [&request.path, &request.modules].into_iter().flatten() {
        if !path.starts_with('/') {
            return Err(ApiError::new(
                Code::Invalid,
                format!("path: is {path:?}, must be an absolute path"),
            ));
        }
    }
    Ok(images::progress(move |sink: images::Lines| async move {
        sink.report(Progress::Stage {
            message: "reading the kernel and its modules".to_owned(),
        });
        let kernels = api.engine.parts.kernels.clone();
        let source = request
            .path
            .map_or(Source::Running, |path| Source::File(path.into()));
        let import = Import {
            source,
            modules_dir: request.modules.map(Into::into),
            name: request.name,
            default: request.default,
            extra_modules: Vec::new(),
        };
        let kernel = blocking(move || kernels.import(&import))
            .await
            .map_err(ApiError::into_problem)?;
        api.engine
            .tell(NewEvent::info(
                "kernel.imported",
                format!("kernel {} imported", kernel.name),
            ))
            .await;
        Ok(Progress::Kernel { kernel })
    }))
}

/// Makes a kernel the default.
#[utoipa::path(post, path = "/v1/kernels/{kernel}/default", operation_id = "set_default_kernel", tag = "kernels", params(("kernel" = String, Path)),
    responses((status = 200, body = KernelRecord), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn set_default(
    State(api): State<Api>,
    InPath(kernel): InPath<String>,
) -> ApiResult<Json<KernelRecord>> {
    let kernels = api.engine.parts.kernels.clone();
    Ok(Json(blocking(move || kernels.set_default(&kernel)).await?))
}

/// Removes a kernel that no VM, no snapshot of one and no template uses.
#[utoipa::path(delete, path = "/v1/kernels/{kernel}", operation_id = "delete_kernel", tag = "kernels", params(("kernel" = String, Path)),
    responses((status = 204), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn delete(
    State(api): State<Api>,
    InPath(kernel): InPath<String>,
) -> ApiResult<StatusCode> {
    // Nobody becomes its user between the look and the removal: who does holds its image, too.
    let _no_user_comes = api.engine.image_use.write().await;
    let rows = api.engine.parts.store.vms().await;
    let vms = rows
        .iter()
        .filter(|row| row.kernel.as_deref() == Some(&kernel));
    let mut used_by: Vec<_> = vms.map(|row| row.spec.name.to_string()).collect();
    // A VM that is cloned or restored from one boots it.
    used_by.extend(api.engine.snapshots_with_kernel(&kernel).await?);
    used_by.extend(super::templates::with_kernel(&api, &kernel).await?);
    if !used_by.is_empty() {
        return Err(ApiError::new(
            Code::InUse,
            format!("kernel {kernel} is used by {}", used_by.join(", ")),
        )
        .hint("remove them first"));
    }
    let kernels = api.engine.parts.kernels.clone();
    blocking(move || kernels.remove(&kernel)).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, KernelError> + Send + 'static,
) -> ApiResult<T> {
    let done = tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| ApiError::new(Code::Internal, error.to_string()))?;
    done.map_err(|error| problem(&error))
}

/// A kernel room's failure as a problem document.
pub(super) fn problem(error: &KernelError) -> ApiError {
    let code = match error {
        KernelError::Unknown { .. } | KernelError::NoDefault { .. } => Code::NotFound,
        KernelError::NameTaken { .. } => Code::Conflict,
        KernelError::Source(_) | KernelError::InvalidName { .. } => Code::Invalid,
        _ => Code::Internal,
    };
    ApiError::new(code, chain(error))
}
