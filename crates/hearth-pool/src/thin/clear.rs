//! Clearing orphans away, on order alone.

use hearth_types::survey::chain;
use hearth_types::thin::{ThinDevice, ThinState};

use super::Thins;
use super::error::ThinError;

impl Thins {
    /// Clears an orphan away, and what no image or VM refers to any more if `also` says so: switched
    /// off, deleted in the pool, and only then its id is free. Each step has a deadline. One that fails is an orphan
    /// as before, with what failed: nothing tries again by itself.
    ///
    /// # Errors
    /// [`ThinError::NotCleared`] for one that has users, is none, or is not there; or as a step fails.
    pub async fn clear(
        &self,
        id: u32,
        also: impl Fn(&ThinDevice) -> bool,
    ) -> Result<(), ThinError> {
        let not = |why: &str| ThinError::NotCleared {
            id,
            why: why.to_owned(),
        };
        let _turn = self.begin("clear").await?;
        let all = self.devices().await?;
        let device = all.into_iter().find(|device| device.id == id);
        let device = device.ok_or_else(|| not("the ledger does not have it"))?;
        let may_go = device.state == ThinState::Orphaned
            || (device.state == ThinState::Ready && also(&device));
        if !may_go {
            return Err(not(&format!("it is {}", device.state)));
        }
        let active = self.active().await?;
        if let Some(on) = active.iter().find(|on| on.id == id && on.users > 0) {
            return Err(not(&format!("{} have it open", on.users)));
        }
        tracing::debug!(
            device_id = id,
            device_name = device.name,
            "Step 1: Attempting unmount: nothing of ours is mounted on the host, and nobody has it open"
        );
        let count = self.count().await?;
        let going = ThinDevice {
            state: ThinState::Deleting,
            transaction_id: count + 1,
            ..device.clone()
        };
        self.ledger.put(going.clone()).await?;
        match self.tear_down(&going, count).await {
            Ok(()) => self.ledger.forget(id).await,
            Err(error) => {
                let cause = format!(
                    "{}; it could not be cleared away: {}",
                    device.cause.as_deref().unwrap_or("nothing refers to it"),
                    chain(&error)
                );
                self.orphan(device, &cause).await?;
                Err(error)
            }
        }
    }

    async fn tear_down(&self, device: &ThinDevice, count: u64) -> Result<(), ThinError> {
        let id = device.id;
        tracing::debug!(
            device_id = id,
            device_name = device.name,
            "Step 2: Attempting deactivate"
        );
        self.change("the deactivation of an orphan", move |ground, place| {
            ground.deactivate(place, id)
        })
        .await?;
        tracing::debug!(
            device_id = id,
            device_name = device.name,
            "Step 3: Attempting delete from thin pool"
        );
        self.change("the deletion of an orphan", move |ground, place| {
            ground.delete_thin(place, id)
        })
        .await?;
        self.counted(device, count).await
    }
}
