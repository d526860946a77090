//! From the daemon's exec to its first answer, which comes after everything that lives was
//! found and adopted. VMMs are stand-ins: tiny processes that answer as QEMU or Firecracker do.

use super::rig::{Rig, Vmm, until};
use super::{Case, Context, Unit};

pub(crate) fn cases(context: &Context) -> anyhow::Result<Vec<Case>> {
    // The slope says more than one number: it must not grow with the number of VMs.
    [
        (Vmm::Standin, 0, "-"),
        (Vmm::Standin, 10, "-"),
        (Vmm::Standin, 50, "200 ms"),
        (Vmm::Standin, 200, "-"),
        (Vmm::Standin, 1000, "2 s"),
        (Vmm::FirecrackerStandin, 50, "200 ms"),
        (Vmm::FirecrackerStandin, 1000, "2 s"),
    ]
    .into_iter()
    .map(|(vmm, count, target)| Ok(case(context, vmm, count)?.target(target)))
    .collect()
}

fn case(context: &Context, vmm: Vmm, count: usize) -> anyhow::Result<Case> {
    let (short, name) = match vmm {
        Vmm::FirecrackerStandin => ("f", format!("{count} VMs, Firecracker's driver")),
        Vmm::Qemu | Vmm::Standin => ("q", format!("{count} VMs")),
    };
    let folder = context.folder.join(format!("{short}{count}"));
    let mut rig = Rig::new(context, &folder, vmm)?;
    rig.start_many(count)?;
    Ok(Case::measured(name, Unit::Seconds, move || {
        rig.stop()?;
        let took = rig.spawn()?;
        let running = format!("{count} VMs run after the restart");
        until(&running, || {
            let vms = rig.get("/v1/vms")?;
            let vms = vms["items"].as_array().into_iter().flatten();
            Ok(vms.filter(|vm| vm["phase"] == "running").count() == count)
        })?;
        Ok(took.as_secs_f64())
    }))
}
