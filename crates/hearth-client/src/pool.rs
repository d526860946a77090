//! The routes about the thin pool.

use hearth_types::pool::{ExtendPool, PoolBackup, PoolRepair, PoolView, RestorePool, SetUpPool};

use hearth_types::thin::PoolVolumes;

use crate::request::Call;
use crate::{Client, ClientError};

const POOL: [&str; 2] = ["v1", "pool"];
const BACKUPS: [&str; 3] = ["v1", "pool", "backups"];

impl Client {
    /// How the pool is.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn pool(&self) -> Result<PoolView, ClientError> {
        self.fetch(Call::get(&POOL)).await
    }

    /// Sets the pool up.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn set_up_pool(&self, asked: &SetUpPool) -> Result<PoolView, ClientError> {
        self.fetch(Call::post(&POOL).json(asked)?).await
    }

    /// Checks the pool's metadata and puts the pool together.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn check_pool(&self) -> Result<PoolView, ClientError> {
        self.fetch(Call::post(&["v1", "pool", "check"])).await
    }

    /// The volumes in the pool.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn pool_volumes(&self) -> Result<PoolVolumes, ClientError> {
        self.fetch(Call::get(&["v1", "pool", "volumes"])).await
    }

    /// Makes the pool larger.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn extend_pool(&self, asked: &ExtendPool) -> Result<PoolView, ClientError> {
        let call = Call::post(&["v1", "pool", "extend"]).json(asked)?;
        self.fetch(call).await
    }

    /// Repairs the pool's metadata.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn repair_pool(&self) -> Result<PoolRepair, ClientError> {
        self.fetch(Call::post(&["v1", "pool", "repair"])).await
    }

    /// Backs the pool's metadata up.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn back_up_pool(&self) -> Result<PoolBackup, ClientError> {
        self.fetch(Call::post(&BACKUPS)).await
    }

    /// The backups of the pool's metadata, the newest first.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn pool_backups(&self) -> Result<Vec<PoolBackup>, ClientError> {
        self.fetch(Call::get(&BACKUPS)).await
    }

    /// Puts a backup in the metadata's place.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn restore_pool(&self, asked: &RestorePool) -> Result<PoolRepair, ClientError> {
        let call = Call::post(&["v1", "pool", "restore"]).json(asked)?;
        self.fetch(call).await
    }

    /// Destroys the pool and sets up an empty one.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn reset_pool(&self, force: bool) -> Result<PoolView, ClientError> {
        let call = Call::post(&["v1", "pool", "reset"]);
        self.fetch(call.query_some("force", force.then_some(true)))
            .await
    }

    /// Destroys the pool with all that is in it.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn destroy_pool(&self, force: bool) -> Result<(), ClientError> {
        let call = Call::new(hyper::Method::DELETE, &POOL);
        let call = call.query_some("force", force.then_some(true));
        self.send(call).await.map(drop)
    }
}
