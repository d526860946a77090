//! How a VM's record is shown.

use hearth_store::{FindResult, VmRow};
use hearth_types::api::{Health, Vm};
use hearth_types::problem::Code;
use hearth_types::status::{Goal, Phase};

use super::error::{ApiError, ApiResult};
use crate::engine::Engine;

/// A VM as the API shows it.
pub(super) fn vm(engine: &Engine, row: VmRow) -> Vm {
    let alive = row.status.vmm.is_some();
    let record = if alive {
        engine.launch_record(row.id)
    } else {
        None
    };
    let (driver, accelerator) = record
        .map(|record| (record.driver, record.accelerator))
        .unzip();
    Vm {
        health: engine.health_of(&row),
        checks: Vec::new(),
        phase: phase(&row),
        id: row.id,
        generation: row.generation,
        goal: row.goal,
        reason: row.status.reason,
        leases: row.leases,
        pid: row.status.vmm.as_ref().map(|identity| identity.pid),
        driver,
        accelerator,
        created_at: row.created_at,
        started_at: if alive { row.status.started_at } else { None },
        last_end: row.status.last_end,
        restarts: row.status.restarts,
        next_start: row.status.next_start,
        breaker: row.status.recovery.breaker,
        failures: Vec::new(),
        dumps: Vec::new(),
        last_core: None,
        hold: row.status.recovery.hold,
        bootstrap: row.status.bootstrap,
        wait: row.status.wait,
        spec: row.spec,
    }
}

/// The same with the checks of its health.
pub(super) fn vm_with_checks(engine: &Engine, row: VmRow) -> Vm {
    let health = engine.health.view(&row);
    let mut vm = vm(engine, row);
    if vm.health != Health::None {
        vm.checks = health.map(|health| health.checks).unwrap_or_default();
    }
    vm
}

/// All that is known of it: its failures, too, and what is kept of its crashes.
pub(super) async fn vm_in_full(engine: &Engine, row: VmRow) -> Vm {
    let failures = row.status.recovery.failures.clone();
    let dumps = engine.dumps(row.id).await.unwrap_or_else(|error| {
        tracing::warn!(vm = %row.id, error = format!("{error:#}"), "its dumps cannot be listed");
        Vec::new()
    });
    let last_core = last_core(engine, &row).await;
    Vm {
        failures,
        dumps,
        last_core,
        ..vm_with_checks(engine, row)
    }
}

/// What became of the last core of its VMM, if it asks for one.
async fn last_core(engine: &Engine, row: &VmRow) -> Option<String> {
    if !row.spec.crash_dump.vmm_core {
        return None;
    }
    match engine.parts.store.history(row.id).await {
        Ok(ends) => ends.into_iter().find_map(|end| end.core),
        Err(error) => {
            let error = hearth_types::survey::chain(&error);
            tracing::warn!(vm = %row.id, error, "its history cannot be read");
            None
        }
    }
}

/// A word of the user that no pass has acted on yet shows at once.
pub(super) fn phase(row: &VmRow) -> Phase {
    match (row.goal, row.status.phase) {
        (Goal::Absent, _) => Phase::Removing,
        (Goal::Stopped, Phase::Running | Phase::Paused | Phase::Starting) => Phase::Stopping,
        (Goal::Running | Goal::Paused, phase)
            if row.status.observed_generation < row.generation
                && row.status.vmm.is_none()
                && phase != Phase::Unknown =>
        {
            Phase::Starting
        }
        (_, phase) => phase,
    }
}

/// The VM that a name, id or id prefix means.
pub(super) async fn find(engine: &Engine, text: &str) -> ApiResult<VmRow> {
    match engine.parts.store.find(text).await {
        FindResult::Found(row) => Ok(*row),
        FindResult::NotFound => Err(ApiError::new(
            Code::NotFound,
            format!("there is no VM {text}"),
        )
        .hint("list them with: hearth ps -a")),
        FindResult::Ambiguous { matches } => Err(ApiError::new(
            Code::Conflict,
            format!(
                "{text} could mean several VMs: {}",
                matches
                    .iter()
                    .map(|(id, name)| format!("{name} ({id})"))
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
        )
        .hint("give more of the id, or the name")),
    }
}
