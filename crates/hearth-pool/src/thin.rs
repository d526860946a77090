//! Thin devices: volumes in the pool, each written down before the kernel is told of it.
//!
//! ```text
//!           written down        the kernel has it,       filled, synced
//!           with its id         the count is moved on
//!  (free) ───────────► creating ───────────────► filling ─────────────► ready ◄─┐ larger table
//!    ▲                    │  │   snapshots need no filling: ─────────────► │ └──┘
//!    │  the kernel said no│  │                        │ failed            │
//!    │◄───────────────────┘  │ it has it already      ▼                   │
//!    │                       └──────────────────► orphaned: it stays, and so does its id
//!    │                                                                    │
//!    └──────────── deleting ◄─────────────────────────────────────────────┘
//!      the kernel has confirmed
//! ```
//! Entries that are `creating` or `deleting` when nobody works on them were cut off. They are decided
//! by looking at what the pool has ([`Thins::settle`]), before the next change.
//!
//! Rules
//! - **No id twice.** An id is in the [`Ledger`] before the kernel hears of it and until the kernel
//!   has confirmed that it is gone; after that it comes again as late as possible.
//! - **What failed half-way stays** ([`Thins::orphan`]): with its cause, its id and, if it was on, its
//!   device. Nothing tears it down by itself. A filling that was only cut off is begun again, from the same source.
//! - **The count** of the pool (`transaction_id`) moves with each device that is made or deleted; the
//!   entry has it from before. What it tells is checked, never trusted alone.
//! - **A pool that cannot be asked has lost nothing.**

mod clear;
mod compare;
mod copy;
mod error;
mod ground;
pub(crate) mod kernel;
mod ledger;
mod rebuild;
mod work;

use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_dm::Device;
use hearth_dm::thin::{Mode, PoolStatus};
use hearth_safeguards::Purpose;
use hearth_types::thin::{ThinDevice, ThinKind, ThinState};
use parking_lot::Mutex;

pub use compare::Depth;
pub use error::ThinError;
pub use ground::{Active, Mapped, Target, ThinGround, Under, id_of, uuid_of};
pub use ledger::{Ledger, MemoryLedger, contract as ledger_contract};
pub use rebuild::{Expected, Rebuilt};

use crate::error::PoolError;
use crate::ground::{Place, Running};
use crate::pool::{Pool, Turn, operation};

/// How long a look at what is switched on may take: it waits for no device.
const LOOK: Duration = Duration::from_secs(60);
/// How long a pool that is being put together is waited for: the check of large metadata takes its time.
const PUT_TOGETHER: Duration = Duration::from_secs(900);

/// A volume that is to be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub kind: ThinKind,
    /// How large it is.
    pub bytes: u64,
    /// Whose blocks it shares at the beginning.
    pub origin: Option<u32>,
}

/// The thin devices of a pool.
#[derive(Clone)]
pub struct Thins {
    pool: Pool,
    ground: Arc<dyn ThinGround>,
    ledger: Arc<dyn Ledger>,
    /// What the last comparisons have found.
    found: Arc<Mutex<compare::Found>>,
}

impl std::fmt::Debug for Thins {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Thins")
            .field("pool", &self.pool)
            .finish_non_exhaustive()
    }
}

impl Thins {
    /// Those of this pool. `ground` is the pool's own.
    #[must_use]
    pub fn new(pool: Pool, ground: Arc<dyn ThinGround>, ledger: Arc<dyn Ledger>) -> Self {
        Self {
            pool,
            ground,
            ledger,
            found: Arc::default(),
        }
    }

    /// The pool that they are in.
    #[must_use]
    pub const fn pool(&self) -> &Pool {
        &self.pool
    }

    pub(crate) fn ground(&self) -> &dyn ThinGround {
        &*self.ground
    }

    fn place(&self) -> &Place {
        self.pool.place()
    }

    /// All entries of the ledger.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn devices(&self) -> Result<Vec<ThinDevice>, ThinError> {
        self.ledger.devices().await
    }

    /// The volume of this name.
    ///
    /// # Errors
    /// As [`Thins::devices`].
    pub async fn find(&self, name: &str) -> Result<Option<ThinDevice>, ThinError> {
        let all = self.devices().await?;
        Ok(named(&all, name).cloned())
    }

    /// Waits until the kernel has the pool, and has it put together if it has not.
    ///
    /// # Errors
    /// When there is none, or it cannot be put together.
    pub async fn up(&self) -> Result<Running, ThinError> {
        let end = Instant::now() + PUT_TOGETHER;
        loop {
            if let Some(running) = self.pool.running().await? {
                return Ok(running);
            }
            match self.pool.bring_up().await {
                Ok(_) => {}
                // Somebody else is at it: a check of its metadata, most likely.
                Err(PoolError::Working { .. }) if Instant::now() < end => continue,
                Err(error) => return Err(error.into()),
            }
            let running = self.pool.running().await?;
            return running.ok_or(ThinError::Pool(PoolError::Absent));
        }
    }

    /// Sets the pool up if there is none and there never was one: a pool that was lost is not
    /// replaced by an empty one.
    ///
    /// # Errors
    /// When it cannot be set up.
    pub async fn set_up(&self) -> Result<(), ThinError> {
        let never = !self.pool.is_recorded().await? && !self.place().dir.exists();
        if !never || !self.devices().await?.is_empty() {
            return Ok(());
        }
        if self.pool.setup(None).await? {
            tracing::info!(pool = %self.place().name, "the pool is set up: a volume is the first that needs it");
        }
        Ok(())
    }

    /// Switches a volume on that is whole, or is being filled.
    ///
    /// # Errors
    /// [`ThinError::NotReady`], [`ThinError::Lost`], or another one.
    pub async fn activate(&self, device: &ThinDevice) -> Result<Device, ThinError> {
        if !matches!(device.state, ThinState::Ready | ThinState::Filling) {
            return Err(ThinError::NotReady {
                name: device.name.clone(),
                id: device.id,
                state: device.state,
            });
        }
        self.up().await?;
        let _turn = self.begin("activate").await?;
        let target = Target::of(self.place(), device);
        let on = self
            .change("the activation of a volume", move |ground, place| {
                ground.activate(place, &target)
            })
            .await;
        match on {
            Err(error) if error.is_no_data() => Err(ThinError::Lost {
                name: device.name.clone(),
                id: device.id,
            }),
            on => on,
        }
    }

    /// Switches a volume off that nobody has open.
    ///
    /// # Errors
    /// When it is in use, or another one.
    pub async fn deactivate(&self, id: u32) -> Result<(), ThinError> {
        let _turn = self.begin("deactivate").await?;
        self.change("the deactivation of a volume", move |ground, place| {
            ground.deactivate(place, id)
        })
        .await
    }

    /// Switches everything off that nobody has open, so that the pool can be checked or destroyed.
    ///
    /// # Errors
    /// When that cannot be told or done. What is open stays on and is no error.
    pub async fn let_go(&self) -> Result<(), ThinError> {
        if self.pool.running().await?.is_none() {
            return Ok(());
        }
        let _turn = self.begin("let_go").await?;
        self.change("the deactivation of unused volumes", |ground, place| {
            let unused = ground.active(place)?;
            for device in unused.iter().filter(|device| device.users == 0) {
                ground.deactivate(place, device.id)?;
            }
            Ok(())
        })
        .await
    }

    /// The pool is destroyed, and with it all that was in it: so its ledger is empty.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn forget_all(&self) -> Result<(), ThinError> {
        for device in self.devices().await? {
            self.ledger.forget(device.id).await?;
        }
        Ok(())
    }

    /// Bytes that the pool can still take, what it may grow by among them.
    ///
    /// # Errors
    /// When the kernel does not have it, or gave it up.
    pub async fn free(&self) -> Result<u64, ThinError> {
        self.up().await?;
        Ok(self.pool.spare().await?)
    }

    /// Tells the pool the sizes of all that is promised from it. Orphans count: they may be full.
    fn tell_sizes(&self, all: &[ThinDevice]) {
        // What nobody writes to any more takes no more than it has.
        let sealed = |it: &&ThinDevice| it.kind == ThinKind::Layer && it.state == ThinState::Ready;
        let promised = all.iter().filter(|device| !sealed(device));
        let sizes = promised.map(|device| device.bytes);
        self.pool
            .set_provisioned(sizes.fold(0, u64::saturating_add));
    }

    async fn begin(&self, what: &'static str) -> Result<Turn<'_>, ThinError> {
        Ok(self.pool.begin(what).await?)
    }

    /// Something new is made: the guard looks at all of the host first.
    async fn call_to_make<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce(&dyn ThinGround, &Place) -> Result<T, ThinError> + Send + 'static,
    ) -> Result<T, ThinError> {
        self.guarded(what, Purpose::Change, work).await
    }

    /// Something that is there is switched on or off, finished or taken away: only what hangs in
    /// the kernel speaks against that.
    async fn change<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce(&dyn ThinGround, &Place) -> Result<T, ThinError> + Send + 'static,
    ) -> Result<T, ThinError> {
        self.guarded(what, Purpose::Relief, work).await
    }

    async fn guarded<T: Send + 'static>(
        &self,
        what: &'static str,
        purpose: Purpose,
        work: impl FnOnce(&dyn ThinGround, &Place) -> Result<T, ThinError> + Send + 'static,
    ) -> Result<T, ThinError> {
        let (ground, place) = (Arc::clone(&self.ground), self.place().clone());
        let mut operation = operation(what, purpose);
        let guard = self.pool.guard();
        // Nobody else would use it.
        if purpose == Purpose::Change && guard.health().is_some() {
            operation.pool = self.pool.sign().await;
        }
        let done = guard.run(operation, move || work(&*ground, &place));
        done.await.map_err(PoolError::from)?
    }

    /// The volumes that are switched on. Nothing is changed.
    async fn active(&self) -> Result<Vec<Active>, ThinError> {
        let (ground, place) = (Arc::clone(&self.ground), self.place().clone());
        let look = move || ground.active(&place);
        self.pool
            .looks()
            .take("a look at the volumes", LOOK, look)
            .await?
    }

    /// The pool's count, of a pool that takes changes.
    async fn count(&self) -> Result<u64, ThinError> {
        let running = self.pool.running().await?;
        let running = running.ok_or(PoolError::NotWorking { state: "down" })?;
        match running.status {
            PoolStatus::Works {
                transaction_id,
                mode: Mode::ReadWrite | Mode::OutOfDataSpace,
                ..
            } => Ok(transaction_id),
            PoolStatus::Works { .. } => Err(ThinError::NoChanges { state: "read_only" }),
            PoolStatus::Failed => Err(ThinError::NoChanges { state: "failed" }),
        }
    }
}

/// The entry that has this name.
fn named<'a>(all: &'a [ThinDevice], name: &str) -> Option<&'a ThinDevice> {
    all.iter()
        .find(|device| device.state.is_named() && device.name == name)
}
