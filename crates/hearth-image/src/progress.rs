//! How far a pull or import is, told to whoever asked for it.

use std::sync::Arc;

use hearth_types::api::Progress;
use hearth_types::ids::ImageId;
use hearth_types::image_job::JobState;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::ImageError;

/// Receives what happens during a pull or import: `Stage` and `Item` only.
pub trait ProgressSink: Send + Sync {
    /// Takes one report. Must not block.
    fn report(&self, progress: Progress);
}

/// Tells nobody.
#[derive(Debug, Clone, Copy)]
pub struct NoProgress;

impl ProgressSink for NoProgress {
    fn report(&self, _: Progress) {}
}

/// What a name led to: enough to go on with after a crash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Resolved {
    /// An image's manifest.
    Manifest {
        /// Its digest, the image's id.
        digest: ImageId,
        /// The document.
        text: String,
    },
    /// An object of S3.
    Object {
        /// What it is remembered by.
        id: String,
        etag: Option<String>,
        size: u64,
    },
}

impl Resolved {
    /// The image that it will be, if that is known already.
    pub(crate) fn image(&self) -> Option<ImageId> {
        match self {
            Self::Manifest { digest, .. } => Some(digest.clone()),
            Self::Object { .. } => None,
        }
    }
}

/// What workers tell.
#[derive(Debug, Clone)]
pub(crate) enum Report {
    /// For people.
    Progress(Box<Progress>),
    /// All that belongs to this state is done.
    Done(JobState),
    /// What fails next failed in this state, which may be a later one than the first that is not done.
    FailedAt(JobState),
    /// It waits in a queue, or no longer does.
    Waits(Option<&'static str>),
    /// The name has led to this.
    Resolved(Resolved),
}

/// The sending half that workers on other threads own; reports after the asker has gone are
/// dropped.
#[derive(Debug, Clone)]
pub(crate) struct Reporter(Option<mpsc::UnboundedSender<Report>>);

impl Reporter {
    pub(crate) fn channel() -> (Self, mpsc::UnboundedReceiver<Report>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(Some(sender)), receiver)
    }

    /// A reporter that nobody listens to.
    pub(crate) fn silent() -> Self {
        Self(None)
    }

    pub(crate) fn stage(&self, message: impl Into<String>) {
        self.show(Progress::Stage {
            message: message.into(),
        });
    }

    pub(crate) fn item(&self, id: &str, state: &str, done: u64, total: Option<u64>) {
        self.show(Progress::Item {
            id: id.to_owned(),
            state: state.to_owned(),
            done,
            total,
        });
    }

    pub(crate) fn done(&self, state: JobState) {
        self.send(Report::Done(state));
    }

    pub(crate) fn failed_at(&self, state: JobState) {
        self.send(Report::FailedAt(state));
    }

    pub(crate) fn resolved(&self, resolved: Resolved) {
        self.send(Report::Resolved(resolved));
    }

    pub(crate) fn waits(&self, what: Option<&'static str>) {
        self.send(Report::Waits(what));
    }

    /// Waits for a place in a queue, and says so when there is none at once.
    pub(crate) async fn queue(
        &self,
        places: &Arc<Semaphore>,
        what: &'static str,
    ) -> Result<OwnedSemaphorePermit, ImageError> {
        if let Ok(permit) = Arc::clone(places).try_acquire_owned() {
            return Ok(permit);
        }
        self.waits(Some(what));
        let permit = Arc::clone(places).acquire_owned().await;
        self.waits(None);
        // Nobody closes the queues.
        permit.map_err(|_| ImageError::Cancelled)
    }

    fn show(&self, progress: Progress) {
        self.send(Report::Progress(Box::new(progress)));
    }

    fn send(&self, report: Report) {
        if let Some(sender) = &self.0 {
            drop(sender.send(report));
        }
    }
}

/// Runs `work` and hands every report to `sink` meanwhile, the last ones included.
pub(crate) async fn relay<T>(
    work: impl Future<Output = T>,
    mut reports: mpsc::UnboundedReceiver<Report>,
    sink: &dyn ProgressSink,
) -> T {
    let show = |report| {
        if let Report::Progress(progress) = report {
            sink.report(*progress);
        }
    };
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            biased;
            Some(report) = reports.recv() => show(report),
            result = &mut work => {
                while let Ok(report) = reports.try_recv() {
                    show(report);
                }
                return result;
            }
        }
    }
}
