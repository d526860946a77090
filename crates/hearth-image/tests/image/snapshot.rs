//! Images made from snapshots: through a crash, by somebody who leaves, twice at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use camino::Utf8Path;
use hearth_image::jobs::{Follower, News, Patience};
use hearth_image::{ImageJobs, ImageStore, Limits, OpenSnapshot, PullRequest, Snapshots};
use hearth_types::api::{ImageFromSnapshot, PullImage};
use hearth_types::ids::{SnapshotId, VmId};
use hearth_types::image::ImageOrigin;
use hearth_types::image_job::{ImageJob, JobState};
use hearth_types::problem::{Code, Problem};
use jiff::Timestamp;
use tokio::sync::Semaphore;

const CONTENT: &[u8] = b"what a guest wrote";

/// One snapshot, whose disk is copied when it is allowed.
struct Fake {
    id: SnapshotId,
    /// Copies that may end.
    may: Semaphore,
    begun: AtomicUsize,
    given_up: AtomicUsize,
    broken: bool,
}

impl Fake {
    fn new(may: usize) -> Arc<Self> {
        Arc::new(Self {
            id: SnapshotId::new(),
            may: Semaphore::new(may),
            begun: AtomicUsize::new(0),
            given_up: AtomicUsize::new(0),
            broken: false,
        })
    }
}

struct Door(Arc<Fake>);

#[async_trait]
impl Snapshots for Door {
    async fn open(&self, snapshot: &str) -> Result<Arc<dyn OpenSnapshot>, Problem> {
        match snapshot {
            "before" => Ok(Arc::new(Door(Arc::clone(&self.0)))),
            other => Err(Problem::new(Code::NotFound, format!("no snapshot {other}"))),
        }
    }
}

#[async_trait]
impl OpenSnapshot for Door {
    fn origin(&self) -> ImageOrigin {
        ImageOrigin {
            snapshot: self.0.id,
            snapshot_name: "before".parse().unwrap(),
            vm: VmId::new(),
            vm_name: "web".parse().unwrap(),
            image: format!("sha256:{}", "ab".repeat(32)).parse().unwrap(),
            kernel: None,
            consistency: None,
            taken_at: Timestamp::UNIX_EPOCH,
        }
    }

    fn bytes(&self) -> u64 {
        CONTENT.len() as u64
    }

    async fn copy_to(&self, path: &Utf8Path) -> Result<(), Problem> {
        self.0.begun.fetch_add(1, Ordering::SeqCst);
        self.0.may.acquire().await.unwrap().forget();
        if self.0.broken {
            return Err(Problem::new(Code::Exhausted, "no room"));
        }
        std::fs::write(path, CONTENT).unwrap();
        Ok(())
    }

    async fn give_up(&self, _path: &Utf8Path) {
        self.0.given_up.fetch_add(1, Ordering::SeqCst);
    }
}

fn jobs(dir: &Utf8Path, fake: &Arc<Fake>) -> (ImageStore, ImageJobs) {
    let store = ImageStore::open(dir, Limits::default()).unwrap();
    let prepare = Arc::new(|_: PullImage| PullRequest::default());
    let door: Arc<dyn Snapshots> = Arc::new(Door(Arc::clone(fake)));
    let opened = ImageJobs::open(
        store.clone(),
        Patience::default(),
        prepare,
        Some(door),
        None,
    );
    (store, opened.unwrap().0)
}

fn asked(reference: &str) -> ImageFromSnapshot {
    ImageFromSnapshot {
        snapshot: "before".to_owned(),
        reference: reference.to_owned(),
        detach: false,
    }
}

async fn end(mut follower: Follower) -> ImageJob {
    let last = async {
        loop {
            if let News::End(job) = follower.next().await {
                return job;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), last)
        .await
        .unwrap()
}

async fn until(what: impl Fn() -> bool) {
    let waiting = async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting)
        .await
        .unwrap();
}

/// Names in the folder of images.
fn images(dir: &Utf8Path) -> Vec<String> {
    let entries = dir.join("images").read_dir_utf8().unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().to_owned())
        .collect()
}

#[test]
fn a_daemon_that_dies_in_the_middle_leaves_it_to_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let dir = Utf8Path::from_path(dir.path()).unwrap();
    let fake = Fake::new(0);
    let first = tokio::runtime::Runtime::new().unwrap();
    first.block_on(async {
        let (_, jobs) = jobs(dir, &fake);
        let follower = jobs.from_snapshot(asked("web:2"), true).await.unwrap();
        until(|| fake.begun.load(Ordering::SeqCst) == 1).await;
        std::mem::forget(follower);
    });
    drop(first);
    // What one that was killed has left.
    std::fs::create_dir(dir.join("images/.tmp-left")).unwrap();
    let next = tokio::runtime::Runtime::new().unwrap();
    next.block_on(async {
        fake.may.add_permits(1);
        let (store, jobs) = jobs(dir, &fake);
        assert_eq!(jobs.resume(), 1);
        let id = jobs.list()[0].id.clone();
        until(|| jobs.find(&id).unwrap().ended_at.is_some()).await;
        let job = jobs.find(&id).unwrap();
        assert_eq!((job.state, job.restarts), (JobState::Ready, 1));
        let image = store.get("web:2").await.unwrap();
        assert_eq!(image.origin.as_ref().unwrap().snapshot, fake.id);
        let volume = store.volume_path(&image.id);
        assert_eq!(std::fs::read(volume).unwrap(), CONTENT);
        assert_eq!(images(dir), [image.id.hex()]);
    });
}

#[tokio::test]
async fn who_leaves_takes_it_along_and_nothing_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let dir = Utf8Path::from_path(dir.path()).unwrap();
    let fake = Fake::new(0);
    let (_, jobs) = jobs(dir, &fake);
    let follower = jobs.from_snapshot(asked("web:2"), false).await.unwrap();
    until(|| fake.begun.load(Ordering::SeqCst) == 1).await;
    drop(follower);
    until(|| jobs.list()[0].state == JobState::Cancelled).await;
    // What was begun is taken back when it can be.
    fake.may.add_permits(1);
    until(|| fake.given_up.load(Ordering::SeqCst) == 1 && images(dir).is_empty()).await;
    // Tried again, it is made.
    let id = jobs.list()[0].id.clone();
    fake.may.add_permits(1);
    let again = jobs.retry(&id, None, false).await.unwrap();
    assert_eq!(end(again).await.state, JobState::Ready);
}

#[tokio::test]
async fn two_names_of_one_snapshot_are_one_image_that_is_made_once() {
    let dir = tempfile::tempdir().unwrap();
    let dir = Utf8Path::from_path(dir.path()).unwrap();
    let fake = Fake::new(1);
    let (store, jobs) = jobs(dir, &fake);
    let one = jobs.from_snapshot(asked("web:2"), false).await.unwrap();
    let two = jobs.from_snapshot(asked("web:3"), false).await.unwrap();
    let (one, two) = tokio::join!(end(one), end(two));
    assert_eq!((one.state, two.state), (JobState::Ready, JobState::Ready));
    assert_eq!(fake.begun.load(Ordering::SeqCst), 1);
    let image = store.get("web:3").await.unwrap();
    assert_eq!(image.references.len(), 2);
}

#[tokio::test]
async fn what_cannot_be_made_ends_with_its_cause_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let dir = Utf8Path::from_path(dir.path()).unwrap();
    let mut fake = Fake::new(1);
    Arc::get_mut(&mut fake).unwrap().broken = true;
    let (_, jobs) = jobs(dir, &fake);
    let follower = jobs.from_snapshot(asked("web:2"), false).await.unwrap();
    let job = end(follower).await;
    let failure = job.failure.unwrap();
    assert_eq!(
        (job.state, failure.reason.as_str()),
        (JobState::Aborted, "disk_full")
    );
    assert_eq!(fake.given_up.load(Ordering::SeqCst), 1);
    assert_eq!(images(dir), [""; 0]);
    let other = ImageFromSnapshot {
        snapshot: "after".to_owned(),
        ..asked("web:2")
    };
    let follower = jobs.from_snapshot(other, false).await.unwrap();
    let failure = end(follower).await.failure.unwrap();
    assert_eq!(
        (failure.state, failure.reason.as_str()),
        (JobState::Resolve, "not_found")
    );
}
