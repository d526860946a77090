//! How volumes of the pool come to be: an image filled once, snapshots, empty file systems.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::time::Instant;

use camino::{Utf8Path, Utf8PathBuf};
use hearth_disk::{DiskError, Made, make_ext4, sparse_onto};
use hearth_host::aside::aside;
use hearth_types::survey::chain;
use hearth_types::thin::{ThinDevice, ThinKind, ThinState};
use hearth_types::units::{Bytes, MIB};
use rustix::fs::OFlags;

use super::{Choice, ThinVolumes, alone, failed, kind_of, volume_name};
use crate::thin::{ThinError, Wanted};

/// A unit of `st_blocks`, whatever the file system's blocks are (stat(2)).
const STAT_BLOCK: u64 = 512;
/// What stays free in the pool beside an image that is filled: what is written meanwhile.
const RESERVE: u64 = 64 * MIB;

pub(super) fn io(
    operation: &'static str,
    path: &Utf8Path,
) -> impl FnOnce(std::io::Error) -> DiskError {
    let path = path.to_owned();
    move |source| DiskError::Io {
        operation,
        path,
        source,
    }
}

/// What was filled, or why it was not.
pub(super) type Filled = Result<(), Box<dyn std::error::Error + Send + Sync>>;

impl ThinVolumes {
    /// A snapshot of a volume of the pool under a path.
    pub(super) async fn snapshot(
        &self,
        origin: &ThinDevice,
        source: &Utf8Path,
        path: &Utf8Path,
        size: Bytes,
        owner: u32,
    ) -> Result<Made, DiskError> {
        let begun = Instant::now();
        let device = self
            .share(origin, source, path, size, kind_of(path, ThinKind::VmRoot))
            .await?;
        let placed = self.place(&device, path, alone(owner)).await;
        placed.map_err(failed("use", path))?;
        tracing::info!(
            id = device.id,
            volume = device.name,
            origin = origin.id,
            millis = begun.elapsed().as_millis(),
            "a snapshot is ready"
        );
        Ok(Made::Snapshot)
    }

    /// A device that shares all blocks of another one. It is off.
    pub(super) async fn share(
        &self,
        origin: &ThinDevice,
        source: &Utf8Path,
        path: &Utf8Path,
        size: Bytes,
        kind: ThinKind,
    ) -> Result<ThinDevice, DiskError> {
        too_small(path, size, Bytes(origin.bytes))?;
        if origin.state != ThinState::Ready {
            let unfinished = ThinError::NotReady {
                name: origin.name.clone(),
                id: origin.id,
                state: origin.state,
            };
            return Err(failed("clone", source)(unfinished));
        }
        let wanted = Wanted {
            name: volume_name(path),
            kind,
            bytes: size.0,
            origin: Some(origin.id),
        };
        let made = self.thins.make(&wanted).await;
        made.map_err(failed("make a snapshot for", path))
    }

    /// The image's device: there, or made and filled from its file. One at a time for each image;
    /// who gives up waiting ends nothing.
    pub(super) async fn image(
        &self,
        source: &Utf8Path,
        path: &Utf8Path,
        size: Bytes,
    ) -> Result<ThinDevice, DiskError> {
        let (file, present, allotted) = open_source(source).await?;
        too_small(path, size, present)?;
        let name = volume_name(source);
        let lock = self.lock(&name).await;
        let found = self.thins.find(&name).await;
        if let Some(device) = found.map_err(failed("look for the image", source))?
            && device.state == ThinState::Ready
        {
            return Ok(device);
        }
        let (this, source) = (self.clone(), source.to_owned());
        let told = source.clone();
        let filling = tokio::spawn(async move {
            let _lock = lock;
            this.fill_image(file, &source, name, present, allotted)
                .await
        });
        filling
            .await
            .unwrap_or_else(|error| Err(io("fill the image", &told)(std::io::Error::other(error))))
    }

    async fn fill_image(
        &self,
        file: File,
        source: &Utf8Path,
        name: String,
        size: Bytes,
        allotted: u64,
    ) -> Result<ThinDevice, DiskError> {
        let begun = Instant::now();
        self.may_set_up(source).await?;
        self.check_room(source, allotted).await?;
        let wanted = Wanted {
            name,
            kind: ThinKind::Image,
            bytes: size.0,
            origin: None,
        };
        let made = self.thins.make(&wanted).await;
        let device = made.map_err(failed("make a device for the image", source))?;
        let node = self.switched_on(&device, source).await?;
        let copied = aside(move || -> Filled {
            let onto = OpenOptions::new().write(true).open(&node)?;
            sparse_onto(&file, &onto)?;
            Ok(())
        });
        let copied = copied.await.unwrap_or_else(|error| Err(error.into()));
        if let Err(error) = copied {
            let cause = format!("the copy of {source} failed: {error}");
            self.leave(device, &cause).await;
            return Err(io("copy to the pool", source)(std::io::Error::other(error)));
        }
        // Nobody writes to it any more: snapshots of a device that is off suspend nothing.
        if let Err(error) = self.thins.deactivate(device.id).await {
            tracing::warn!(id = device.id, error = %chain(&error), "the image's device stays on");
        }
        let filled = self.thins.filled(device).await;
        let device = filled.map_err(failed("record the image", source))?;
        tracing::info!(
            id = device.id,
            image = device.name,
            bytes = allotted,
            millis = begun.elapsed().as_millis(),
            "an image is in the pool"
        );
        Ok(device)
    }

    /// An empty file system of this size under a path. One whose making was cut off is made anew on
    /// the same device; one that fails is left.
    pub(super) async fn ext4(
        &self,
        path: &Utf8Path,
        size: Bytes,
        label: &str,
        owner: u32,
    ) -> Result<Made, DiskError> {
        self.may_set_up(path).await?;
        let wanted = Wanted {
            name: volume_name(path),
            kind: kind_of(path, ThinKind::VmData),
            bytes: size.0,
            origin: None,
        };
        let made = self.thins.make(&wanted).await;
        let device = made.map_err(failed("make a device for", path))?;
        let node = self.switched_on(&device, path).await?;
        if let Err(source) = make_ext4(&node, label).await {
            tracing::error!(id = device.id, volume = device.name, error = %chain(&source), "failed to create filesystem; leaving device active for manual/GC cleanup");
            let cause = format!("failed to create filesystem: {}", chain(&source));
            self.leave(device, &cause).await;
            return Err(DiskError::Tool {
                operation: "make a file system in",
                path: path.to_owned(),
                source,
            });
        }
        let filled = self.thins.filled(device).await;
        let device = filled.map_err(failed("record", path))?;
        let placed = self.place(&device, path, alone(owner)).await;
        placed.map_err(failed("use", path))?;
        Ok(Made::Empty)
    }

    /// The node of a device that is to be written to.
    pub(super) async fn switched_on(
        &self,
        device: &ThinDevice,
        of: &Utf8Path,
    ) -> Result<Utf8PathBuf, DiskError> {
        let number = self.thins.activate(device).await;
        let number = number.map_err(failed("switch on the device of", of))?;
        Ok(self.thins.ground().node(number))
    }

    /// Leaves a device that failed half-way.
    pub(super) async fn leave(&self, device: ThinDevice, cause: &str) {
        let id = device.id;
        if let Err(error) = self.thins.orphan(device, cause).await {
            tracing::error!(id, error = %chain(&error), "an orphaned device cannot be written down; it is filled again");
        }
    }

    /// On first use the pool is set up, where the host chose it.
    pub(super) async fn may_set_up(&self, of: &Utf8Path) -> Result<(), DiskError> {
        if self.choice == Choice::Files {
            return Ok(());
        }
        let set_up = self.thins.set_up().await;
        set_up.map_err(failed("set up a pool for", of))
    }

    pub(super) async fn check_room(
        &self,
        source: &Utf8Path,
        allotted: u64,
    ) -> Result<(), DiskError> {
        let free = self.thins.free().await;
        let available = Bytes(free.map_err(failed("find room in the pool for", source))?);
        let needed = Bytes(allotted.saturating_add(RESERVE));
        if needed <= available {
            return Ok(());
        }
        Err(DiskError::NoSpace {
            path: source.to_owned(),
            needed,
            available,
        })
    }
}

fn too_small(path: &Utf8Path, wanted: Bytes, present: Bytes) -> Result<(), DiskError> {
    if wanted >= present {
        return Ok(());
    }
    Err(DiskError::TooSmall {
        path: path.to_owned(),
        wanted,
        present,
    })
}

/// The source's file, its size, and what it takes.
async fn open_source(source: &Utf8Path) -> Result<(File, Bytes, u64), DiskError> {
    let path = source.to_owned();
    let opened = aside(move || {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
            .open(&path)?;
        let meta = file.metadata()?;
        Ok((file, Bytes(meta.len()), meta.blocks() * STAT_BLOCK))
    });
    opened
        .await
        .unwrap_or_else(|error| Err(std::io::Error::other(error)))
        .map_err(io("open the volume", source))
}
