//! The routes about garbage.

use hearth_types::gc::{GcReport, RunGc};

use crate::request::Call;
use crate::{Client, ClientError};

const GC: [&str; 2] = ["v1", "gc"];

impl Client {
    /// Looks for all garbage.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn garbage(&self) -> Result<GcReport, ClientError> {
        self.fetch(Call::get(&GC)).await
    }

    /// Looks for garbage of some kinds, and cleans it if that is asked for.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn clean_garbage(&self, asked: &RunGc) -> Result<GcReport, ClientError> {
        self.fetch(Call::post(&GC).json(asked)?).await
    }
}
