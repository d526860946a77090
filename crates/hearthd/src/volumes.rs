//! Volumes' place in the daemon: the store as their ledger, and where new ones are made.

use std::sync::Arc;

use async_trait::async_trait;
use hearth_config::Storage;
use hearth_disk::FileVolumes;
use hearth_pool::{Choice, HelperGround, Ledger, Pool, ThinError, ThinVolumes, Thins};
use hearth_store::{Store, StoreError};
use hearth_types::event::{NewEvent, Severity};
use hearth_types::survey::chain;
use hearth_types::thin::{NewThin, ThinDevice};

use crate::engine::Engine;

/// More differences than this are told as one event: something else is wrong then.
const MOST_TOLD: usize = 20;

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

/// Compares ledger, kernel and metadata, and tells what they do not agree in.
pub(crate) async fn compare(engine: &Engine, thins: &Thins) {
    match thins.pool().running().await {
        Ok(Some(_)) => {}
        // A pool that is not there is told of by those who put it together.
        Ok(None) | Err(_) => return,
    }
    let found = match thins.compare().await {
        Ok(found) => found,
        Err(error) => {
            let message = format!(
                "the pool's ledger cannot be compared with the kernel: {}",
                chain(&error)
            );
            let event = NewEvent::info("pool.not_compared", message);
            engine.tell(event.severity(Severity::Warning)).await;
            return;
        }
    };
    for difference in found.iter().take(MOST_TOLD) {
        let (code, severity) = if difference.repaired {
            ("pool.difference_repaired", Severity::Info)
        } else {
            ("pool.difference", Severity::Warning)
        };
        let event = NewEvent::info(code, difference.what.clone());
        let event = event.severity(severity);
        engine
            .tell(event.details(serde_json::json!(difference)))
            .await;
    }
    if let Some(more) = found.len().checked_sub(MOST_TOLD).filter(|more| *more > 0) {
        let message = format!("{more} more differences: hearth pool volumes");
        let event = NewEvent::info("pool.difference", message);
        engine.tell(event.severity(Severity::Warning)).await;
    }
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
