//! Volumes of VMs, in the pool or as files: what a volume is was decided when it was made, and what
//! stands under its path tells.
//!
//! ```text
//! images/ID/volume ──filled once──► thin device (image) ──snapshot──► thin device (vm-root)
//!                                                                        ▲ number of this boot
//!                                       vms/ID/root.img ── node ─────────┘ renewed by `ready`
//! ```
//! A volume's name is that of its folder and its file. Its node has the mode and owner that a file
//! would have, so whoever opens the path finds a disk, whatever it stands on.

mod kind;
mod layers;
mod making;
mod moves;
mod swap;

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use camino::Utf8Path;
use hearth_disk::{Borrower, DiskError, Made, Room, Standing, Volumes};
use hearth_host::aside::aside;
use hearth_types::thin::{ThinDevice, ThinState};
use hearth_types::units::Bytes;
use hearth_types::volume::StorageKind;
use parking_lot::Mutex;

use crate::thin::{ThinError, Thins, Under};
pub use kind::kind_of;
pub use layers::{NewLayer, layer_name};

/// Where new volumes are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Choice {
    /// As files.
    #[default]
    Files,
    /// In the pool. Where that cannot be, none are made.
    Thin,
    /// In the pool where the host can have one, else as files.
    Auto,
}

/// Volumes in the pool and beside it.
#[derive(Clone)]
pub struct ThinVolumes {
    thins: Thins,
    files: Arc<dyn Volumes>,
    choice: Choice,
    /// One at a time for each name.
    locks: Arc<Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>>,
    filling: layers::Filling,
}

impl std::fmt::Debug for ThinVolumes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ThinVolumes")
            .field("thins", &self.thins)
            .field("choice", &self.choice)
            .finish_non_exhaustive()
    }
}

/// What a volume is.
#[derive(Debug)]
enum Present {
    Nothing,
    File,
    Thin(ThinDevice),
}

/// The name of the volume that has this path.
#[must_use]
pub fn volume_name(path: &Utf8Path) -> String {
    format!(
        "{}{}",
        prefix_of(path.parent().unwrap_or_else(|| Utf8Path::new(""))),
        path.file_stem().unwrap_or_default()
    )
}

/// What the names of all volumes of a folder begin with.
fn prefix_of(folder: &Utf8Path) -> String {
    format!("{}-", folder.file_name().unwrap_or_default())
}

/// Nobody else has it.
const fn alone(owner: u32) -> Borrower {
    Borrower {
        owner,
        read_only: false,
    }
}

fn failed(operation: &'static str, path: &Utf8Path) -> impl FnOnce(ThinError) -> DiskError {
    let path = path.to_owned();
    move |source| DiskError::Ground {
        operation,
        path,
        source: Box::new(source),
    }
}

/// A device that can be used.
fn whole(device: ThinDevice) -> Result<ThinDevice, ThinError> {
    if device.state == ThinState::Ready {
        return Ok(device);
    }
    Err(ThinError::NotReady {
        name: device.name,
        id: device.id,
        state: device.state,
    })
}

impl ThinVolumes {
    /// New volumes as chosen, and those that are there as what they are.
    #[must_use]
    pub fn new(thins: Thins, files: Arc<dyn Volumes>, choice: Choice) -> Self {
        Self {
            thins,
            files,
            choice,
            locks: Arc::default(),
            filling: Arc::default(),
        }
    }

    /// The thin devices that the volumes of the pool are.
    #[must_use]
    pub const fn thins(&self) -> &Thins {
        &self.thins
    }

    /// Waits until nobody else works on a volume of this name.
    async fn lock(&self, name: &str) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.locks.lock();
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(locks.entry(name.to_owned()).or_default())
        };
        lock.lock_owned().await
    }

    /// What a volume is: what stands under its path, and what the ledger has of it.
    async fn present(&self, path: &Utf8Path) -> Result<Present, DiskError> {
        let under = self.under(path).await?;
        if under == Under::File {
            return Ok(Present::File);
        }
        let found = self.thins.find(&volume_name(path)).await;
        match (found.map_err(failed("look for", path))?, under) {
            (Some(device), _) => Ok(Present::Thin(device)),
            (None, Under::Node(_)) => {
                let path = path.to_owned();
                Err(failed("use", &path.clone())(ThinError::Unrecorded { path }))
            }
            (None, _) => Ok(Present::Nothing),
        }
    }

    async fn under(&self, path: &Utf8Path) -> Result<Under, DiskError> {
        let (thins, looked_at) = (self.thins.clone(), path.to_owned());
        let under = aside(move || thins.ground().under(&looked_at)).await;
        let under = under.unwrap_or_else(|error| {
            let error = std::io::Error::other(error);
            Err(ThinError::Io {
                operation: "look at",
                path: path.to_owned(),
                source: error,
            })
        });
        under.map_err(failed("look at", path))
    }

    /// Whether a new volume of this folder is made in the pool.
    async fn in_pool(&self, folder: &Utf8Path) -> bool {
        match self.choice {
            Choice::Files => false,
            Choice::Thin => true,
            Choice::Auto => {
                let (thins, folder) = (self.thins.clone(), folder.to_owned());
                let lacks = aside(move || thins.ground().lacks(&folder)).await;
                match lacks {
                    Ok(None) => true,
                    Ok(Some(what)) => {
                        tracing::debug!(what, "volumes are files on this host");
                        false
                    }
                    Err(_) => false,
                }
            }
        }
    }

    /// Switches a volume on and puts its node under its path.
    async fn place(
        &self,
        device: &ThinDevice,
        path: &Utf8Path,
        to: Borrower,
    ) -> Result<Standing, ThinError> {
        let number = self.thins.activate(device).await?;
        let (thins, at) = (self.thins.clone(), path.to_owned());
        aside(move || {
            let ground = thins.ground();
            ground.place_node(&at, number, to)?;
            Ok(Standing {
                device: Some(ground.node(number)),
            })
        })
        .await
        .unwrap_or_else(|error| {
            Err(ThinError::Io {
                operation: "make the node",
                path: path.to_owned(),
                source: std::io::Error::other(error),
            })
        })
    }

    /// A volume that is there keeps its content; it gets the asked size and owner.
    async fn keep(
        &self,
        device: ThinDevice,
        path: &Utf8Path,
        size: Bytes,
        owner: u32,
    ) -> Result<Made, DiskError> {
        let grown = self.thins.grow(device, size.0).await;
        let device = grown.map_err(failed("grow", path))?;
        self.place(&device, path, alone(owner))
            .await
            .map_err(failed("use", path))?;
        Ok(Made::Present)
    }
}

#[async_trait]
impl Volumes for ThinVolumes {
    async fn clone_from(
        &self,
        source: &Utf8Path,
        path: &Utf8Path,
        size: Bytes,
        owner: u32,
    ) -> Result<Made, DiskError> {
        let _lock = self.lock(&volume_name(path)).await;
        match self.present(path).await? {
            Present::File => {
                return Volumes::clone_from(&*self.files, source, path, size, owner).await;
            }
            Present::Thin(device) if device.state == ThinState::Ready => {
                return self.keep(device, path, size, owner).await;
            }
            Present::Thin(_) | Present::Nothing => {}
        }
        let folder = path.parent().unwrap_or(path);
        match self.present(source).await? {
            Present::Thin(origin) => self.snapshot(&origin, source, path, size, owner).await,
            Present::File if self.in_pool(folder).await => {
                let image = self.image(source, path, size).await?;
                self.snapshot(&image, source, path, size, owner).await
            }
            // What is not there is told by those who would have read it.
            Present::File | Present::Nothing => {
                Volumes::clone_from(&*self.files, source, path, size, owner).await
            }
        }
    }

    async fn create_ext4(
        &self,
        path: &Utf8Path,
        size: Bytes,
        label: &str,
        owner: u32,
    ) -> Result<Made, DiskError> {
        let _lock = self.lock(&volume_name(path)).await;
        let folder = path.parent().unwrap_or(path);
        match self.present(path).await? {
            Present::Thin(device) if device.state == ThinState::Ready => {
                self.keep(device, path, size, owner).await
            }
            Present::Thin(_) => self.ext4(path, size, label, owner).await,
            Present::Nothing if self.in_pool(folder).await => {
                self.ext4(path, size, label, owner).await
            }
            Present::Nothing | Present::File => {
                self.files.create_ext4(path, size, label, owner).await
            }
        }
    }

    async fn duplicate(
        &self,
        source: &Utf8Path,
        path: &Utf8Path,
        size: Bytes,
        owner: u32,
    ) -> Result<Made, DiskError> {
        self.same_kind(source, path, size, owner).await
    }

    async fn image_of(
        &self,
        source: &Utf8Path,
        path: &Utf8Path,
        size: Bytes,
    ) -> Result<Made, DiskError> {
        self.image_of_same_kind(source, path, size).await
    }

    async fn size(&self, path: &Utf8Path) -> Result<Bytes, DiskError> {
        self.size_of(path).await
    }

    async fn clones_at_once(&self, source: &Utf8Path, path: &Utf8Path) -> Result<bool, DiskError> {
        self.shares(source, path).await
    }

    async fn replace(&self, path: &Utf8Path, new: &Utf8Path) -> Result<(), DiskError> {
        self.swap(path, new).await
    }

    async fn grow(&self, path: &Utf8Path, size: Bytes) -> Result<(), DiskError> {
        let _lock = self.lock(&volume_name(path)).await;
        match self.present(path).await? {
            Present::Thin(device) if size.0 < device.bytes => Err(DiskError::TooSmall {
                path: path.to_owned(),
                wanted: size,
                present: Bytes(device.bytes),
            }),
            Present::Thin(device) => {
                let grown = self.thins.grow(device, size.0).await;
                grown.map(drop).map_err(failed("grow", path))
            }
            Present::File | Present::Nothing => self.files.grow(path, size).await,
        }
    }

    async fn remove(&self, path: &Utf8Path) -> Result<(), DiskError> {
        let name = volume_name(path);
        let _lock = self.lock(&name).await;
        let removed = self.thins.remove(|device| device.name == name).await;
        removed.map_err(failed("remove", path))?;
        self.files.remove(path).await
    }

    async fn ready(&self, path: &Utf8Path, owner: u32) -> Result<Standing, DiskError> {
        let _lock = self.lock(&volume_name(path)).await;
        match self.present(path).await? {
            Present::Thin(device) => {
                let device = whole(device).map_err(failed("use", path))?;
                let placed = self.place(&device, path, alone(owner)).await;
                placed.map_err(failed("use", path))
            }
            Present::File | Present::Nothing => Ok(Standing::default()),
        }
    }

    async fn lend(
        &self,
        path: &Utf8Path,
        at: &Utf8Path,
        to: Borrower,
    ) -> Result<Standing, DiskError> {
        self.lend_as(path, at, to).await
    }

    async fn kind(&self, path: &Utf8Path) -> Result<StorageKind, DiskError> {
        match self.present(path).await? {
            Present::Thin(_) => Ok(StorageKind::Thin),
            Present::File | Present::Nothing => Ok(StorageKind::Files),
        }
    }

    async fn kind_of_new(&self, folder: &Utf8Path) -> StorageKind {
        if self.in_pool(folder).await {
            StorageKind::Thin
        } else {
            StorageKind::Files
        }
    }

    async fn cannot(&self, kind: StorageKind, folder: &Utf8Path) -> Option<String> {
        self.lacks(kind, folder).await
    }

    async fn convert(
        &self,
        source: &Utf8Path,
        path: &Utf8Path,
        kind: StorageKind,
        owner: u32,
    ) -> Result<(), DiskError> {
        self.convert_to(source, path, kind, owner).await
    }

    async fn clear(&self, folder: &Utf8Path) -> Result<(), DiskError> {
        let prefix = prefix_of(folder);
        let removed = self
            .thins
            .remove(|device| device.name.starts_with(&prefix))
            .await;
        removed.map_err(failed("remove the volumes of", folder))
    }

    async fn forget_source(&self, source: &Utf8Path) -> Result<(), DiskError> {
        let name = volume_name(source);
        let _lock = self.lock(&name).await;
        let removed = self.thins.remove(|device| device.name == name).await;
        removed.map_err(failed("remove the image", source))
    }

    async fn is_lost(&self, path: &Utf8Path) -> Result<bool, DiskError> {
        let under = self.under(path).await?;
        if under != Under::Nothing {
            return Ok(false);
        }
        // Its node can be made again.
        let found = self.thins.find(&volume_name(path)).await;
        let found: Option<ThinDevice> = found.map_err(failed("look for", path))?;
        Ok(found.is_none())
    }

    async fn room(&self, folder: &Utf8Path) -> Result<Room, DiskError> {
        self.files.room(folder).await
    }
}
