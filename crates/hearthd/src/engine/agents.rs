//! Connections to the guests' agents: made when needed, kept while they work.
//!
//! Nothing depends on a connection: it can be lost at any byte, by either side, and the
//! next use makes a new one. A guest proves by its boot nonce that it is the VM's current run.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use hearth_guest_proto::client::{AgentClient, ClientError, ExpectedGuest};
use hearth_guest_proto::message::ShutdownKind;
use hearth_types::VmId;
use hearth_types::event::{NewEvent, Severity};
use hearth_types::status::Phase;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout, timeout_at};

use super::Engine;

/// How long a guest that sent garbage or a flood is left alone. Reading it costs the host time, so a guest
/// could have as much of that as it likes.
const SHUNNED: Duration = Duration::from_secs(60);

/// The connections.
#[derive(Default)]
pub struct Agents {
    slots: Mutex<HashMap<VmId, Arc<Slot>>>,
}

impl std::fmt::Debug for Agents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agents")
            .field("guests", &self.slots.lock().len())
            .finish()
    }
}

/// One guest's connection. The lock serialises connecting: a VMM's channel takes one client.
#[derive(Default)]
struct Slot {
    line: tokio::sync::Mutex<Line>,
}

/// What one guest is talked to over.
#[derive(Default)]
struct Line {
    client: Option<AgentClient>,
    /// What it did, and nobody asks it before this.
    shunned: Option<(&'static str, Instant)>,
    /// Told once for each run: it may go on for ever.
    told: bool,
}

impl Line {
    /// Forgets a guest's connection and leaves it alone for a while.
    async fn shun(&mut self, engine: &Engine, vm: VmId, did: &'static str) {
        self.client = None;
        self.shunned = Some((did, Instant::now() + SHUNNED));
        let seconds = SHUNNED.as_secs();
        tracing::warn!(%vm, did, seconds, "the guest's agent is hung up on and left alone for a while");
        if std::mem::replace(&mut self.told, true) {
            return;
        }
        let Some(row) = engine.parts.store.vm(vm).await else {
            return;
        };
        let name = &row.spec.name;
        let message = format!(
            "{name}: its guest's agent is hung up on, {did}; it is asked again every {seconds} s"
        );
        let event = NewEvent::info("vm.agent_misbehaves", message).severity(Severity::Warning);
        let details = serde_json::json!({ "did": did });
        engine.tell(event.vm(vm, name).details(details)).await;
    }

    /// # Errors
    /// When the guest is to be left alone.
    fn may_be_asked(&self) -> anyhow::Result<()> {
        let Some((did, until)) = self.shunned else {
            return Ok(());
        };
        let left = until.saturating_duration_since(Instant::now());
        anyhow::ensure!(
            left.is_zero(),
            "the guest's agent was hung up on, {did}: it is asked again in {} s",
            left.as_secs().max(1)
        );
        Ok(())
    }
}

impl Agents {
    fn slot(&self, vm: VmId) -> Arc<Slot> {
        Arc::clone(self.slots.lock().entry(vm).or_default())
    }

    /// Forgets a guest: its VMM is dead or it is being removed.
    pub fn drop_vm(&self, vm: VmId) {
        self.slots.lock().remove(&vm);
    }

    /// A working connection to the guest's agent, waiting for the guest's boot until the deadline.
    ///
    /// # Errors
    /// When the guest does not answer in time or is not the run that was started.
    pub async fn get(
        &self,
        engine: &Engine,
        vm: VmId,
        deadline: Duration,
    ) -> anyhow::Result<AgentClient> {
        let until = Instant::now() + deadline;
        let row = engine.parts.store.vm(vm).await;
        // It would take requests and answer none of them.
        if row.is_some_and(|row| row.status.phase == Phase::Paused) {
            anyhow::bail!("it is paused");
        }
        let slot = self.slot(vm);
        let mut line = timeout_at(until, slot.line.lock())
            .await
            .context("the guest's agent is still being waited for")?;
        if let Some(client) = line.client.as_ref().filter(|client| client.is_open()) {
            return Ok(client.clone());
        }
        let did = line.client.as_ref().and_then(AgentClient::misbehaved);
        if let Some(did) = did {
            line.shun(engine, vm, did).await;
        }
        line.may_be_asked()?;
        let record = engine
            .launch_record(vm)
            .context("the VM has no launch record: it was never started")?;
        let expected = ExpectedGuest {
            vm_id: vm.to_string(),
            boot_nonce: record.boot_nonce,
        };
        let connect = async {
            let stream = engine.parts.vmm.agent(vm, &engine.paths.vm(vm)).await?;
            anyhow::Ok(AgentClient::connect(stream, expected, deadline).await?)
        };
        let connected = timeout_at(until, connect)
            .await
            .context("the guest's agent does not answer: it may still be booting")?;
        let did = connected.as_ref().err().and_then(|error| {
            let error = error.downcast_ref::<ClientError>();
            error.and_then(ClientError::misbehaviour)
        });
        if let Some(did) = did {
            line.shun(engine, vm, did).await;
        }
        let connected = connected?;
        line.client = Some(connected.clone());
        Ok(connected)
    }

    /// Whether there is a connection that works, as far as anybody knows. `false` while one is
    /// being made.
    pub(crate) fn connected(&self, vm: VmId) -> bool {
        let slot = self.slots.lock().get(&vm).cloned();
        let open = |slot: Arc<Slot>| {
            let line = slot.line.try_lock().ok()?;
            line.client.as_ref().map(AgentClient::is_open)
        };
        slot.and_then(open).unwrap_or(false)
    }

    /// Asks a guest for a sign of life that only this run of it can give.
    ///
    /// # Errors
    /// When there is none in time.
    pub(crate) async fn ping(
        &self,
        engine: &Engine,
        vm: VmId,
        deadline: Duration,
    ) -> anyhow::Result<()> {
        let until = Instant::now() + deadline;
        let client = self.get(engine, vm, deadline).await?;
        let left = until.saturating_duration_since(Instant::now());
        client.ping(nonce()?, left).await?;
        Ok(())
    }

    /// Asks a guest to shut down; does not wait for the end.
    ///
    /// # Errors
    /// When the agent cannot be reached in time.
    pub async fn shutdown(
        &self,
        engine: &Engine,
        vm: VmId,
        stop_timeout: Duration,
        deadline: Duration,
    ) -> anyhow::Result<()> {
        let client = self.get(engine, vm, deadline).await?;
        timeout(
            deadline,
            client.shutdown(stop_timeout, ShutdownKind::Poweroff),
        )
        .await
        .context("the guest's agent does not answer")??;
        Ok(())
    }
}

/// A number that nobody could have guessed.
pub(crate) fn nonce() -> anyhow::Result<u64> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .context("the kernel gives no random numbers")?;
    Ok(u64::from_ne_bytes(bytes))
}
