//! A ledger in a file of the disk that loses its power: durable, as a whole, when a call returns.

use std::fs::File;
use std::io::Write as _;

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use hearth_pool::thin::MemoryLedger;
use hearth_pool::{Ledger, ThinError};
use hearth_types::thin::{NewThin, ThinDevice};

/// Entries, and the id that was handed out last.
type Kept = (u32, Vec<ThinDevice>);

pub(crate) struct FileLedger {
    path: Utf8PathBuf,
    entries: MemoryLedger,
    last: std::sync::atomic::AtomicU32,
}

impl FileLedger {
    /// What is in a folder, or an empty one.
    pub(crate) async fn open(folder: &Utf8Path) -> Self {
        let path = folder.join("ledger.json");
        let (last, devices): Kept = match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).unwrap(),
            Err(_) => (0, Vec::new()),
        };
        let entries = MemoryLedger::default();
        for device in devices {
            entries.put(device).await.unwrap();
        }
        entries.set_last(last);
        Self {
            path,
            entries,
            last: last.into(),
        }
    }

    async fn keep(&self) {
        let last = self.last.load(std::sync::atomic::Ordering::SeqCst);
        let kept: Kept = (last, self.entries.devices().await.unwrap());
        let draft = self.path.with_extension("draft");
        let mut file = File::create(&draft).unwrap();
        file.write_all(&serde_json::to_vec(&kept).unwrap()).unwrap();
        file.sync_all().unwrap();
        std::fs::rename(&draft, &self.path).unwrap();
        File::open(self.path.parent().unwrap())
            .and_then(|folder| folder.sync_all())
            .unwrap();
    }
}

#[async_trait]
impl Ledger for FileLedger {
    async fn devices(&self) -> Result<Vec<ThinDevice>, ThinError> {
        self.entries.devices().await
    }

    async fn begin(&self, new: NewThin) -> Result<ThinDevice, ThinError> {
        let device = self.entries.begin(new).await?;
        self.last
            .store(device.id, std::sync::atomic::Ordering::SeqCst);
        self.keep().await;
        Ok(device)
    }

    async fn put(&self, device: ThinDevice) -> Result<(), ThinError> {
        self.entries.put(device).await?;
        self.keep().await;
        Ok(())
    }

    async fn forget(&self, id: u32) -> Result<(), ThinError> {
        self.entries.forget(id).await?;
        self.keep().await;
        Ok(())
    }
}
