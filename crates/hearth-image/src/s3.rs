//! Images from S3: an object that is a file of a kind that imports take, or an OCI layout below
//! a key.
//!
//! ```text
//!  head ─► same place, ETag and size as before? ─► the image that came of it
//!    │ no
//!    ▼
//!  blobs/sha256/ID.partial ─► blobs/sha256/DIGEST ─► import ─► image; the blob goes
//! ```
//! `ID` is made of place, ETag and size: what is left of another object is never resumed. What
//! came of an object is written down in `objects/ID.json`.

use std::fs::{self, File};

use camino::{Utf8Path, Utf8PathBuf};
use hearth_s3::{Bucket, Checksums, Host, Location, Object, S3Error, Settings};
use hearth_types::api::ImportKind;
use hearth_types::ids::ImageId;
use hearth_types::image::ImageRecord;
use hearth_types::image_job::JobState;
use serde::{Deserialize, Serialize};

use crate::download::{Download, Downloaded};
use crate::manifest::{Descriptor, Document, Manifest, Wanted};
use crate::name::Name;
use crate::origin::{Fetch, Origin};
use crate::progress::{Reporter, Resolved};
use crate::pull::{PARALLEL, Puller, known, remember};
use crate::registry::{ATTEMPTS, pause};
use crate::store::{Inner, replace_durably};
use crate::{ImageError, ImageStore, PullRequest, blob, digest, import, layout};

/// How often an object may change under a pull before it is given up.
const CHANGES: u32 = 3;

pub(crate) async fn run(
    store: &ImageStore,
    request: PullRequest,
    location: Location,
    resolved: Option<Resolved>,
    reporter: Reporter,
) -> Result<ImageRecord, ImageError> {
    if let Some(expected) = &request.digest {
        digest::hex(expected)?;
    }
    let settings = Settings {
        ca: request.ca.as_ref().map(Utf8PathBuf::to_string),
        ..request.s3.clone()
    };
    let bucket = Bucket::of(&location, &settings, &Host)?;
    reporter.stage(format!("Resolving {location}"));
    let name = Name::Object(location.clone());
    let mut changes = 0;
    let mut known = resolved.and_then(|resolved| here(store, &location, resolved));
    let record = loop {
        let found = match known.take() {
            Some(known) => known,
            None => find(&bucket, &location).await?,
        };
        let pulled = match found {
            Found::Object(object) => {
                let source = Source {
                    store,
                    request: &request,
                    bucket: &bucket,
                    location: &location,
                    object,
                    reporter: &reporter,
                };
                source.pull(&name).await
            }
            Found::Layout(manifest) => {
                let bucket = Bucket::of(&location, &settings, &Host)?;
                let origin = Origin::Layout(bucket, location.clone());
                let known = manifest.map(|manifest| *manifest);
                pull_layout(store, &request, &name, &origin, known, &reporter).await
            }
        };
        match pulled {
            Err(ImageError::S3(error)) if matches!(*error, S3Error::Changed { .. }) => {
                changes += 1;
                if changes == CHANGES {
                    return Err(ImageError::S3(error));
                }
                tracing::warn!(%location, "the object was changed while it came; beginning anew");
            }
            pulled => break pulled?,
        }
    };
    store.name(name, record.id).await
}

enum Found {
    Object(Object),
    /// With its manifest, if an earlier daemon has found that out.
    Layout(Option<Box<(ImageId, Manifest)>>),
}

/// What an earlier daemon has found out, if what it needs is here.
fn here(store: &ImageStore, location: &Location, resolved: Resolved) -> Option<Found> {
    match resolved {
        Resolved::Object { id, etag, size } => {
            let outcome = store.inner.outcome(&id).ok()??;
            let blob = store.inner.blob_path(&outcome.digest).ok()?;
            // Without the file it has to be asked for again: its checksums are the server's to say.
            blob.is_file().then_some(Found::Object(Object {
                size,
                etag,
                checksums: Checksums::default(),
            }))
        }
        manifest => {
            known(store, location, manifest).map(|known| Found::Layout(Some(Box::new(known))))
        }
    }
}

/// What is at a location. A layout has no object of its own name.
async fn find(bucket: &Bucket, location: &Location) -> Result<Found, ImageError> {
    if location.is_folder() {
        return Ok(Found::Layout(None));
    }
    match head(bucket, location.key()).await {
        Ok(object) => Ok(Found::Object(object)),
        Err(missing @ S3Error::NotFound { .. }) => {
            match head(bucket, location.below("index.json").key()).await {
                Ok(_) => Ok(Found::Layout(None)),
                Err(_) => Err(missing.into()),
            }
        }
        Err(error) => Err(error.into()),
    }
}

async fn head(bucket: &Bucket, key: &str) -> Result<Object, S3Error> {
    let mut attempt = 1;
    loop {
        match bucket.head(key).await {
            Err(error) if error.is_temporary() && attempt < ATTEMPTS => {
                tracing::debug!(key, attempt, %error, "no answer yet");
                pause(attempt).await;
                attempt += 1;
            }
            answer => return answer,
        }
    }
}

/// One object, as it was when it was looked at.
struct Source<'a> {
    store: &'a ImageStore,
    request: &'a PullRequest,
    bucket: &'a Bucket,
    location: &'a Location,
    object: Object,
    reporter: &'a Reporter,
}

/// What came of an object: `objects/ID.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// For people.
    location: String,
    pub(crate) digest: String,
    image: Option<ImageId>,
}

impl Source<'_> {
    async fn pull(&self, name: &Name) -> Result<ImageRecord, ImageError> {
        let limit = self.store.inner.limits.download;
        if self.object.size > limit {
            return Err(ImageError::Limit {
                what: self.location.to_string(),
                limit,
                unit: "bytes",
            });
        }
        let id = self.id();
        self.reporter.resolved(Resolved::Object {
            id: id.clone(),
            etag: self.object.etag.clone(),
            size: self.object.size,
        });
        self.reporter.done(JobState::Resolve);
        let _turn = self.store.turn_after(&id, self.reporter).await;
        let known = self.store.inner.outcome(&id)?;
        if let Some(outcome) = &known {
            self.expect(&outcome.digest)?;
            let image = outcome.image.as_ref();
            let image = image.map(|image| self.store.inner.find(image));
            if let Some(record) = image.transpose()?.flatten() {
                return Ok(record);
            }
        }
        let kept = match known {
            Some(outcome) => self.kept(outcome.digest).await?,
            None => None,
        };
        let digest = match kept {
            Some(digest) => digest,
            None => {
                let places = &self.store.inner.downloads;
                let queue = self.reporter.queue(places, "a place among the downloads");
                let _place = queue.await?;
                self.download(&id).await?
            }
        };
        self.reporter.done(JobState::Download);
        self.import(&id, digest, name).await
    }

    /// Place, ETag and size in 64 digits.
    fn id(&self) -> String {
        let text = format!(
            "{}\n{}\n{}\n{}",
            self.bucket.endpoint(),
            self.location,
            self.object.etag.as_deref().unwrap_or_default(),
            self.object.size
        );
        digest::of(text.as_bytes()).replace("sha256:", "")
    }

    /// Whether a digest is the one that the user asks for.
    fn expect(&self, actual: &str) -> Result<(), ImageError> {
        match &self.request.digest {
            Some(expected) => {
                digest::check(&self.location.to_string(), expected, actual.to_owned())
            }
            None => Ok(()),
        }
    }

    /// A download of an earlier time, if it is still what it was.
    async fn kept(&self, digest: String) -> Result<Option<String>, ImageError> {
        let path = self.store.inner.blob_path(&digest)?;
        if !path.is_file() {
            return Ok(None);
        }
        let size = Some(self.object.size);
        self.reporter
            .item(self.location.name(), "cached", self.object.size, size);
        let expected = digest.clone();
        let check = move |_: &Inner| blob::remove_if_damaged(&path, &expected);
        let damaged = self.store.blocking(check).await?;
        Ok((!damaged).then_some(digest))
    }

    async fn download(&self, id: &str) -> Result<String, ImageError> {
        let what = self.location.to_string();
        if let Some(digest) = self.object.checksums.digest() {
            self.expect(&digest)?;
        }
        let partial = self.store.inner.blobs_dir().join(format!("{id}.partial"));
        if self.object.etag.is_none() {
            // Nothing binds the rest to it.
            drop(fs::remove_file(&partial));
        }
        let known = self.request.digest.is_some();
        let download = Download {
            fetch: Fetch::Object {
                bucket: self.bucket,
                key: self.location.key().to_owned(),
                etag: self.object.etag.clone(),
            },
            what: &what,
            shown: self.location.name(),
            size: self.object.size,
            partial: &partial,
            reporter: self.reporter,
            checker: Some(self.object.checksums.checker(known)),
        };
        let mut came = download.run().await?;
        if came.resumed && self.verify(&came).is_err() {
            tracing::warn!(%what, "resumed download has wrong checksums, starting again");
            drop(fs::remove_file(&partial));
            came = download.run().await?;
        }
        if let Err(error) = self.verify(&came) {
            drop(fs::remove_file(&partial));
            return Err(error);
        }
        let checked = came.checked.unwrap_or_default();
        tracing::info!(%what, digest = %came.digest, ?checked, "downloaded from S3");
        let path = self.store.inner.blob_path(&came.digest)?;
        let synced = File::open(&partial).and_then(|file| file.sync_data());
        synced.map_err(ImageError::file("write out", &partial))?;
        fs::rename(&partial, &path).map_err(ImageError::file("create", &path))?;
        self.remember(id, &came.digest, None)?;
        Ok(came.digest)
    }

    fn verify(&self, came: &Downloaded) -> Result<(), ImageError> {
        if let Err(wrong) = &came.checked {
            return Err(ImageError::Digest {
                what: format!("{} ({})", self.location, wrong.name),
                expected: wrong.expected.clone(),
                actual: wrong.actual.clone(),
            });
        }
        self.expect(&came.digest)
    }

    async fn import(
        &self,
        id: &str,
        digest: String,
        name: &Name,
    ) -> Result<ImageRecord, ImageError> {
        // Another object with the same bytes is imported from the same file.
        let _turn = self.store.turn(&digest).await;
        let path = self.store.inner.blob_path(&digest)?;
        let file = import::Source {
            path: &path,
            shown: self.location.name(),
            name,
            kind: self.request.kind,
        };
        let record = import::file(self.store, file, self.reporter.clone()).await?;
        self.remember(id, &digest, Some(record.id.clone()))?;
        self.store
            .blocking(move |inner| inner.remove_blobs(vec![digest]))
            .await?;
        Ok(record)
    }

    fn remember(&self, id: &str, digest: &str, image: Option<ImageId>) -> Result<(), ImageError> {
        if self.object.etag.is_none() {
            return Ok(());
        }
        let outcome = Outcome {
            location: self.location.to_string(),
            digest: digest.to_owned(),
            image,
        };
        let name = format!("{id}.json");
        replace_durably(&self.store.inner.objects_dir(), &name, &outcome)
    }
}

impl Inner {
    /// What came of an object.
    pub(crate) fn outcome(&self, id: &str) -> Result<Option<Outcome>, ImageError> {
        let path = self.objects_dir().join(format!("{id}.json"));
        match fs::read(&path) {
            // A damaged one is as none: it only saves work.
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(ImageError::file("read", &path)(error)),
        }
    }

    /// Removes what is written down of objects of which nothing is here any more.
    pub(crate) fn forget_objects(&self) {
        let folder = self.objects_dir();
        let Ok(entries) = folder.read_dir_utf8() else {
            return;
        };
        for entry in entries.flatten() {
            let path = entry.path();
            if self.is_of_nothing(path) {
                drop(fs::remove_file(path));
            }
        }
    }

    fn is_of_nothing(&self, path: &Utf8Path) -> bool {
        let id = path.file_stem().unwrap_or_default();
        if digest::hex(&format!("sha256:{id}")).is_err() {
            return false;
        }
        let Ok(Some(outcome)) = self.outcome(id) else {
            return false;
        };
        let image = outcome.image.as_ref();
        let image = image.is_some_and(|image| !matches!(self.find(image), Ok(None)));
        let blob = self.blob_path(&outcome.digest);
        !image && blob.is_ok_and(|blob| !blob.exists())
    }
}

/// An OCI layout below a key: the same as a registry, with other addresses.
async fn pull_layout(
    store: &ImageStore,
    request: &PullRequest,
    name: &Name,
    origin: &Origin,
    known: Option<(ImageId, Manifest)>,
    reporter: &Reporter,
) -> Result<ImageRecord, ImageError> {
    let what = name.to_string();
    if request
        .kind
        .is_some_and(|kind| kind != ImportKind::OciLayout)
    {
        return Err(ImageError::unsupported(what, "it is an OCI layout"));
    }
    let (id, manifest) = match known {
        Some(known) => known,
        None => resolve(store, request, name, origin, reporter).await?,
    };
    reporter.done(JobState::Resolve);
    if let Some(expected) = &request.digest {
        digest::check(&format!("manifest of {what}"), expected, id.to_string())?;
    }
    let puller = Puller {
        store,
        origin,
        source: "oci-layout",
        reporter,
        parallel: request.parallel.unwrap_or(PARALLEL).max(1),
    };
    puller.pull(name, &id, &manifest).await
}

/// From `index.json` to the manifest for the platform.
async fn resolve(
    store: &ImageStore,
    request: &PullRequest,
    name: &Name,
    origin: &Origin,
    reporter: &Reporter,
) -> Result<(ImageId, Manifest), ImageError> {
    let limits = &store.inner.limits;
    let what = name.to_string();
    let wanted = Wanted::parse(request.platform.as_deref())?;
    let index = index(origin, limits.document).await?;
    let Document::Index(mut manifests) = Document::parse(&what, &index, limits)? else {
        return Err(ImageError::unsupported(
            what,
            "its index.json is not an index",
        ));
    };
    for _ in 0..layout::DEPTH {
        let chosen: Descriptor = layout::choose(&what, &manifests, name, &wanted)?.clone();
        if chosen.size > limits.document {
            return Err(ImageError::Limit {
                what,
                limit: limits.document,
                unit: "bytes of manifest",
            });
        }
        let bytes = blob::document(store, origin, &chosen).await?;
        match Document::parse(&what, &bytes, limits)? {
            Document::Index(inner) => manifests = inner,
            Document::Image(manifest) => {
                let id = chosen.digest.parse();
                let id: ImageId = id.map_err(|e| ImageError::Volume(Box::new(e)))?;
                remember(reporter, &id, &bytes);
                return Ok((id, manifest));
            }
        }
    }
    Err(ImageError::unsupported(
        what,
        "its indexes are nested too deeply",
    ))
}

/// `index.json`: the only document that no digest binds.
async fn index(origin: &Origin, limit: u64) -> Result<Vec<u8>, ImageError> {
    use futures::TryStreamExt as _;
    let Origin::Layout(bucket, folder) = origin else {
        return Ok(Vec::new());
    };
    let location = folder.below("index.json");
    let mut attempt = 1;
    loop {
        let read = async {
            let reading = bucket.read(location.key(), 0, None).await?;
            if reading.object.size > limit {
                return Ok(None);
            }
            let pieces: Vec<_> = reading.stream.try_collect().await?;
            Ok::<_, S3Error>(Some(pieces.concat()))
        };
        match read.await {
            Ok(Some(bytes)) => return Ok(bytes),
            Ok(None) => {
                return Err(ImageError::Limit {
                    what: location.to_string(),
                    limit,
                    unit: "bytes",
                });
            }
            Err(error) if error.is_temporary() && attempt < ATTEMPTS => {
                pause(attempt).await;
                attempt += 1;
            }
            Err(error) => return Err(error.into()),
        }
    }
}
