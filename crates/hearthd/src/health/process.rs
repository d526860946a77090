//! The VMM's process, as the kernel sees it.

use hearth_host::process::Condition;
use hearth_types::VmId;
use hearth_types::names::unit_name;

use super::Ward;
use super::probe::Outcome;
use crate::engine::Engine;

/// Where cgroup v2 is mounted: systemd's own choice (`file-hierarchy(7)`).
const CGROUPS: &str = "/sys/fs/cgroup/hearth.slice";

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
        Ok(Condition::Runs) if empty_cgroup(ward.vm) => Outcome::fail(format!(
            "process {pid} is not in the cgroup of its unit: its limits do not hold"
        )),
        Ok(Condition::Runs) => Outcome::pass("it runs"),
        Err(error) => Outcome::unknown(format!("{error:#}")),
    }
}

/// The unit has a cgroup and nothing in it (`populated` in `cgroup.events`, cgroups(7)).
fn empty_cgroup(vm: VmId) -> bool {
    let path = format!("{CGROUPS}/{}/cgroup.events", unit_name(vm));
    std::fs::read_to_string(path)
        .is_ok_and(|events| events.lines().any(|line| line == "populated 0"))
}
