//! Images made from snapshots: the root disk alone, which is the image's own from then on.
//!
//! The pipeline that makes them is `hearth-image`'s; here is what it asks of the host.

use std::sync::Arc;

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use hearth_image::{OpenSnapshot, Snapshots};
use hearth_types::ids::SnapshotId;
use hearth_types::image::ImageOrigin;
use hearth_types::problem::{Code, Problem};
use hearth_types::snapshot::Snapshot;
use hearth_types::survey::chain;
use hearth_types::units::Bytes;

use super::holds::Hold;
use super::restore::ready;
use super::{conflict, disk_problem, file_of};
use crate::engine::Engine;

/// The snapshots of this host, for who makes images of them.
#[derive(Debug, Clone)]
pub struct ImageSource(Arc<Engine>);

impl ImageSource {
    /// Those of this daemon.
    #[must_use]
    pub const fn new(engine: Arc<Engine>) -> Self {
        Self(engine)
    }
}

#[async_trait]
impl Snapshots for ImageSource {
    async fn open(&self, snapshot: &str) -> Result<Arc<dyn OpenSnapshot>, Problem> {
        let engine = &self.0;
        let found = engine.find_snapshot(snapshot).await.map_err(problem)?;
        let Some(hold) = engine.snapshots.read(found.id) else {
            let detail = format!("snapshot {} is being made or removed", found.name);
            return Err(conflict(detail));
        };
        // As it is now that it cannot go.
        let id = found.id.to_string();
        let snapshot = engine.find_snapshot(&id).await.map_err(problem)?;
        ready(&snapshot).map_err(problem)?;
        let root = snapshot.disks.iter().find(|disk| disk.volume.is_none());
        let Some(root) = root else {
            let detail = format!("snapshot {} has no root disk", snapshot.name);
            return Err(conflict(detail));
        };
        let (bytes, file) = (root.bytes, file_of(root));
        Ok(Arc::new(Open {
            engine: Arc::clone(engine),
            disk: engine.snapshot_folder(snapshot.id).join(file),
            bytes,
            snapshot,
            _hold: hold,
        }))
    }
}

struct Open {
    engine: Arc<Engine>,
    snapshot: Snapshot,
    disk: Utf8PathBuf,
    bytes: u64,
    _hold: Hold<SnapshotId>,
}

#[async_trait]
impl OpenSnapshot for Open {
    fn origin(&self) -> ImageOrigin {
        ImageOrigin::from(&self.snapshot)
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    async fn copy_to(&self, path: &Utf8Path) -> Result<(), Problem> {
        let disks = &self.engine.parts.disks;
        let made = disks.image_of(&self.disk, path, Bytes(self.bytes)).await;
        let made = made.map_err(|error| {
            let what = format!("snapshot {} cannot be made an image", self.snapshot.name);
            problem(disk_problem(&what, &error))
        })?;
        tracing::info!(snapshot = %self.snapshot.name, ?made, "an image has the snapshot's root disk");
        Ok(())
    }

    async fn give_up(&self, path: &Utf8Path) {
        if let Err(error) = self.engine.parts.disks.forget_source(path).await {
            tracing::warn!(%path, error = %chain(&error), "a volume that becomes no image stays in the pool");
        }
    }
}

fn problem(error: anyhow::Error) -> Problem {
    match error.downcast::<Problem>() {
        Ok(problem) => problem,
        Err(error) => Problem::new(Code::Internal, format!("{error:#}")),
    }
}
