//! The image pipeline's place in the daemon: what the configuration says of it, and what is told
//! of its ends. The pipeline itself is `hearth-image`'s.

use std::sync::Arc;

use hearth_image::jobs::Patience;
use hearth_image::{ImageError, ImageJobs, PullRequest, S3Settings};
use hearth_types::api::{ConfigView, PullImage};
use hearth_types::event::{NewEvent, Severity};
use hearth_types::image_job::{ImageJob, JobKind, JobState};
use hearth_types::mode::Mode;
use tokio::sync::mpsc;

use crate::engine::{Engine, ImageSource};

/// The jobs of this daemon. Those that an earlier one has left go on at once, unless nothing may
/// be changed.
///
/// # Errors
/// When what is written down of jobs cannot be read.
pub fn open(
    engine: &Arc<Engine>,
    config: &Arc<ConfigView>,
    patience: Patience,
) -> Result<ImageJobs, ImageError> {
    let config = Arc::clone(config);
    let prepare = Arc::new(move |request| prepared(&config, request));
    let images = engine.parts.images.clone();
    let (jobs, ended) = ImageJobs::open(
        images,
        patience,
        prepare,
        Some(Arc::new(ImageSource::new(Arc::clone(engine)))),
        crate::failpoint::image_states(),
    )?;
    // Ends with the last clone of the jobs.
    drop(tokio::spawn(tell_ends(Arc::clone(engine), ended)));
    if engine.modes.mode() == Mode::Readonly {
        tracing::info!("unfinished pulls are not gone on with: the mode is readonly");
    } else {
        let count = jobs.resume();
        if count > 0 {
            tracing::info!(
                count,
                "[recovery] going on with unfinished pulls and imports"
            );
        }
    }
    Ok(jobs)
}

/// What is asked, with what the configuration says.
fn prepared(config: &ConfigView, request: PullImage) -> PullRequest {
    let configured = |key: &str| config.value(key).map(str::to_owned);
    let is_on = |key: &str| config.value(key) == Some("on");
    let parallel = configured("PULL_CONCURRENCY").and_then(|layers| layers.parse().ok());
    PullRequest {
        reference: request.reference,
        platform: request.platform,
        plain_http: request.plain_http,
        auth: request.auth,
        ca: configured("REGISTRY_CA").map(Into::into),
        parallel,
        kind: request.kind,
        digest: request.digest,
        s3: S3Settings {
            endpoint: request.s3.endpoint.or_else(|| configured("S3_ENDPOINT")),
            region: request.s3.region.or_else(|| configured("S3_REGION")),
            profile: request.s3.profile.or_else(|| configured("S3_PROFILE")),
            path_style: request
                .s3
                .path_style
                .unwrap_or_else(|| is_on("S3_PATH_STYLE")),
            credentials_file: configured("S3_CREDENTIALS_FILE"),
            instance: is_on("S3_INSTANCE_CREDENTIALS"),
            ca: None,
        },
    }
}

async fn tell_ends(engine: Arc<Engine>, mut ended: mpsc::UnboundedReceiver<ImageJob>) {
    while let Some(job) = ended.recv().await {
        if let (JobState::Aborted, Some(failure)) = (job.state, &job.failure) {
            engine.metrics.image_failed(failure.state, &failure.reason);
        }
        engine.tell(event(&job)).await;
    }
}

fn event(job: &ImageJob) -> NewEvent {
    let name = &job.name;
    let failure = job.failure.as_ref();
    let details = serde_json::json!({
        "job": job.id,
        "name": name,
        "image": job.image,
        "state": failure.map(|failure| failure.state),
        "reason": failure.map(|failure| failure.reason.as_str()),
        "cause": failure.map(|failure| failure.problem.detail.as_str()),
        "left": job.left,
        "attempts": job.attempts,
    });
    let event = match (job.state, job.kind) {
        (JobState::Ready, JobKind::Pull) => {
            NewEvent::info("image.pulled", format!("image {name} pulled"))
        }
        (JobState::Ready, JobKind::Import) => {
            NewEvent::info("image.imported", format!("image {name} imported"))
        }
        (JobState::Ready, JobKind::FromSnapshot) => {
            let of = job.path.as_deref().unwrap_or_default();
            NewEvent::info(
                "image.made",
                format!("image {name} made from snapshot {of}"),
            )
        }
        (JobState::Cancelled, kind) => NewEvent::info(
            "image.cancelled",
            format!("{} of {name} cancelled", kind.as_str()),
        ),
        (_, kind) => {
            let (state, cause) = failure.map_or(("unknown", "unknown"), |failure| {
                (failure.state.as_str(), failure.problem.detail.as_str())
            });
            let message = format!("{} of {name} aborted in {state}: {cause}", kind.as_str());
            NewEvent::info("image.failed", message).severity(Severity::Error)
        }
    };
    event.details(details)
}
