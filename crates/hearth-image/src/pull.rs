//! A pull: manifest, configuration, and layers that download in parallel while the lower ones
//! are being unpacked.

use camino::Utf8PathBuf;
use futures::{StreamExt as _, TryStreamExt as _};
use hearth_types::api::{ImportKind, RegistryAuth};
use hearth_types::ids::ImageId;
use hearth_types::image::ImageRecord;
use hearth_types::image_job::JobState;
use tokio::sync::mpsc;

use crate::build::{self, Ready, Recipe};
use crate::config::Details;
use crate::manifest::{Descriptor, Document, Manifest, Wanted};
use crate::name::Name;
use crate::origin::Origin;
use crate::progress::{Reporter, Resolved};
use crate::registry::Registry;
use crate::{ImageError, ImageStore, Reference, blob, s3};

/// Layers that download at the same time when nobody says how many, as docker does it.
pub(crate) const PARALLEL: usize = 3;

/// What to pull and how.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PullRequest {
    /// The reference, by docker.io's conventions, or `s3://bucket/key`.
    pub reference: String,
    /// `os/architecture[/variant]`; the host's when absent.
    pub platform: Option<String>,
    /// Allow plain HTTP for a registry that is not on loopback.
    pub plain_http: bool,
    /// Credentials; they are not kept.
    pub auth: Option<RegistryAuth>,
    /// A PEM file with certificates that are trusted beside the system's.
    pub ca: Option<Utf8PathBuf>,
    /// Layers that download at the same time; 3 when absent, at least one.
    pub parallel: Option<usize>,
    /// What kind of file an object of S3 is; guessed from its content when absent.
    pub kind: Option<ImportKind>,
    /// The digest that an object of S3 must have.
    pub digest: Option<String>,
    /// Where and as who objects of S3 are asked for.
    pub s3: hearth_s3::Settings,
}

pub(crate) async fn run(
    store: &ImageStore,
    request: PullRequest,
    resolved: Option<Resolved>,
    reporter: Reporter,
) -> Result<ImageRecord, ImageError> {
    match request.reference.parse()? {
        Name::Reference(reference) => {
            from_registry(store, request, reference, resolved, reporter).await
        }
        Name::Object(location) => s3::run(store, request, location, resolved, reporter).await,
    }
}

async fn from_registry(
    store: &ImageStore,
    request: PullRequest,
    reference: Reference,
    resolved: Option<Resolved>,
    reporter: Reporter,
) -> Result<ImageRecord, ImageError> {
    if request.digest.is_some() || request.kind.is_some() {
        return Err(ImageError::unsupported(
            reference.to_string(),
            "digest and kind are for objects of S3; a registry's image is pinned as NAME@sha256:…",
        ));
    }
    let wanted = Wanted::parse(request.platform.as_deref())?;
    reporter.stage(format!("Resolving {reference}"));
    let parallel = request.parallel.unwrap_or(PARALLEL).max(1);
    let mut registry = Registry::new(request, reference.clone())?;
    let known = resolved.and_then(|resolved| known(store, &reference, resolved));
    let (id, manifest) = match known {
        Some((id, manifest)) => {
            if !manifest.is_here(store) {
                // The client finds out how the registry is spoken to, and by whom.
                let limit = store.inner.limits.document;
                registry.manifest(Some(id.as_str()), limit).await?;
            }
            (id, manifest)
        }
        None => resolve(store, &mut registry, &reference, &wanted, &reporter).await?,
    };
    reporter.done(JobState::Resolve);
    let puller = Puller {
        store,
        origin: &Origin::Registry(Box::new(registry)),
        source: "registry",
        reporter: &reporter,
        parallel,
    };
    let name = Name::from(reference);
    let record = puller.pull(&name, &id, &manifest).await?;
    store.name(name, record.id).await
}

/// What an earlier daemon has found out.
pub(crate) fn known(
    store: &ImageStore,
    what: &impl ToString,
    resolved: Resolved,
) -> Option<(ImageId, Manifest)> {
    let Resolved::Manifest { digest, text } = resolved else {
        return None;
    };
    let right = crate::digest::of(text.as_bytes()) == digest.as_str();
    let parsed = Document::parse(&what.to_string(), text.as_bytes(), &store.inner.limits);
    match parsed {
        Ok(Document::Image(manifest)) if right => Some((digest, manifest)),
        _ => None,
    }
}

/// The manifest for the platform, and its digest, which is the image's id.
async fn resolve(
    store: &ImageStore,
    registry: &mut Registry,
    reference: &Reference,
    wanted: &Wanted,
    reporter: &Reporter,
) -> Result<(ImageId, Manifest), ImageError> {
    let limits = &store.inner.limits;
    let what = reference.to_string();
    let (mut bytes, mut digest) = registry.manifest(None, limits.document).await?;
    let manifest = match Document::parse(&what, &bytes, limits)? {
        Document::Image(manifest) => manifest,
        Document::Index(manifests) => {
            let chosen = wanted.choose(&what, &manifests)?;
            crate::digest::hex(&chosen.digest)?;
            (bytes, digest) = registry
                .manifest(Some(&chosen.digest), limits.document)
                .await?;
            match Document::parse(&what, &bytes, limits)? {
                Document::Image(manifest) => manifest,
                Document::Index(_) => {
                    return Err(ImageError::unsupported(what, "its index leads to an index"));
                }
            }
        }
    };
    let id: ImageId = digest
        .parse()
        .map_err(|e| ImageError::Volume(Box::new(e)))?;
    remember(reporter, &id, &bytes);
    Ok((id, manifest))
}

impl Manifest {
    /// Whether nothing has to be downloaded for it.
    fn is_here(&self, store: &ImageStore) -> bool {
        std::iter::once(&self.config)
            .chain(&self.layers)
            .all(|blob| {
                let path = store.inner.blob_path(&blob.digest);
                path.is_ok_and(|path| path.metadata().is_ok_and(|meta| meta.len() == blob.size))
            })
    }
}

/// Says what a name led to.
pub(crate) fn remember(reporter: &Reporter, id: &ImageId, manifest: &[u8]) {
    if let Ok(text) = String::from_utf8(manifest.to_vec()) {
        reporter.resolved(Resolved::Manifest {
            digest: id.clone(),
            text,
        });
    }
}

/// Gets the blobs of a manifest and builds its image.
pub(crate) struct Puller<'a> {
    pub(crate) store: &'a ImageStore,
    pub(crate) origin: &'a Origin,
    pub(crate) source: &'static str,
    pub(crate) reporter: &'a Reporter,
    pub(crate) parallel: usize,
}

impl Puller<'_> {
    /// The image of a manifest: the one that is here, or a new one.
    pub(crate) async fn pull(
        &self,
        name: &Name,
        id: &ImageId,
        manifest: &Manifest,
    ) -> Result<ImageRecord, ImageError> {
        match self.image(name, id, manifest).await {
            // Layers of an earlier time may have been damaged on the disk: get those again.
            Err(error) if self.drop_damaged(manifest).await? => {
                tracing::warn!(%name, %error, "a kept layer was damaged; downloading it again");
                self.image(name, id, manifest).await
            }
            result => result,
        }
    }

    async fn image(
        &self,
        name: &Name,
        id: &ImageId,
        manifest: &Manifest,
    ) -> Result<ImageRecord, ImageError> {
        let turn = self.store.turn_after(id.as_str(), self.reporter).await;
        if let Some(record) = self.store.whole(id).await? {
            return Ok(record);
        }
        let what = name.to_string();
        let place = self
            .reporter
            .queue(&self.store.inner.downloads, "a place among the downloads")
            .await?;
        let config = blob::document(self.store, self.origin, &manifest.config).await?;
        let details = Details::parse(&what, &config, manifest.layers.len())?;
        let shared = self.store.shared(&details).await?;
        // What is there already is not downloaded.
        let present = shared.as_ref().map_or(0, |shared| shared.present);
        for layer in &manifest.layers[..present] {
            let (name, size) = (blob::short(&layer.digest), layer.size);
            self.reporter.item(&name, "cached", size, Some(size));
        }
        self.reporter.stage(format!(
            "Pulling {} layers of {what}",
            manifest.layers.len() - present
        ));
        let recipe = Recipe {
            id: Some(id.clone()),
            source: self.source,
            details,
            blobs: std::iter::once(&manifest.config)
                .chain(&manifest.layers)
                .map(|blob| blob.digest.clone())
                .collect(),
            layers: manifest.layers.len(),
            expected: manifest.expected_size(),
            shared,
        };
        let (sender, layers) = mpsc::channel(self.parallel);
        let build = build::run(
            self.store,
            recipe,
            layers,
            vec![turn],
            self.reporter.clone(),
        );
        // When one of them fails, the other's failure is only a consequence. A build that
        // fails hangs up, which ends the downloads; downloads that fail drop the sender.
        let download = async {
            let _place = place;
            let downloaded = self.download(&manifest.layers[present..], sender).await;
            if downloaded.is_ok() {
                self.reporter.done(JobState::Download);
                // Each was compared with its digest as it came; kept ones are as they are unpacked.
                self.reporter.done(JobState::Verify);
            }
            downloaded
        };
        let (downloaded, built) = tokio::join!(download, build);
        match (downloaded, built) {
            (Err(error), Err(ImageError::Cancelled)) => Err(error),
            (_, built) => built,
        }
    }

    /// Removes kept layers that are not what their digests say; whether there were any.
    async fn drop_damaged(&self, manifest: &Manifest) -> Result<bool, ImageError> {
        let digests: Vec<String> = manifest
            .layers
            .iter()
            .map(|layer| layer.digest.clone())
            .collect();
        self.store
            .blocking(move |inner| {
                let mut any = false;
                for digest in &digests {
                    any |= blob::remove_if_damaged(&inner.blob_path(digest)?, digest)?;
                }
                Ok(any)
            })
            .await
    }

    async fn download(
        &self,
        layers: &[Descriptor],
        sender: mpsc::Sender<Ready>,
    ) -> Result<(), ImageError> {
        // Owned layers: closures over references make a future that no task takes.
        let downloads = futures::stream::iter(layers.to_vec())
            .map(|layer| async move {
                let blob = blob::ensure(self.store, self.origin, &layer, self.reporter).await?;
                Ok(Ready {
                    name: blob::short(&layer.digest),
                    source: Box::new(blob.file),
                    total: Some(layer.size),
                    packed_digest: (!blob.verified).then(|| layer.digest.clone()),
                    unpacked_digest: None,
                })
            })
            .buffered(self.parallel)
            .try_for_each(|ready| async {
                sender.send(ready).await.map_err(|_| ImageError::Cancelled)
            });
        tokio::select! {
            // The build has refused a layer: what is on its way is of no use.
            () = sender.closed() => Err(ImageError::Cancelled),
            done = downloads => done,
        }
    }
}
