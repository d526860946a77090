//! Resident memory of the daemon once it stands still: fresh, with 50 VMs that it
//! started itself, and with the same 50 after a restart.

use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::rig::{Rig, Vmm, until};
use super::{Case, Context, Unit};

const VMS: usize = 50;
/// So long its memory must stand still before it counts.
const STILL: Duration = Duration::from_secs(2);
/// Changes up to this, in MiB, are none.
const STEP: f64 = 0.25;

pub(crate) fn cases(context: &Context) -> anyhow::Result<Vec<Case>> {
    let folder = |name: &str| context.folder.join(name);
    let mut idle = Rig::new(context, &folder("idle"), Vmm::Standin)?;
    let busy = Rig::new(context, &folder("busy"), Vmm::Standin)?;
    busy.start_many(VMS)?;
    let mut again = Rig::new(context, &folder("again"), Vmm::Standin)?;
    again.start_many(VMS)?;
    Ok(vec![
        Case::measured("idle", Unit::Mebibytes, move || {
            idle.stop()?;
            idle.spawn()?;
            settled(&idle)
        })
        .target("20 MiB"),
        Case::measured(format!("{VMS} VMs adopted"), Unit::Mebibytes, move || {
            again.stop()?;
            again.spawn()?;
            settled(&again)
        })
        .target("25 MiB"),
        Case::measured(
            format!("{VMS} VMs started, image and kernel imported"),
            Unit::Mebibytes,
            move || settled(&busy),
        )
        .target("25 MiB"),
    ])
}

/// Its memory when it has stood still for a while. Its processor time never does: it goes on
/// greeting guests that do not answer, as stand-ins do not.
pub(crate) fn settled(rig: &Rig) -> anyhow::Result<f64> {
    let pid = rig.pid()?;
    let mut last = (resident(pid)?, Instant::now());
    until("the daemon's memory stands still", || {
        let now = resident(pid)?;
        if (now - last.0).abs() > STEP {
            last = (now, Instant::now());
        }
        Ok(last.1.elapsed() > STILL)
    })?;
    resident(pid)
}

/// `VmRSS` in MiB.
pub(crate) fn resident(pid: u32) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: f64 = line
        .and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse().ok())
        .context("the process has no VmRSS")?;
    Ok(kib / 1024.0)
}
