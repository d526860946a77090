//! The VMM's process, as the kernel sees it.

use hearth_host::process::Condition;

use super::Ward;
use super::probe::Outcome;
use crate::cgroups;
use crate::engine::Engine;

/// Looks at the process, and at the cgroup of its unit where it has one.
pub(super) fn check(engine: &Engine, ward: &Ward) -> Outcome {
    let pid = ward.vmm.pid;
    match engine.parts.processes.condition(&ward.vmm) {
        // Its death is noticed and told by itself; it is no illness.
        Ok(Condition::Gone) => Outcome::fail(format!("process {pid} has ended")),
        Ok(Condition::Suspended) => Outcome::fail(format!("process {pid} is stopped by a signal")),
        Ok(Condition::Stuck) => {
            let waits = engine.parts.processes.kernel_waits(Some(&ward.vmm));
            let said = crate::stuck::said(&waits);
            Outcome::fail(format!("process {pid} is stuck in the kernel: {said}"))
        }
        Ok(Condition::Runs) => match cgroups::complaint(ward.vm) {
            Some(complaint) => Outcome::fail(format!("process {pid} {complaint}")),
            None => Outcome::pass("it runs"),
        },
        Err(error) => Outcome::unknown(format!("{error:#}")),
    }
}
