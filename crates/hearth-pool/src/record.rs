//! `pool.json`: what is known of the pool while the kernel does not have it.

use hearth_dm::thin::{BlockSize, SECTOR};
use hearth_types::pool::PoolCheck;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::base::Base;
use crate::error::PoolError;
use crate::files;
use crate::ground::{Layout, Place};

/// The largest record that is read, in bytes; a real one has a few hundred.
const LARGEST: u64 = 64 << 10;

/// How far the pool has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// It is being made. Nothing is in it.
    Preparing,
    /// It was made. From now on its files hold data.
    Ready,
    /// It is being destroyed.
    Destroying,
}

/// The sizes that a pool grows to, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Growing {
    data: u64,
    metadata: u64,
}

/// The record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// How far it has come.
    pub stage: Stage,
    /// Bytes of data.
    data: u64,
    /// Bytes of metadata.
    metadata: u64,
    /// Sectors in a block.
    block_sectors: u32,
    /// What it is growing to; written before anything grows, so that what was cut off is gone on
    /// with. Until it ends each file has its old size or its new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    growing: Option<Growing>,
    /// The device that its data is on; absent: a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Base>,
    /// When it was set up.
    pub made_at: Timestamp,
    /// The last check of its metadata.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_check: Option<PoolCheck>,
}

impl Record {
    /// Of a pool that is about to be made.
    #[must_use]
    pub fn new(layout: &Layout, made_at: Timestamp) -> Self {
        Self {
            stage: Stage::Preparing,
            data: layout.data,
            metadata: layout.metadata,
            block_sectors: layout.block.sectors(),
            growing: None,
            base: None,
            made_at,
            last_check: None,
        }
    }

    /// How large it is.
    ///
    /// # Errors
    /// When the record holds sizes that no pool has.
    pub fn layout(&self, place: &Place) -> Result<Layout, PoolError> {
        self.sized(place, self.data, self.metadata)
    }

    /// How large it is to become, if that was begun.
    ///
    /// # Errors
    /// As [`Record::layout`].
    pub fn growing(&self, place: &Place) -> Result<Option<Layout>, PoolError> {
        self.growing
            .map(|to| self.sized(place, to.data, to.metadata))
            .transpose()
    }

    /// It is about to grow.
    pub(crate) fn begin_growth(&mut self, to: &Layout) {
        self.growing = Some(Growing {
            data: to.data,
            metadata: to.metadata,
        });
    }

    /// It has grown.
    pub(crate) fn end_growth(&mut self) {
        if let Some(to) = self.growing.take() {
            (self.data, self.metadata) = (to.data, to.metadata);
        }
    }

    /// It does not grow: nothing has.
    pub(crate) fn give_up_growth(&mut self) {
        self.growing = None;
    }

    fn sized(&self, place: &Place, data: u64, metadata: u64) -> Result<Layout, PoolError> {
        let block = BlockSize::from_sectors(self.block_sectors);
        let whole = |size: u64| size > 0 && size.is_multiple_of(SECTOR);
        match block {
            Some(block) if whole(data) && whole(metadata) => Ok(Layout {
                data,
                metadata,
                block,
            }),
            _ => Err(PoolError::File {
                path: place.record(),
                what: "holds sizes that no pool has".to_owned(),
            }),
        }
    }

    /// Reads it; `None` if there is none.
    ///
    /// # Errors
    /// When it cannot be read or understood.
    pub fn read(place: &Place) -> Result<Option<Self>, PoolError> {
        let path = place.record();
        let size = match path.symlink_metadata() {
            Ok(meta) => meta.len(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(PoolError::io("look at", path)(error)),
        };
        if size > LARGEST {
            return Err(PoolError::File {
                path,
                what: "is far too large for a record".to_owned(),
            });
        }
        let text = std::fs::read(&path).map_err(PoolError::io("read", &path))?;
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|source| PoolError::Record { path, source })
    }

    /// Writes it, so that it is there whole, also after a power cut.
    ///
    /// # Errors
    /// When it cannot be written; the old one is there then.
    pub fn write(&self, place: &Place) -> Result<(), PoolError> {
        let path = place.record();
        let mut text = serde_json::to_vec_pretty(self).map_err(|source| PoolError::Record {
            path: path.clone(),
            source,
        })?;
        text.push(b'\n');
        files::write_whole(&place.dir, &path, &text)
    }
}
