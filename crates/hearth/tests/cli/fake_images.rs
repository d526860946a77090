//! What the fake daemon answers about images and kernels.

use axum::Router;
use axum::extract::Path;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use serde_json::{Value, json};

use hearth_types::problem::{Code, Problem};

use crate::fake::problem;
use crate::objects;

pub(crate) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new()
        .route(
            "/v1/images",
            get(async || axum::Json(json!({"items": [objects::image_view()]}))),
        )
        .route("/v1/images/{image}", get(image).delete(remove_image))
        .route(
            "/v1/images/jobs",
            get(async || axum::Json(json!({"items": objects::image_jobs()}))),
        )
        .route("/v1/images/jobs/{job}", get(image_job))
        .route("/v1/images/jobs/{job}/cancel", post(image_job))
        .route(
            "/v1/images/jobs/{job}/retry",
            post(async || pulled("demo:1")),
        )
        .route("/v1/images/pull", post(pull))
        .route("/v1/images/import", post(async || pulled("demo:1")))
        .route("/v1/images/from-snapshot", post(async || pulled("web:2")))
        .route("/v1/kernels", get(kernels).post(import_kernel))
        .route(
            "/v1/kernels/{name}/default",
            post(async || axum::Json(objects::kernel(true))),
        )
        .route(
            "/v1/kernels/{name}",
            delete(async || StatusCode::NO_CONTENT),
        )
}

async fn image(Path(reference): Path<String>) -> Response {
    if reference.contains("missing") {
        return problem(Problem::new(
            Code::NotFound,
            format!("There is no image {reference:?}"),
        ));
    }
    axum::Json(objects::image_view()).into_response()
}

async fn image_job(Path(job): Path<String>) -> Response {
    let jobs = objects::image_jobs();
    let found = jobs
        .iter()
        .find(|one| one["id"].as_str().unwrap().ends_with(&job));
    match found {
        Some(job) => axum::Json(job).into_response(),
        None => problem(Problem::new(
            Code::NotFound,
            format!("there is no job {job:?}"),
        )),
    }
}

async fn remove_image(Path(reference): Path<String>) -> Response {
    if reference == "localhost:5000/demo:1" {
        return problem(Problem::new(
            Code::InUse,
            "localhost:5000/demo:1 is used by db, web-1",
        ));
    }
    StatusCode::NO_CONTENT.into_response()
}

fn ndjson(lines: &[Value]) -> Response {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    ([(header::CONTENT_TYPE, "application/x-ndjson")], text).into_response()
}

fn pulled(reference: &str) -> Response {
    ndjson(&[
        json!({"type": "stage", "message": format!("Resolving {reference}")}),
        json!({"type": "item", "id": "ab12ab12ab12", "state": "download", "done": 0, "total": 100}),
        json!({"type": "item", "id": "ab12ab12ab12", "state": "download", "done": 50, "total": 100}),
        json!({"type": "item", "id": "ab12ab12ab12", "state": "done", "done": 100, "total": 100}),
        json!({"type": "image", "image": objects::image()}),
    ])
}

async fn pull(body: axum::Json<Value>) -> Response {
    match body["reference"].as_str().unwrap() {
        "refused:1" => ndjson(&[json!({"type": "failed", "problem":
            Problem::new(Code::Upstream, "The registry refused refused:1").hint("docker login")})]),
        "left:1" => ndjson(&[json!({"type": "job", "job": objects::image_jobs()[1]})]),
        "cut:1" => ndjson(&[json!({"type": "stage", "message": "Resolving cut:1"})]),
        reference => pulled(reference),
    }
}

async fn kernels() -> Response {
    axum::Json(json!({"items": [objects::kernel(true)]})).into_response()
}

async fn import_kernel() -> Response {
    ndjson(&[
        json!({"type": "stage", "message": "Building the initramfs"}),
        json!({"type": "kernel", "kernel": objects::kernel(true)}),
    ])
}
