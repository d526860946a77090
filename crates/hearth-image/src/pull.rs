//! A pull: manifest, configuration, and layers that download in parallel while the lower ones
//! are being unpacked.

use camino::Utf8PathBuf;
use futures::{StreamExt as _, TryStreamExt as _};
use hearth_types::api::{ImportKind, RegistryAuth};
use hearth_types::ids::ImageId;
use hearth_types::image::ImageRecord;
use tokio::sync::mpsc;

use crate::build::{self, Ready, Recipe};
use crate::config::Details;
use crate::manifest::{Document, Manifest, Wanted};
use crate::name::Name;
use crate::origin::Origin;
use crate::progress::Reporter;
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
    reporter: Reporter,
) -> Result<ImageRecord, ImageError> {
    match request.reference.parse()? {
        Name::Reference(reference) => from_registry(store, request, reference, reporter).await,
        Name::Object(location) => s3::run(store, request, location, reporter).await,
    }
}

async fn from_registry(
    store: &ImageStore,
    request: PullRequest,
    reference: Reference,
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
    let (id, manifest) = resolve(store, &mut registry, &reference, &wanted).await?;
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

/// The manifest for the platform, and its digest, which is the image's id.
async fn resolve(
    store: &ImageStore,
    registry: &mut Registry,
    reference: &Reference,
    wanted: &Wanted,
) -> Result<(ImageId, Manifest), ImageError> {
    let limits = &store.inner.limits;
    let what = reference.to_string();
    let (bytes, mut digest) = registry.manifest(None, limits.document).await?;
    let manifest = match Document::parse(&what, &bytes, limits)? {
        Document::Image(manifest) => manifest,
        Document::Index(manifests) => {
            let chosen = wanted.choose(&what, &manifests)?;
            crate::digest::hex(&chosen.digest)?;
            let (bytes, chosen) = registry
                .manifest(Some(&chosen.digest), limits.document)
                .await?;
            digest = chosen;
            match Document::parse(&what, &bytes, limits)? {
                Document::Image(manifest) => manifest,
                Document::Index(_) => {
                    return Err(ImageError::unsupported(what, "its index leads to an index"));
                }
            }
        }
    };
    let id = digest
        .parse()
        .map_err(|e| ImageError::Volume(Box::new(e)))?;
    Ok((id, manifest))
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
        let turn = self.store.turn(id.as_str()).await;
        if let Some(record) = self.store.inner.find(id)? {
            return Ok(record);
        }
        let what = name.to_string();
        let config = blob::document(self.store, self.origin, &manifest.config).await?;
        let details = Details::parse(&what, &config, manifest.layers.len())?;
        self.reporter.stage(format!(
            "Pulling {} layers of {what}",
            manifest.layers.len()
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
        let (downloaded, built) = tokio::join!(self.download(manifest, sender), build);
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
        manifest: &Manifest,
        sender: mpsc::Sender<Ready>,
    ) -> Result<(), ImageError> {
        // Owned layers: closures over references make a future that no task takes.
        let downloads = futures::stream::iter(manifest.layers.clone())
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
