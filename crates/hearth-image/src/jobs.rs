//! Pulls, imports and images made from snapshots as jobs that are written down: they outlive whoever asked, and the daemon.
//!
//! ```text
//!  pull, import ─► Job ─► jobs/ID.json        one driver for each: machine.rs decides, the work
//!     │              │                        (pull.rs, import.rs) tells what it has done
//!     ▼              ▼
//!  Follower ◄── progress, end                 the last follower that leaves takes the job with it,
//!                                             unless the job is detached or the daemon is ending
//! ```
//! A state is written down before its work begins. After a crash the work begins in that state
//! again, with what is on the disk: downloads, whole and partial, and what the name led to.
//! Credentials are never written down: a job that needs them after a crash says so.

mod book;
mod drive;
mod follow;
pub mod machine;
mod spare;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hearth_types::api::{ImageFromSnapshot, ImportImage, Progress, PullImage, RegistryAuth};
use hearth_types::image_job::{ImageJob, JobKind};
use jiff::Timestamp;
use tokio::sync::{broadcast, mpsc, watch};

pub use follow::{Follower, News};
pub use machine::Patience;
pub use spare::SpareBlob;

use crate::name::Name;
use crate::{ImageError, ImageStore, PullRequest, Snapshots};
use book::{Record, Request};

/// Reports that may wait for a slow follower; older ones are lost to it, as the next one says it all.
const REPORTS: usize = 256;
/// Jobs that have ended and are still shown.
pub(crate) const HISTORY: usize = 50;
/// Jobs that may be under way or in a queue.
const UNFINISHED: usize = 1000;

/// Makes a request of what a user asked for and what the configuration says.
pub type Prepare = Arc<dyn Fn(PullImage) -> PullRequest + Send + Sync>;
/// Told of each job when its state has been written down.
pub type Watcher = Arc<dyn Fn(&ImageJob) + Send + Sync>;

/// The jobs. Clones share them.
#[derive(Clone)]
pub struct ImageJobs {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for ImageJobs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImageJobs").finish_non_exhaustive()
    }
}

struct Inner {
    store: ImageStore,
    patience: Patience,
    prepare: Prepare,
    snapshots: Option<Arc<dyn Snapshots>>,
    watcher: Option<Watcher>,
    jobs: Mutex<BTreeMap<String, Arc<Job>>>,
    ended: mpsc::UnboundedSender<ImageJob>,
    stopping: AtomicBool,
}

/// One job while the daemon lives.
struct Job {
    record: watch::Sender<Record>,
    progress: broadcast::Sender<Progress>,
    cancel: watch::Sender<bool>,
    followers: AtomicUsize,
    /// Nobody else's, and never written down.
    auth: Mutex<Option<RegistryAuth>>,
    /// A driver has it.
    driven: AtomicBool,
    /// One writes it down at a time, the newest last.
    writing: tokio::sync::Mutex<()>,
}

impl Job {
    fn new(record: Record, auth: Option<RegistryAuth>) -> Arc<Self> {
        Arc::new(Self {
            record: watch::Sender::new(record),
            progress: broadcast::Sender::new(REPORTS),
            cancel: watch::Sender::new(false),
            followers: AtomicUsize::new(0),
            auth: Mutex::new(auth),
            driven: AtomicBool::new(false),
            writing: tokio::sync::Mutex::new(()),
        })
    }

    fn view(&self) -> ImageJob {
        self.record.borrow().job.clone()
    }
}

impl ImageJobs {
    /// Reads what is written down. Nothing is begun before [`ImageJobs::resume`]. Jobs that end
    /// are sent to the receiver. Without `snapshots` no image is made from one.
    ///
    /// # Errors
    /// When the folder cannot be read. A job that cannot be read is put aside, with a warning.
    pub fn open(
        store: ImageStore,
        patience: Patience,
        prepare: Prepare,
        snapshots: Option<Arc<dyn Snapshots>>,
        watcher: Option<Watcher>,
    ) -> Result<(Self, mpsc::UnboundedReceiver<ImageJob>), ImageError> {
        let records = store.inner.read_jobs()?;
        let (ended, receiver) = mpsc::unbounded_channel();
        let jobs = records
            .into_iter()
            .map(|record| (record.job.id.clone(), Job::new(record, None)))
            .collect();
        let inner = Inner {
            store,
            patience,
            prepare,
            snapshots,
            watcher,
            jobs: Mutex::new(jobs),
            ended,
            stopping: AtomicBool::new(false),
        };
        let jobs = Self {
            inner: Arc::new(inner),
        };
        Ok((jobs, receiver))
    }

    /// Goes on with what an earlier daemon has left unfinished; how many there are.
    pub fn resume(&self) -> usize {
        let unfinished: Vec<_> = lock(&self.inner.jobs)
            .values()
            .filter(|job| !job.view().state.is_end())
            .cloned()
            .collect();
        for job in &unfinished {
            self.inner.drive(job, Some(machine::Event::Restarted));
        }
        unfinished.len()
    }

    /// The daemon is about to end: whoever loses its connection now has not left.
    pub fn stopping(&self) {
        self.inner.stopping.store(true, Ordering::Relaxed);
    }

    /// Pulls an image, or joins the pull that somebody else has asked for in the same words.
    ///
    /// # Errors
    /// When the name is malformed, there are too many jobs, or the job cannot be written down.
    pub async fn pull(&self, request: PullImage, detach: bool) -> Result<Follower, ImageError> {
        let name: Name = request.reference.parse()?;
        let auth = request.auth.clone();
        let request = Request::Pull(PullImage {
            auth: None,
            detach: false,
            ..request
        });
        self.begin(JobKind::Pull, name, request, auth, detach).await
    }

    /// Imports a file, or joins the import of it that is under way.
    ///
    /// # Errors
    /// As with [`ImageJobs::pull`].
    pub async fn import(&self, request: ImportImage, detach: bool) -> Result<Follower, ImageError> {
        let name = Name::Reference(request.reference.parse()?);
        let request = Request::Import(ImportImage {
            detach: false,
            ..request
        });
        self.begin(JobKind::Import, name, request, None, detach)
            .await
    }

    /// Makes an image of a snapshot's root disk, or joins who makes it under the same name.
    ///
    /// # Errors
    /// As with [`ImageJobs::pull`].
    pub async fn from_snapshot(
        &self,
        request: ImageFromSnapshot,
        detach: bool,
    ) -> Result<Follower, ImageError> {
        let name = Name::Reference(request.reference.parse()?);
        let request = Request::Snapshot(ImageFromSnapshot {
            detach: false,
            ..request
        });
        self.begin(JobKind::FromSnapshot, name, request, None, detach)
            .await
    }

    async fn begin(
        &self,
        kind: JobKind,
        name: Name,
        request: Request,
        auth: Option<RegistryAuth>,
        detach: bool,
    ) -> Result<Follower, ImageError> {
        let record = Record::new(kind, &name, request, auth.is_some(), detach);
        let (job, new) = self.inner.enter(record, auth)?;
        let follower = Follower::new(&self.inner, &job);
        if new {
            let written = self.inner.write(&job).await;
            if let Err(error) = written {
                lock(&self.inner.jobs).remove(&job.view().id);
                return Err(error);
            }
            self.inner.drive(&job, None);
        } else if detach {
            self.inner.detach(&job).await?;
        }
        Ok(follower)
    }

    /// All jobs, the newest first.
    #[must_use]
    pub fn list(&self) -> Vec<ImageJob> {
        let jobs = lock(&self.inner.jobs);
        jobs.values().rev().map(|job| job.view()).collect()
    }

    /// A job by its id, the beginning of one, or the name of its image: the newest of it.
    ///
    /// # Errors
    /// When there is none, or the beginning fits several.
    pub fn find(&self, name: &str) -> Result<ImageJob, ImageError> {
        self.inner.find(name).map(|job| job.view())
    }

    /// Stops a job. One that has ended stays as it is.
    ///
    /// # Errors
    /// When there is no such job.
    pub async fn cancel(&self, name: &str) -> Result<ImageJob, ImageError> {
        let job = self.inner.find(name)?;
        job.cancel.send_replace(true);
        let mut record = job.record.subscribe();
        // The driver sees it at once; it ends with the daemon at the latest.
        drop(record.wait_for(Record::has_ended).await);
        Ok(job.view())
    }

    /// Tries a job again that was aborted or cancelled, from the state in which it ended. One
    /// that is under way is joined.
    ///
    /// # Errors
    /// When there is no such job, or it is done.
    pub async fn retry(
        &self,
        name: &str,
        auth: Option<RegistryAuth>,
        detach: bool,
    ) -> Result<Follower, ImageError> {
        let job = self.inner.find(name)?;
        let mut record = job.record.subscribe();
        // Its driver may be about to leave.
        let settled = |record: &Record| !record.job.state.is_end() || record.has_ended();
        drop(record.wait_for(settled).await);
        let state = job.view().state;
        if state == hearth_types::image_job::JobState::Ready {
            return Err(ImageError::unsupported(
                format!("job {name}"),
                "it is done; pull the image again to see whether there is a newer one",
            ));
        }
        if auth.is_some() {
            *lock(&job.auth) = auth;
        }
        if state.is_end() {
            job.cancel.send_replace(false);
            // Nobody takes its old end for the new one.
            job.record.send_modify(|record| record.job.ended_at = None);
        }
        let follower = Follower::new(&self.inner, &job);
        if detach {
            self.inner.detach(&job).await?;
        }
        if state.is_end() {
            self.inner.drive(&job, Some(machine::Event::Retry));
        }
        Ok(follower)
    }
}

impl Inner {
    /// Puts a job among the others, unless one with the same words is under way.
    fn enter(
        &self,
        record: Record,
        auth: Option<RegistryAuth>,
    ) -> Result<(Arc<Job>, bool), ImageError> {
        let mut jobs = lock(&self.jobs);
        let mut unfinished = 0;
        for job in jobs.values() {
            let other = job.record.borrow();
            if other.job.state.is_end() {
                continue;
            }
            unfinished += 1;
            // With other credentials it is another question.
            if other.request == record.request && *lock(&job.auth) == auth {
                let cancelled = *job.cancel.borrow();
                if !cancelled {
                    return Ok((Arc::clone(job), false));
                }
            }
        }
        if unfinished >= UNFINISHED {
            return Err(ImageError::Limit {
                what: "the number of unfinished pulls".to_owned(),
                limit: UNFINISHED as u64,
                unit: "jobs",
            });
        }
        let id = record.job.id.clone();
        let job = Job::new(record, auth);
        jobs.insert(id, Arc::clone(&job));
        Ok((job, true))
    }

    async fn detach(&self, job: &Arc<Job>) -> Result<(), ImageError> {
        job.record.send_modify(|record| record.job.detached = true);
        self.write(job).await
    }

    fn find(&self, name: &str) -> Result<Arc<Job>, ImageError> {
        let jobs = lock(&self.jobs);
        if let Some(job) = jobs.get(name) {
            return Ok(Arc::clone(job));
        }
        let full = name.parse::<Name>().map(|name| name.to_string());
        let of_name = |job: &&Arc<Job>| full.as_ref().is_ok_and(|full| job.view().name == *full);
        if let Some(job) = jobs.values().rev().find(of_name) {
            return Ok(Arc::clone(job));
        }
        let mut fitting = jobs
            .iter()
            .filter(|(id, _)| id.ends_with(name) && name.len() >= 4);
        match (fitting.next(), fitting.count()) {
            (Some((_, job)), 0) => Ok(Arc::clone(job)),
            (Some(_), more) => Err(ImageError::Ambiguous {
                prefix: name.to_owned(),
                count: more + 1,
            }),
            (None, _) => Err(ImageError::NoJob(name.to_owned())),
        }
    }

    /// Writes a job down.
    async fn write(&self, job: &Arc<Job>) -> Result<(), ImageError> {
        let _one = job.writing.lock().await;
        let record = job.record.borrow().clone();
        let written = self
            .store
            .blocking(move |inner| inner.write_job(&record))
            .await;
        if written.is_ok()
            && let Some(watcher) = &self.watcher
        {
            watcher(&job.view());
        }
        written
    }

    /// Lets a job go that ended long ago: there are enough newer ones.
    async fn forget_old(&self) {
        let old: Vec<String> = {
            let mut jobs = lock(&self.jobs);
            let ended: Vec<(Option<Timestamp>, String)> = jobs
                .values()
                .map(|job| job.view())
                .filter(|job| job.state.is_end())
                .map(|job| (job.ended_at, job.id))
                .collect();
            let old = book::oldest(ended);
            jobs.retain(|id, _| !old.contains(id));
            old
        };
        let removed = self.store.blocking(move |inner| {
            old.iter().for_each(|id| inner.remove_job(id));
            Ok(())
        });
        drop(removed.await);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind these locks is replaced whole, so a panic cannot have left half of it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
