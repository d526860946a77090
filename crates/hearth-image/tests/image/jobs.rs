//! Pulls as jobs that are written down: through crashes, outages and people who leave. Needs root,
//! docker-registry, skopeo and umoci.

use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use camino::Utf8Path;
use hearth_image::jobs::{Patience, Watcher};
use hearth_image::{ImageJobs, ImageStore, Limits, PullRequest};
use hearth_types::api::{ImportImage, PullImage, RegistryAuth};
use hearth_types::image_job::{ImageJob, JobState};

use crate::common::content::{layout, noise, tar};
use crate::common::proxy::{Proxy, Spoil};
use crate::common::registry::{Registry, free_port, need_tools};
use crate::common::{Store, need_root};

/// Variables that make this program the child that is killed.
const STORE: &str = "HEARTH_TEST_JOBS_STORE";
const REFERENCE: &str = "HEARTH_TEST_JOBS_REFERENCE";
const KILL_IN: &str = "HEARTH_TEST_JOBS_KILL_IN";

fn ready() -> bool {
    need_root() && need_tools()
}

/// Pauses that tests can wait for.
fn patience() -> Patience {
    Patience {
        first_pause: Duration::from_millis(50),
        longest_pause: Duration::from_millis(200),
        ..Patience::default()
    }
}

fn jobs_with(
    path: &Utf8Path,
    limits: Limits,
    patience: Patience,
    watcher: Option<Watcher>,
) -> ImageJobs {
    let store = ImageStore::open(path, limits).unwrap();
    let prepare = Arc::new(|request: PullImage| PullRequest {
        reference: request.reference,
        auth: request.auth,
        ..PullRequest::default()
    });
    ImageJobs::open(store, patience, prepare, None, watcher)
        .unwrap()
        .0
}

fn jobs(path: &Utf8Path) -> ImageJobs {
    jobs_with(path, Limits::default(), patience(), None)
}

fn request(reference: &str) -> PullImage {
    PullImage {
        reference: reference.to_owned(),
        ..PullImage::default()
    }
}

/// Waits for what is true of a job.
async fn until(jobs: &ImageJobs, name: &str, what: impl Fn(&ImageJob) -> bool) -> ImageJob {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let job = jobs.find(name).unwrap();
        if what(&job) {
            return job;
        }
        assert!(Instant::now() < end, "not within a minute: {job:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn ended(job: &ImageJob) -> bool {
    job.ended_at.is_some()
}

/// An image of two layers in a registry.
fn pushed(store: &Store) -> (Registry, String) {
    let registry = Registry::start();
    let dir = store.dir.path().join("layout");
    let second = noise(4 << 20);
    layout(
        &dir,
        "v1",
        &[tar(&[("first", "1")]), tar(&[("second", &second)])],
    );
    let reference = registry.push(&dir, "v1", "app:1");
    (registry, reference)
}

fn through(reference: &str, registry: &Registry, proxy: &Proxy) -> String {
    reference.replace(&registry.port.to_string(), &proxy.port.to_string())
}

/// Not a test of its own: what the child does, up to the state in which it kills itself.
#[tokio::test(flavor = "multi_thread")]
async fn child() {
    let variable = |name| std::env::var(name).ok();
    let (Some(store), Some(reference)) = (variable(STORE), variable(REFERENCE)) else {
        return;
    };
    let kill_in = variable(KILL_IN).unwrap();
    let watcher: Watcher = Arc::new(move |job| {
        if job.state.as_str() == kill_in {
            let own = rustix::process::getpid();
            rustix::process::kill_process(own, rustix::process::Signal::KILL).unwrap();
        }
    });
    let path = Utf8Path::new(&store);
    let jobs = jobs_with(path, Limits::default(), patience(), Some(watcher));
    let follower = jobs.pull(request(&reference), false).await.unwrap();
    follower.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_each_state_it_is_finished_by_the_next_daemon() {
    if !ready() {
        return;
    }
    let store = Store::new();
    let (_registry, reference) = pushed(&store);
    for state in ["resolve", "download", "verify", "unpack", "seal"] {
        let path = store.path(&format!("killed-in-{state}"));
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "jobs::child", "--nocapture"])
            .env(STORE, &path)
            .env(REFERENCE, &reference)
            .env(KILL_IN, state)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert_eq!(status.signal(), Some(9), "{state}");

        let jobs = jobs(&path);
        let left = jobs.find(&reference).unwrap();
        assert_eq!(left.state.as_str(), state);
        assert_eq!(jobs.resume(), 1);
        let job = until(&jobs, &reference, ended).await;
        assert_eq!(job.state, JobState::Ready, "{state}: {job:?}");
        assert_eq!(job.restarts, 1);
        let images = ImageStore::open(&path, Limits::default()).unwrap();
        let image = images.get(&reference).await.unwrap();
        assert_eq!((Some(&image.id), image.layers), (job.image.as_ref(), 2));
        let temporary = path.join("images").read_dir_utf8().unwrap().count();
        assert_eq!(temporary, 1, "{state}");
        // And there is nothing to go on with any more.
        assert_eq!(crate::jobs::jobs(&path).resume(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_after_the_download_needs_no_registry() {
    if !ready() {
        return;
    }
    let store = Store::new();
    let (registry, reference) = pushed(&store);
    let path = store.path("offline");
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "jobs::child", "--nocapture"])
        .env(STORE, &path)
        .env(REFERENCE, &reference)
        .env(KILL_IN, "unpack")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.signal(), Some(9));
    drop(registry);
    let jobs = jobs(&path);
    jobs.resume();
    let job = until(&jobs, &reference, ended).await;
    assert_eq!(job.state, JobState::Ready, "{job:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_takes_the_pull_along_unless_others_wait_or_it_is_detached() {
    if !ready() {
        return;
    }
    let store = Store::new();
    let (registry, reference) = pushed(&store);
    let proxy = Proxy::start(registry.port, Spoil::StallAfter(2 << 20));
    let through = through(&reference, &registry, &proxy);
    let jobs = jobs(&store.path("jobs"));

    let follower = jobs.pull(request(&through), false).await.unwrap();
    let second = jobs.pull(request(&through), false).await.unwrap();
    assert_eq!(
        follower.job().id,
        second.job().id,
        "one job for the same words"
    );
    let half = |job: &ImageJob| job.state == JobState::Download && job.done > 1 << 20;
    until(&jobs, &through, half).await;
    drop(follower);
    tokio::task::yield_now().await;
    assert!(!jobs.find(&through).unwrap().state.is_end());
    drop(second);
    let job = until(&jobs, &through, ended).await;
    assert_eq!(job.state, JobState::Cancelled);
    let left = job.left.unwrap();
    assert!(left.partial_bytes > 1 << 20 && left.blobs >= 1, "{left:?}");

    // Again, and left to the daemon: what is here is not fetched twice.
    proxy.spoil(Spoil::FlipAt(usize::MAX));
    let before = proxy.bytes.load(Ordering::SeqCst);
    drop(jobs.retry(&through, None, true).await.unwrap());
    let job = until(&jobs, &through, |job| {
        ended(job) && job.state != JobState::Cancelled
    })
    .await;
    assert_eq!(job.state, JobState::Ready, "{job:?}");
    assert_eq!((job.left, job.failure), (None, None));
    let passed = proxy.bytes.load(Ordering::SeqCst) - before;
    assert!(passed < 3 << 20, "{passed} bytes passed");
    let refused = jobs.retry(&through, None, true).await;
    assert!(refused.is_err(), "a job that is done is not tried again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_ends_is_not_a_client_that_leaves() {
    if !ready() {
        return;
    }
    let store = Store::new();
    let (registry, reference) = pushed(&store);
    let proxy = Proxy::start(registry.port, Spoil::StallAfter(2 << 20));
    let through = through(&reference, &registry, &proxy);
    let path = store.path("jobs");
    let jobs = jobs(&path);
    let follower = jobs.pull(request(&through), false).await.unwrap();
    until(&jobs, &through, |job| job.state == JobState::Download).await;
    jobs.stopping();
    drop(follower);
    tokio::task::yield_now().await;
    assert_eq!(jobs.find(&through).unwrap().state, JobState::Download);
    let cancelled = jobs.cancel(&through).await.unwrap();
    assert_eq!(cancelled.state, JobState::Cancelled);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_get_better_ends_at_once_and_says_where() {
    if !ready() {
        return;
    }
    let store = Store::new();
    let (registry, reference) = pushed(&store);
    let jobs = jobs(&store.path("jobs"));
    let missing = reference.replace("app:1", "app:none");
    let end = jobs
        .pull(request(&missing), false)
        .await
        .unwrap()
        .end()
        .await;
    let failure = end.failure.unwrap();
    assert_eq!(end.state, JobState::Aborted);
    assert_eq!(
        (failure.state, failure.reason.as_str()),
        (JobState::Resolve, "not_found")
    );
    assert_eq!(end.attempts[&JobState::Resolve], 1);

    // A layer with another digest than its manifest says.
    let proxy = Proxy::start(registry.port, Spoil::FlipAt(3 << 20));
    let spoiled = through(&reference, &registry, &proxy);
    let end = jobs
        .pull(request(&spoiled), false)
        .await
        .unwrap()
        .end()
        .await;
    let failure = end.failure.unwrap();
    assert_eq!(
        (failure.state, failure.reason.as_str()),
        (JobState::Download, "digest")
    );
    assert_eq!(end.attempts[&JobState::Download], 1);

    // An archive that is none: it is unpacked that is refused.
    let file = store.path("refused.tar");
    std::fs::write(&file, tar(&[("a", "=>missing")])).unwrap();
    let import = ImportImage {
        path: file.to_string(),
        reference: "refused:1".to_owned(),
        kind: None,
        detach: false,
    };
    let end = jobs.import(import, false).await.unwrap().end().await;
    let failure = end.failure.unwrap();
    assert_eq!(
        (failure.state, failure.reason.as_str()),
        (JobState::Unpack, "refused")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_waited_out_and_a_long_one_is_given_up() {
    if !ready() {
        return;
    }
    let store = Store::new();
    let (registry, reference) = pushed(&store);
    let proxy = Proxy::start(registry.port, Spoil::CutAfter(0));
    let through = through(&reference, &registry, &proxy);
    let patience = Patience {
        resolve: 50,
        ..patience()
    };
    let jobs = jobs_with(&store.path("jobs"), Limits::default(), patience, None);
    let follower = jobs.pull(request(&through), false).await.unwrap();
    let waits = until(&jobs, &through, |job| job.attempts[&JobState::Resolve] > 1).await;
    assert_eq!(waits.failure.unwrap().reason, "network");
    proxy.spoil(Spoil::FlipAt(usize::MAX));
    let job = follower.end().await;
    assert_eq!(job.state, JobState::Ready, "{job:?}");
    assert!(job.attempts[&JobState::Resolve] > 1);

    let nobody = format!("127.0.0.1:{}/app:1", free_port());
    let jobs = crate::jobs::jobs(&store.path("others"));
    let job = jobs
        .pull(request(&nobody), false)
        .await
        .unwrap()
        .end()
        .await;
    assert_eq!(job.state, JobState::Aborted);
    assert_eq!(job.attempts[&JobState::Resolve], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_ends_an_attempt_and_a_queue_has_none() {
    if !ready() {
        return;
    }
    let store = Store::new();
    let (registry, reference) = pushed(&store);
    let proxy = Proxy::start(registry.port, Spoil::StallAfter(2 << 20));
    let stalled = through(&reference, &registry, &proxy);
    let limits = Limits {
        downloads: 1,
        ..Limits::default()
    };
    let patience = Patience {
        download: 1,
        long: Duration::from_secs(5),
        ..patience()
    };
    let jobs = jobs_with(&store.path("jobs"), limits, patience, None);
    let first = jobs.pull(request(&stalled), true).await.unwrap();
    until(&jobs, &stalled, |job| job.done > 1 << 20).await;
    // The same image by another way waits for the first, another image for a place.
    let same = jobs.pull(request(&reference), true).await.unwrap();
    let queued = until(&jobs, &reference, |job| job.waits_for.is_some()).await;
    assert_eq!(
        queued.waits_for.as_deref(),
        Some("another pull of the same")
    );
    let dir = store.dir.path().join("other");
    layout(&dir, "v1", &[tar(&[("other", "1")])]);
    let other = registry.push(&dir, "v1", "other:1");
    let second = jobs.pull(request(&other), true).await.unwrap();
    let queued = until(&jobs, &other, |job| job.waits_for.is_some()).await;
    let place = queued.waits_for.unwrap();
    assert_eq!(place, "a place among the downloads");
    let job = first.end().await;
    let failure = job.failure.unwrap();
    assert_eq!(
        (failure.state, failure.reason.as_str()),
        (JobState::Download, "deadline")
    );
    assert_eq!(second.end().await.state, JobState::Ready);
    assert_eq!(same.end().await.state, JobState::Ready);
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_not_written_down() {
    if !ready() {
        return;
    }
    let store = Store::new();
    let (_registry, reference) = pushed(&store);
    let path = store.path("jobs");
    let jobs = jobs(&path);
    let secret = "a-secret-of-somebody";
    let with_login = PullImage {
        auth: Some(RegistryAuth {
            username: "alice".to_owned(),
            password: secret.to_owned(),
        }),
        ..request(&reference)
    };
    let job = jobs.pull(with_login, false).await.unwrap().end().await;
    assert_eq!(job.state, JobState::Ready);
    let text = std::fs::read_to_string(path.join(format!("jobs/{}.json", job.id))).unwrap();
    assert!(!text.contains(secret) && !text.contains("alice"), "{text}");
}
