//! Volumes' place in the daemon: the store as their ledger, and where new ones are made.

use std::sync::Arc;

use async_trait::async_trait;
use hearth_config::Storage;
use hearth_disk::FileVolumes;
use hearth_pool::{Choice, HelperGround, Ledger, Pool, ThinError, ThinVolumes, Thins};
use hearth_store::{Store, StoreError};
use hearth_types::thin::{NewThin, ThinDevice};

/// The ledger of thin devices in the database.
#[derive(Debug, Clone)]
pub struct StoreLedger(Store);

impl StoreLedger {
    /// The ledger that is in this database.
    #[must_use]
    pub const fn new(store: Store) -> Self {
        Self(store)
    }
}

fn failed(operation: &'static str) -> impl FnOnce(StoreError) -> ThinError {
    move |source| ThinError::Ledger {
        operation,
        source: Box::new(source),
    }
}

#[async_trait]
impl Ledger for StoreLedger {
    async fn devices(&self) -> Result<Vec<ThinDevice>, ThinError> {
        let devices = self.0.thin_devices().await;
        devices.map_err(failed("look"))
    }

    async fn begin(&self, new: NewThin) -> Result<ThinDevice, ThinError> {
        let begun = self.0.begin_thin(new).await;
        begun.map_err(failed("write a new device down"))
    }

    async fn put(&self, device: ThinDevice) -> Result<(), ThinError> {
        let put = self.0.put_thin(device).await;
        put.map_err(failed("write a device down"))
    }

    async fn forget(&self, id: u32) -> Result<(), ThinError> {
        let forgotten = self.0.forget_thin(id).await;
        forgotten.map_err(failed("drop a device"))
    }
}

/// The volumes of this host: those of the pool, and files.
#[must_use]
pub fn of_host(
    pool: Pool,
    ground: Arc<HelperGround>,
    store: Store,
    storage: Storage,
) -> ThinVolumes {
    let thins = Thins::new(pool, ground, Arc::new(StoreLedger::new(store)));
    let choice = match storage {
        Storage::Files => Choice::Files,
        Storage::Thin => Choice::Thin,
        Storage::Auto => Choice::Auto,
    };
    ThinVolumes::new(thins, Arc::new(FileVolumes::default()), choice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_ledger_in_the_database_keeps_the_contract() {
        let folder = tempfile::tempdir().unwrap();
        let path = camino::Utf8PathBuf::try_from(folder.path().join("hearth.db")).unwrap();
        let store = Store::open(&path).unwrap();
        hearth_pool::thin::ledger_contract(&StoreLedger::new(store)).await;
    }
}
