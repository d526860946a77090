//! Layers that images share, unpacked on the kernel's own thin devices: what it saves, beside images
//! that are unpacked whole and copied into the pool.

use std::sync::Arc;
use std::time::{Duration, Instant};

use camino::{Utf8Path, Utf8PathBuf};
use hearth_disk::{FileVolumes, Volumes as _};
use hearth_image::{ImageStore, Limits, NoProgress};
use hearth_pool::thin::{MemoryLedger, ThinGround};
use hearth_pool::{Choice, HostGround, ThinVolumes, Thins};
use hearth_types::api::ImportKind;
use hearth_types::image::ImageRecord;
use hearth_types::thin::ThinKind;
use hearth_types::units::{Bytes, MIB};

use super::figures::figure;
use super::pool_layers::PoolLayers;
use super::run::run;
use super::world::World;

/// Images that share a base.
const IMAGES: u64 = 4;
/// Bytes of the base, and of what each has of its own.
const BASE: u64 = 24 * MIB;
const OWN: u64 = 2 * MIB;

/// A tar with one file of noise, the same for the same name.
fn layer(folder: &Utf8Path, name: &str, bytes: u64) -> Utf8PathBuf {
    let tar = folder.join(format!("{name}.tar"));
    if tar.exists() {
        return tar;
    }
    let root = folder.join(format!("{name}.d"));
    std::fs::create_dir(&root).unwrap();
    let mut state = name
        .bytes()
        .fold(88_172_645_463_325_252_u64, |state, byte| {
            state.rotate_left(8) ^ u64::from(byte)
        });
    let noise: Vec<u8> = (0..bytes / 8)
        .flat_map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        })
        .collect();
    std::fs::write(root.join(name), noise).unwrap();
    run("tar", &["-cf", tar.as_str(), "-C", root.as_str(), "."]);
    tar
}

/// What `docker save` makes of these layers, as a folder.
fn saved(folder: &Utf8Path, name: &str, layers: &[Utf8PathBuf]) -> Utf8PathBuf {
    let image = folder.join(name);
    std::fs::create_dir_all(&image).unwrap();
    let (mut names, mut diff_ids) = (Vec::new(), Vec::new());
    for (at, layer) in layers.iter().enumerate() {
        let sum = run("sha256sum", &[layer.as_str()]);
        diff_ids.push(format!("sha256:{}", sum.split_once(' ').unwrap().0));
        names.push(format!("{at}.tar"));
        std::fs::copy(layer, image.join(&names[at])).unwrap();
    }
    let quoted = |list: &[String]| format!("[\"{}\"]", list.join("\",\""));
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":{}}}}}"#,
        quoted(&diff_ids)
    );
    std::fs::write(image.join("config.json"), config).unwrap();
    let manifest = format!(
        r#"[{{"Config":"config.json","RepoTags":null,"Layers":{}}}]"#,
        quoted(&names)
    );
    std::fs::write(image.join("manifest.json"), manifest).unwrap();
    image
}

struct Host {
    world: World,
    folder: Utf8PathBuf,
    volumes: ThinVolumes,
}

impl Host {
    async fn new() -> Option<Self> {
        if hearth_host::command::find("mke2fs").is_none() {
            println!("SKIP: mke2fs is not installed");
            return None;
        }
        let world = World::new()?;
        world.pool.setup(Some(Bytes::mib(512))).await.unwrap();
        let folder = world.pool.place().dir.parent().unwrap().join("host");
        std::fs::create_dir(&folder).unwrap();
        let ledger = Arc::new(MemoryLedger::default());
        let thins = Thins::new(world.pool.clone(), Arc::new(HostGround), ledger);
        let volumes = ThinVolumes::new(thins, Arc::new(FileVolumes::default()), Choice::Thin);
        Some(Self {
            world,
            folder,
            volumes,
        })
    }

    fn images(&self, shared: bool) -> ImageStore {
        let store = ImageStore::open(&self.folder.join("store"), Limits::default()).unwrap();
        match shared {
            true => {
                let layers = PoolLayers::new(self.volumes.clone(), self.folder.clone());
                store.with_layers(Arc::new(layers))
            }
            false => store,
        }
    }

    async fn import(&self, images: &ImageStore, number: u64) -> ImageRecord {
        let base = layer(&self.folder, "base", BASE);
        let own = layer(&self.folder, &format!("own{number}"), OWN);
        let name = format!("image{number}");
        let image = saved(&self.folder, &name, &[base, own]);
        let kind = Some(ImportKind::DockerArchive);
        let imported = images.import(&image, &name, kind, &NoProgress).await;
        imported.unwrap()
    }

    /// Imports all of them and makes a root disk of each; how long, and what the pool has used.
    async fn all(&self, shared: bool) -> (Duration, u64, Vec<ImageRecord>) {
        let images = self.images(shared);
        for number in 0..IMAGES {
            // What has to be made for the test is not measured.
            layer(&self.folder, "base", BASE);
            layer(&self.folder, &format!("own{number}"), OWN);
        }
        let begun = Instant::now();
        let mut records = Vec::new();
        for number in 0..IMAGES {
            let record = self.import(&images, number).await;
            let vm = self.folder.join(format!("vm{number}"));
            std::fs::create_dir(&vm).unwrap();
            let source = images.volume_path(&record.id);
            let size = Bytes(record.volume_bytes);
            let root = vm.join("root.img");
            let made = self.volumes.clone_from(&source, &root, size, 0).await;
            made.unwrap();
            records.push(record);
        }
        let took = begun.elapsed();
        let view = self.world.pool.view().await;
        (took, view.data.unwrap().used.unwrap(), records)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let place = self.world.pool.place();
        for active in HostGround.active(place).unwrap_or_default() {
            drop(HostGround.deactivate(place, active.id));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn images_that_share_a_base_share_its_blocks() {
    let Some(host) = Host::new().await else {
        return;
    };
    let (shared_took, shared_used, records) = host.all(true).await;
    let devices = host.volumes.thins().devices().await.unwrap();
    let count = |kind| devices.iter().filter(|it| it.kind == kind).count() as u64;
    assert_eq!(count(ThinKind::Layer), IMAGES + 1, "the base is there once");
    assert_eq!(count(ThinKind::Image), IMAGES);
    assert!(records.iter().all(|record| record.chain.len() == 2));
    // Each root disk is the whole image: mounted, it has both files as they were.
    for number in 0..IMAGES {
        let node = host.folder.join(format!("vm{number}/root.img"));
        let mounted = hearth_host::mount::DetachedExt4::mount(node.as_std_path(), &[]).unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&std::os::fd::AsFd::as_fd(&mounted));
        for name in ["base".to_owned(), format!("own{number}")] {
            let read = std::fs::read(format!("/proc/self/fd/{fd}/{name}")).unwrap();
            let was = std::fs::read(host.folder.join(format!("{name}.d/{name}"))).unwrap();
            assert!(read == was, "{name} of image {number}");
        }
    }
    drop(host);

    let Some(host) = Host::new().await else {
        return;
    };
    let (whole_took, whole_used, records) = host.all(false).await;
    assert!(records.iter().all(|record| record.chain.is_empty()));
    let what = format!(
        "{IMAGES} images of {} MiB on a base of {} MiB",
        OWN / MIB,
        BASE / MIB
    );
    for (how, used, took) in [
        ("shared", shared_used, shared_took),
        ("whole", whole_used, whole_took),
    ] {
        let used = used as f64 / MIB as f64;
        figure(&format!("{what}, {how}: room"), used, "MiB");
        figure(
            &format!("{what}, {how}: time"),
            took.as_secs_f64() * 1e3,
            "ms",
        );
    }
    assert!(shared_used + (IMAGES - 1) * BASE / 2 < whole_used);
}
