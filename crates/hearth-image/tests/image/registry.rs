//! Pulls from a real registry. Needs root, docker-registry, skopeo and umoci.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::Ordering;

use crate::common::content::{layout, noise, request, tar};
use crate::common::proxy::{Proxy, Spoil};
use crate::common::registry::{Registry, need_tools, run};
use crate::common::{NoProgress, Store, line, need_root};
use camino::Utf8Path;
use hearth_image::ImageError;

fn three_layers() -> Vec<Vec<u8>> {
    vec![
        tar(&[
            ("etc/", ""),
            ("etc/passwd", "root"),
            ("etc/old", "gone soon"),
            ("usr/", ""),
            ("usr/lib/", ""),
            ("lib", "->usr/lib"),
            ("opaque/", ""),
            ("opaque/below", "hidden"),
            ("big", &noise(3 << 20)),
        ]),
        tar(&[
            ("etc/", ""),
            ("etc/.wh.old", ""),
            ("usr/lib/so", "library"),
            ("usr/lib/so.1", "=>usr/lib/so"),
            ("opaque/", ""),
            ("opaque/.wh..wh..opq", ""),
            ("opaque/above", "seen"),
        ]),
        tar(&[("etc/", ""), ("etc/passwd", "changed"), ("run/", "")]),
    ]
}

/// Every path below a folder with its attributes.
fn tree(root: &Path) -> BTreeMap<String, String> {
    let mut lines = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path
                .strip_prefix(root)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            lines.insert(name, line(Utf8Path::from_path(&path).unwrap()));
            if path.is_dir() && !path.is_symlink() {
                folders.push(path);
            }
        }
    }
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_equals_umoci() {
    if !need_root() || !need_tools() {
        return;
    }
    let (registry, store) = (Registry::start(), Store::new());
    let dir = store.dir.path().join("layout");
    layout(&dir, "v1", &three_layers());
    let reference = registry.push(&dir, "v1", "app:1");
    let record = store
        .images
        .pull(request(&reference), &NoProgress)
        .await
        .unwrap();
    assert_eq!(record.references, [reference.as_str()]);
    assert_eq!((record.layers, record.source.as_str()), (3, "registry"));
    assert_eq!(record.config.cmd, ["serve"]);
    assert_eq!(record.config.env, ["A=b"]);
    assert_eq!(record.config.user.as_deref(), Some("7:8"));
    assert_eq!(record.config.workdir.as_deref(), Some("/srv"));
    assert_eq!(record.config.exposed_ports, ["80/tcp"]);

    let rootfs = store.dir.path().join("rootfs");
    let image = format!("{}:v1", dir.display());
    run(
        "umoci",
        &["raw", "unpack", "--image", &image, rootfs.to_str().unwrap()],
    );
    let root = store.mount(&record.id);
    let (ours, theirs) = (tree(root.root.as_std_path()), tree(&rootfs));
    assert_eq!(ours, theirs);
    assert!(ours.contains_key("opaque/above") && !ours.contains_key("opaque/below"));
    root.check();

    // Again: everything is here, and so for another tag and a digest of the same image.
    let again = store
        .images
        .pull(request(&reference), &NoProgress)
        .await
        .unwrap();
    assert_eq!(again, record);
    let by_digest = format!("127.0.0.1:{}/app@{}", registry.port, record.id);
    let again = store
        .images
        .pull(request(&by_digest), &NoProgress)
        .await
        .unwrap();
    assert_eq!(again.references.len(), 2);
    // A layout is the same image, whatever way it comes.
    let path = Utf8Path::from_path(&dir).unwrap();
    let imported = store
        .images
        .import(path, "other:v1", None, &NoProgress)
        .await
        .unwrap();
    assert_eq!(imported.id, record.id);
    assert_eq!(store.images.list().await.unwrap(), [imported]);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_removal() {
    if !need_root() || !need_tools() {
        return;
    }
    let (registry, store) = (Registry::start(), Store::new());
    let dir = store.dir.path().join("layout");
    let layers = three_layers();
    layout(&dir, "one", &layers[..1]);
    layout(&dir, "two", &layers[..2]);
    let one = registry.push(&dir, "one", "app:one");
    let two = registry.push(&dir, "two", "app:two");
    let first = store.images.pull(request(&one), &NoProgress).await.unwrap();
    let second = store.images.pull(request(&two), &NoProgress).await.unwrap();
    let images = &store.images;
    assert_eq!(images.get(first.id.short()).await.unwrap().id, first.id);
    assert_eq!(images.get(first.id.as_str()).await.unwrap().id, first.id);
    assert_eq!(images.get(&two).await.unwrap().id, second.id);
    assert!(matches!(
        images.get("nothing").await,
        Err(ImageError::NotFound(_))
    ));
    images.tag(&one, "mine").await.unwrap();
    assert!(!images.remove(&one).await.unwrap());
    assert_eq!(
        images.get("mine").await.unwrap().references,
        ["docker.io/library/mine:latest"]
    );

    let blobs = || {
        std::fs::read_dir(store.path("store/blobs/sha256"))
            .unwrap()
            .count()
    };
    assert_eq!(
        blobs(),
        4,
        "two configurations, a shared layer and one more"
    );
    assert!(images.remove("mine").await.unwrap());
    assert_eq!(blobs(), 3, "the shared layer stays");
    assert!(matches!(
        images.get("mine").await,
        Err(ImageError::NotFound(_))
    ));
    // The names are on the disk.
    let again =
        hearth_image::ImageStore::open(&store.path("store"), hearth_image::Limits::default());
    assert_eq!(again.unwrap().get(&two).await.unwrap(), second);
    assert!(images.remove(second.id.as_str()).await.unwrap());
    assert_eq!(blobs(), 0);
    assert!(store.image_folders().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_is_resolved_by_platform() {
    if !need_root() || !need_tools() {
        return;
    }
    let (registry, store) = (Registry::start(), Store::new());
    let dir = store.dir.path().join("layout");
    layout(&dir, "amd", &[tar(&[("amd64", "")])]);
    layout(&dir, "arm", &[tar(&[("arm64", "")])]);
    let images: Vec<serde_json::Value> = index(&dir)["manifests"].as_array().unwrap().clone();
    let mut inner = serde_json::json!({"schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []});
    for (image, architecture) in images.iter().zip(["amd64", "arm64"]) {
        let mut image = image.clone();
        image.as_object_mut().unwrap().remove("annotations");
        image["platform"] = serde_json::json!({"os": "linux", "architecture": architecture});
        inner["manifests"].as_array_mut().unwrap().push(image);
    }
    let bytes = serde_json::to_vec(&inner).unwrap();
    let digest = sha256(&bytes);
    std::fs::write(dir.join("blobs/sha256").join(&digest), &bytes).unwrap();
    let outer = serde_json::json!({"schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "digest": format!("sha256:{digest}"), "size": bytes.len(),
        "annotations": {"org.opencontainers.image.ref.name": "multi"}}]});
    std::fs::write(dir.join("index.json"), outer.to_string()).unwrap();
    let reference = registry.push(&dir, "multi", "multi:1");

    let mut arm = request(&reference);
    arm.platform = Some("linux/arm64".to_owned());
    let arm = store.images.pull(arm, &NoProgress).await.unwrap();
    assert_eq!(tree(store.mount(&arm.id).root.as_std_path()).len(), 1);
    assert!(store.mount(&arm.id).root.join("arm64").exists());
    let mut riscv = request(&reference);
    riscv.platform = Some("linux/riscv64".to_owned());
    let error = store.images.pull(riscv, &NoProgress).await.unwrap_err();
    assert!(error.to_string().contains("linux/amd64"), "{error}");
    if std::env::consts::ARCH == "x86_64" {
        let host = store
            .images
            .pull(request(&reference), &NoProgress)
            .await
            .unwrap();
        assert!(store.mount(&host.id).root.join("amd64").exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_download_is_resumed() {
    if !need_root() || !need_tools() {
        return;
    }
    let (registry, store) = (Registry::start(), Store::new());
    let dir = store.dir.path().join("layout");
    layout(&dir, "v1", &three_layers());
    let reference = registry.push(&dir, "v1", "app:1");
    // The big layer has about 2.5 MiB packed: each connection brings a part of it.
    let proxy = Proxy::start(registry.port, Spoil::CutAfter(700_000));
    let through = reference.replace(&registry.port.to_string(), &proxy.port.to_string());
    let record = store
        .images
        .pull(request(&through), &NoProgress)
        .await
        .unwrap();
    assert_eq!(store.mount(&record.id).read("etc/passwd"), b"changed");
    assert!(proxy.connections.load(Ordering::SeqCst) > 4);
    // Resumed, not repeated: hardly more than the image itself went over the wire.
    let passed = proxy.bytes.load(Ordering::SeqCst);
    assert!(passed < 4 << 20, "{passed} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_brings_nothing_ends() {
    if !need_root() || !need_tools() {
        return;
    }
    let (registry, store) = (Registry::start(), Store::new());
    let dir = store.dir.path().join("layout");
    layout(&dir, "v1", &three_layers());
    let reference = registry.push(&dir, "v1", "app:1");
    let closed = reference.replace(&registry.port.to_string(), "1");
    let error = store
        .images
        .pull(request(&closed), &NoProgress)
        .await
        .unwrap_err();
    assert!(matches!(error, ImageError::Registry { .. }), "{error:?}");
    let missing = format!("{reference}-not-there");
    let error = store
        .images
        .pull(request(&missing), &NoProgress)
        .await
        .unwrap_err();
    assert!(matches!(error, ImageError::Registry { .. }), "{error:?}");
    assert!(store.image_folders().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn flipped_bits_are_found() {
    if !need_root() || !need_tools() {
        return;
    }
    let (registry, store) = (Registry::start(), Store::new());
    let dir = store.dir.path().join("layout");
    layout(&dir, "v1", &three_layers());
    let reference = registry.push(&dir, "v1", "app:1");
    let proxy = Proxy::start(registry.port, Spoil::FlipAt(1_000_000));
    let through = reference.replace(&registry.port.to_string(), &proxy.port.to_string());
    let error = store
        .images
        .pull(request(&through), &NoProgress)
        .await
        .unwrap_err();
    assert!(matches!(error, ImageError::Digest { .. }), "{error:?}");
    assert!(store.image_folders().is_empty());
    assert!(store.images.list().await.unwrap().is_empty());
    // The bad bytes are gone: the true registry's are taken whole.
    let record = store
        .images
        .pull(request(&reference), &NoProgress)
        .await
        .unwrap();
    assert_eq!(record.layers, 3);
}

/// A layer that was damaged on the disk since its download is not trusted.
#[tokio::test(flavor = "multi_thread")]
async fn kept_blobs_are_verified_again() {
    if !need_root() || !need_tools() {
        return;
    }
    let (registry, store) = (Registry::start(), Store::new());
    let dir = store.dir.path().join("layout");
    let layers = three_layers();
    layout(&dir, "one", &layers[..1]);
    layout(&dir, "two", &layers[..2]);
    let one = registry.push(&dir, "one", "app:one");
    let two = registry.push(&dir, "two", "app:two");
    store.images.pull(request(&one), &NoProgress).await.unwrap();
    let blobs = std::fs::read_dir(store.path("store/blobs/sha256")).unwrap();
    let big = blobs
        .map(|b| b.unwrap().path())
        .max_by_key(|p| p.metadata().unwrap().len())
        .unwrap();
    let mut bytes = std::fs::read(&big).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&big, bytes).unwrap();
    // It is downloaded again, and the image is the right one.
    let record = store.images.pull(request(&two), &NoProgress).await.unwrap();
    assert!(store.mount(&record.id).read("big") == noise(3 << 20).as_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pulls_of_one_image_are_one() {
    if !need_root() || !need_tools() {
        return;
    }
    let (registry, store) = (Registry::start(), Store::new());
    let dir = store.dir.path().join("layout");
    layout(&dir, "v1", &three_layers());
    let reference = registry.push(&dir, "v1", "app:1");
    let proxy = Proxy::start(registry.port, Spoil::FlipAt(usize::MAX));
    let through = reference.replace(&registry.port.to_string(), &proxy.port.to_string());
    let (a, b) = tokio::join!(
        store.images.pull(request(&through), &NoProgress),
        store.images.pull(request(&through), &NoProgress)
    );
    assert_eq!(a.unwrap(), b.unwrap());
    let passed = proxy.bytes.load(Ordering::SeqCst);
    assert!(passed < 4 << 20, "{passed} bytes: the layers came twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_archives_and_layout_tars() {
    if !need_root() || !need_tools() {
        return;
    }
    let store = Store::new();
    let dir = store.dir.path().join("layout");
    layout(&dir, "v1", &three_layers());
    let from = format!("oci:{}:v1", dir.display());
    let archive = store.path("saved.tar");
    run(
        "skopeo",
        &[
            "copy",
            "-q",
            &from,
            &format!("docker-archive:{archive}:app:1"),
        ],
    );
    let packed = store.path("layout.tar");
    run(
        "skopeo",
        &["copy", "-q", &from, &format!("oci-archive:{packed}:v1")],
    );
    let saved = store
        .images
        .import(&archive, "saved:1", None, &NoProgress)
        .await
        .unwrap();
    assert_eq!((saved.source.as_str(), saved.layers), ("docker-archive", 3));
    let layout = store
        .images
        .import(&packed, "packed:v1", None, &NoProgress)
        .await
        .unwrap();
    assert_eq!((layout.source.as_str(), layout.layers), ("oci-layout", 3));
    let ours = tree(store.mount(&saved.id).root.as_std_path());
    assert_eq!(ours, tree(store.mount(&layout.id).root.as_std_path()));
    assert!(ours.contains_key("usr/lib/so.1"));
}

fn index(layout: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(layout.join("index.json")).unwrap()).unwrap()
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    sha2::Sha256::digest(bytes)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}
