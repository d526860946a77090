//! SIGKILL in the middle of a pull, and other sudden ends. Needs root, docker-registry, skopeo
//! and umoci.

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::common::content::{layout, noise, request, tar};
use crate::common::proxy::{Proxy, Spoil};
use crate::common::registry::{Registry, need_tools};
use crate::common::{NoProgress, Store, need_root};
use camino::Utf8Path;
use hearth_image::{ImageError, ImageStore, Limits, PullRequest};

/// Variables that make this program the child that is killed.
const STORE: &str = "HEARTH_TEST_STORE";
const REFERENCE: &str = "HEARTH_TEST_REFERENCE";

/// Not a test of its own: what the child does.
#[tokio::test(flavor = "multi_thread")]
async fn child() {
    let (Ok(store), Ok(reference)) = (std::env::var(STORE), std::env::var(REFERENCE)) else {
        return;
    };
    let store = ImageStore::open(Utf8Path::new(&store), Limits::default()).unwrap();
    drop(store.pull(request(&reference), &NoProgress).await);
}

fn spawn_child(store: &Utf8Path, reference: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::child", "--nocapture"])
        .env(STORE, store)
        .env(REFERENCE, reference)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < end, "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Loop devices whose file is below a folder. (The name ends in ` (deleted)` for a removed one.)
fn loops_below(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for device in std::fs::read_dir("/sys/block").unwrap() {
        let device = device.unwrap().path();
        let backing = std::fs::read_to_string(device.join("loop/backing_file"));
        if backing.is_ok_and(|file| file.starts_with(folder.to_str().unwrap())) {
            found.push(device.display().to_string());
        }
    }
    found
}

/// Bytes of unfinished downloads in a store.
fn partial_bytes(store: &Utf8Path) -> u64 {
    let Ok(blobs) = std::fs::read_dir(store.join("blobs/sha256")) else {
        return 0;
    };
    blobs
        .map(|blob| blob.unwrap())
        .filter(|blob| blob.file_name().to_str().unwrap().ends_with(".partial"))
        .filter_map(|blob| blob.metadata().ok())
        .map(|blob| blob.len())
        .sum()
}

/// Two layers: the first small enough to be unpacked while the second is still coming.
fn two_layers() -> Vec<Vec<u8>> {
    let second = noise(4 << 20);
    vec![tar(&[("first", "1")]), tar(&[("second", &second)])]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_pull_leaves_nothing_usable_and_is_resumed() {
    if !need_root() || !need_tools() {
        return;
    }
    let (registry, store) = (Registry::start(), Store::new());
    let dir = store.dir.path().join("layout");
    layout(&dir, "v1", &two_layers());
    let reference = registry.push(&dir, "v1", "app:1");
    // The second layer stalls half-way, so the pull is surely unfinished when it is killed.
    let proxy = Proxy::start(registry.port, Spoil::StallAfter(2 << 20));
    let through = reference.replace(&registry.port.to_string(), &proxy.port.to_string());
    let path = store.path("killed");
    let mut child = spawn_child(&path, &through);
    wait_for(
        "the volume is mounted and half of the layer is here",
        || !loops_below(path.as_std_path()).is_empty() && partial_bytes(&path) > 3 << 19,
    );
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    wait_for("the kernel has freed mount and loop device", || {
        loops_below(path.as_std_path()).is_empty()
    });

    let temporary = || {
        std::fs::read_dir(path.join("images"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(temporary().len(), 1, "the killed pull was not half-way");
    let images = ImageStore::open(&path, Limits::default()).unwrap();
    assert_eq!(temporary(), [""; 0]);
    assert!(images.list().await.unwrap().is_empty());
    assert!(matches!(
        images.get(&reference).await,
        Err(ImageError::NotFound(_))
    ));

    // The half that is here is not fetched again.
    let half = partial_bytes(&path);
    let proxy = Proxy::start(registry.port, Spoil::FlipAt(usize::MAX));
    let through = reference.replace(&registry.port.to_string(), &proxy.port.to_string());
    let record = images.pull(request(&through), &NoProgress).await.unwrap();
    assert_eq!(record.layers, 2);
    let passed = proxy.bytes.load(Ordering::SeqCst);
    assert!(passed < 3 << 20, "{passed} bytes passed, {half} were here");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_pull_cleans_up() {
    if !need_root() || !need_tools() {
        return;
    }
    let (registry, store) = (Registry::start(), Store::new());
    let dir = store.dir.path().join("layout");
    layout(&dir, "v1", &two_layers());
    let reference = registry.push(&dir, "v1", "app:1");
    let proxy = Proxy::start(registry.port, Spoil::StallAfter(2 << 20));
    let through = reference.replace(&registry.port.to_string(), &proxy.port.to_string());
    let images = store.images.clone();
    let task = tokio::spawn(async move { images.pull(request(&through), &NoProgress).await });
    let folder = store.path("store");
    let mounted = || !loops_below(folder.as_std_path()).is_empty();
    wait_for(
        "the volume is mounted and half of the layer is here",
        || mounted() && partial_bytes(&folder) > 3 << 19,
    );
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    wait_for("the volume is gone", || !mounted());
    wait_for("the temporary folder is gone", || {
        store.image_folders().is_empty()
    });
    // And the way is free for the next one.
    let record = store
        .images
        .pull(request(&reference), &NoProgress)
        .await
        .unwrap();
    assert_eq!(record.layers, 2);
}

/// As many layers as asked for are under way at once; none of them comes to its end here.
#[tokio::test(flavor = "multi_thread")]
async fn layers_come_side_by_side() {
    if !need_root() || !need_tools() {
        return;
    }
    let (registry, store) = (Registry::start(), Store::new());
    let dir = store.dir.path().join("layout");
    let layers: Vec<_> = (0..5)
        .map(|n| tar(&[(&format!("file{n}"), &noise((1 << 20) + n))]))
        .collect();
    layout(&dir, "v1", &layers);
    let reference = registry.push(&dir, "v1", "app:1");
    let proxy = Proxy::start(registry.port, Spoil::StallAfter(200_000));
    let through = reference.replace(&registry.port.to_string(), &proxy.port.to_string());
    let request = PullRequest {
        parallel: Some(5),
        ..request(&through)
    };
    let images = store.images.clone();
    let task = tokio::spawn(async move { images.pull(request, &NoProgress).await });
    let folder = store.path("store/blobs/sha256");
    wait_for("five layers have begun", || {
        let names = folder.read_dir_utf8().unwrap();
        let partial =
            names.filter(|name| name.as_ref().unwrap().path().extension() == Some("partial"));
        partial.count() == 5
    });
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
}
