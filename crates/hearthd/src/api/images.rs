//! `/v1/images`: pull, import, make from snapshots, list, inspect, remove.

use std::sync::Arc;

use axum::Json;
use axum::body::Body as HttpBody;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use hearth_image::jobs::{Follower, News};
use hearth_image::{ImageError, ProgressSink};
use hearth_types::api::{
    ImageFromSnapshot, ImageList, ImageView, ImportImage, Progress, PullImage,
};
use hearth_types::event::NewEvent;
use hearth_types::image::ImageRecord;
use hearth_types::image_job::JobState;
use hearth_types::problem::{Code, Problem};
use hearth_types::survey::chain;
use tokio::sync::mpsc;

use super::Api;
use super::error::{ApiError, ApiResult, Body, InPath};

/// Progress lines that may wait for a slow client; more are dropped, as the next one says it all.
const LINES: usize = 256;

/// Lists images.
#[utoipa::path(get, path = "/v1/images", operation_id = "list_images", tag = "images",
    responses((status = 200, body = ImageList), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn list(State(api): State<Api>) -> ApiResult<Json<ImageList>> {
    let images = api
        .engine
        .parts
        .images
        .list()
        .await
        .map_err(|error| problem(&error))?;
    let mut items = Vec::new();
    for image in images {
        items.push(view(&api, image).await?);
    }
    Ok(Json(ImageList { items }))
}

/// Shows one image.
#[utoipa::path(get, path = "/v1/images/{image}", operation_id = "get_image", tag = "images", params(("image" = String, Path, description = "Reference, id, or the beginning of an id.")),
    responses((status = 200, body = ImageView), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn get(
    State(api): State<Api>,
    InPath(image): InPath<String>,
) -> ApiResult<Json<ImageView>> {
    let image = api
        .engine
        .parts
        .images
        .get(&image)
        .await
        .map_err(|error| problem(&error))?;
    Ok(Json(view(&api, image).await?))
}

/// Removes an image, or one of its references.
#[utoipa::path(delete, path = "/v1/images/{image}", operation_id = "delete_image", tag = "images", params(("image" = String, Path)),
    responses((status = 204), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn delete(
    State(api): State<Api>,
    InPath(image): InPath<String>,
) -> ApiResult<StatusCode> {
    let record = api
        .engine
        .parts
        .images
        .get(&image)
        .await
        .map_err(|error| problem(&error))?;
    // Nobody becomes its user between the look and the removal.
    let _no_user_comes = api.engine.image_use.write().await;
    let used_by = users(&api, &record).await?;
    if !used_by.is_empty() {
        return Err(ApiError::new(
            Code::InUse,
            format!("image {image} is used by {}", used_by.join(", ")),
        )
        .hint("remove them first"));
    }
    let images = &api.engine.parts.images;
    let gone = images.take(&image).await;
    if let Some(_nobody_makes_it_again) = gone.map_err(|error| problem(&error))? {
        // VMs that were made from it keep their blocks.
        let volume = images.volume_path(&record.id);
        if let Err(error) = api.engine.parts.disks.forget_source(&volume).await {
            tracing::warn!(image, error = %chain(&error), "the image's device stays in the pool");
        }
    }
    api.engine
        .tell(NewEvent::info(
            "image.removed",
            format!("image {image} removed"),
        ))
        .await;
    Ok(StatusCode::NO_CONTENT)
}

/// Pulls an image; the answer is a stream of progress, one JSON object per line, the job first.
/// When the last client that waits for it goes away, the pull ends, unless it is detached.
#[utoipa::path(post, path = "/v1/images/pull", operation_id = "pull_image", tag = "images", request_body = PullImage,
    responses((status = 200, body = Progress, content_type = "application/x-ndjson"), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn pull(State(api): State<Api>, Body(request): Body<PullImage>) -> ApiResult<Response> {
    let detach = request.detach;
    let follower = api.jobs.pull(request, detach).await;
    let follower = follower.map_err(|error| problem(&error))?;
    Ok(follow(&api, follower, detach))
}

/// Imports an image from a file on the daemon's host; answers like pull.
#[utoipa::path(post, path = "/v1/images/import", operation_id = "import_image", tag = "images", request_body = ImportImage,
    responses((status = 200, body = Progress, content_type = "application/x-ndjson"), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn import(
    State(api): State<Api>,
    Body(request): Body<ImportImage>,
) -> ApiResult<Response> {
    if !request.path.starts_with('/') {
        return Err(ApiError::new(
            Code::Invalid,
            format!("path: is {:?}, must be an absolute path", request.path),
        ));
    }
    let detach = request.detach;
    let follower = api.jobs.import(request, detach).await;
    let follower = follower.map_err(|error| problem(&error))?;
    Ok(follow(&api, follower, detach))
}

/// Makes an image of the root disk of a snapshot; answers like pull. It has what the guest wrote, and is
/// independent of the snapshot from then on. Data volumes are not in it.
#[utoipa::path(post, path = "/v1/images/from-snapshot", operation_id = "image_from_snapshot", tag = "images", request_body = ImageFromSnapshot,
    responses((status = 200, body = Progress, content_type = "application/x-ndjson"), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn from_snapshot(
    State(api): State<Api>,
    Body(request): Body<ImageFromSnapshot>,
) -> ApiResult<Response> {
    // A name that means nothing is told at once, and not by a job.
    api.engine.find_snapshot(&request.snapshot).await?;
    let detach = request.detach;
    let follower = api.jobs.from_snapshot(request, detach).await;
    let follower = follower.map_err(|error| problem(&error))?;
    Ok(follow(&api, follower, detach))
}

/// Answers with a job's progress up to its end, or with the job alone.
pub(super) fn follow(api: &Api, mut follower: Follower, detach: bool) -> Response {
    let images = api.engine.parts.images.clone();
    progress(move |sink: Lines| async move {
        let job = follower.job();
        if detach {
            return Ok(Progress::Job { job });
        }
        sink.report(Progress::Job { job });
        let job = loop {
            match follower.next().await {
                News::Progress(progress) => sink.report(progress),
                News::End(job) => break job,
            }
        };
        match (job.state, job.image, job.failure) {
            (JobState::Ready, Some(image), _) => {
                let image = images.get(image.as_str()).await;
                let image = image.map_err(|error| problem(&error).into_problem())?;
                Ok(Progress::Image { image })
            }
            (JobState::Aborted, _, Some(failure)) => Err(failure.problem),
            _ => Err(
                Problem::new(Code::Unavailable, format!("job {} was cancelled", job.id))
                    .hint(format!("hearth image retry {} goes on with it", job.id)),
            ),
        }
    })
}

async fn view(api: &Api, image: ImageRecord) -> ApiResult<ImageView> {
    let used_by = users(api, &image).await?;
    Ok(ImageView { image, used_by })
}

async fn users(api: &Api, image: &ImageRecord) -> ApiResult<Vec<String>> {
    let rows = api.engine.parts.store.vms().await;
    let vms = rows.into_iter().filter(|row| row.image == image.id);
    let vms = vms.map(|row| row.spec.name.to_string());
    let snapshots = api.engine.snapshots_of(&image.id).await?;
    let templates = super::templates::of_image(api, &image.id).await?;
    Ok(vms.chain(snapshots).chain(templates).collect())
}

/// An image room's failure as a problem document.
pub(super) fn problem(error: &ImageError) -> ApiError {
    let problem = ApiError::new(error.code(), chain(error));
    match error.hint() {
        Some(hint) => problem.hint(hint),
        None => problem,
    }
}

/// Takes progress and passes it on as lines.
#[derive(Clone)]
pub(super) struct Lines(mpsc::Sender<Bytes>);

impl ProgressSink for Lines {
    fn report(&self, progress: Progress) {
        // A full queue means that the client reads slowly: the next line says it all again.
        drop(self.0.try_send(line(&progress)));
    }
}

fn line(progress: &Progress) -> Bytes {
    let mut text = serde_json::to_vec(progress).unwrap_or_default();
    text.push(b'\n');
    text.into()
}

/// Answers with the progress of a piece of work. The work ends when the client goes away.
pub(super) fn progress<F, Work>(work: F) -> Response
where
    F: FnOnce(Lines) -> Work + Send + 'static,
    Work: Future<Output = Result<Progress, Problem>> + Send,
{
    let (sender, receiver) = mpsc::channel(LINES);
    let receiver = Arc::new(tokio::sync::Mutex::new(receiver));
    tokio::spawn(async move {
        let done = tokio::select! {
            result = work(Lines(sender.clone())) => result.unwrap_or_else(|problem| Progress::Failed { problem }),
            () = sender.closed() => return,
        };
        // The client may have gone in this moment: nobody is left to tell.
        drop(sender.send(line(&done)).await);
    });
    let stream = futures::stream::unfold(receiver, async |receiver| {
        let next = receiver.lock().await.recv().await;
        next.map(|line| (Ok::<_, std::convert::Infallible>(line), receiver))
    });
    (
        [(header::CONTENT_TYPE, "application/x-ndjson")],
        HttpBody::from_stream(stream),
    )
        .into_response()
}
