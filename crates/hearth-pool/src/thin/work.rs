//! Changes of the pool's thin devices, and what is done about those that were cut off.

use hearth_types::survey::chain;
use hearth_types::thin::{NewThin, ThinDevice, ThinKind, ThinState};
use hearth_types::units::Bytes;
use jiff::Timestamp;

use super::error::ThinError;
use super::{Thins, Wanted, named};

/// Ids that are tried: the pool may have some that the ledger does not know.
const TRIES: u32 = 8;
/// Devices of a name whose making failed: when so many are kept, no more are made, so that what is
/// tried again and again does not fill the pool.
const MOST_ORPHANS: usize = 3;

impl Thins {
    /// Makes a volume, or finds it: one of this name is there at the end. It is `ready` if it is a
    /// snapshot, and `filling` if it is to be written to first: an empty one, or a layer.
    ///
    /// # Errors
    /// See [`ThinError`]. What the kernel refused has left nothing; what else failed is decided by
    /// the next change.
    pub async fn make(&self, wanted: &Wanted) -> Result<ThinDevice, ThinError> {
        self.up().await?;
        let _turn = self.begin("create").await?;
        self.settle_all().await?;
        let all = self.devices().await?;
        if let Some(present) = named(&all, &wanted.name) {
            return Ok(present.clone());
        }
        let failed = all
            .iter()
            .filter(|it| it.state == ThinState::Orphaned && it.name == wanted.name);
        let count = failed.count();
        if count >= MOST_ORPHANS {
            return Err(ThinError::TooManyOrphans {
                name: wanted.name.clone(),
                count,
            });
        }
        self.tell_sizes(&all);
        self.pool.admit(Bytes(wanted.bytes)).await?;
        let mut taken = None;
        for _ in 0..TRIES {
            match self.attempt(wanted).await {
                Err(error) if error.is_taken() => taken = Some(error),
                made => return made,
            }
        }
        Err(taken.unwrap_or(ThinError::TooManyOrphans {
            name: wanted.name.clone(),
            count,
        }))
    }

    /// One attempt, under one id.
    async fn attempt(&self, wanted: &Wanted) -> Result<ThinDevice, ThinError> {
        let count = self.count().await?;
        let device = self
            .ledger
            .begin(NewThin {
                name: wanted.name.clone(),
                kind: wanted.kind,
                origin: wanted.origin,
                bytes: wanted.bytes,
                transaction_id: count + 1,
                created_at: Timestamp::now(),
            })
            .await?;
        let (id, origin) = (device.id, wanted.origin);
        let told = self
            .call_to_make(
                "the making of a volume",
                move |ground, place| match origin {
                    Some(origin) => ground.create_snapshot(place, id, origin),
                    None => ground.create_thin(place, id),
                },
            )
            .await;
        match told {
            Ok(()) => self.confirm(device, count).await,
            Err(error) if error.is_taken() => {
                let cause = "the pool had a device of this number that nobody had written down";
                let unknown = ThinDevice {
                    name: format!("unknown-{id}"),
                    origin: None,
                    ..device
                };
                self.orphan(unknown, cause).await?;
                Err(error)
            }
            Err(error) if error.is_refusal() => {
                self.ledger.forget(id).await?;
                Err(error)
            }
            // Nobody knows whether it is there: the next change looks.
            Err(error) => Err(error),
        }
    }

    /// The pool has it: the count is moved on, and the entry with it.
    async fn confirm(&self, device: ThinDevice, count: u64) -> Result<ThinDevice, ThinError> {
        self.counted(&device, count).await?;
        let state = match device.origin {
            // A layer is written to, once.
            Some(_) if device.kind != ThinKind::Layer => ThinState::Ready,
            _ => ThinState::Filling,
        };
        let device = ThinDevice { state, ..device };
        self.ledger.put(device.clone()).await?;
        Ok(device)
    }

    /// Moves the count on, if this entry's change is the next one.
    pub(super) async fn counted(&self, device: &ThinDevice, count: u64) -> Result<(), ThinError> {
        let to = device.transaction_id;
        if to != count + 1 {
            return Ok(());
        }
        self.change("the count of a change", move |ground, place| {
            ground.set_count(place, count, to)
        })
        .await
    }

    /// A volume is whole.
    ///
    /// # Errors
    /// When the ledger cannot be written.
    pub async fn filled(&self, device: ThinDevice) -> Result<ThinDevice, ThinError> {
        let device = ThinDevice {
            state: ThinState::Ready,
            ..device
        };
        self.ledger.put(device.clone()).await?;
        Ok(device)
    }

    /// Leaves a device as it is, with the cause: its name is free, its id is not. Nothing is torn
    /// down.
    ///
    /// # Errors
    /// When the ledger cannot be written.
    pub async fn orphan(&self, device: ThinDevice, cause: &str) -> Result<(), ThinError> {
        tracing::warn!(id = device.id, volume = device.name, kind = %device.kind, cause, "orphaned device detected");
        let device = ThinDevice {
            state: ThinState::Orphaned,
            cause: Some(cause.to_owned()),
            ..device
        };
        self.ledger.put(device).await
    }

    /// Makes a volume larger; one that is large enough already is a success. One that is on is as
    /// large at once.
    ///
    /// # Errors
    /// See [`ThinError`].
    pub async fn grow(&self, device: ThinDevice, bytes: u64) -> Result<ThinDevice, ThinError> {
        if bytes <= device.bytes {
            return Ok(device);
        }
        let device = ThinDevice { bytes, ..device };
        self.ledger.put(device.clone()).await?;
        if self.is_on(device.id).await? {
            self.activate(&device).await?;
        }
        Ok(device)
    }

    /// Writes down what devices are for, where somebody knows better than the ledger.
    ///
    /// # Errors
    /// When the ledger cannot be read or written.
    pub async fn set_kinds(
        &self,
        known: impl Fn(&ThinDevice) -> Option<ThinKind>,
    ) -> Result<(), ThinError> {
        let wrong = |device: &ThinDevice| known(device).filter(|kind| *kind != device.kind);
        if !self.devices().await?.iter().any(|it| wrong(it).is_some()) {
            return Ok(());
        }
        let _turn = self.begin("kinds").await?;
        for device in self.devices().await? {
            if let Some(kind) = wrong(&device) {
                self.ledger.put(ThinDevice { kind, ..device }).await?;
            }
        }
        Ok(())
    }

    async fn is_on(&self, id: u32) -> Result<bool, ThinError> {
        if self.pool.running().await?.is_none() {
            return Ok(false);
        }
        let active = self.active().await?;
        Ok(active.iter().any(|device| device.id == id))
    }

    /// Removes volumes, also those whose removal was cut off; orphans stay. While the kernel does not
    /// have the pool they are only marked, and go when it has.
    ///
    /// # Errors
    /// See [`ThinError`]: one is in use, or the ledger cannot be written. What was begun is gone on
    /// with by the next change.
    pub async fn remove(&self, which: impl Fn(&ThinDevice) -> bool) -> Result<(), ThinError> {
        let all = self.devices().await?;
        let going = all
            .into_iter()
            .filter(|device| device.state != ThinState::Orphaned && which(device));
        let going: Vec<ThinDevice> = going.collect();
        if going.is_empty() {
            return Ok(());
        }
        match self.pool.running().await {
            Ok(Some(_)) => {}
            other => {
                if let Err(error) = other {
                    tracing::warn!(error = %chain(&error), "the pool cannot be asked; its volumes go when it can");
                }
                return self.mark(going).await;
            }
        }
        let _turn = self.begin("delete").await?;
        // What is being made has to be there, or not, before it can go.
        let ids: Vec<u32> = going.iter().map(|device| device.id).collect();
        self.settle_all().await?;
        let left = self.devices().await?;
        let left = left.into_iter().filter(|device| ids.contains(&device.id));
        self.mark(left.collect()).await?;
        let failed = self.settle_all().await?;
        match failed.into_iter().find(|(id, _)| ids.contains(id)) {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    }

    /// Writes down that these are on their way out.
    async fn mark(&self, going: Vec<ThinDevice>) -> Result<(), ThinError> {
        for device in going {
            if device.state != ThinState::Deleting {
                let state = ThinState::Deleting;
                self.ledger.put(ThinDevice { state, ..device }).await?;
            }
        }
        Ok(())
    }

    /// Gives a volume the name of another one, which goes. Nobody has either open.
    ///
    /// # Errors
    /// See [`ThinError`]. What was begun is gone on with when it is asked for again, and the removal
    /// by the next change.
    pub async fn take_over(
        &self,
        new: &ThinDevice,
        old: Option<ThinDevice>,
        name: &str,
    ) -> Result<(), ThinError> {
        // A device that is on has its name in the kernel's table, too.
        self.deactivate(new.id).await?;
        let gone = old.as_ref().map(|old| old.id);
        self.mark(old.into_iter().collect()).await?;
        let renamed = ThinDevice {
            name: name.to_owned(),
            ..new.clone()
        };
        self.ledger.put(renamed).await?;
        match gone {
            Some(id) => self.remove(|device| device.id == id).await,
            None => Ok(()),
        }
    }

    /// Decides what was cut off, by looking at what the pool has. What cannot be decided stays as
    /// it is, with the reason.
    ///
    /// # Errors
    /// When the ledger cannot be read, or the pool takes no changes.
    pub async fn settle(&self) -> Result<Vec<(u32, ThinError)>, ThinError> {
        let _turn = self.begin("settle").await?;
        self.settle_all().await
    }

    /// The same in a turn that was begun: whatever is `creating` or `deleting` now was cut off.
    pub(super) async fn settle_all(&self) -> Result<Vec<(u32, ThinError)>, ThinError> {
        let mut failed = Vec::new();
        for device in self.devices().await? {
            let id = device.id;
            let settled = match device.state {
                ThinState::Creating => self.settle_creating(device).await,
                ThinState::Deleting => self.settle_deleting(device).await,
                ThinState::Filling | ThinState::Ready | ThinState::Orphaned => continue,
            };
            if let Err(error) = settled {
                tracing::warn!(id, error = %chain(&error), "a change of a thin device that was cut off cannot be gone on with");
                failed.push((id, error));
            }
        }
        Ok(failed)
    }

    async fn settle_creating(&self, device: ThinDevice) -> Result<(), ThinError> {
        let (id, count) = (device.id, self.count().await?);
        let holds = self
            .change("a look at a volume", move |ground, place| {
                ground.holds(place, id)
            })
            .await?;
        tracing::info!(
            id,
            volume = device.name,
            holds,
            "the making of a thin device was cut off"
        );
        if holds {
            return self.confirm(device, count).await.map(drop);
        }
        self.ledger.forget(id).await
    }

    async fn settle_deleting(&self, device: ThinDevice) -> Result<(), ThinError> {
        let (id, count) = (device.id, self.count().await?);
        // Which count will say that it is gone is written down before.
        let device = ThinDevice {
            transaction_id: count + 1,
            ..device
        };
        self.ledger.put(device.clone()).await?;
        self.change("the deletion of a volume", move |ground, place| {
            ground.deactivate(place, id)?;
            ground.delete_thin(place, id)
        })
        .await?;
        self.counted(&device, count).await?;
        self.ledger.forget(id).await
    }
}
