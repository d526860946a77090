//! Puts back limits of VMs that somebody has changed, and says so: whoever changed them by hand
//! has to know that it does not last.

use hearth_plan::Step;
use hearth_store::VmRow;
use hearth_types::event::{NewEvent, Severity};
use hearth_types::ids::VmId;
use hearth_types::survey::Survey;

use super::Engine;

impl Engine {
    pub(super) async fn ensure_limits(&self, step: &Step, row: &VmRow) -> anyhow::Result<()> {
        let Step::EnsureLimits {
            vm,
            identity,
            limits,
        } = step
        else {
            return Ok(());
        };
        let dir = self.paths.vm(*vm);
        self.parts.vmm.ensure_limits(identity, &dir).await?;
        self.limits_are_back(*vm);
        let name = &row.spec.name;
        let each = limits
            .iter()
            .map(|limit| format!("{} {} (was {})", limit.name, limit.wanted, limit.found));
        let message = format!(
            "{name}: limits that somebody had changed are put back: {}",
            each.collect::<Vec<_>>().join(", ")
        );
        let event = NewEvent::info("vm.limits_restored", message).severity(Severity::Warning);
        self.tell(
            event
                .vm(*vm, name)
                .details(serde_json::json!({ "limits": limits })),
        )
        .await;
        Ok(())
    }

    /// Quick passes do not look at units: they go by what the last full one has seen.
    fn limits_are_back(&self, vm: VmId) {
        let mut work = self.work.lock();
        let shared = work.shared.as_mut().map(|shared| &mut shared.units);
        let Some(Survey::Known(units)) = shared else {
            return;
        };
        for unit in units.iter_mut().filter(|unit| unit.mark.vm() == Some(vm)) {
            unit.limits = Survey::Known(Vec::new());
        }
    }
}
