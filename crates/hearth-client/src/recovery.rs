//! The routes about recovery: the operator's words on breakers and holds.

use hearth_types::api::{HoldVm, HostReset, RecoverVm, Recovered, RecoveredList, Vm, VmPlan};

use crate::request::Call;
use crate::{Client, ClientError};

impl Client {
    /// Closes a VM's circuit breaker and forgets its failures.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn reset_breaker(&self, reference: &str) -> Result<Vm, ClientError> {
        self.fetch(Call::post(&["v1", "vms", reference, "reset-breaker"]))
            .await
    }

    /// Closes the circuit breakers of all VMs, and with their failures the host's.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn reset_breakers(&self) -> Result<RecoveredList, ClientError> {
        self.fetch(Call::post(&["v1", "reset-breakers"])).await
    }

    /// Closes the host's circuit breaker alone.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn reset_host_breaker(&self) -> Result<HostReset, ClientError> {
        self.fetch(Call::post(&["v1", "host", "reset-breaker"]))
            .await
    }

    /// Holds a VM: nothing is done to it automatically until it is released.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn hold(&self, reference: &str, body: &HoldVm) -> Result<Vm, ClientError> {
        let call = Call::post(&["v1", "vms", reference, "hold"]).json(body)?;
        self.fetch(call).await
    }

    /// Releases a VM that is held.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn release(&self, reference: &str) -> Result<Vm, ClientError> {
        self.fetch(Call::post(&["v1", "vms", reference, "release"]))
            .await
    }

    /// Starts a VM now that waits for its restart.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn recover(&self, reference: &str, force: bool) -> Result<Recovered, ClientError> {
        let call = Call::post(&["v1", "vms", reference, "recover"]).json(&RecoverVm { force })?;
        self.fetch(call).await
    }

    /// Starts all VMs now that wait for their restart.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn recover_all(&self, force: bool) -> Result<RecoveredList, ClientError> {
        let call = Call::post(&["v1", "recover"]).json(&RecoverVm { force })?;
        self.fetch(call).await
    }

    /// What the next pass would do to one VM, and why that and no more.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn vm_plan(&self, reference: &str) -> Result<VmPlan, ClientError> {
        self.fetch(Call::get(&["v1", "vms", reference, "plan"]))
            .await
    }
}
