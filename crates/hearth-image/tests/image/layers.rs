//! Layers that images share: unpacked once, and the same files as in an image that is unpacked whole.
//! Needs root.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use hearth_image::{ImageStore, LayerDevice, Layers, Limits};
use hearth_types::api::ImportKind;
use hearth_types::image::ImageRecord;
use hearth_types::problem::Problem;
use sha2::{Digest as _, Sha256};

use crate::common::content::{noise, tar};
use crate::common::{NoProgress, Store, need_root};

/// Layers in files: what the pool does with devices.
#[derive(Default)]
struct Files {
    folder: Utf8PathBuf,
    sealed: Mutex<BTreeMap<String, Utf8PathBuf>>,
    begun: AtomicUsize,
    given_up: AtomicUsize,
    grown: AtomicUsize,
    off: AtomicBool,
}

struct Door(Arc<Files>);

struct Device {
    files: Arc<Files>,
    key: String,
    node: Utf8PathBuf,
}

#[async_trait]
impl Layers for Door {
    async fn wanted(&self) -> bool {
        !self.0.off.load(Ordering::SeqCst)
    }

    async fn present(&self, chain: &[String]) -> Result<usize, Problem> {
        let sealed = self.0.sealed.lock().unwrap();
        let whole = chain.iter().take_while(|key| sealed.contains_key(*key));
        Ok(whole.count())
    }

    async fn begin(
        &self,
        layer: &str,
        below: Option<&str>,
        bytes: u64,
    ) -> Result<Arc<dyn LayerDevice>, Problem> {
        let number = self.0.begun.fetch_add(1, Ordering::SeqCst);
        let node = self.0.folder.join(format!("layer-{number}"));
        match below {
            Some(below) => {
                let below = self.0.sealed.lock().unwrap()[below].clone();
                fs::copy(below, &node).unwrap();
            }
            None => File::create(&node).unwrap().set_len(bytes).unwrap(),
        }
        Ok(Arc::new(Device {
            files: Arc::clone(&self.0),
            key: layer.to_owned(),
            node,
        }))
    }

    async fn image(&self, top: &str, volume: &Utf8Path) -> Result<u64, Problem> {
        let top = self.0.sealed.lock().unwrap()[top].clone();
        Ok(fs::copy(top, volume).unwrap())
    }

    async fn holds(&self, volume: &Utf8Path) -> Result<bool, Problem> {
        Ok(volume.exists())
    }

    async fn give_up(&self, volume: &Utf8Path) {
        drop(fs::remove_file(volume));
    }
}

#[async_trait]
impl LayerDevice for Device {
    fn node(&self) -> &Utf8Path {
        &self.node
    }

    async fn bytes(&self) -> u64 {
        self.node.metadata().unwrap().len()
    }

    async fn grow(&self, bytes: u64) -> Result<(), Problem> {
        self.files.grown.fetch_add(1, Ordering::SeqCst);
        let file = File::options().write(true).open(&self.node).unwrap();
        file.set_len(bytes).unwrap();
        Ok(())
    }

    async fn seal(&self) -> Result<(), Problem> {
        let mut sealed = self.files.sealed.lock().unwrap();
        sealed.insert(self.key.clone(), self.node.clone());
        Ok(())
    }

    async fn give_up(&self) {
        self.files.given_up.fetch_add(1, Ordering::SeqCst);
        fs::remove_file(&self.node).unwrap();
    }
}

/// A store whose layers are shared, and where they are.
fn shared(store: &Store) -> (ImageStore, Arc<Files>) {
    let folder = store.path("layers");
    fs::create_dir(&folder).unwrap();
    let files = Arc::new(Files {
        folder,
        ..Files::default()
    });
    let opened = ImageStore::open(&store.path("shared"), Limits::default()).unwrap();
    let door = Arc::new(Door(Arc::clone(&files)));
    (opened.with_layers(door), files)
}

fn digest(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// What `docker save` makes of these layers, as a folder. `diff_ids` may be something else than they are.
fn saved(store: &Store, name: &str, layers: &[&[u8]], diff_ids: &[String]) -> Utf8PathBuf {
    let folder = store.path(name);
    fs::create_dir(&folder).unwrap();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": { "Cmd": ["serve", name] },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let mut names = Vec::new();
    for (at, layer) in layers.iter().enumerate() {
        let file = format!("{at}.tar");
        fs::write(folder.join(&file), layer).unwrap();
        names.push(file);
    }
    let manifest =
        serde_json::json!([{ "Config": "config.json", "RepoTags": null, "Layers": names }]);
    fs::write(folder.join("manifest.json"), manifest.to_string()).unwrap();
    folder
}

async fn import(images: &ImageStore, store: &Store, name: &str, layers: &[&[u8]]) -> ImageRecord {
    let diff_ids: Vec<_> = layers.iter().map(|layer| digest(layer)).collect();
    let path = store.path(name);
    let folder = match path.exists() {
        true => path,
        false => saved(store, name, layers, &diff_ids),
    };
    let kind = Some(ImportKind::DockerArchive);
    let imported = images
        .import(&folder, &format!("{name}:1"), kind, &NoProgress)
        .await;
    imported.unwrap()
}

/// Everything in a volume: path, and what there is.
fn tree(volume: &Utf8Path, at: &Utf8Path) -> Vec<String> {
    let file = File::options().read(true).write(true).open(volume).unwrap();
    let device = hearth_host::loopdev::LoopDevice::attach(std::os::fd::AsFd::as_fd(&file)).unwrap();
    let mount = hearth_host::mount::DetachedExt4::mount(device.path(), &[("ro", "")]);
    let mount = mount.unwrap();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&std::os::fd::AsFd::as_fd(&mount));
    let mut lines = Vec::new();
    walk(
        &Utf8PathBuf::from(format!("/proc/self/fd/{fd}")),
        at,
        &mut lines,
    );
    lines.sort();
    drop(mount);
    drop(device);
    lines
}

fn walk(root: &Utf8Path, below: &Utf8Path, lines: &mut Vec<String>) {
    for entry in root.join(below).read_dir_utf8().unwrap() {
        let entry = entry.unwrap();
        let path = below.join(entry.file_name());
        let full = root.join(&path);
        lines.push(format!("{path} {}", crate::common::line(&full)));
        if entry.file_type().unwrap().is_dir() {
            walk(root, &path, lines);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn images_that_share_a_base_unpack_it_once_and_are_what_they_would_be_whole() {
    if !need_root() {
        return;
    }
    let store = Store::new();
    let (images, files) = shared(&store);
    let big = noise(6 << 20);
    let base = tar(&[
        ("etc/", ""),
        ("etc/keep", "1"),
        ("etc/gone", "2"),
        ("big", &big),
    ]);
    let middle = tar(&[
        ("etc/", ""),
        ("etc/.wh.gone", ""),
        ("etc/link", "->keep"),
        ("opt/", ""),
        ("opt/a", "a"),
    ]);
    let one = tar(&[("one", "1"), ("opt/.wh..wh..opq", ""), ("opt/b", "b")]);
    let two = tar(&[("two", "2"), (".wh.big", "")]);
    let first = import(&images, &store, "first", &[&base, &middle, &one]).await;
    assert_eq!(
        (first.chain.len(), files.begun.load(Ordering::SeqCst)),
        (3, 3)
    );
    let second = import(&images, &store, "second", &[&base, &middle, &two]).await;
    assert_eq!(second.chain[..2], first.chain[..2]);
    assert_ne!(second.chain[2], first.chain[2]);
    assert_eq!(files.begun.load(Ordering::SeqCst), 4, "one layer is new");
    // The same top on another base is another layer.
    import(&images, &store, "third", &[&middle, &one]).await;
    assert_eq!(files.begun.load(Ordering::SeqCst), 6);

    for (name, layers, record) in [
        ("first", [&base, &middle, &one], &first),
        ("second", [&base, &middle, &two], &second),
    ] {
        let layers = layers.map(|layer| layer.as_slice());
        let whole = import(&store.images, &store, name, &layers).await;
        assert_eq!(
            (whole.id.clone(), whole.config.clone()),
            (record.id.clone(), record.config.clone())
        );
        let root = Utf8Path::new("");
        let shared = tree(&images.volume_path(&record.id), root);
        assert_eq!(shared, tree(&store.images.volume_path(&whole.id), root));
        assert!(shared.iter().any(|line| line.starts_with("etc/keep")));
        assert!(!shared.iter().any(|line| line.starts_with("etc/gone")));
    }
    assert_eq!(files.given_up.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_grows_as_it_fills_and_those_above_begin_as_large() {
    if !need_root() {
        return;
    }
    let store = Store::new();
    let (images, files) = shared(&store);
    let big = noise(40 << 20);
    let entries: Vec<_> = (0..7).map(|at| format!("f{at}")).collect();
    let entries: Vec<_> = entries
        .iter()
        .map(|name| (name.as_str(), big.as_str()))
        .collect();
    let base = tar(&entries);
    let top = tar(&[("top", "1")]);
    let image = import(&images, &store, "large", &[&base, &top]).await;
    assert!(files.grown.load(Ordering::SeqCst) > 0);
    assert!(image.volume_bytes > 7 * (40 << 20));
    let lines = tree(&images.volume_path(&image.id), Utf8Path::new(""));
    assert_eq!(lines.len(), 8, "{lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_what_somebody_else_gave_out_for_a_layer() {
    if !need_root() {
        return;
    }
    let store = Store::new();
    let (images, files) = shared(&store);
    let good = tar(&[("bin/", ""), ("bin/sh", "good")]);
    let bad = tar(&[("bin/", ""), ("bin/sh", "evil")]);
    // An image that says of a bad layer that it is the good one.
    let folder = saved(&store, "liar", &[&bad], &[digest(&good)]);
    let kind = Some(ImportKind::DockerArchive);
    let refused = images.import(&folder, "liar:1", kind, &NoProgress).await;
    assert!(refused.unwrap_err().to_string().contains("digest"));
    assert_eq!(files.given_up.load(Ordering::SeqCst), 1);
    assert!(files.sealed.lock().unwrap().is_empty());
    let honest = import(&images, &store, "honest", &[&good]).await;
    let lines = tree(&images.volume_path(&honest.id), Utf8Path::new(""));
    assert_eq!(lines.len(), 2, "{lines:?}");
    let left = fs::read_dir(store.path("shared/images")).unwrap().count();
    assert_eq!(left, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_at_once_unpack_a_layer_once_and_an_image_that_was_lost_is_made_again() {
    if !need_root() {
        return;
    }
    let store = Store::new();
    let (images, files) = shared(&store);
    let big = noise(4 << 20);
    let base = tar(&[("big", &big)]);
    let (one, two) = (tar(&[("one", "1")]), tar(&[("two", "2")]));
    let layers: [&[u8]; 2] = [&base, &one];
    let others: [&[u8]; 2] = [&base, &two];
    let (first, _) = tokio::join!(
        import(&images, &store, "first", &layers),
        import(&images, &store, "second", &others),
    );
    assert_eq!(files.begun.load(Ordering::SeqCst), 3);
    // The pool was lost, with all that was in it.
    fs::remove_file(images.volume_path(&first.id)).unwrap();
    files.sealed.lock().unwrap().clear();
    let again = import(&images, &store, "first", &layers).await;
    assert_eq!(again.id, first.id);
    assert_eq!(files.begun.load(Ordering::SeqCst), 5);
    assert!(images.volume_path(&first.id).exists());
    // Where they are not wanted, images are unpacked whole.
    files.off.store(true, Ordering::SeqCst);
    let whole = import(&images, &store, "third", &[&base, &one, &two]).await;
    assert!(whole.chain.is_empty() && whole.disk_bytes > 0);
    assert_eq!(files.begun.load(Ordering::SeqCst), 5);
}
