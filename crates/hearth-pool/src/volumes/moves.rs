//! Volumes that are lent under a second name, and copies in the other kind of storage.

use std::fs::{File, OpenOptions};
use std::io::{Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::time::Instant;

use camino::{Utf8Path, Utf8PathBuf};
use hearth_disk::{Borrower, DiskError, Standing, copy_verified};
use hearth_host::aside::aside;
use hearth_types::thin::{ThinKind, ThinState};
use hearth_types::volume::StorageKind;

use super::making::{Filled, io};
use super::{Choice, Present, ThinVolumes, alone, failed, kind_of, volume_name, whole};
use crate::thin::{Under, Wanted};

/// A unit of `st_blocks`, whatever the file system's blocks are (stat(2)).
const STAT_BLOCK: u64 = 512;

/// What is copied: the file or device, its length, and what of it is written at most.
struct Source {
    file: File,
    length: u64,
    allotted: u64,
}

impl Source {
    fn open(path: &Utf8Path) -> std::io::Result<Self> {
        let mut file = File::open(path)?;
        // A device has no length but its end.
        let length = file.seek(SeekFrom::End(0))?;
        let meta = file.metadata()?;
        let allotted = if meta.is_file() {
            meta.blocks() * STAT_BLOCK
        } else {
            length
        };
        Ok(Self {
            file,
            length,
            allotted,
        })
    }
}

impl ThinVolumes {
    /// A second name for a volume: a node of its device, or a link to its file.
    pub(super) async fn lend_as(
        &self,
        path: &Utf8Path,
        at: &Utf8Path,
        to: Borrower,
    ) -> Result<Standing, DiskError> {
        let _lock = self.lock(&volume_name(path)).await;
        let Present::Thin(device) = self.present(path).await? else {
            return self.files.lend(path, at, to).await;
        };
        let device = whole(device).map_err(failed("lend", path))?;
        // The volume was a file before; no node comes in the place of one.
        if self.under(at).await? == Under::File {
            self.files.take_back(at).await?;
        }
        let placed = self.place(&device, at, to).await;
        placed.map_err(failed("lend", path))
    }

    /// Why no volume of this kind can be made in a folder, as far as can be told without trying.
    pub(super) async fn lacks(&self, kind: StorageKind, folder: &Utf8Path) -> Option<String> {
        if kind == StorageKind::Files || matches!(self.thins.pool().running().await, Ok(Some(_))) {
            return None;
        }
        if self.choice == Choice::Files {
            return Some("there is no pool that works".to_owned());
        }
        let (thins, folder) = (self.thins.clone(), folder.to_owned());
        let lacks = aside(move || thins.ground().lacks(&folder)).await;
        lacks.unwrap_or_else(|error| Some(error.to_string()))
    }

    /// A copy of a volume in this kind of storage, compared with it.
    pub(super) async fn convert_to(
        &self,
        source: &Utf8Path,
        path: &Utf8Path,
        kind: StorageKind,
        owner: u32,
    ) -> Result<(), DiskError> {
        let from = self.readable(source).await?;
        let _lock = self.lock(&volume_name(path)).await;
        match kind {
            StorageKind::Files => self.files.convert(&from, path, kind, owner).await,
            StorageKind::Thin => self.put_into_pool(&from, path, owner).await,
        }
    }

    /// Where a volume can be read.
    async fn readable(&self, source: &Utf8Path) -> Result<Utf8PathBuf, DiskError> {
        match self.present(source).await? {
            Present::Thin(device) => {
                let device = whole(device).map_err(failed("read", source))?;
                self.switched_on(&device, source).await
            }
            Present::File | Present::Nothing => Ok(source.to_owned()),
        }
    }

    async fn put_into_pool(
        &self,
        source: &Utf8Path,
        path: &Utf8Path,
        owner: u32,
    ) -> Result<(), DiskError> {
        let (begun, name) = (Instant::now(), volume_name(path));
        let opened = source.to_owned();
        let opened = aside(move || Source::open(&opened)).await;
        let from = opened
            .unwrap_or_else(|error| Err(std::io::Error::other(error)))
            .map_err(io("open the volume", source))?;
        self.may_set_up(path).await?;
        // What was begun before may hold what the source has no more.
        let begun_before = self.thins.remove(|it| it.name == name).await;
        begun_before.map_err(failed("begin anew", path))?;
        self.check_room(path, from.allotted).await?;
        let wanted = Wanted {
            name,
            kind: kind_of(path, ThinKind::VmData),
            bytes: from.length,
            origin: None,
        };
        let made = self.thins.make(&wanted).await;
        let device = made.map_err(failed("make a device for", path))?;
        let node = self.switched_on(&device, path).await?;
        let bytes = from.length;
        let copied = aside(move || -> Filled {
            let onto = OpenOptions::new().read(true).write(true).open(&node)?;
            copy_verified(&from.file, &onto, from.length)?;
            Ok(())
        });
        let copied = copied.await.unwrap_or_else(|error| Err(error.into()));
        if let Err(error) = copied {
            let cause = format!("the copy of {source} failed: {error}");
            self.leave(device, &cause).await;
            return Err(io("copy to the pool", source)(std::io::Error::other(error)));
        }
        let filled = self.thins.filled(device).await;
        let device = filled.map_err(failed("record", path))?;
        debug_assert_eq!(device.state, ThinState::Ready);
        let placed = self.place(&device, path, alone(owner)).await;
        placed.map_err(failed("use", path))?;
        tracing::info!(
            id = device.id,
            volume = device.name,
            bytes,
            millis = begun.elapsed().as_millis(),
            "a volume was copied into the pool"
        );
        Ok(())
    }
}
