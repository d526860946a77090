//! Layers of images: devices of their own kind, each a snapshot of the one below, written to once.
//!
//! ```text
//!  layer-HEX ── begin: snapshot of the one below, `filling` ── unpacked, switched off ── `ready`
//!                        ▲ cut off: removed, and begun anew: what it has is nobody's
//! ```

use std::collections::BTreeSet;
use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use hearth_disk::DiskError;
use hearth_types::survey::chain;
use hearth_types::thin::{ThinDevice, ThinKind, ThinState};
use hearth_types::units::Bytes;
use parking_lot::Mutex;

use super::{Present, ThinVolumes, failed, volume_name};
use crate::thin::{ThinError, Wanted};

/// The names of layers that are being unpacked.
pub(super) type Filling = Arc<Mutex<BTreeSet<String>>>;

/// A layer that is being unpacked. When it is dropped it is nobody's.
#[derive(Debug)]
pub struct NewLayer {
    volumes: ThinVolumes,
    name: String,
    node: Utf8PathBuf,
    device: tokio::sync::Mutex<ThinDevice>,
}

impl Drop for NewLayer {
    fn drop(&mut self) {
        self.volumes.filling.lock().remove(&self.name);
    }
}

/// The name of a layer's device.
#[must_use]
pub fn layer_name(chain_id: &str) -> String {
    let hex = chain_id.strip_prefix("sha256:").unwrap_or(chain_id);
    format!("layer-{hex}")
}

impl ThinVolumes {
    /// Whether images of this folder are unpacked in the pool.
    pub async fn takes_layers(&self, folder: &Utf8Path) -> bool {
        self.in_pool(folder).await
    }

    /// How many layers of a chain are there, whole, counted from the lowest.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn layers_of(&self, chain: &[String]) -> Result<usize, ThinError> {
        let all = self.thins.devices().await?;
        let whole = |key: &&String| {
            let name = layer_name(key);
            let is = |it: &ThinDevice| it.state == ThinState::Ready && it.name == name;
            all.iter().any(is)
        };
        Ok(chain.iter().take_while(whole).count())
    }

    /// A device for a layer, switched on: with what the one below has, or empty.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn begin_layer(
        &self,
        key: &str,
        below: Option<&str>,
        bytes: u64,
    ) -> Result<NewLayer, ThinError> {
        self.thins.set_up().await?;
        let name = layer_name(key);
        self.filling.lock().insert(name.clone());
        let begun = self.layer_device(&name, below, bytes).await;
        let begun = match begun {
            Ok(device) => self.thins.activate(&device).await.map(|on| (device, on)),
            Err(error) => Err(error),
        };
        match begun {
            Ok((device, number)) => Ok(NewLayer {
                volumes: self.clone(),
                name,
                node: self.thins.ground().node(number),
                device: tokio::sync::Mutex::new(device),
            }),
            Err(error) => {
                self.filling.lock().remove(&name);
                Err(error)
            }
        }
    }

    async fn layer_device(
        &self,
        name: &str,
        below: Option<&str>,
        bytes: u64,
    ) -> Result<ThinDevice, ThinError> {
        // What was cut off is half of something, also what other layers have left.
        let under_way: Vec<String> = self.filling.lock().iter().cloned().collect();
        self.thins
            .remove(|it| {
                let half = it.kind == ThinKind::Layer && it.state == ThinState::Filling;
                half && (it.name == name || !under_way.contains(&it.name))
            })
            .await?;
        let below = match below {
            None => None,
            Some(key) => {
                let found = self.thins.find(&layer_name(key)).await?;
                Some(found.ok_or_else(|| ThinError::NoLayer {
                    name: layer_name(key),
                })?)
            }
        };
        let wanted = Wanted {
            name: name.to_owned(),
            kind: ThinKind::Layer,
            bytes: below.as_ref().map_or(bytes, |below| below.bytes),
            origin: below.map(|below| below.id),
        };
        self.thins.make(&wanted).await
    }

    /// Makes the volume of an image with what a layer has; its size.
    ///
    /// # Errors
    /// When the layer is not there, or the volume cannot be made.
    pub async fn image_of_layer(&self, top: &str, path: &Utf8Path) -> Result<Bytes, DiskError> {
        let _lock = self.lock(&volume_name(path)).await;
        let found = self.thins.find(&layer_name(top)).await;
        let layer = found.map_err(failed("find the layers of", path))?;
        let layer = layer.ok_or_else(|| {
            let name = layer_name(top);
            failed("find the layers of", path)(ThinError::NoLayer { name })
        })?;
        let size = Bytes(layer.bytes);
        if let Present::Thin(device) = self.present(path).await?
            && device.state == ThinState::Ready
        {
            return Ok(Bytes(device.bytes));
        }
        self.share(&layer, path, path, size, ThinKind::Image)
            .await?;
        Ok(size)
    }

    /// Whether a volume is there.
    ///
    /// # Errors
    /// When that cannot be told.
    pub async fn has(&self, path: &Utf8Path) -> Result<bool, DiskError> {
        Ok(!matches!(self.present(path).await?, Present::Nothing))
    }
}

impl NewLayer {
    /// Its node.
    #[must_use]
    pub fn node(&self) -> &Utf8Path {
        &self.node
    }

    /// How large it is.
    pub async fn bytes(&self) -> u64 {
        self.device.lock().await.bytes
    }

    /// Makes it larger while it is used.
    ///
    /// # Errors
    /// See [`crate::Thins::grow`].
    pub async fn grow(&self, bytes: u64) -> Result<(), ThinError> {
        let mut device = self.device.lock().await;
        *device = self.volumes.thins.grow(device.clone(), bytes).await?;
        Ok(())
    }

    /// It is whole, and nobody writes to it any more: it is switched off, so that snapshots of it suspend
    /// nothing.
    ///
    /// # Errors
    /// When it cannot be written down.
    pub async fn seal(&self) -> Result<(), ThinError> {
        let device = self.device.lock().await.clone();
        if let Err(error) = self.volumes.thins.deactivate(device.id).await {
            tracing::warn!(id = device.id, error = %chain(&error), "the layer's device stays on");
        }
        self.volumes.thins.filled(device).await.map(drop)
    }

    /// It came to nothing: it is removed, now or when the next layer is begun.
    pub async fn give_up(&self) {
        let id = self.device.lock().await.id;
        let removed = self.volumes.thins.remove(|it| {
            it.id == id && it.kind == ThinKind::Layer && it.state == ThinState::Filling
        });
        if let Err(error) = removed.await {
            tracing::warn!(id, error = %chain(&error), "a layer that came to nothing stays until the next one is begun");
        }
    }
}
