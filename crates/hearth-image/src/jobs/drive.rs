//! One driver for each job: does the work, tells the machine, does what it says.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hearth_types::api::Progress;
use hearth_types::image::ImageRecord;
use hearth_types::image_job::{ImageJob, JobFailure, JobState};
use hearth_types::problem::{Code, Problem};
use hearth_types::survey::chain;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::book::{Record, Request};
use super::machine::{Event, Next};
use super::{Inner, Job, lock};
use crate::progress::{Report, Reporter};
use crate::{ImageError, ImageStore, Snapshots, import, pull, snapshot};

/// Time that is never waited for.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

impl Inner {
    /// Gives a job a driver, unless it has one. `first` is told to the machine before the work.
    pub(super) fn drive(self: &Arc<Self>, job: &Arc<Job>, first: Option<Event>) {
        if job.driven.swap(true, Ordering::SeqCst) {
            return;
        }
        let driver = Driver {
            inner: Arc::clone(self),
            job: Arc::clone(job),
        };
        drop(tokio::spawn(driver.run(first)));
    }
}

struct Driver {
    inner: Arc<Inner>,
    job: Arc<Job>,
}

/// Why an attempt ended.
enum Outcome {
    Done(Box<ImageRecord>),
    Failed(JobState, ImageError),
    TimedOut,
    Cancelled,
}

impl Driver {
    async fn run(self, first: Option<Event>) {
        let mut next = match first {
            Some(event) => self.tell(event, None).await,
            None => Next::Work,
        };
        loop {
            next = match next {
                Next::Work | Next::Same => self.attempt().await,
                Next::Pause(pause) => self.pause(pause).await,
                Next::End => break,
            };
        }
        self.end().await;
    }

    /// Tells the machine what happened, and writes down what came of it.
    async fn tell(&self, event: Event, failure: Option<JobFailure>) -> Next {
        let mut next = Next::Same;
        self.job.record.send_modify(|record| {
            next = record.machine.on(event, &self.inner.patience);
            if failure.is_some() {
                record.job.failure = failure;
            }
            if event == Event::Retry {
                record.job.ended_at = None;
                record.job.left = None;
            }
            if event == Event::Restarted && next == Next::End {
                record.job.failure = Some(too_many(&record.job));
            }
            record.job.waits_for = match next {
                Next::Pause(pause) => Some(format!("the next attempt, in {} s", pause.as_secs())),
                _ => None,
            };
            record.show();
        });
        self.write().await;
        next
    }

    /// A job that cannot be written down goes on: it is only forgotten by a crash.
    async fn write(&self) {
        if let Err(error) = self.inner.write(&self.job).await {
            let job = self.job.view();
            tracing::error!(job = job.id, error = %chain(&error), "the job's state cannot be written down");
        }
    }

    async fn pause(&self, pause: Duration) -> Next {
        let job = self.job.view();
        let stage = format!(
            "{} failed ({}); trying again in {} s",
            job.state,
            job.failure.map_or(String::new(), |f| f.problem.detail),
            pause.as_secs()
        );
        // Nobody may listen.
        drop(self.job.progress.send(Progress::Stage { message: stage }));
        let event = tokio::select! {
            () = tokio::time::sleep(pause) => Event::Paused,
            () = self.cancelled() => Event::Cancel,
        };
        self.tell(event, None).await
    }

    async fn cancelled(&self) {
        let mut cancel = self.job.cancel.subscribe();
        // The sender lives as long as the job.
        drop(cancel.wait_for(|cancelled| *cancelled).await);
    }

    /// Works from the job's state on until it is done or something happens.
    async fn attempt(&self) -> Next {
        match self.work().await {
            Outcome::Done(image) => {
                self.job
                    .record
                    .send_modify(|record| record.job.image = Some(image.id.clone()));
                self.tell(Event::Done(JobState::Seal), None).await
            }
            Outcome::Cancelled => self.tell(Event::Cancel, None).await,
            Outcome::TimedOut => {
                let state = self.job.view().state;
                let limit = self.inner.patience.deadline(state).as_secs();
                let problem = Problem::new(
                    Code::Upstream,
                    format!("{state} did not end within {limit} s"),
                );
                let failure = failure(state, "deadline", problem);
                self.tell(Event::TimedOut, Some(failure)).await
            }
            Outcome::Failed(at, error) => {
                let temporary = error.is_temporary();
                let event = Event::Failed { at, temporary };
                let problem = self.problem(&error);
                let failure = failure(at, error.reason(), problem);
                tracing::debug!(job = self.job.view().id, %at, temporary, error = %chain(&error), "an attempt failed");
                self.tell(event, Some(failure)).await
            }
        }
    }

    fn problem(&self, error: &ImageError) -> Problem {
        let problem = Problem::new(error.code(), chain(error));
        let record = self.job.record.borrow();
        if matches!(error, ImageError::Login { .. })
            && record.had_login
            && lock(&self.job.auth).is_none()
        {
            return problem.hint(
                "the credentials were not kept when the daemon ended: hearth image retry gives them again",
            );
        }
        match error.hint() {
            Some(hint) => problem.hint(hint),
            None => problem,
        }
    }

    async fn work(&self) -> Outcome {
        let (reporter, mut reports) = Reporter::channel();
        let record = self.job.record.borrow().clone();
        let mut request = record.request.clone();
        if let Request::Pull(pull) = &mut request {
            pull.auth.clone_from(&*lock(&self.job.auth));
        }
        let mut work = Box::pin(perform(
            self.inner.store.clone(),
            request,
            record,
            (
                Arc::clone(&self.inner.prepare),
                self.inner.snapshots.clone(),
            ),
            reporter,
        ));
        let mut shown = Shown::default();
        let mut deadline = self.deadline();
        loop {
            tokio::select! {
                biased;
                () = self.cancelled() => return Outcome::Cancelled,
                () = tokio::time::sleep_until(deadline) => return Outcome::TimedOut,
                Some(report) = reports.recv() => {
                    if self.take(report, &mut shown).await {
                        deadline = match shown.queued {
                            true => Instant::now() + NEVER,
                            false => self.deadline(),
                        };
                    }
                }
                done = &mut work => {
                    self.rest(&mut reports, &mut shown).await;
                    return match done {
                        Ok(image) => Outcome::Done(Box::new(image)),
                        Err(error) => {
                            let at = shown.failed_at.unwrap_or(self.job.view().state);
                            Outcome::Failed(at, error)
                        }
                    };
                }
            }
        }
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.inner.patience.deadline(self.job.view().state)
    }

    async fn rest(&self, reports: &mut mpsc::UnboundedReceiver<Report>, shown: &mut Shown) {
        while let Ok(report) = reports.try_recv() {
            self.take(report, shown).await;
        }
    }

    /// Takes a report; whether another deadline holds from now on.
    async fn take(&self, report: Report, shown: &mut Shown) -> bool {
        match report {
            Report::Progress(progress) => {
                if let Progress::Item {
                    id,
                    state,
                    done,
                    total,
                } = &*progress
                {
                    shown.item(id, state, *done, *total);
                    let (done, total) = shown.sums();
                    // Only what changes between two states: nobody is woken for it.
                    self.job.record.send_if_modified(|record| {
                        (record.job.done, record.job.total) = (done, total);
                        false
                    });
                }
                drop(self.job.progress.send(*progress));
                false
            }
            Report::Done(state) => {
                if self.job.view().state > state {
                    return false;
                }
                self.tell(Event::Done(state), None).await;
                true
            }
            Report::FailedAt(state) => {
                shown.failed_at = Some(state);
                false
            }
            Report::Waits(what) => {
                shown.queued = what.is_some();
                let waits_for = what.map(str::to_owned);
                self.job
                    .record
                    .send_modify(|record| record.job.waits_for = waits_for);
                true
            }
            Report::Resolved(resolved) => {
                self.job.record.send_modify(|record| {
                    record.job.image = resolved.image();
                    record.resolved = Some(resolved);
                });
                false
            }
        }
    }

    async fn end(&self) {
        let record = self.job.record.borrow().clone();
        let left = match record.job.state {
            JobState::Ready => None,
            _ => self
                .inner
                .store
                .blocking(move |inner| inner.left_of(&record))
                .await
                .ok(),
        };
        // Before anybody is told of the end: who hears of it may ask for it again.
        self.job.driven.store(false, Ordering::SeqCst);
        let mut ended = None;
        self.job.record.send_modify(|record| {
            record.job.left = left;
            record.job.waits_for = None;
            record.job.ended_at = Some(Timestamp::now());
            if record.job.state == JobState::Ready {
                record.job.failure = None;
            }
            ended = Some(record.job.clone());
        });
        self.write().await;
        let Some(job) = ended else {
            return;
        };
        say(&job);
        // Without a receiver nobody wants to know.
        drop(self.inner.ended.send(job));
        self.inner.forget_old().await;
    }
}

/// The last log line of a job.
fn say(job: &ImageJob) {
    let seconds = Timestamp::now().duration_since(job.created_at).as_secs();
    match (job.state, &job.failure) {
        (JobState::Ready, _) => {
            let image = job.image.as_ref().map(ToString::to_string);
            tracing::info!(
                job = job.id,
                name = job.name,
                image,
                seconds,
                "image is ready"
            );
        }
        (JobState::Cancelled, _) => {
            tracing::info!(job = job.id, name = job.name, left = ?job.left, "FSM cancelled");
        }
        (_, failure) => {
            let state = failure.as_ref().map(|failure| failure.state.as_str());
            let cause = failure.as_ref().map(|f| f.problem.detail.as_str());
            let reason = failure.as_ref().map(|f| f.reason.as_str());
            tracing::error!(job = job.id, name = job.name, state, reason, cause, left = ?job.left, "FSM aborted");
        }
    }
}

async fn perform(
    store: ImageStore,
    request: Request,
    record: Record,
    (prepare, snapshots): (super::Prepare, Option<Arc<dyn Snapshots>>),
    reporter: Reporter,
) -> Result<ImageRecord, ImageError> {
    match request {
        Request::Pull(request) => {
            let request = prepare(request);
            pull::run(&store, request, record.resolved, reporter).await
        }
        Request::Import(request) => {
            let (path, reference) = (request.path.as_str().into(), request.reference.as_str());
            import::run(&store, path, reference, request.kind, reporter).await
        }
        Request::Snapshot(request) => {
            let snapshots = snapshots.ok_or_else(snapshot::nowhere)?;
            snapshot::run(&store, &request, &*snapshots, reporter).await
        }
    }
}

fn failure(state: JobState, reason: &str, problem: Problem) -> JobFailure {
    JobFailure {
        state,
        reason: reason.to_owned(),
        problem,
        at: Timestamp::now(),
    }
}

fn too_many(job: &ImageJob) -> JobFailure {
    let problem = Problem::new(
        Code::Internal,
        format!("the daemon ended {} times under this job", job.restarts + 1),
    );
    failure(job.state, "restarts", problem)
}

/// What the work has said so far.
#[derive(Default)]
struct Shown {
    failed_at: Option<JobState>,
    queued: bool,
    /// By item: what is done with it, bytes done, bytes in all.
    items: HashMap<String, (bool, u64, u64)>,
}

impl Shown {
    fn item(&mut self, id: &str, state: &str, done: u64, total: Option<u64>) {
        let unpacking = !matches!(state, "download" | "cached");
        let before = self.items.get(id).map_or(0, |item| item.2);
        let total = total.unwrap_or(before);
        let done = if state == "done" { total } else { done };
        self.items.insert(id.to_owned(), (unpacking, done, total));
    }

    /// Bytes that are downloaded, or unpacked as soon as there is anything to unpack.
    fn sums(&self) -> (u64, u64) {
        let total = self.items.values().map(|item| item.2).sum();
        let all_here = self.items.values().all(|item| item.0 || item.1 >= item.2);
        let done = self.items.values().map(|(unpacking, done, total)| {
            match (all_here, unpacking) {
                // It is here, so it was downloaded.
                (false, true) => *total,
                (true, false) => 0,
                _ => *done,
            }
        });
        (done.sum(), total)
    }
}
