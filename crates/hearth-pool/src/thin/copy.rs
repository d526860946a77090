//! A copy of the ledger beside the pool, for the day on which the database is lost: what the metadata
//! cannot tell, which device is whose and how large it is, is in it.
//!
//! It is written with each comparison that finds the ledger changed, and read when records are made anew.

use std::io::Read as _;

use hearth_types::thin::ThinDevice;
use serde::{Deserialize, Serialize};

use crate::error::PoolError;
use crate::files;
use crate::ground::Place;

/// The largest one that is read, in bytes: some hundred thousand devices.
const LARGEST: u64 = 256 << 20;

#[derive(Debug, Serialize, Deserialize)]
struct Copy {
    devices: Vec<ThinDevice>,
}

/// Writes it, so that it is there whole, also after a power cut.
pub(super) fn write(place: &Place, devices: Vec<ThinDevice>) -> Result<(), PoolError> {
    let path = place.ledger();
    let text = serde_json::to_vec(&Copy { devices });
    let text = text.map_err(|source| PoolError::Record { path, source })?;
    files::write_whole(&place.dir, &place.ledger(), &text)
}

/// Reads it; empty if there is none.
pub(super) fn read(place: &Place) -> Result<Vec<ThinDevice>, PoolError> {
    let path = place.ledger();
    let file = match std::fs::File::open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        file => file.map_err(PoolError::io("open", &path))?,
    };
    let mut text = Vec::new();
    file.take(LARGEST)
        .read_to_end(&mut text)
        .map_err(PoolError::io("read", &path))?;
    let copy: Copy =
        serde_json::from_slice(&text).map_err(|source| PoolError::Record { path, source })?;
    Ok(copy.devices)
}
