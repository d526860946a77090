//! Following a job to its end.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hearth_types::api::Progress;
use hearth_types::image_job::{ImageJob, JobState};
use tokio::sync::{broadcast, watch};

use super::book::Record;
use super::{Inner, Job};

/// Somebody who waits for a job. The last one that leaves before the end takes the job with it,
/// unless it is detached.
pub struct Follower {
    inner: Arc<Inner>,
    job: Arc<Job>,
    progress: broadcast::Receiver<Progress>,
    record: watch::Receiver<Record>,
}

impl std::fmt::Debug for Follower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follower").finish_non_exhaustive()
    }
}

/// What a follower is told.
#[derive(Debug)]
pub enum News {
    /// How far it is: `Stage` and `Item` only.
    Progress(Progress),
    /// It has ended.
    End(ImageJob),
}

impl Follower {
    pub(super) fn new(inner: &Arc<Inner>, job: &Arc<Job>) -> Self {
        job.followers.fetch_add(1, Ordering::SeqCst);
        Self {
            inner: Arc::clone(inner),
            job: Arc::clone(job),
            progress: job.progress.subscribe(),
            record: job.record.subscribe(),
        }
    }

    /// The job as it is now.
    #[must_use]
    pub fn job(&self) -> ImageJob {
        self.job.view()
    }

    /// The next thing to tell.
    pub async fn next(&mut self) -> News {
        loop {
            tokio::select! {
                biased;
                report = self.progress.recv() => match report {
                    Ok(progress) => return News::Progress(progress),
                    // The next one says it all again.
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return News::End(self.job.view()),
                },
                ended = self.record.wait_for(Record::has_ended) => {
                    drop(ended);
                    return News::End(self.job.view());
                }
            }
        }
    }

    /// Waits for the end.
    pub async fn end(mut self) -> ImageJob {
        loop {
            if let News::End(job) = self.next().await {
                return job;
            }
        }
    }
}

impl Record {
    /// Whether nothing more happens to it.
    pub(super) fn has_ended(&self) -> bool {
        self.job.ended_at.is_some()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let last = self.job.followers.fetch_sub(1, Ordering::SeqCst) == 1;
        let unwanted = {
            let record = self.job.record.borrow();
            !record.job.detached && !record.job.state.is_end()
        };
        let stopping = self.inner.stopping.load(Ordering::Relaxed);
        if last && unwanted && !stopping && self.job.view().state != JobState::Ready {
            self.job.cancel.send_replace(true);
        }
    }
}
