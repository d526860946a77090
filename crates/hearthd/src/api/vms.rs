//! `/v1/vms`: create, list, get, change, delete.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use hearth_store::{Created, IdempotencyKey, NewSpec, NewVm, VmRow};
use hearth_types::Label;
use hearth_types::api::{CreateVm, Vm, VmPage};
use hearth_types::event::NewEvent;
use hearth_types::ids::ImageId;
use hearth_types::problem::{Code, Problem};
use hearth_types::spec::{FieldError, VmSpec};
use hearth_types::status::Goal;
use hearth_types::survey::chain;
use hearth_types::units::Bytes;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio::sync::RwLockReadGuard;

use super::error::{ApiError, ApiResult, Body, InPath, Params, at_most};
use super::{Api, lifecycle, ports, view};

/// VMs per page when the client does not say.
const PAGE: usize = 1000;

/// Selection and paging.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ListParams {
    /// Only VMs with all of these labels, comma separated: `key` or `key=value`.
    label: Option<String>,
    /// VMs per page, 1 to 1000.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// The `next` of the page before.
    after: Option<String>,
}

/// Lists VMs by name.
#[utoipa::path(get, path = "/v1/vms", operation_id = "list_vms", params(ListParams), tag = "vms",
    responses((status = 200, body = VmPage), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn list(
    State(api): State<Api>,
    Params(params): Params<ListParams>,
) -> ApiResult<Json<VmPage>> {
    let limit = params.limit.unwrap_or(PAGE);
    if !(1..=PAGE).contains(&limit) {
        return Err(ApiError::new(
            Code::Invalid,
            format!("limit is {limit}, must be 1 to {PAGE}"),
        ));
    }
    let wanted = selectors(params.label.as_deref().unwrap_or_default())?;
    let mut rows = api.engine.parts.store.vms().await;
    rows.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
    let mut rows = rows
        .into_iter()
        .filter(|row| {
            wanted.iter().all(|(key, value)| {
                row.spec
                    .labels
                    .get(key)
                    .is_some_and(|have| value.as_ref().is_none_or(|value| value == have))
            })
        })
        .filter(|row| {
            params
                .after
                .as_ref()
                .is_none_or(|after| row.spec.name.as_str() > after.as_str())
        });
    let items: Vec<Vm> = rows
        .by_ref()
        .take(limit)
        .map(|row| view::vm(&api.engine, row))
        .collect();
    let next = rows
        .next()
        .and(items.last())
        .map(|last| last.spec.name.to_string());
    Ok(Json(VmPage { items, next }))
}

fn selectors(text: &str) -> ApiResult<Vec<(String, Option<String>)>> {
    text.split(',')
        .filter(|part| !part.is_empty())
        .map(|part| {
            let label: Label = part
                .parse()
                .map_err(|error: hearth_types::ids::InvalidId| {
                    ApiError::new(Code::Invalid, error.to_string())
                })?;
            Ok((label.key, part.contains('=').then_some(label.value)))
        })
        .collect()
}

/// Creates a VM, and starts it if asked; then `wait` waits for its start.
#[utoipa::path(post, path = "/v1/vms", operation_id = "create_vm", request_body = CreateVm, tag = "vms",
    params(CreateParams, ("Idempotency-Key" = Option<String>, Header, description = "A repeated request with the same key and body answers with the VM of the first one.")),
    responses((status = 201, body = Vm, headers(("ETag" = String))), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn create(
    State(api): State<Api>,
    headers: HeaderMap,
    Params(params): Params<CreateParams>,
    Body(request): Body<CreateVm>,
) -> ApiResult<Response> {
    if request.spec.template.is_some() {
        let why = "is a note of where a VM came from: ask for one of a template at /v1/templates/NAME/vms";
        return Err(Problem::fields(vec![FieldError::new("template", why)]).into());
    }
    let key = idempotency_key(&headers, &request)?;
    // Until the VM is recorded as its user, the image must not be removed.
    let no_image_goes = api.engine.image_use.read().await;
    let creation = Creation {
        spec: request.spec,
        image: None,
        start: request.start,
        key,
    };
    make(&api, creation, &params, no_image_goes).await
}

/// A VM that is to be.
pub(super) struct Creation {
    pub(super) spec: VmSpec,
    /// What the words of the specification mean, where that is decided.
    pub(super) image: Option<ImageId>,
    pub(super) start: bool,
    pub(super) key: Option<IdempotencyKey>,
}

pub(super) fn refuse_impossible(spec: &VmSpec) -> ApiResult<()> {
    let errors = spec.check();
    if errors.is_empty() {
        Ok(())
    } else {
        Err(Problem::fields(errors).into())
    }
}

/// Creates a VM and answers with it. No image is removed before it is recorded as its user.
pub(super) async fn make(
    api: &Api,
    creation: Creation,
    params: &CreateParams,
    no_image_goes: RwLockReadGuard<'_, ()>,
) -> ApiResult<Response> {
    let Creation {
        spec,
        image,
        start,
        key,
    } = creation;
    refuse_impossible(&spec)?;
    let engine = &api.engine;
    let (image, kernel) = resolve(api, &spec, image.as_ref()).await?;
    ports::check_free(&spec.ports)?;
    let goal = if start { Goal::Running } else { Goal::Stopped };
    let name = spec.name.clone();
    let new = NewVm {
        spec,
        goal,
        image,
        kernel,
    };
    let (store, leases) = (&engine.parts.store, engine.settings.leases);
    let created = match key {
        Some(key) => store.create_vm_once(new, leases, key, engine.now()).await?,
        None => Created::New(Box::new(store.create_vm(new, leases, engine.now()).await?)),
    };
    drop(no_image_goes);
    let row = match created {
        Created::New(row) => {
            // The loop need not wait until the event is on disk.
            engine.look_at(row.id);
            engine
                .tell(NewEvent::info("vm.created", format!("{name} created")).vm(row.id, &name))
                .await;
            *row
        }
        Created::Replayed(id) => store.vm(id).await.ok_or_else(|| {
            ApiError::new(
                Code::NotFound,
                format!("the VM {id} that this idempotency key made has been removed"),
            )
            .hint("use another key to make a new VM")
        })?,
    };
    let row = if start && params.wait.unwrap_or(false) {
        lifecycle::reach(api, row, Goal::Running, params.timeout).await?
    } else {
        row
    };
    Ok(answer(api, StatusCode::CREATED, row))
}

/// Options of a creation.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct CreateParams {
    /// Answer only when it runs.
    wait: Option<bool>,
    /// Seconds to wait at most; 120 when absent.
    #[param(minimum = 0, maximum = 86400)]
    timeout: Option<u32>,
}

pub(super) fn idempotency_key(
    headers: &HeaderMap,
    request: &impl serde::Serialize,
) -> ApiResult<Option<IdempotencyKey>> {
    let Some(value) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    let key = value
        .to_str()
        .ok()
        .filter(|key| (1..=255).contains(&key.len()));
    let key = key.ok_or_else(|| {
        ApiError::new(
            Code::Invalid,
            "the header Idempotency-Key must have 1 to 255 visible ASCII characters",
        )
    })?;
    let body = serde_json::to_vec(request)
        .map_err(|error| ApiError::new(Code::Internal, error.to_string()))?;
    let digest = Sha256::digest(&body);
    let hash = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Some(IdempotencyKey {
        key: key.to_owned(),
        hash,
    }))
}

/// The image's identity and the kernel's name: what they mean now is what the VM keeps.
///
/// `image` is the one that the specification's words have meant so far.
pub(super) async fn resolve(
    api: &Api,
    spec: &VmSpec,
    image: Option<&ImageId>,
) -> ApiResult<(ImageId, Option<String>)> {
    let words = image.map_or(spec.image.as_str(), ImageId::as_str);
    let image = api.engine.parts.images.get(words).await.map_err(|error| {
        super::images::problem(&error)
            .hint(format!("get it with: hearth image pull {}", spec.image))
    })?;
    let (kernels, wanted) = (api.engine.parts.kernels.clone(), spec.kernel.clone());
    let kernel = tokio::task::spawn_blocking(move || kernels.get(wanted.as_deref()))
        .await
        .map_err(|error| ApiError::new(Code::Internal, error.to_string()))?
        .map_err(|error| {
            super::kernels::problem(&error).hint("get one with: hearth kernel import")
        })?;
    let size = spec.disk.unwrap_or_default();
    if spec.disk.is_some() && size.0 < image.volume_bytes {
        let field = FieldError::new(
            "disk",
            format!(
                "is {size}, but the image needs {}",
                Bytes(image.volume_bytes)
            ),
        );
        return Err(Problem::fields(vec![field]).into());
    }
    if let Err(error) = api.engine.parts.vmm.admits(spec).await {
        let field = FieldError::new("driver", chain(&error));
        return Err(Problem::fields(vec![field]).into());
    }
    Ok((image.id, Some(kernel.name)))
}

/// Shows one VM.
#[utoipa::path(get, path = "/v1/vms/{vm}", operation_id = "get_vm", params(("vm" = String, Path, description = "Name, id, or the beginning of an id.")), tag = "vms",
    responses((status = 200, body = Vm, headers(("ETag" = String))), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn get(State(api): State<Api>, InPath(vm): InPath<String>) -> ApiResult<Response> {
    let row = view::find(&api.engine, &vm).await?;
    let vm = view::vm_in_full(&api.engine, row).await;
    Ok(tagged(StatusCode::OK, vm))
}

/// A guest may have filled its disks: they grow, and never shrink.
fn refuse_smaller(old: &VmSpec, new: &VmSpec) -> ApiResult<()> {
    let mut errors = Vec::new();
    let mut smaller = |path: String, is: Option<Bytes>, was: Option<Bytes>| {
        if let (Some(is), Some(was)) = (is, was)
            && is < was
        {
            let why = format!("is {is}, but it was {was} and disks do not shrink");
            errors.push(FieldError::new(path, why));
        }
    };
    smaller("disk".to_owned(), new.disk, old.disk);
    for (number, volume) in new.volumes.iter().enumerate() {
        let was = old.volumes.iter().find(|was| was.name == volume.name);
        let path = format!("volumes[{number}].size");
        smaller(path, Some(volume.size), was.map(|was| was.size));
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(Problem::fields(errors).into())
    }
}

/// Replaces a VM's specification. What concerns the VMM takes effect at its next start: added
/// volumes are made and larger disks grow then. The image of a VM that has its disk, and the
/// network's mode and address while it runs, cannot be changed; disks do not shrink.
#[utoipa::path(put, path = "/v1/vms/{vm}/spec", request_body = VmSpec, tag = "vms",
    params(("vm" = String, Path), ("If-Match" = Option<String>, Header, description = "The ETag that the change is based on.")),
    responses((status = 200, body = Vm, headers(("ETag" = String))), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn replace_spec(
    State(api): State<Api>,
    InPath(vm): InPath<String>,
    headers: HeaderMap,
    Body(spec): Body<VmSpec>,
) -> ApiResult<Response> {
    refuse_impossible(&spec)?;
    let row = view::find(&api.engine, &vm).await?;
    super::recovery::refuse_held(&row)?;
    let expected = if_match(&headers)?;
    let engine = &api.engine;
    refuse_smaller(&row.spec, &spec)?;
    let _no_image_goes = engine.image_use.read().await;
    // The same words go on to mean what they meant when its disk was made.
    let same = spec.image == row.spec.image;
    let (image, kernel) = resolve(&api, &spec, same.then_some(&row.image)).await?;
    if image != row.image && engine.has_disks(row.id) {
        let name = &row.spec.name;
        let detail = format!(
            "image: the root disk of {name} was made from {}, and another image would not change it",
            row.spec.image
        );
        let hint = format!("make another VM of it, or remove {name} and create it again");
        return Err(ApiError::new(Code::Conflict, detail).hint(hint));
    }
    ports::check_free(ports::added(&row.spec.ports, &spec.ports))?;
    let new = NewSpec {
        spec,
        image,
        kernel,
    };
    let row = engine.replace_spec(&row, new, expected).await?;
    engine
        .tell(
            NewEvent::info("vm.changed", format!("{} changed", row.spec.name))
                .vm(row.id, &row.spec.name),
        )
        .await;
    engine.look_at(row.id);
    Ok(answer(&api, StatusCode::OK, row))
}

/// Removes a VM with all it has.
#[utoipa::path(delete, path = "/v1/vms/{vm}", operation_id = "delete_vm", tag = "vms",
    params(("vm" = String, Path), lifecycle::ActionParams, ("If-Match" = Option<String>, Header)),
    responses((status = 202, body = Vm), (status = 200, body = Vm), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn delete(
    State(api): State<Api>,
    InPath(vm): InPath<String>,
    headers: HeaderMap,
    Params(params): Params<lifecycle::ActionParams>,
) -> ApiResult<Response> {
    at_most("timeout", params.timeout, lifecycle::MOST_SECONDS)?;
    let row = view::find(&api.engine, &vm).await?;
    if row.goal != Goal::Absent && row.status.vmm.is_some() && !params.force.unwrap_or(false) {
        return Err(
            ApiError::new(Code::Conflict, format!("{} is running", row.spec.name)).hint(format!(
                "stop it first, or force it: hearth rm -f {}",
                row.spec.name
            )),
        );
    }
    let force = params.force.unwrap_or(false);
    let row = api
        .engine
        .parts
        .store
        .set_goal(row.id, Goal::Absent, force, None, if_match(&headers)?)
        .await?;
    lifecycle::finish(&api, row, Goal::Absent, &params).await
}

/// The generation that a request is based on, from `If-Match`.
pub(super) fn if_match(headers: &HeaderMap) -> ApiResult<Option<u64>> {
    let Some(value) = headers.get(header::IF_MATCH) else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    let number = text.trim_start_matches("W/").trim_matches('"').parse();
    number.map(Some).map_err(|_| {
        ApiError::new(
            Code::Invalid,
            format!(
                "If-Match is {text}, must be an ETag as the VM was answered with, such as \"3\""
            ),
        )
    })
}

/// A VM with its ETag.
pub(super) fn answer(api: &Api, status: StatusCode, row: VmRow) -> Response {
    tagged(status, view::vm_with_checks(&api.engine, row))
}

fn tagged(status: StatusCode, vm: Vm) -> Response {
    let etag = HeaderValue::from_str(&format!("\"{}\"", vm.generation));
    let mut response = (status, Json(vm)).into_response();
    if let Ok(etag) = etag {
        response
            .headers_mut()
            .insert(HeaderName::from_static("etag"), etag);
    }
    response
}
