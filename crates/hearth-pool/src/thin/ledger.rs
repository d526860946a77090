//! The ledger: which id of the pool is whose. An id is in it before the kernel is told of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use hearth_dm::thin::LARGEST_ID;
use hearth_types::thin::{NewThin, ThinDevice, ThinKind, ThinState};
use jiff::Timestamp;
use parking_lot::Mutex;

use super::error::ThinError;

/// A ledger. Each call is durable, as a whole, when it returns; one that fails has done nothing.
#[async_trait]
pub trait Ledger: Send + Sync + 'static {
    /// All entries, by their ids.
    async fn devices(&self) -> Result<Vec<ThinDevice>, ThinError>;

    /// Writes a device down that is to be made. Its id is one that no entry has, and comes again as
    /// late as possible. Refuses a name that another one has.
    async fn begin(&self, new: NewThin) -> Result<ThinDevice, ThinError>;

    /// Writes an entry, a new one or over the one of its id.
    async fn put(&self, device: ThinDevice) -> Result<(), ThinError>;

    /// Drops an entry; one that is gone is a success.
    async fn forget(&self, id: u32) -> Result<(), ThinError>;
}

/// A ledger in memory, for tests.
#[doc(hidden)]
#[derive(Debug, Clone, Default)]
pub struct MemoryLedger(Arc<Mutex<Entries>>);

#[derive(Debug, Default)]
struct Entries {
    devices: BTreeMap<u32, ThinDevice>,
    last: u32,
}

impl MemoryLedger {
    /// Makes the id that is handed out next follow this one.
    pub fn set_last(&self, last: u32) {
        self.0.lock().last = last;
    }
}

#[async_trait]
impl Ledger for MemoryLedger {
    async fn devices(&self) -> Result<Vec<ThinDevice>, ThinError> {
        Ok(self.0.lock().devices.values().cloned().collect())
    }

    async fn begin(&self, new: NewThin) -> Result<ThinDevice, ThinError> {
        let mut entries = self.0.lock();
        let entries = &mut *entries;
        let mut named = entries.devices.values().filter(|it| it.state.is_named());
        if named.any(|device| device.name == new.name) {
            return Err(refused(format!("{} is there already", new.name)));
        }
        let from = entries.last % LARGEST_ID + 1;
        let mut all = (from..=LARGEST_ID).chain(1..from);
        let id = all
            .find(|id| !entries.devices.contains_key(id))
            .ok_or_else(|| refused("no id is left".to_owned()))?;
        entries.last = id;
        let device = new.with_id(id);
        entries.devices.insert(id, device.clone());
        Ok(device)
    }

    async fn put(&self, device: ThinDevice) -> Result<(), ThinError> {
        let mut entries = self.0.lock();
        let mut others = entries.devices.values();
        let same = |other: &ThinDevice| {
            other.id != device.id && other.state.is_named() && other.name == device.name
        };
        if device.state.is_named() && others.any(same) {
            return Err(refused(format!("{} is there already", device.name)));
        }
        entries.devices.insert(device.id, device);
        Ok(())
    }

    async fn forget(&self, id: u32) -> Result<(), ThinError> {
        self.0.lock().devices.remove(&id);
        Ok(())
    }
}

fn refused(why: String) -> ThinError {
    ThinError::Ledger {
        operation: "write a device down",
        source: why.into(),
    }
}

/// What every ledger must keep. It is empty at the beginning and at the end.
///
/// # Panics
/// When the ledger breaks it.
#[doc(hidden)]
pub async fn contract(ledger: &dyn Ledger) {
    let new = |name: &str| NewThin {
        name: name.to_owned(),
        kind: ThinKind::VmData,
        origin: None,
        bytes: 1 << 20,
        transaction_id: 7,
        created_at: Timestamp::UNIX_EPOCH,
    };
    let first = ledger.begin(new("a")).await.expect("it is written down");
    assert_eq!(first.state, ThinState::Creating);
    assert!(
        ledger.begin(new("a")).await.is_err(),
        "two have the same name"
    );
    let second = ledger.begin(new("b")).await.expect("it is written down");
    assert!(first.id > 0 && second.id > first.id);
    let orphan = ThinDevice {
        state: ThinState::Orphaned,
        cause: Some("it failed".to_owned()),
        bytes: 2 << 20,
        transaction_id: 8,
        ..first.clone()
    };
    ledger.put(orphan.clone()).await.expect("it is written");
    // Its name is free, its id is not.
    let third = ledger.begin(new("a")).await.expect("it is written down");
    assert!(third.id > second.id);
    let back = ThinDevice {
        state: ThinState::Ready,
        ..orphan.clone()
    };
    assert!(ledger.put(back).await.is_err(), "two have the same name");
    let all = ledger.devices().await.expect("it is read");
    assert_eq!(all, [orphan, second.clone(), third.clone()]);
    for id in [first.id, first.id, second.id, third.id] {
        ledger.forget(id).await.expect("it is forgotten");
    }
    let fourth = ledger.begin(new("a")).await.expect("it is written down");
    assert!(
        fourth.id > third.id,
        "an id comes again as late as possible"
    );
    ledger.forget(fourth.id).await.expect("it is forgotten");
    assert!(ledger.devices().await.expect("it is read").is_empty());
}
