//! `/v1/templates`: made, listed, removed, and VMs made from them.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use hearth_types::api::Vm;
use hearth_types::event::NewEvent;
use hearth_types::ids::ImageId;
use hearth_types::names::VmName;
use hearth_types::problem::{Code, Problem};
use hearth_types::spec::VmSpec;
use hearth_types::template::{CreateFromTemplate, CreateTemplate, Template, TemplateList};

use super::Api;
use super::error::{ApiError, ApiResult, Body, InPath, Params};
use super::vms::{self, CreateParams, Creation};

/// Lists templates by name.
#[utoipa::path(get, path = "/v1/templates", operation_id = "list_templates", tag = "templates",
    responses((status = 200, body = TemplateList), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn list(State(api): State<Api>) -> ApiResult<Json<TemplateList>> {
    let items = api.engine.parts.store.templates().await?;
    Ok(Json(TemplateList { items }))
}

/// Shows one template.
#[utoipa::path(get, path = "/v1/templates/{template}", operation_id = "get_template", tag = "templates", params(("template" = String, Path, description = "Its name.")),
    responses((status = 200, body = Template), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn get(
    State(api): State<Api>,
    InPath(template): InPath<String>,
) -> ApiResult<Json<Template>> {
    Ok(Json(find(&api, &template).await?))
}

/// Makes a template. Its image is not removed before it; what it was called may lead elsewhere later.
#[utoipa::path(post, path = "/v1/templates", operation_id = "create_template", tag = "templates", request_body = CreateTemplate,
    responses((status = 201, body = Template), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn create(
    State(api): State<Api>,
    Body(asked): Body<CreateTemplate>,
) -> ApiResult<(StatusCode, Json<Template>)> {
    let engine = &api.engine;
    // What a VM of it would be, were nothing else said.
    let spec = VmSpec::new(asked.name.clone(), asked.image.clone());
    let spec = asked.defaults.clone().over(spec);
    vms::refuse_impossible(&spec)?;
    // Until the template is recorded as its user, the image must not be removed.
    let no_image_goes = engine.image_use.read().await;
    let (image_id, _) = vms::resolve(&api, &spec, None).await?;
    let template = Template {
        name: asked.name,
        image: asked.image,
        image_id,
        defaults: asked.defaults,
        created_at: engine.now(),
        changed_at: None,
    };
    let store = &engine.parts.store;
    let template = store.put_template(template, asked.replace).await?;
    drop(no_image_goes);
    engine.keep_template(&template).await;
    let (code, done) = match template.changed_at {
        None => ("template.created", "made"),
        Some(_) => ("template.changed", "replaced"),
    };
    let message = format!(
        "template {} {done}: image {}",
        template.name, template.image
    );
    engine.tell(NewEvent::info(code, message)).await;
    Ok((StatusCode::CREATED, Json(template)))
}

/// Removes a template. VMs that were made from it stay as they are.
#[utoipa::path(delete, path = "/v1/templates/{template}", operation_id = "delete_template", tag = "templates", params(("template" = String, Path)),
    responses((status = 204), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn delete(
    State(api): State<Api>,
    InPath(template): InPath<String>,
) -> ApiResult<StatusCode> {
    let name: VmName = template.parse().map_err(|_| unknown(&template))?;
    api.engine.drop_template(&name).await?;
    if !api.engine.parts.store.forget_template(name).await? {
        return Err(unknown(&template));
    }
    let message = format!("template {template} removed");
    let event = NewEvent::info("template.removed", message);
    api.engine.tell(event).await;
    Ok(StatusCode::NO_CONTENT)
}

/// Makes a VM of a template: its defaults and what is said beside them are the VM's own specification
/// from then on. Starts it if asked; then `wait` waits for its start.
#[utoipa::path(post, path = "/v1/templates/{template}/vms", operation_id = "create_from_template", tag = "templates", request_body = CreateFromTemplate,
    params(("template" = String, Path), CreateParams, ("Idempotency-Key" = Option<String>, Header, description = "A repeated request with the same key and body answers with the VM of the first one.")),
    responses((status = 201, body = Vm, headers(("ETag" = String))), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn create_vm(
    State(api): State<Api>,
    InPath(template): InPath<String>,
    headers: HeaderMap,
    Params(params): Params<CreateParams>,
    Body(asked): Body<CreateFromTemplate>,
) -> ApiResult<Response> {
    // The template is asked for with its image held: who removes both comes before, or after.
    let no_image_goes = api.engine.image_use.read().await;
    let key = vms::idempotency_key(&headers, &(&template, &asked))?;
    let template = find(&api, &template).await?;
    let creation = Creation {
        spec: template.spec(asked.name, asked.overrides),
        image: Some(template.image_id),
        start: asked.start,
        key,
    };
    vms::make(&api, creation, &params, no_image_goes).await
}

async fn find(api: &Api, name: &str) -> ApiResult<Template> {
    let all = api.engine.parts.store.templates().await?;
    let found = all.into_iter().find(|one| one.name.as_str() == name);
    found.ok_or_else(|| unknown(name))
}

fn unknown(name: &str) -> ApiError {
    ApiError::new(Code::NotFound, format!("there is no template {name}"))
        .hint("list them with: hearth template ls")
}

/// Names of the templates that need an image.
pub(super) async fn of_image(api: &Api, image: &ImageId) -> ApiResult<Vec<String>> {
    that(api, |one| one.image_id == *image).await
}

/// Names of the templates that name a kernel.
pub(super) async fn with_kernel(api: &Api, kernel: &str) -> ApiResult<Vec<String>> {
    that(api, |one| one.defaults.kernel.as_deref() == Some(kernel)).await
}

async fn that(api: &Api, is_meant: impl Fn(&Template) -> bool) -> ApiResult<Vec<String>> {
    let all = api.engine.parts.store.templates().await?;
    let meant = all.into_iter().filter(is_meant);
    Ok(meant.map(|one| format!("template {}", one.name)).collect())
}
