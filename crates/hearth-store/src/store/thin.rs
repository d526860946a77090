//! Requests about the ledger of thin devices.

use hearth_types::thin::{NewThin, ThinDevice};

use super::Store;
#[cfg(doc)]
use crate::StoreError;
use crate::{Result, thin};

impl Store {
    /// The ledger of thin devices, by their ids.
    ///
    /// # Errors
    /// Only the database's own.
    pub async fn thin_devices(&self) -> Result<Vec<ThinDevice>> {
        self.request(|session| thin::read(session)).await
    }

    /// Writes a thin device down that is to be made, under the next free id.
    ///
    /// # Errors
    /// [`StoreError::Exhausted`], or the database's own: one for a name that is taken.
    pub async fn begin_thin(&self, new: NewThin) -> Result<ThinDevice> {
        self.request(move |session| thin::begin(session, new)).await
    }

    /// Writes an entry of the ledger, a new one or over the one of its id.
    ///
    /// # Errors
    /// Only the database's own.
    pub async fn put_thin(&self, device: ThinDevice) -> Result<()> {
        self.request(move |session| thin::put(session, &device))
            .await
    }

    /// Drops an entry of the ledger; one that is gone is a success.
    ///
    /// # Errors
    /// Only the database's own.
    pub async fn forget_thin(&self, id: u32) -> Result<()> {
        self.request(move |session| thin::forget(session, id)).await
    }
}
