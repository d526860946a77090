//! Images made from snapshots of VMs' disks.
//!
//! ```text
//! resolve: the snapshot, held ─► unpack: its root disk under `.tmp-*/HEX/root.img` ─► seal: renamed
//! ```
//! How the disk gets there is the daemon's to know ([`Snapshots`]): in the pool it is one more
//! snapshot, elsewhere a clone or a copy. Nobody looks into the file system: a guest has written it.
//! So the id is no hash of the content, which would have to be read as a whole for it, but of the
//! snapshot's own id. A snapshot never changes: the same one makes the same image.

use std::sync::Arc;

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use hearth_types::api::ImageFromSnapshot;
use hearth_types::ids::{ImageId, SnapshotId};
use hearth_types::image::{ImageOrigin, ImageRecord};
use hearth_types::image_job::JobState;
use hearth_types::problem::{Code, Problem};
use jiff::Timestamp;
use tokio::sync::OwnedSemaphorePermit;

use crate::config::Details;
use crate::name::Name;
use crate::progress::Reporter;
use crate::store::{Sealed, Turn, VOLUME, disk_bytes};
use crate::{ImageError, ImageStore, digest};

/// The snapshots of this host.
#[async_trait]
pub trait Snapshots: Send + Sync {
    /// The whole snapshot that a name, id or beginning of an id means. It is not removed as long as
    /// what is returned lives.
    ///
    /// # Errors
    /// There is none, or it is not whole.
    async fn open(&self, snapshot: &str) -> Result<Arc<dyn OpenSnapshot>, Problem>;
}

/// A snapshot that does not go.
#[async_trait]
pub trait OpenSnapshot: Send + Sync {
    /// What it is.
    fn origin(&self) -> ImageOrigin;

    /// Bytes of its root disk.
    fn bytes(&self) -> u64;

    /// Makes a volume for an image under a path, with what the root disk has. One that is there
    /// already is whole, and stays.
    ///
    /// # Errors
    /// When it cannot be made.
    async fn copy_to(&self, path: &Utf8Path) -> Result<(), Problem>;

    /// Removes what there is of a volume that becomes no image.
    async fn give_up(&self, path: &Utf8Path);
}

/// The id of the image that a snapshot becomes.
fn id_of(snapshot: SnapshotId) -> Result<ImageId, ImageError> {
    let text = format!("hearth: root disk of snapshot {snapshot}");
    digest::of(text.as_bytes())
        .parse()
        .map_err(|e| ImageError::Volume(Box::new(e)))
}

pub(crate) fn nowhere() -> ImageError {
    let problem = Problem::new(Code::Unavailable, "there are no snapshots here");
    ImageError::Snapshot(Box::new(problem))
}

fn failed(problem: Problem) -> ImageError {
    ImageError::Snapshot(Box::new(problem))
}

pub(crate) async fn run(
    store: &ImageStore,
    request: &ImageFromSnapshot,
    snapshots: &dyn Snapshots,
    reporter: Reporter,
) -> Result<ImageRecord, ImageError> {
    let name = Name::Reference(request.reference.parse()?);
    reporter.stage(format!("Looking for snapshot {}", request.snapshot));
    let source = snapshots.open(&request.snapshot).await.map_err(failed)?;
    let id = id_of(source.origin().snapshot)?;
    let turn = store.turn_after(id.as_str(), &reporter).await;
    if store.inner.find(&id)?.is_none() {
        // Nothing of it comes from elsewhere, and there is no digest to compare it with.
        reporter.done(JobState::Verify);
        let place = reporter
            .queue(&store.inner.unpacks, "a place to unpack")
            .await?;
        let making = Making {
            store: store.clone(),
            id: id.clone(),
            source,
            reporter,
            _turn: turn,
            _place: place,
        };
        // Who asks may leave at any moment: what was begun is finished, or taken back.
        let (asked, gone) = tokio::sync::oneshot::channel();
        let made = tokio::spawn(making.run(gone));
        let made = made
            .await
            .unwrap_or_else(|error| Err(ImageError::Volume(error.into())));
        drop(asked);
        made?;
    } else {
        drop(turn);
    }
    store.name(name, id).await
}

/// An image in the making. It has its turn until it is made, or what there is of it is gone.
struct Making {
    store: ImageStore,
    id: ImageId,
    source: Arc<dyn OpenSnapshot>,
    reporter: Reporter,
    _turn: Turn,
    _place: OwnedSemaphorePermit,
}

impl Making {
    /// `asker` breaks when nobody wants the image any more.
    async fn run(self, mut asker: tokio::sync::oneshot::Receiver<()>) -> Result<(), ImageError> {
        let folder = self.store.inner.temporary()?;
        let path = Utf8PathBuf::try_from(folder.path().to_owned())
            .map_err(|e| ImageError::Volume(Box::new(e)))?;
        // A volume of the pool is named by its folder and its file: it has the image's own name.
        let path = path.join(self.id.hex());
        let volume = path.join(VOLUME);
        let made = self.make(&path, &volume, &mut asker).await;
        if made.is_err() {
            self.source.give_up(&volume).await;
        }
        let closed = tokio::task::spawn_blocking(move || folder.close()).await;
        if let Ok(Err(error)) = closed {
            tracing::warn!(%path, %error, "an unfinished image stays until the daemon is started again");
        }
        made
    }

    async fn make(
        &self,
        path: &Utf8Path,
        volume: &Utf8Path,
        asker: &mut tokio::sync::oneshot::Receiver<()>,
    ) -> Result<(), ImageError> {
        let origin = self.source.origin();
        let size = self.source.bytes();
        if size > self.store.inner.limits.bytes {
            return Err(ImageError::Limit {
                what: format!("the root disk of snapshot {}", origin.snapshot_name),
                limit: self.store.inner.limits.bytes,
                unit: "bytes",
            });
        }
        let shown = origin.snapshot_name.as_str();
        self.reporter.item(shown, "unpack", 0, Some(size));
        let folder = path.to_owned();
        let made = move |_: &crate::store::Inner| {
            std::fs::create_dir(&folder).map_err(ImageError::file("create", &folder))
        };
        self.store.blocking(made).await?;
        self.source.copy_to(volume).await.map_err(failed)?;
        self.reporter.item(shown, "done", size, Some(size));
        self.reporter.done(JobState::Unpack);
        let parent = self.parent(&origin).await?;
        let gone = matches!(
            asker.try_recv(),
            Err(tokio::sync::oneshot::error::TryRecvError::Closed)
        );
        if gone {
            return Err(ImageError::Cancelled);
        }
        let (path, volume) = (path.to_owned(), volume.to_owned());
        let record = self.record(origin, parent, size);
        let seal = move |inner: &crate::store::Inner| {
            let mut sealed = Sealed {
                record,
                blobs: Vec::new(),
            };
            // A volume of the pool has no file, and no blocks of its own at first.
            if volume.as_std_path().is_file() {
                sealed.record.disk_bytes = disk_bytes(&volume)?;
            }
            inner.seal_at(&path, &sealed).map(drop)
        };
        self.store.blocking(seal).await
    }

    /// What the image of the snapshot's VM asks to be run with. It is there: the snapshot needs it.
    async fn parent(&self, origin: &ImageOrigin) -> Result<Details, ImageError> {
        let id = origin.image.clone();
        let found = self.store.blocking(move |inner| inner.find(&id)).await?;
        Ok(match found {
            Some(parent) => Details {
                architecture: parent.architecture,
                created: None,
                config: parent.config,
                diff_ids: Vec::new(),
            },
            None => Details::unknown(Details::host_architecture()),
        })
    }

    fn record(&self, origin: ImageOrigin, parent: Details, size: u64) -> ImageRecord {
        ImageRecord {
            id: self.id.clone(),
            references: Vec::new(),
            source: "snapshot".to_owned(),
            architecture: parent.architecture,
            created: Some(origin.taken_at),
            imported_at: Timestamp::now(),
            volume_bytes: size,
            disk_bytes: 0,
            layers: 1,
            config: parent.config,
            origin: Some(origin),
            chain: Vec::new(),
        }
    }
}
