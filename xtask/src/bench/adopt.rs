//! From the daemon's exec to its first answer, which comes after everything that lives was
//! found and adopted. VMMs are stand-ins: tiny processes that answer as QEMU or Firecracker do.

use super::rig::{Rig, Vmm, until};
use super::{Case, Context, Unit};

/// The slope says more than one number: it must not grow with the number of VMs.
const COUNTS: [(usize, &str); 5] = [
    (0, "-"),
    (10, "-"),
    (50, "200 ms"),
    (200, "-"),
    (1000, "2 s"),
];

pub(crate) fn qemu(context: &Context) -> anyhow::Result<Vec<Case>> {
    cases(context, Vmm::Standin)
}

pub(crate) fn firecracker(context: &Context) -> anyhow::Result<Vec<Case>> {
    cases(context, Vmm::FirecrackerStandin)
}

fn cases(context: &Context, vmm: Vmm) -> anyhow::Result<Vec<Case>> {
    COUNTS
        .into_iter()
        .map(|(count, target)| Ok(case(context, vmm, count)?.target(target)))
        .collect()
}

/// Its daemon runs while it is measured only: those of other cases would take processor time
/// from it. Their VMs go on, so each daemon finds the processes of all cases among its own.
fn case(context: &Context, vmm: Vmm, count: usize) -> anyhow::Result<Case> {
    let mut rig = Rig::new(context, &context.folder.join(count.to_string()), vmm)?;
    rig.start_many(count)?;
    rig.stop()?;
    let name = format!("{count} VMs");
    Ok(Case::measured(name, Unit::Seconds, move || {
        let took = rig.spawn()?;
        let running = format!("{count} VMs run after the restart");
        until(&running, || {
            let vms = rig.get("/v1/vms")?;
            let vms = vms["items"].as_array().into_iter().flatten();
            Ok(vms.filter(|vm| vm["phase"] == "running").count() == count)
        })?;
        rig.stop()?;
        Ok(took.as_secs_f64())
    }))
}
