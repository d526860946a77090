//! From the daemon's exec to its first answer, which comes after everything that lives was
//! found and adopted. VMMs are stand-ins: tiny processes that answer as QEMU does.

use super::rig::{Rig, Vmm, until};
use super::{Case, Context, Unit};

pub(crate) fn cases(context: &Context) -> anyhow::Result<Vec<Case>> {
    let mut cases = Vec::new();
    // The slope says more than one number: it must not grow with the number of VMs.
    for (count, target) in [
        (0, "-"),
        (10, "-"),
        (50, "200 ms"),
        (200, "-"),
        (1000, "2 s"),
    ] {
        let mut rig = Rig::new(
            context,
            &context.folder.join(count.to_string()),
            Vmm::Standin,
        )?;
        rig.start_many(count)?;
        let name = format!("{count} VMs");
        let case = Case::measured(name, Unit::Seconds, move || {
            rig.stop()?;
            let took = rig.spawn()?;
            let running = format!("{count} VMs run after the restart");
            until(&running, || {
                let vms = rig.get("/v1/vms")?;
                let vms = vms["items"].as_array().into_iter().flatten();
                Ok(vms.filter(|vm| vm["phase"] == "running").count() == count)
            })?;
            Ok(took.as_secs_f64())
        });
        cases.push(case.target(target));
    }
    Ok(cases)
}
