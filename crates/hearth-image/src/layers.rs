//! Layers that images share: each is unpacked once, on a device of its own that begins as a snapshot
//! of the one below.
//!
//! ```text
//!  layer A ◄── layer A,B ◄── layer A,B,C ◄── image 1        (◄── is a snapshot of)
//!                   ▲
//!                   └─────── layer A,B,D ◄── image 2        A and B are downloaded, unpacked and kept once
//! ```
//! A layer's key is its chain id (OCI image specification, `config.md`, "Layer ChainID"): the digest of
//! its tar and of all below it. That digest is computed while the layer is unpacked, whatever an
//! image says of it: nobody gets what somebody else gave out for it.
//!
//! What holds the devices is the daemon's to know ([`Layers`]). Without it, and where an image says
//! nothing of its layers' tars, images are unpacked whole.

use std::sync::Arc;

use async_trait::async_trait;
use camino::Utf8Path;
use hearth_types::ids::ImageId;
use hearth_types::image::ImageRecord;
use hearth_types::problem::Problem;

use crate::config::Details;
use crate::{ImageError, ImageStore, digest};

/// Where layers are kept.
#[async_trait]
pub trait Layers: Send + Sync {
    /// Whether new images are unpacked there.
    async fn wanted(&self) -> bool;

    /// How many layers of a chain are there, whole, counted from the lowest without a gap.
    ///
    /// # Errors
    /// When that cannot be told.
    async fn present(&self, chain: &[String]) -> Result<usize, Problem>;

    /// A device for a layer that is not there: with what the layer `below` has, or empty and of so many
    /// bytes. What an earlier attempt has left of it is gone.
    ///
    /// # Errors
    /// When it cannot be made.
    async fn begin(
        &self,
        layer: &str,
        below: Option<&str>,
        bytes: u64,
    ) -> Result<Arc<dyn LayerDevice>, Problem>;

    /// Makes the volume of an image under a path, with what a layer has; its size in bytes.
    ///
    /// # Errors
    /// When it cannot be made.
    async fn image(&self, top: &str, volume: &Utf8Path) -> Result<u64, Problem>;

    /// Whether the volume of an image is there.
    ///
    /// # Errors
    /// When that cannot be told.
    async fn holds(&self, volume: &Utf8Path) -> Result<bool, Problem>;

    /// Removes the volume of what becomes no image.
    async fn give_up(&self, volume: &Utf8Path);
}

/// A device that a layer is unpacked on. Nobody else has it.
#[async_trait]
pub trait LayerDevice: Send + Sync {
    /// Its node: of a block device, or a file that stands for one.
    fn node(&self) -> &Utf8Path;

    /// How large it is.
    async fn bytes(&self) -> u64;

    /// Makes it larger, also while it is mounted.
    ///
    /// # Errors
    /// When it cannot be.
    async fn grow(&self, bytes: u64) -> Result<(), Problem>;

    /// The layer is whole and written out: it does not change any more.
    ///
    /// # Errors
    /// When that cannot be written down.
    async fn seal(&self) -> Result<(), Problem>;

    /// The layer came to nothing.
    async fn give_up(&self);
}

/// How an image is unpacked layer by layer.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) layers: Arc<dyn Layers>,
    /// Chain ids, the lowest first.
    pub(crate) chain: Vec<String>,
    /// Digests of the layers' tars.
    pub(crate) diff_ids: Vec<String>,
    /// So many of the lowest are there already.
    pub(crate) present: usize,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("chain", &self.chain)
            .field("present", &self.present)
            .finish_non_exhaustive()
    }
}

/// Chain ids of layers, by the digests of their tars. `None` where one of them is none that can be checked.
pub(crate) fn chain_of(diff_ids: &[String]) -> Option<Vec<String>> {
    let mut chain: Vec<String> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        digest::hex(diff_id).ok()?;
        chain.push(match chain.last() {
            None => diff_id.clone(),
            Some(below) => digest::of(format!("{below} {diff_id}").as_bytes()),
        });
    }
    (!chain.is_empty()).then_some(chain)
}

pub(crate) fn failed(problem: Problem) -> ImageError {
    ImageError::Layers(Box::new(problem))
}

impl ImageStore {
    /// From now on layers are shared there. Called before anything is pulled; once.
    #[must_use]
    pub fn with_layers(self, layers: Arc<dyn Layers>) -> Self {
        // There are none yet: this is the first call.
        drop(self.inner.layers.set(layers));
        self
    }

    /// How an image of these layers is to be unpacked: `None` means whole.
    pub(crate) async fn shared(&self, details: &Details) -> Result<Option<Shared>, ImageError> {
        let Some(layers) = self.inner.layers.get() else {
            return Ok(None);
        };
        let Some(chain) = chain_of(&details.diff_ids) else {
            return Ok(None);
        };
        if !layers.wanted().await {
            return Ok(None);
        }
        let present = layers.present(&chain).await.map_err(failed)?;
        Ok(Some(Shared {
            layers: Arc::clone(layers),
            chain,
            diff_ids: details.diff_ids.clone(),
            present,
        }))
    }

    /// The image if it is here, with its volume: what was in a pool may be gone with the pool.
    pub(crate) async fn whole(&self, id: &ImageId) -> Result<Option<ImageRecord>, ImageError> {
        let Some(record) = self.inner.find(id)? else {
            return Ok(None);
        };
        let Some(layers) = self.inner.layers.get().filter(|_| !record.chain.is_empty()) else {
            return Ok(Some(record));
        };
        let there = layers.holds(&self.volume_path(id)).await.map_err(failed)?;
        Ok(there.then_some(record))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_ids_are_those_of_the_specification() {
        let of = |byte: &str| format!("sha256:{}", byte.repeat(32));
        let diffs = [of("aa"), of("bb"), of("cc")];
        let chain = chain_of(&diffs).unwrap();
        assert_eq!(chain[0], diffs[0]);
        // printf 'sha256:aa… sha256:bb…' | sha256sum
        assert_eq!(
            chain[1],
            digest::of(format!("{} {}", diffs[0], diffs[1]).as_bytes())
        );
        assert_eq!(
            chain[2],
            digest::of(format!("{} {}", chain[1], diffs[2]).as_bytes())
        );
        // Another base, another chain.
        let other = chain_of(&[of("dd"), of("bb")]).unwrap();
        assert_ne!(other[1], chain[1]);
        assert_eq!(chain_of(&[]), None);
        assert_eq!(chain_of(&["sha512:00".to_owned()]), None);
    }
}
