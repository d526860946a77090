//! Calls to device-mapper, made by a process of their own.
//!
//! ```text
//!  a thread of the guard's ──► an idle helper, or a new one ── call ──► helper ── ioctls ──► kernel
//!     waits for the answer ◄───────────────────────────────── answer ──┘
//!
//!  idle ◄──────► at work ── deadline ──► given up: told to break off what it can, and left alone
//!    │ the daemon                            │ the kernel lets it go: its answer comes late,
//!    ▼ is gone                               ▼ or the daemon is gone: it ends
//!  ended
//! ```
//! A thread in the kernel keeps its process from ending, with the lock of the data folder in its hands. So
//! the daemon's threads make no such calls: they wait for a helper's answer, and hear every signal.
//!
//! - A helper makes one call at a time. Who asks while it works has another one: looks and what the guard permits
//!   go on beside one that hangs. How many hang is bounded by the guard's turns and by [`ask::MOST`].
//! - It is never killed in the middle of a call: a snapshot that was begun has suspended its origin, and only
//!   the helper's own end of the call resumes it. A signal breaks off the waits that the kernel can undo.
//! - It ends when the daemon is gone, after the call that it is in. It holds nothing of the daemon's: no lock, no
//!   socket but its own.
//! - It carries the owner mark, so a survey knows it.

mod ask;
mod said;
mod serve;
mod start;
#[cfg(test)]
mod tests;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use hearth_disk::Borrower;
use hearth_dm::Device;

use crate::base::{Base, Candidate};
use crate::error::PoolError;
use crate::ground::{Checked, Events, Found, Ground, Layout, Mending, Place, Running};
use crate::space::Room;
use crate::thin::{Active, Mapped, Target, ThinError, ThinGround, Under};
pub use ask::Helpers;
pub use serve::serve;
pub use start::{Started, command};
use wire::Call;

/// A ground whose calls to device-mapper are made by helpers. What cannot hang on a device is done here.
#[derive(Clone)]
pub struct HelperGround {
    local: Arc<dyn ThinGround>,
    helpers: Helpers,
}

impl std::fmt::Debug for HelperGround {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HelperGround")
            .field("helpers", &self.helpers)
            .finish_non_exhaustive()
    }
}

impl HelperGround {
    /// `local`: the ground on which the helpers stand, too.
    #[must_use]
    pub fn new(local: Arc<dyn ThinGround>, helpers: Helpers) -> Self {
        Self { local, helpers }
    }

    fn pool<T: serde::de::DeserializeOwned>(
        &self,
        place: &Place,
        call: Call,
    ) -> Result<T, PoolError> {
        self.helpers.ask(place, call).map_err(|error| match error {
            ThinError::Pool(error) => error,
            other => PoolError::Helper {
                what: "says".to_owned(),
                source: std::io::Error::other(other),
            },
        })
    }
}

#[async_trait]
impl Ground for HelperGround {
    fn available(&self) -> Result<(), PoolError> {
        self.local.available()
    }

    fn find(&self, place: &Place) -> Result<Found, PoolError> {
        // Where there is no device-mapper no process is started to find that out.
        self.local.available()?;
        self.pool(place, Call::Find)
    }

    fn assemble(&self, place: &Place, layout: &Layout) -> Result<Running, PoolError> {
        self.pool(place, Call::Assemble(*layout))
    }

    fn take_down(&self, place: &Place) -> Result<(), PoolError> {
        self.pool(place, Call::TakeDown)
    }

    fn room(&self, place: &Place) -> Result<Room, PoolError> {
        self.local.room(place)
    }

    fn extend(&self, place: &Place, layout: &Layout) -> Result<Running, PoolError> {
        self.pool(place, Call::Extend(*layout))
    }

    fn inspect(
        &self,
        place: &Place,
        device: &Utf8Path,
        force: bool,
    ) -> Result<Candidate, PoolError> {
        let device = device.to_owned();
        self.pool(place, Call::Inspect { device, force })
    }

    fn claim(&self, place: &Place, base: &Base, force: bool) -> Result<(), PoolError> {
        let base = base.clone();
        self.pool(place, Call::Claim { base, force })
    }

    fn release(&self, place: &Place, base: &Base) -> Result<(), PoolError> {
        self.pool(place, Call::Release(base.clone()))
    }

    fn events(&self) -> Option<Box<dyn Events>> {
        self.local.events()
    }

    fn hold_metadata(&self, place: &Place, hold: bool) -> Result<(), PoolError> {
        self.pool(place, Call::HoldMetadata(hold))
    }

    fn needs_check(&self, place: &Place) -> Result<bool, PoolError> {
        self.local.needs_check(place)
    }

    async fn mend(&self, work: &Mending<'_>, deadline: Duration) -> Result<Checked, PoolError> {
        self.local.mend(work, deadline).await
    }

    async fn check(&self, metadata: &Utf8Path, deadline: Duration) -> Result<Checked, PoolError> {
        self.local.check(metadata, deadline).await
    }
}

#[async_trait]
impl ThinGround for HelperGround {
    fn create_thin(&self, place: &Place, id: u32) -> Result<(), ThinError> {
        self.helpers.ask(place, Call::CreateThin { id })
    }

    fn create_snapshot(&self, place: &Place, id: u32, origin: u32) -> Result<(), ThinError> {
        self.helpers.ask(place, Call::CreateSnapshot { id, origin })
    }

    fn delete_thin(&self, place: &Place, id: u32) -> Result<(), ThinError> {
        self.helpers.ask(place, Call::DeleteThin { id })
    }

    fn set_count(&self, place: &Place, from: u64, to: u64) -> Result<(), ThinError> {
        self.helpers.ask(place, Call::SetCount { from, to })
    }

    fn holds(&self, place: &Place, id: u32) -> Result<bool, ThinError> {
        self.helpers.ask(place, Call::Holds { id })
    }

    fn activate(&self, place: &Place, target: &Target) -> Result<Device, ThinError> {
        self.helpers.ask(place, Call::Activate(target.clone()))
    }

    fn deactivate(&self, place: &Place, id: u32) -> Result<(), ThinError> {
        self.helpers.ask(place, Call::Deactivate { id })
    }

    fn resume(&self, place: &Place, id: u32) -> Result<(), ThinError> {
        self.helpers.ask(place, Call::Resume { id })
    }

    fn active(&self, place: &Place) -> Result<Vec<Active>, ThinError> {
        self.helpers.ask(place, Call::Active)
    }

    fn reserve_metadata(&self, place: &Place) -> Result<Device, ThinError> {
        self.helpers.ask(place, Call::ReserveMetadata)
    }

    fn release_metadata(&self, place: &Place) -> Result<(), ThinError> {
        self.helpers.ask(place, Call::ReleaseMetadata)
    }

    async fn listed(
        &self,
        place: &Place,
        metadata: Device,
        deadline: Duration,
    ) -> Result<Vec<Mapped>, ThinError> {
        self.local.listed(place, metadata, deadline).await
    }

    fn node(&self, device: Device) -> Utf8PathBuf {
        self.local.node(device)
    }

    fn under(&self, path: &Utf8Path) -> Result<Under, ThinError> {
        self.local.under(path)
    }

    fn place_node(&self, path: &Utf8Path, device: Device, to: Borrower) -> Result<(), ThinError> {
        self.local.place_node(path, device, to)
    }

    fn lacks(&self, folder: &Utf8Path) -> Option<String> {
        self.local.lacks(folder)
    }
}
