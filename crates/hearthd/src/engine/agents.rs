//! Connections to the guests' agents: made when needed, kept while they work.
//!
//! Nothing depends on a connection: it can be lost at any byte, by either side, and the
//! next use makes a new one. A guest proves by its boot nonce that it is the VM's current run.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use hearth_guest_proto::client::{AgentClient, ExpectedGuest};
use hearth_guest_proto::message::ShutdownKind;
use hearth_types::VmId;
use hearth_types::api::Health;
use hearth_types::status::Phase;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::Instrument as _;

use super::Engine;

/// How often a running guest is asked for a sign of life.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// How long it may take to answer.
const PING_DEADLINE: Duration = Duration::from_secs(5);
/// How long one attempt to connect may take: a guest that boots does not answer yet.
const CONNECT_DEADLINE: Duration = Duration::from_secs(30);
/// Pause between attempts while the guest boots.
const BOOT_PAUSE: Duration = Duration::from_millis(500);
/// The same while it boots for ever: it may have no agent at all.
const LONG_BOOT_PAUSE: Duration = Duration::from_secs(5);

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
struct Slot {
    client: tokio::sync::Mutex<Option<AgentClient>>,
    health: Mutex<Health>,
}

impl Agents {
    fn slot(&self, vm: VmId) -> Arc<Slot> {
        let new = || {
            Arc::new(Slot {
                client: tokio::sync::Mutex::new(None),
                health: Mutex::new(Health::Starting),
            })
        };
        Arc::clone(self.slots.lock().entry(vm).or_insert_with(new))
    }

    /// Forgets a guest: its VMM is dead or it is being removed.
    pub fn drop_vm(&self, vm: VmId) {
        self.slots.lock().remove(&vm);
    }

    /// What the guest's agent said last.
    #[must_use]
    pub fn health(&self, vm: VmId) -> Health {
        self.slots
            .lock()
            .get(&vm)
            .map_or(Health::Starting, |slot| *slot.health.lock())
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
        let mut client = timeout_at(until, slot.client.lock())
            .await
            .context("the guest's agent is still being waited for")?;
        if let Some(client) = client.as_ref().filter(|client| client.is_open()) {
            return Ok(client.clone());
        }
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
            .context("the guest's agent does not answer: it may still be booting")??;
        *client = Some(connected.clone());
        *slot.health.lock() = Health::Healthy;
        engine.tell_changed();
        Ok(connected)
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
pub(super) fn nonce() -> anyhow::Result<u64> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .context("the kernel gives no random numbers")?;
    Ok(u64::from_ne_bytes(bytes))
}

impl Engine {
    /// Keeps asking one running guest for signs of life until its VMM is gone.
    pub(super) fn attend(self: &Arc<Self>, vm: VmId) {
        let engine = Arc::clone(self);
        tokio::spawn(async move {
            let span = engine.span_of(vm).await;
            engine.keep_asking(vm).instrument(span).await;
        });
    }

    async fn keep_asking(&self, vm: VmId) {
        let slot = self.agents.slot(vm);
        let begun = Instant::now();
        loop {
            let (health, failure) = self.ask(vm).await;
            let current = self
                .agents
                .slots
                .lock()
                .get(&vm)
                .is_some_and(|now| Arc::ptr_eq(now, &slot));
            if !current {
                return;
            }
            self.health_checked(vm, health, failure);
            let before = std::mem::replace(&mut *slot.health.lock(), health);
            if before != health {
                tracing::info!(?before, ?health, "guest health changed");
                self.tell_changed();
            }
            let pause = if health == Health::Starting {
                // An eighth of what it has taken so far is added to it, at most.
                (begun.elapsed() / 8).clamp(BOOT_PAUSE, LONG_BOOT_PAUSE)
            } else {
                PING_INTERVAL
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Asks a guest for a sign of life; if it gives none although it should, says why.
    async fn ask(&self, vm: VmId) -> (Health, Option<String>) {
        // A paused guest cannot answer, and that is no illness.
        let paused = self
            .parts
            .store
            .vm(vm)
            .await
            .is_some_and(|row| row.status.phase == Phase::Paused);
        if paused {
            return (Health::None, None);
        }
        let booting = self.agents.health(vm) == Health::Starting;
        let client = match self.agents.get(self, vm, CONNECT_DEADLINE).await {
            Ok(client) => client,
            Err(_) if booting => return (Health::Starting, None),
            Err(error) => return self.silent(vm, &error).await,
        };
        let answer = async { Ok::<_, anyhow::Error>(client.ping(nonce()?, PING_DEADLINE).await?) };
        match answer.await {
            Ok(_) => (Health::Healthy, None),
            Err(error) => self.silent(vm, &error).await,
        }
    }

    /// A guest gave no sign of life. One that is being stopped may, and that is no failure.
    async fn silent(&self, vm: VmId, error: &anyhow::Error) -> (Health, Option<String>) {
        let row = self.parts.store.vm(vm).await;
        let up = row.is_some_and(|row| row.status.vmm.is_some() && row.status.stop.is_none());
        (Health::Unhealthy, up.then(|| format!("{error:#}")))
    }
}
