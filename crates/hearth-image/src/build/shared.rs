//! Builds an image layer by layer, on devices that images share.
//!
//! One blocking thread, as for an image that is unpacked whole. A layer is unpacked by one build at a
//! time: a second one waits and finds it.

use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use camino::{Utf8Path, Utf8PathBuf};
use hearth_types::image::ImageRecord;
use hearth_types::image_job::JobState;
use jiff::Timestamp;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::{Admitted, Ready, Recipe};
use crate::layers::{LayerDevice, Shared, failed};
use crate::progress::Reporter;
use crate::store::{Inner, Sealed, VOLUME};
use crate::unpack::{Layer, Unpacker};
use crate::volume::Volume;
use crate::{ImageError, ImageStore};

pub(super) struct Work<'a> {
    pub(super) store: &'a ImageStore,
    pub(super) recipe: Recipe,
    pub(super) shared: Shared,
    pub(super) cancelled: &'a AtomicBool,
    pub(super) reporter: Reporter,
    pub(super) handle: Handle,
}

impl Work<'_> {
    fn inner(&self) -> &Inner {
        &self.store.inner
    }

    pub(super) fn run(
        self,
        folder: &tempfile::TempDir,
        mut layers: mpsc::Receiver<Admitted>,
    ) -> Result<ImageRecord, ImageError> {
        for index in self.shared.present..self.shared.chain.len() {
            // The sender is gone before all layers came: the asker has failed or left.
            let (ready, _place) = layers.blocking_recv().ok_or(ImageError::Cancelled)?;
            self.layer(index, ready)?;
        }
        self.reporter.done(JobState::Unpack);
        self.reporter.stage("Making the image of its layers");
        let id = self.recipe.id.clone().ok_or(ImageError::Cancelled)?;
        let path = Utf8PathBuf::try_from(folder.path().to_owned())
            .map_err(|e| ImageError::Volume(Box::new(e)))?;
        // A volume of the pool is named by its folder and its file: it has the image's own name.
        let path = path.join(id.hex());
        std::fs::create_dir(&path).map_err(ImageError::file("create", &path))?;
        let volume = path.join(VOLUME);
        let sealed = self.seal(id, &path, &volume);
        if sealed.is_err() {
            self.handle.block_on(self.shared.layers.give_up(&volume));
        }
        sealed
    }

    fn seal(
        &self,
        id: hearth_types::ids::ImageId,
        path: &Utf8Path,
        volume: &Utf8Path,
    ) -> Result<ImageRecord, ImageError> {
        let top = self.shared.chain.last().ok_or(ImageError::Cancelled)?;
        let made = self.handle.block_on(self.shared.layers.image(top, volume));
        let volume_bytes = made.map_err(failed)?;
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(ImageError::Cancelled);
        }
        let details = &self.recipe.details;
        let sealed = Sealed {
            record: ImageRecord {
                id,
                references: Vec::new(),
                source: self.recipe.source.to_owned(),
                architecture: details.architecture.clone(),
                created: details.created,
                imported_at: Timestamp::now(),
                volume_bytes,
                // All of its blocks are those of its layers.
                disk_bytes: 0,
                layers: self.recipe.layers,
                config: details.config.clone(),
                origin: None,
                chain: self.shared.chain.clone(),
            },
            blobs: self.recipe.blobs.clone(),
        };
        self.inner().seal_at(path, &sealed)?;
        Ok(sealed.record)
    }

    fn layer(&self, index: usize, ready: Ready) -> Result<(), ImageError> {
        let Shared { layers, chain, .. } = &self.shared;
        let key = &chain[index];
        let lock = format!("layer {key}");
        let _turn = self.handle.block_on(self.store.turn(&lock));
        let present = layers.present(&chain[..=index]);
        if self.handle.block_on(present).map_err(failed)? > index {
            let total = ready.total.unwrap_or(0);
            self.reporter.item(&ready.name, "done", total, ready.total);
            return Ok(());
        }
        let below = index.checked_sub(1).map(|below| chain[below].as_str());
        let begun = layers.begin(key, below, Volume::first_size(self.recipe.expected));
        let device = self.handle.block_on(begun).map_err(failed)?;
        let unpacked = self
            .unpack(&device, index, ready)
            .and_then(|()| self.handle.block_on(device.seal()).map_err(failed));
        if unpacked.is_err() {
            self.handle.block_on(device.give_up());
        }
        unpacked
    }

    fn unpack(
        &self,
        device: &Arc<dyn LayerDevice>,
        index: usize,
        ready: Ready,
    ) -> Result<(), ImageError> {
        let limits = &self.inner().limits;
        let opened = Volume::on_device(Arc::clone(device), index == 0, limits.bytes);
        let mut volume = self.handle.block_on(opened)?;
        let root = volume.root()?;
        let mut unpacker = Unpacker::new(root.as_fd(), limits, &mut volume, self.cancelled)?
            .report_to(self.reporter.clone())
            .over(index);
        // The unpacker has its own, which it closes while the volume grows.
        drop(root);
        unpacker.layer(Layer {
            name: &ready.name,
            source: ready.source,
            total: ready.total,
            // What it is called by is what it has to be, whoever gave it.
            packed_digest: None,
            unpacked_digest: Some(&self.shared.diff_ids[index]),
            hash: false,
        })?;
        drop(unpacker);
        volume.finish().map(drop)
    }
}
