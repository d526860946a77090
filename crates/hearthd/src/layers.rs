//! Layers that images share, in the thin pool: what `hearth-image` asks of it.

use std::sync::Arc;

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use hearth_disk::{DiskError, Volumes as _};
use hearth_image::{LayerDevice, Layers};
use hearth_pool::{NewLayer, ThinError, ThinVolumes};
use hearth_types::problem::{Code, Problem};
use hearth_types::survey::chain;

/// The layers of the pool.
#[derive(Debug)]
pub struct PoolLayers {
    volumes: ThinVolumes,
    images: Utf8PathBuf,
}

impl PoolLayers {
    /// Those of the images in this folder.
    #[must_use]
    pub const fn new(volumes: ThinVolumes, images: Utf8PathBuf) -> Self {
        Self { volumes, images }
    }
}

fn failed(what: &'static str) -> impl FnOnce(ThinError) -> Problem {
    move |error| {
        let problem = Problem::new(Code::Internal, format!("{what}: {}", chain(&error)));
        match error.hint() {
            Some(hint) => problem.hint(hint),
            None => problem,
        }
    }
}

fn disk_failed(error: &DiskError) -> Problem {
    let code = match error {
        DiskError::NoSpace { .. } => Code::Exhausted,
        _ => Code::Internal,
    };
    Problem::new(code, chain(error))
}

#[async_trait]
impl Layers for PoolLayers {
    async fn wanted(&self) -> bool {
        self.volumes.takes_layers(&self.images).await
    }

    async fn present(&self, chain: &[String]) -> Result<usize, Problem> {
        let present = self.volumes.layers_of(chain).await;
        present.map_err(failed("the layers in the pool cannot be told"))
    }

    async fn begin(
        &self,
        layer: &str,
        below: Option<&str>,
        bytes: u64,
    ) -> Result<Arc<dyn LayerDevice>, Problem> {
        let begun = self.volumes.begin_layer(layer, below, bytes).await;
        let begun = begun.map_err(failed("no device can be made for a layer"))?;
        Ok(Arc::new(Device(begun)))
    }

    async fn image(&self, top: &str, volume: &Utf8Path) -> Result<u64, Problem> {
        let made = self.volumes.image_of_layer(top, volume).await;
        made.map(|size| size.0).map_err(|error| disk_failed(&error))
    }

    async fn holds(&self, volume: &Utf8Path) -> Result<bool, Problem> {
        let has = self.volumes.has(volume).await;
        has.map_err(|error| disk_failed(&error))
    }

    async fn give_up(&self, volume: &Utf8Path) {
        if let Err(error) = self.volumes.forget_source(volume).await {
            tracing::warn!(%volume, error = %chain(&error), "a volume that becomes no image stays in the pool");
        }
    }
}

struct Device(NewLayer);

#[async_trait]
impl LayerDevice for Device {
    fn node(&self) -> &Utf8Path {
        self.0.node()
    }

    async fn bytes(&self) -> u64 {
        self.0.bytes().await
    }

    async fn grow(&self, bytes: u64) -> Result<(), Problem> {
        let grown = self.0.grow(bytes).await;
        grown.map_err(failed("the device of a layer does not grow"))
    }

    async fn seal(&self) -> Result<(), Problem> {
        let sealed = self.0.seal().await;
        sealed.map_err(failed("a layer cannot be sealed"))
    }

    async fn give_up(&self) {
        self.0.give_up().await;
    }
}
