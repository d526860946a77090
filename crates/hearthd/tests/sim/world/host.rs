//! Time and processes of the simulated host, as the daemon asks for them.

use std::time::{Duration, SystemTime};

use hearth_host::process::Condition;
use hearth_host::waits::KernelWait;
use hearth_sim::rooms::Rooms;
use hearth_types::ids::InstallationId;
use hearth_types::observe::ObservedProcess;
use hearth_types::process::ProcessIdentity;
use hearth_types::survey::Survey;
use hearthd::host::{Clock, Processes};
use jiff::Timestamp;

use super::super::stuck;
use super::began;

/// Time and processes of the simulated host.
pub(super) struct Sim(pub(super) Rooms);

impl Clock for Sim {
    fn now(&self) -> Timestamp {
        self.0.now()
    }

    /// Files have times of the real clock, in which next to nothing happens. A test that makes
    /// one old means it.
    fn of_file(&self, time: SystemTime) -> Timestamp {
        let age = SystemTime::now().duration_since(time).unwrap_or_default();
        let old = Duration::from_secs(age.as_secs() / 600 * 600);
        began() - old
    }
}

#[async_trait::async_trait]
impl Processes for Sim {
    fn boot_id(&self) -> String {
        self.0.boot_id()
    }

    async fn survey(&self, _: InstallationId) -> anyhow::Result<Vec<ObservedProcess>> {
        self.0.look_begins("processes").await;
        self.0.processes().map_err(anyhow::Error::msg)
    }

    fn started_at(&self, identity: &ProcessIdentity) -> Timestamp {
        self.0.see(|host| {
            let process = host.processes.get(&identity.pid);
            process.map_or(host.now, |process| process.started_at)
        })
    }

    fn condition(&self, identity: &ProcessIdentity) -> anyhow::Result<Condition> {
        let process = self
            .0
            .see(|host| host.processes.get(&identity.pid).cloned());
        Ok(match process {
            Some(process) if process.identity != *identity => Condition::Gone,
            Some(process) if process.stuck => Condition::Stuck,
            Some(_) => Condition::Runs,
            None => Condition::Gone,
        })
    }

    fn kernel_waits(&self, _: Option<&ProcessIdentity>) -> Survey<Vec<KernelWait>> {
        Survey::Known(vec![stuck::a_wait()])
    }
}
