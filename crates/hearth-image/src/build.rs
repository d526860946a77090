//! From layers to a sealed image: the part that all layered sources share.
//!
//! The layers arrive over a channel in their order, the lowest first, while later ones may
//! still be on their way. One blocking thread unpacks them, finishes the volume and seals the
//! image. It owns everything it needs, so when the asker's future is dropped it sees the flag,
//! throws its temporary folder away and ends.

mod shared;

use std::io::Read;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use camino::Utf8PathBuf;
use hearth_types::ids::ImageId;
use hearth_types::image::ImageRecord;
use hearth_types::image_job::JobState;
use jiff::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::config::Details;
use crate::layers::Shared;
use crate::progress::Reporter;
use crate::store::{Inner, Sealed, Turn, VOLUME, disk_bytes};
use crate::unpack::{Layer, Unpacker};
use crate::volume::Volume;
use crate::{ImageError, ImageStore};

/// A layer that is ready to be unpacked.
pub(crate) struct Ready {
    pub(crate) name: String,
    pub(crate) source: Box<dyn Read + Send>,
    pub(crate) total: Option<u64>,
    pub(crate) packed_digest: Option<String>,
    pub(crate) unpacked_digest: Option<String>,
}

/// A layer whose turn has come.
type Admitted = (Ready, OwnedSemaphorePermit);

/// What the image will be.
pub(crate) struct Recipe {
    /// None: the digest of the only layer's packed bytes.
    pub(crate) id: Option<ImageId>,
    pub(crate) source: &'static str,
    pub(crate) details: Details,
    pub(crate) blobs: Vec<String>,
    pub(crate) layers: usize,
    /// A guess at the bytes of the content.
    pub(crate) expected: u64,
    /// Layer by layer, on devices that other images share.
    pub(crate) shared: Option<Shared>,
}

/// Tells the blocking thread when the asker's future is gone.
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Builds and seals the image. `turns` are held until the thread is done.
pub(crate) async fn run(
    store: &ImageStore,
    recipe: Recipe,
    layers: mpsc::Receiver<Ready>,
    turns: Vec<Turn>,
    reporter: Reporter,
) -> Result<ImageRecord, ImageError> {
    let cancelled = Arc::new(AtomicBool::new(false));
    let _cancel = CancelOnDrop(Arc::clone(&cancelled));
    let folder = store.inner.temporary()?;
    let whole = match &recipe.shared {
        Some(_) => None,
        None => {
            let path = Utf8PathBuf::try_from(folder.path().join(VOLUME))
                .map_err(|e| ImageError::Volume(Box::new(e)))?;
            Some(Volume::create(path, recipe.expected, store.inner.limits.bytes).await?)
        }
    };
    let (sender, admitted) = mpsc::channel(1);
    let told = reporter.clone();
    let admit = admit(store, layers, sender, &told);
    let (all, handle) = (store.clone(), tokio::runtime::Handle::current());
    let work = store.blocking(move |inner| {
        let _turns = turns;
        let cancelled = &cancelled;
        match (recipe.shared.clone(), whole) {
            (Some(shared), None) => shared::Work {
                store: &all,
                recipe,
                shared,
                cancelled,
                reporter,
                handle,
            }
            .run(&folder, admitted),
            (_, Some(volume)) => Work {
                inner,
                recipe,
                cancelled,
                reporter,
            }
            .run(folder, volume, admitted),
            (None, None) => Err(ImageError::Cancelled),
        }
    });
    let (built, ()) = tokio::join!(work, admit);
    if let Err(error) = &built
        && !matches!(error, ImageError::Cancelled)
    {
        told.failed_at(JobState::Unpack);
    }
    built
}

/// Hands on each layer when there is a place for it. Places are for layers that are here: what is
/// slow to come keeps none.
async fn admit(
    store: &ImageStore,
    mut layers: mpsc::Receiver<Ready>,
    sender: mpsc::Sender<Admitted>,
    reporter: &Reporter,
) {
    loop {
        let ready = tokio::select! {
            // The thread has ended: so do the downloads, when the receiver goes.
            () = sender.closed() => return,
            ready = layers.recv() => ready,
        };
        let Some(ready) = ready else {
            return;
        };
        let place = tokio::select! {
            () = sender.closed() => return,
            place = reporter.queue(&store.inner.unpacks, "a place to unpack") => place,
        };
        let Ok(place) = place else {
            return;
        };
        if sender.send((ready, place)).await.is_err() {
            return;
        }
    }
}

struct Work<'a> {
    inner: &'a Inner,
    recipe: Recipe,
    cancelled: &'a AtomicBool,
    reporter: Reporter,
}

impl Work<'_> {
    fn run(
        self,
        folder: tempfile::TempDir,
        mut volume: Volume,
        layers: mpsc::Receiver<Admitted>,
    ) -> Result<ImageRecord, ImageError> {
        let digest = self.unpack(&mut volume, layers)?;
        let id = match (self.recipe.id.clone(), digest) {
            (Some(id), _) => id,
            (None, Some(digest)) => digest
                .parse()
                .map_err(|e| ImageError::Volume(Box::new(e)))?,
            (None, None) => return Err(ImageError::Cancelled),
        };
        self.reporter.done(JobState::Unpack);
        self.reporter.stage("Writing the volume to disk");
        let volume_bytes = volume.finish()?;
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(ImageError::Cancelled);
        }
        let path = Utf8PathBuf::try_from(folder.path().join(VOLUME))
            .map_err(|e| ImageError::Volume(Box::new(e)))?;
        let details = self.recipe.details;
        let sealed = Sealed {
            record: ImageRecord {
                id,
                references: Vec::new(),
                source: self.recipe.source.to_owned(),
                architecture: details.architecture,
                created: details.created,
                imported_at: Timestamp::now(),
                volume_bytes,
                disk_bytes: disk_bytes(&path)?,
                layers: self.recipe.layers,
                config: details.config,
                origin: None,
                chain: Vec::new(),
            },
            blobs: self.recipe.blobs,
        };
        self.inner.seal(folder, &sealed)?;
        Ok(sealed.record)
    }

    fn unpack(
        &self,
        volume: &mut Volume,
        mut layers: mpsc::Receiver<Admitted>,
    ) -> Result<Option<String>, ImageError> {
        let root = volume.root()?;
        let mut unpacker = Unpacker::new(root.as_fd(), &self.inner.limits, volume, self.cancelled)?
            .report_to(self.reporter.clone());
        // The unpacker has its own, which it closes while the volume grows.
        drop(root);
        let mut digest = None;
        for _ in 0..self.recipe.layers {
            // The sender is gone before all layers came: the asker has failed or left.
            let (ready, _place) = layers.blocking_recv().ok_or(ImageError::Cancelled)?;
            digest = unpacker.layer(Layer {
                name: &ready.name,
                source: ready.source,
                total: ready.total,
                packed_digest: ready.packed_digest.as_deref(),
                unpacked_digest: ready.unpacked_digest.as_deref(),
                hash: self.recipe.id.is_none(),
            })?;
        }
        Ok(digest)
    }
}
