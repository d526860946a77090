//! The seams between the daemon and the host that no other room has a trait for.

use std::time::SystemTime;

use async_trait::async_trait;
use hearth_host::boot;
use hearth_host::pressure::Resource;
use hearth_host::process::Condition;
use hearth_host::waits::KernelWait;
use hearth_types::InstallationId;
use hearth_types::observe::ObservedProcess;
use hearth_types::process::ProcessIdentity;
use hearth_types::survey::Survey;
use jiff::Timestamp;

/// Tells the time. Simulated in tests.
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> Timestamp;

    /// The moment that a file's time means.
    fn of_file(&self, time: SystemTime) -> Timestamp {
        Timestamp::try_from(time).unwrap_or_default()
    }
}

/// The host's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// The host's processes.
#[async_trait]
pub trait Processes: Send + Sync {
    /// The boot the host is in.
    fn boot_id(&self) -> String;

    /// All living processes that carry this installation's mark.
    ///
    /// # Errors
    /// When the answer would not be whole.
    async fn survey(
        &self,
        installation: InstallationId,
    ) -> Result<Vec<ObservedProcess>, anyhow::Error>;

    /// Percent of the last ten seconds in which some task waited for this; `None`: unknown.
    fn pressure(&self, _resource: Resource) -> Option<u32> {
        None
    }

    /// When a process was started.
    fn started_at(&self, identity: &ProcessIdentity) -> Timestamp {
        boot::ticks_to_time(boot::boot_time(), identity.start_time)
    }

    /// How a process is at this moment.
    ///
    /// # Errors
    /// When it cannot be told.
    fn condition(&self, identity: &ProcessIdentity) -> Result<Condition, anyhow::Error>;

    /// Threads that wait in the kernel and hear no signal: of this process, of the programs that it
    /// runs, and of this VMM.
    fn kernel_waits(&self, _vmm: Option<&ProcessIdentity>) -> Survey<Vec<KernelWait>> {
        Survey::Unknown("nobody can look".to_owned())
    }
}
