//! Images from a real S3 server: SeaweedFS on loopback. Needs root.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use camino::Utf8Path;
use hearth_image::{ImageError, PullRequest, S3Settings};
use hearth_types::problem::Code;

use crate::common::content::{layout, noise, tar};
use crate::common::proxy::{Proxy, Spoil};
use crate::common::registry::{need, need_tools};
use crate::common::{NoProgress, Store, need_root};
use crate::s3_server::{BUCKET, KEY, SECRET, Server};

/// A pull as somebody with this secret, through a port.
fn request(store: &Store, port: u16, key: &str, secret: &str) -> PullRequest {
    let file = store.path("credentials");
    let text = format!("[tester]\naws_access_key_id={KEY}\naws_secret_access_key={secret}\n");
    std::fs::write(&file, text).unwrap();
    PullRequest {
        reference: format!("s3://{BUCKET}/{key}"),
        s3: S3Settings {
            endpoint: Some(format!("http://127.0.0.1:{port}")),
            path_style: true,
            profile: Some("tester".to_owned()),
            credentials_file: Some(file.to_string()),
            ..S3Settings::default()
        },
        ..PullRequest::default()
    }
}

fn server() -> Option<Server> {
    need_root().then(Server::start).flatten()
}

/// A root filesystem that does not get smaller, with this in its file `version`.
fn rootfs(bytes: usize, version: &str) -> Vec<u8> {
    tar(&[("version", version), ("noise", &noise(bytes))])
}

/// Unfinished downloads and their bytes.
fn partials(store: &Utf8Path) -> (usize, u64) {
    let entries = store.join("blobs/sha256").read_dir_utf8();
    let sizes: Vec<u64> = entries
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().ends_with(".partial"))
        .filter_map(|entry| Some(entry.metadata().ok()?.len()))
        .collect();
    (sizes.len(), sizes.iter().sum())
}

fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < end, "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn digest(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    let hash = sha2::Sha256::digest(bytes);
    let digits: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{digits}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tar_is_pulled_once_and_again_when_it_changes() {
    let Some(server) = server() else {
        return;
    };
    let store = Store::new();
    let first = zstd::encode_all(&rootfs(300_000, "one")[..], 1).unwrap();
    server.put("node/5.tar.zst", &first);
    let proxy = Proxy::start(server.port, Spoil::FlipAt(usize::MAX));
    let request = request(&store, proxy.port, "node/5.tar.zst", SECRET);
    let record = store
        .images
        .pull(request.clone(), &NoProgress)
        .await
        .unwrap();
    assert_eq!(record.references, ["s3://images/node/5.tar.zst"]);
    assert_eq!(record.source, "rootfs-tar");
    assert_eq!(record.id.as_str(), digest(&first));
    let root = store.mount(&record.id);
    assert_eq!(root.read("version"), b"one");
    drop(root);
    // The tar itself is not kept.
    let blobs = store.path("store/blobs/sha256");
    assert_eq!(blobs.read_dir_utf8().unwrap().count(), 0);
    let found = store.images.get("s3://images/node/5.tar.zst").await;
    assert_eq!(found.unwrap().id, record.id);

    let before = proxy.bytes.load(Ordering::SeqCst);
    let again = store
        .images
        .pull(request.clone(), &NoProgress)
        .await
        .unwrap();
    assert_eq!(again.id, record.id);
    let passed = proxy.bytes.load(Ordering::SeqCst) - before;
    assert!(passed < 10_000, "{passed} bytes for an image that is here");

    server.put("node/5.tar.zst", &rootfs(1000, "two"));
    let changed = store.images.pull(request, &NoProgress).await.unwrap();
    assert_ne!(changed.id, record.id);
    assert_eq!(changed.references, ["s3://images/node/5.tar.zst"]);
    let old = store.images.get(record.id.as_str()).await.unwrap();
    assert!(old.references.is_empty());
    let gone = store.images.remove("s3://images/node/5.tar.zst").await;
    assert!(gone.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn layouts_and_disks() {
    let Some(server) = server() else {
        return;
    };
    if !need_tools() || !need(&["tar"]) {
        return;
    }
    let store = Store::new();
    let dir = store.dir.path().join("layout");
    layout(
        &dir,
        "v1",
        &[tar(&[("hello", "world")]), tar(&[("more", "yes")])],
    );
    put_folder(&server, &dir, "app");
    let by_prefix = request(&store, server.port, "app", SECRET);
    let record = store.images.pull(by_prefix, &NoProgress).await.unwrap();
    assert_eq!((record.layers, record.source.as_str()), (2, "oci-layout"));
    assert_eq!(store.mount(&record.id).read("more"), b"yes");

    let file = store.path("layout.tar");
    let packed = std::process::Command::new("tar")
        .args(["-C", dir.to_str().unwrap(), "-cf", file.as_str(), "."])
        .status();
    assert!(packed.unwrap().success());
    server.put("app.tar", &std::fs::read(&file).unwrap());
    let as_tar = PullRequest {
        // What `tar` puts first is the folder: no guess is made of that.
        kind: Some(hearth_types::api::ImportKind::OciLayout),
        ..request(&store, server.port, "app.tar", SECRET)
    };
    let same = store.images.pull(as_tar, &NoProgress).await.unwrap();
    assert_eq!(same.id, record.id);
    assert_eq!(same.references.len(), 2);

    let disk = store.path("disk.img");
    let made = std::process::Command::new("mkfs.ext4")
        .args(["-q", disk.as_str(), "4M"])
        .status();
    assert!(made.unwrap().success());
    let bytes = std::fs::read(&disk).unwrap();
    server.put("disk.img", &bytes);
    let as_disk = PullRequest {
        digest: Some(digest(&bytes)),
        ..request(&store, server.port, "disk.img", SECRET)
    };
    let record = store.images.pull(as_disk, &NoProgress).await.unwrap();
    assert_eq!(
        (record.source.as_str(), record.volume_bytes),
        ("disk", 4 << 20)
    );
}

fn put_folder(server: &Server, folder: &Path, key: &str) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let key = format!("{key}/{name}");
        if path.is_dir() {
            put_folder(server, &path, &key);
        } else {
            server.put(&key, &std::fs::read(&path).unwrap());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_end_at_once_and_leave_nothing() {
    let Some(server) = server() else {
        return;
    };
    let store = Store::new();
    server.put("a.tar", &rootfs(1000, "one"));
    let wrong = request(&store, server.port, "a.tar", "wrong-but-hidden");
    let error = store.images.pull(wrong, &NoProgress).await.unwrap_err();
    assert_eq!(error.code(), Code::Upstream);
    let text = format!("{error} {error:?} {:?}", error.hint());
    assert!(
        text.contains("SignatureDoesNotMatch") && text.contains("profile"),
        "{text}"
    );
    assert!(
        !text.contains("wrong-but-hidden") && !text.contains(KEY),
        "{text}"
    );

    let missing = request(&store, server.port, "none.tar", SECRET);
    let error = store.images.pull(missing, &NoProgress).await.unwrap_err();
    assert!(
        error.to_string().contains("has no s3://images/none.tar"),
        "{error}"
    );

    let digest = format!("sha256:{}", "0".repeat(64));
    let other = PullRequest {
        digest: Some(digest),
        ..request(&store, server.port, "a.tar", SECRET)
    };
    let error = store.images.pull(other, &NoProgress).await.unwrap_err();
    assert!(matches!(error, ImageError::Digest { .. }), "{error}");
    assert_eq!(partials(&store.path("store")), (0, 0));

    let port = server.port;
    drop(server);
    let nobody = request(&store, port, "a.tar", SECRET);
    let error = store.images.pull(nobody, &NoProgress).await.unwrap_err();
    assert_eq!(error.code(), Code::Upstream);
    assert!(store.image_folders().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_off_goes_on_and_a_flipped_bit_is_seen() {
    let Some(server) = server() else {
        return;
    };
    let store = Store::new();
    let content = rootfs(3 << 20, "one");
    server.put("a.tar", &content);
    let proxy = Proxy::start(server.port, Spoil::CutAfter(1 << 20));
    let through = request(&store, proxy.port, "a.tar", SECRET);
    let record = store.images.pull(through, &NoProgress).await.unwrap();
    assert_eq!(record.id.as_str(), digest(&content));
    let passed = proxy.bytes.load(Ordering::SeqCst);
    assert!(
        passed < 7 << 19,
        "{passed} bytes passed for {}",
        content.len()
    );
    drop(store);

    // One bit, and it is not what the server has the checksum of.
    let store = Store::new();
    let proxy = Proxy::start(server.port, Spoil::FlipAt(500_000));
    let through = request(&store, proxy.port, "a.tar", SECRET);
    let error = store.images.pull(through, &NoProgress).await.unwrap_err();
    assert!(error.to_string().contains("MD5 (ETag)"), "{error}");
    assert_eq!(partials(&store.path("store")), (0, 0));
    assert!(store.image_folders().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_changes_under_the_pull_is_begun_anew() {
    let Some(server) = server() else {
        return;
    };
    let store = Store::new();
    server.put("a.tar", &rootfs(8 << 20, "one"));
    // Forty ranges, a pause between each.
    let proxy = Proxy::start(server.port, Spoil::CutAfter(200_000));
    let through = request(&store, proxy.port, "a.tar", SECRET);
    let images = store.images.clone();
    let task = tokio::spawn(async move { images.pull(through, &NoProgress).await });
    let path = store.path("store");
    wait_for("some of it is here", || partials(&path).1 > 400_000);
    let content = rootfs(100_000, "two");
    server.put("a.tar", &content);
    let record = task.await.unwrap().unwrap();
    assert_eq!(record.id.as_str(), digest(&content));
    assert_eq!(store.mount(&record.id).read("version"), b"two");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_is_gone_on_with_when_it_is_back() {
    let Some(mut server) = server() else {
        return;
    };
    let store = Store::new();
    let content = rootfs(4 << 20, "one");
    server.put("a.tar", &content);
    let proxy = Proxy::start(server.port, Spoil::StallAfter(3 << 20));
    let through = request(&store, proxy.port, "a.tar", SECRET);
    let path = store.path("store");
    let (images, first) = (store.images.clone(), through.clone());
    let task = tokio::spawn(async move { images.pull(first, &NoProgress).await });
    wait_for("most of it is here", || partials(&path).1 > 5 << 19);
    server.kill();
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    let nobody = store.images.pull(through.clone(), &NoProgress).await;
    assert_eq!(nobody.unwrap_err().code(), Code::Upstream);
    let (count, kept) = partials(&path);
    assert!(count == 1 && kept > 5 << 19, "{count} {kept}");

    server.again();
    proxy.spoil(Spoil::FlipAt(usize::MAX));
    let before = proxy.bytes.load(Ordering::SeqCst);
    let record = store.images.pull(through, &NoProgress).await.unwrap();
    assert_eq!(record.id.as_str(), digest(&content));
    let passed = proxy.bytes.load(Ordering::SeqCst) - before;
    assert!(passed < 2 << 20, "{passed} bytes passed, {kept} were here");
}
