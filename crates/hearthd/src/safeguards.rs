//! The safeguards' place in the daemon: their thresholds from the configuration, whose a line of the
//! kernel's log is, and what `hearth doctor` says of them. What they do is `hearth-safeguards`'.
//!
//! A look is taken every few seconds, too, when nothing is to be done: so the kernel's log is read while it is
//! there, waiting for disks is measured against a moment ago, and a thread that has hung for long is known to.

mod whose;

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use hearth_config::Config;
use hearth_pool::{Helpers, Pool};
use hearth_safeguards::{
    Check, Finding, Health, HostSigns, OperationGuard, Purpose, Report, Settings, Thresholds,
    Weight,
};
use hearth_types::InstallationId;
use hearth_types::api::{DoctorCheck, DoctorStatus};
use hearth_types::event::{NewEvent, Severity};
use parking_lot::RwLock;

use crate::engine::Engine;
use whose::Owners;

/// How often is looked when nothing is to be done.
const LOOK: Duration = Duration::from_secs(10);
/// How long somebody who asks `hearth doctor` waits for the look at the host, rather than read that it is unknown.
const DOCTOR: Duration = Duration::from_secs(5);
/// So many processes of VMs are remembered: a line in the kernel's log may be about one that is gone.
const PROCESSES_MAX: usize = 8192;

/// The names of VMs by their processes.
type Processes = Arc<RwLock<HashMap<i32, String>>>;

/// The guard of this host and installation, before there is an engine.
#[derive(Debug, Clone)]
pub struct Safeguards {
    guard: OperationGuard,
    processes: Processes,
}

impl Safeguards {
    /// The safeguards of this host and installation.
    #[must_use]
    pub fn of_host(config: &Config, installation: InstallationId, helpers: Helpers) -> Self {
        let processes = Processes::default();
        let owners = Owners::new(installation, &config.data_dir, Arc::clone(&processes));
        let health = Health::new(
            Arc::new(HostSigns::default()),
            thresholds(config),
            Arc::new(move |origin| owners.whose(origin)),
        );
        let settings = Settings {
            max_concurrent: usize::try_from(config.guard_concurrency).unwrap_or(1),
            ..Settings::default()
        };
        Self {
            guard: OperationGuard::with_elsewhere(settings, Some(health), Some(Arc::new(helpers))),
            processes,
        }
    }

    /// The guard: there is one for all of device-mapper.
    #[must_use]
    pub fn guard(&self) -> OperationGuard {
        self.guard.clone()
    }

    /// Looks at the host every few seconds, for as long as there is the engine.
    pub fn watch(self, engine: &Arc<Engine>) {
        let Self { guard, processes } = self;
        drop(tokio::spawn(watch(
            Arc::downgrade(engine),
            guard,
            processes,
        )));
    }
}

fn thresholds(config: &Config) -> Thresholds {
    Thresholds {
        held_for: config.guard_held_for.as_duration(),
        memory_available: config.guard_memory,
        io_wait: config.guard_io_wait,
        io_pressure: config.guard_io_pressure,
        log_window: config.guard_kernel_log.as_duration(),
        budget: config.guard_budget.as_duration(),
    }
}

/// Looks every few seconds, and tells when device-mapper begins to hang and when it goes on.
async fn watch(engine: Weak<Engine>, guard: OperationGuard, processes: Processes) {
    let mut told = false;
    loop {
        let Some(engine) = engine.upgrade() else {
            return;
        };
        remember(&engine, &processes).await;
        if let Some(health) = guard.health() {
            let report = health.look(Purpose::Change, None).await;
            let hangs = report
                .at_least(Weight::Refuses)
                .find(|finding| finding.check == Check::DState);
            if let Some(finding) = hangs
                && !told
            {
                let message = format!("device-mapper hangs: {finding}; {}", finding.hint);
                let event = NewEvent::info("host.device_mapper_hangs", message);
                engine.tell(event.severity(Severity::Error)).await;
            }
            // What could not be told changes nothing.
            let known = report.at_least(Weight::Moment).next().is_none();
            if told && known {
                let message = "no thread hangs on device-mapper any more";
                engine
                    .tell(NewEvent::info("host.device_mapper_goes_on", message))
                    .await;
            }
            told = hangs.is_some() || (told && !known);
        }
        drop(engine);
        tokio::time::sleep(LOOK).await;
    }
}

async fn remember(engine: &Engine, processes: &Processes) {
    let rows = engine.parts.store.vms().await;
    let mut processes = processes.write();
    if processes.len() > PROCESSES_MAX {
        processes.clear();
    }
    for row in rows {
        if let Some(vmm) = &row.status.vmm {
            processes.insert(vmm.pid, row.spec.name.to_string());
        }
    }
}

/// What `hearth doctor` says of it. `there`: there is a pool whose operations wait for such looks.
pub(crate) async fn doctor(pool: &Pool, there: bool) -> Option<DoctorCheck> {
    let health = pool.guard().health()?;
    let budget = health.thresholds().budget;
    let sign = pool.sign().await;
    let report = health
        .look_within(DOCTOR.max(budget), Purpose::Change, sign.as_ref())
        .await;
    Some(line(&report, there.then_some(budget)))
}

/// `budget`: how long a look before an operation may take, where that matters.
fn line(report: &Report, budget: Option<Duration>) -> DoctorCheck {
    let name = "device-mapper operations".to_owned();
    let took = report.took.as_millis();
    if let Some(first) = report.findings.first() {
        return told(name, report, first);
    }
    if let Some(budget) = budget.filter(|budget| report.took > *budget) {
        let budget = budget.as_millis();
        return DoctorCheck {
            name,
            status: DoctorStatus::Warning,
            detail: format!(
                "the look at the host took {took} ms, and before an operation it may take {budget} ms: \
                 operations wait"
            ),
            hint: Some("raise GUARD_BUDGET, or look what keeps the CPUs busy".to_owned()),
        };
    }
    let readings = report.readings.iter().map(|reading| {
        let said = reading.said.known().map_or("unknown", String::as_str);
        format!("{}: {said}", reading.check)
    });
    let readings: Vec<_> = readings.collect();
    let readings = readings.join("; ");
    DoctorCheck {
        name,
        status: DoctorStatus::Ok,
        detail: format!("nothing speaks against them ({readings}; read in {took} ms)"),
        hint: None,
    }
}

fn told(name: String, report: &Report, first: &Finding) -> DoctorCheck {
    let (status, begins) = match first.weight {
        Weight::Refuses => (DoctorStatus::Failed, "they are refused: "),
        Weight::Settles => (DoctorStatus::Warning, "they wait: "),
        Weight::Moment | Weight::Warns => (DoctorStatus::Warning, ""),
    };
    let findings = report.findings.iter().take(5).map(ToString::to_string);
    let findings: Vec<_> = findings.collect();
    DoctorCheck {
        name,
        status,
        detail: format!("{begins}{}", findings.join("; ")),
        hint: Some(first.hint.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use hearth_safeguards::fake::FakeSigns;
    use hearth_safeguards::{PoolSign, Whose};

    use super::*;

    fn health(signs: &FakeSigns) -> Health {
        let limits = Thresholds {
            budget: Duration::from_secs(60),
            ..Thresholds::default()
        };
        let nobody = Arc::new(|_: &_| Whose::Unknown);
        Health::new(Arc::new(signs.clone()), limits, nobody)
    }

    #[tokio::test]
    async fn doctor_says_what_is_read_and_what_refuses() {
        let signs = FakeSigns::default();
        let health = health(&signs);
        let well = line(&health.look(Purpose::Change, None).await, None);
        assert_eq!(well.status, DoctorStatus::Ok);
        assert!(well.detail.contains("memory: 50.0 % available"), "{well:?}");
        signs.hide_log();
        let hidden = line(&health.look(Purpose::Change, None).await, None);
        assert_eq!(hidden.status, DoctorStatus::Warning);
        signs.set_memory(1);
        let low = health.look(Purpose::Change, Some(&PoolSign::Good)).await;
        let low = line(&low, None);
        assert_eq!(low.status, DoctorStatus::Failed);
        assert!(
            low.detail.starts_with("they are refused: memory"),
            "{low:?}"
        );
        assert!(low.hint.is_some());
    }

    #[tokio::test]
    async fn a_look_that_is_too_slow_for_operations_is_told_where_there_is_a_pool() {
        let mut report = health(&FakeSigns::default())
            .look(Purpose::Change, None)
            .await;
        report.took = Duration::from_millis(230);
        let slow = line(&report, Some(Duration::from_millis(100)));
        assert_eq!(slow.status, DoctorStatus::Warning);
        assert!(slow.detail.contains("took 230 ms"), "{slow:?}");
        for fine in [None, Some(Duration::from_millis(230))] {
            assert_eq!(line(&report, fine).status, DoctorStatus::Ok);
        }
    }
}
