//! Imports from files of this host.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use camino::{Utf8Path, Utf8PathBuf};
use hearth_types::api::ImportKind;
use hearth_types::ids::ImageId;
use hearth_types::image::ImageRecord;
use hearth_types::image_job::JobState;
use jiff::Timestamp;
use tokio::sync::mpsc;

use crate::build::{self, Ready, Recipe};
use crate::bundle::Bundle;
use crate::config::Details;
use crate::decompress::Packing;
use crate::name::Name;
use crate::progress::Reporter;
use crate::store::{Inner, Sealed, VOLUME, disk_bytes};
use crate::{ImageError, ImageStore, archive, disk, layout};

/// A layered image in a file, ready to be built.
pub(crate) struct Plan {
    recipe: Recipe,
    layers: Vec<Ready>,
}

impl Plan {
    pub(crate) fn new(id: ImageId, source: &'static str, details: Details, expected: u64) -> Self {
        Self {
            recipe: Recipe {
                id: Some(id),
                source,
                details,
                blobs: Vec::new(),
                layers: 0,
                expected,
                shared: None,
            },
            layers: Vec::new(),
        }
    }

    pub(crate) fn layer(
        &mut self,
        name: String,
        source: Box<dyn Read + Send>,
        size: u64,
        packed_digest: Option<String>,
        unpacked_digest: Option<String>,
    ) {
        self.recipe.layers += 1;
        self.layers.push(Ready {
            name,
            source,
            total: Some(size),
            packed_digest,
            unpacked_digest,
        });
    }
}

pub(crate) async fn run(
    store: &ImageStore,
    path: &Utf8Path,
    reference: &str,
    kind: Option<ImportKind>,
    reporter: Reporter,
) -> Result<ImageRecord, ImageError> {
    let name = Name::Reference(reference.parse()?);
    reporter.stage(format!("Reading {path}"));
    let file_name = path.file_name();
    let source = Source {
        path,
        shown: file_name.unwrap_or("file"),
        name: &name,
        kind,
    };
    let record = file(store, source, reporter).await?;
    store.name(name, record.id).await
}

/// A file or folder that becomes an image.
pub(crate) struct Source<'a> {
    pub(crate) path: &'a Utf8Path,
    /// What it is called in reports of progress.
    pub(crate) shown: &'a str,
    /// The name that the image will have.
    pub(crate) name: &'a Name,
    /// Guessed when absent.
    pub(crate) kind: Option<ImportKind>,
}

/// The image that a file or folder is.
pub(crate) async fn file(
    store: &ImageStore,
    source: Source<'_>,
    reporter: Reporter,
) -> Result<ImageRecord, ImageError> {
    let Source {
        path,
        shown,
        name,
        kind,
    } = source;
    let kind = match kind {
        Some(kind) => kind,
        None => {
            let path = path.to_owned();
            store.blocking(move |_| guess(&path)).await?
        }
    };
    match kind {
        ImportKind::Disk => import_disk(store, path, shown, reporter).await,
        ImportKind::RootfsTar => {
            let plan = rootfs(path, shown)?;
            build_plan(store, plan, reporter).await
        }
        ImportKind::OciLayout | ImportKind::DockerArchive => {
            let (owned, named) = (path.to_owned(), name.clone());
            let plan = store
                .blocking(move |inner| bundled(inner, &owned, &named, kind))
                .await?;
            build_plan(store, plan, reporter).await
        }
    }
}

fn bundled(
    inner: &Inner,
    path: &Utf8Path,
    name: &Name,
    kind: ImportKind,
) -> Result<Plan, ImageError> {
    let bundle = Bundle::open(path, &inner.limits)?;
    // `docker save` since version 25 writes an archive that is a layout, too.
    if kind == ImportKind::DockerArchive && bundle.has("manifest.json") {
        return archive::plan(path, &bundle, name, &inner.limits);
    }
    layout::plan(path, bundle, name, &inner.limits)
}

async fn build_plan(
    store: &ImageStore,
    mut plan: Plan,
    reporter: Reporter,
) -> Result<ImageRecord, ImageError> {
    let mut turns = Vec::new();
    if let Some(id) = &plan.recipe.id {
        turns.push(store.turn(id.as_str()).await);
        if let Some(record) = store.whole(id).await? {
            return Ok(record);
        }
        plan.recipe.shared = store.shared(&plan.recipe.details).await?;
    }
    let present = plan.recipe.shared.as_ref().map_or(0, |it| it.present);
    reporter.done(JobState::Verify);
    let (sender, layers) = mpsc::channel(plan.layers.len().max(1));
    for ready in plan.layers.into_iter().skip(present) {
        // The channel has room for all of them.
        drop(sender.try_send(ready));
    }
    drop(sender);
    build::run(store, plan.recipe, layers, turns, reporter).await
}

fn rootfs(path: &Utf8Path, shown: &str) -> Result<Plan, ImageError> {
    let file = File::open(path).map_err(ImageError::file("open", path))?;
    let size = file
        .metadata()
        .map_err(ImageError::file("read", path))?
        .len();
    let mut head = [0_u8; 6];
    let have = file
        .read_at(&mut head, 0)
        .map_err(ImageError::file("read", path))?;
    let expected = match Packing::of(&head[..have]) {
        Packing::Plain => size,
        _ => size.saturating_mul(5) / 2,
    };
    let mut plan = Plan {
        recipe: Recipe {
            id: None,
            source: "rootfs-tar",
            details: Details::unknown(Details::host_architecture()),
            blobs: Vec::new(),
            layers: 0,
            expected,
            shared: None,
        },
        layers: Vec::new(),
    };
    plan.layer(shown.to_owned(), Box::new(file), size, None, None);
    Ok(plan)
}

/// What the file or folder is, by its content.
fn guess(path: &Utf8Path) -> Result<ImportKind, ImageError> {
    if path.is_dir() {
        if path.join("oci-layout").is_file() {
            return Ok(ImportKind::OciLayout);
        }
        return Err(ImageError::unsupported(
            path.as_str(),
            "it is a folder, but not an OCI layout; pack a root filesystem with tar first",
        ));
    }
    let file = File::open(path).map_err(ImageError::file("open", path))?;
    let mut head = [0_u8; 4096];
    let have = file
        .read_at(&mut head, 0)
        .map_err(ImageError::file("read", path))?;
    if Packing::of(&head[..have]) != Packing::Plain {
        return Ok(ImportKind::RootfsTar);
    }
    // ustar's magic; a tar without it is older than any image.
    if have >= 512 && &head[257..262] == b"ustar" {
        let end = head[..100].iter().position(|b| *b == 0).unwrap_or(100);
        return Ok(tar_kind(&head[..end]));
    }
    // The check for a disk says what else it may be.
    Ok(ImportKind::Disk)
}

/// What a tar is, by the name of its first entry. No root filesystem starts like these.
fn tar_kind(first: &[u8]) -> ImportKind {
    let first = first.strip_prefix(b"./").unwrap_or(first);
    let digits = first.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    if first.starts_with(b"oci-layout") || first.starts_with(b"index.json") {
        ImportKind::OciLayout
    } else if digits >= 64
        || first.starts_with(b"blobs/")
        || first.starts_with(b"manifest.json")
        || first.starts_with(b"repositories")
    {
        // A layout, if there is no manifest.json in it.
        ImportKind::DockerArchive
    } else {
        ImportKind::RootfsTar
    }
}

/// Sets a flag when the asker's future is dropped.
struct Flag(Arc<AtomicBool>);

impl Drop for Flag {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

async fn import_disk(
    store: &ImageStore,
    path: &Utf8Path,
    shown: &str,
    reporter: Reporter,
) -> Result<ImageRecord, ImageError> {
    let shown = shown.to_owned();
    let cancelled = Arc::new(AtomicBool::new(false));
    let _flag = Flag(Arc::clone(&cancelled));
    let path = path.to_owned();
    reporter.done(JobState::Verify);
    let place = reporter
        .queue(&store.inner.unpacks, "a place to unpack")
        .await?;
    store
        .blocking(move |inner| {
            let _place = place;
            copy_disk(inner, &path, &shown, &cancelled, &reporter)
        })
        .await
}

fn copy_disk(
    inner: &Inner,
    path: &Utf8Path,
    shown: &str,
    cancelled: &AtomicBool,
    reporter: &Reporter,
) -> Result<ImageRecord, ImageError> {
    let mut file = File::open(path).map_err(ImageError::file("open", path))?;
    let size = disk::check(path, &file, &inner.limits)?;
    let folder = inner.temporary()?;
    let volume = Utf8PathBuf::try_from(folder.path().join(VOLUME))
        .map_err(|e| ImageError::Volume(Box::new(e)))?;
    let digest = disk::copy(&mut file, &volume, size, cancelled, |done| {
        reporter.item(shown, "unpack", done, Some(size));
    })?;
    reporter.done(JobState::Unpack);
    let details = Details::unknown(Details::host_architecture());
    let id = digest
        .parse()
        .map_err(|e| ImageError::Volume(Box::new(e)))?;
    if let Some(record) = inner.find(&id)? {
        return Ok(record);
    }
    let sealed = Sealed {
        record: ImageRecord {
            id,
            references: Vec::new(),
            source: "disk".to_owned(),
            architecture: details.architecture,
            created: None,
            imported_at: Timestamp::now(),
            volume_bytes: size,
            disk_bytes: disk_bytes(&volume)?,
            layers: 1,
            config: details.config,
            origin: None,
            chain: Vec::new(),
        },
        blobs: Vec::new(),
    };
    inner.seal(folder, &sealed)?;
    Ok(sealed.record)
}
