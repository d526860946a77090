//! A host that goes down in order takes its guests down in order: what a guest has in its
//! memory and not on its disk is there after the reboot.
//!
//! That it was in memory only is shown by a guest beside it, which does the same and is
//! killed instead.

use std::time::Instant;

use anyhow::ensure;

use crate::hearth::Vm;
use crate::host::Host;

/// A workload that says goodbye.
const WORKLOAD: &str = "trap 'echo goodbye > /srv/said; exit 0' TERM; while :; do sleep 1; done";
/// Writes something and sees to it that the guest's kernel does not do so by itself.
const UNSYNCED: &str = "echo 0 > /proc/sys/vm/dirty_writeback_centisecs && \
     echo 360000 > /proc/sys/vm/dirty_expire_centisecs && echo precious > /srv/unsynced";
/// What has come of it.
const LEFT: &str = "cat /srv/unsynced /srv/said 2>/dev/null || true";

pub(super) fn tell(host: &mut Host) -> anyhow::Result<()> {
    killed_loses_it(host)?;
    let keeper = host.start_vm("keeper", &["-m", "128MiB", "--restart", "always"], WORKLOAD)?;
    keeper.wait_healthy()?;
    keeper.exec(UNSYNCED)?;
    let begun = Instant::now();
    host.reboot()?;
    host.measure("reboot", begun.elapsed().as_secs_f64(), "s");
    host.wait_daemon()?;
    let keeper = host.vm("keeper");
    let seen = keeper.wait_healthy()?;
    host.measure(
        "reboot to the guest's answer",
        begun.elapsed().as_secs_f64(),
        "s",
    );
    let left = keeper.exec(LEFT)?;
    ensure!(left == "precious\ngoodbye", "after the reboot: {left:?}");
    host.promise(
        "a clean reboot: the guest's program got its signal, and what it had not synced is on its disk",
    );
    let end = &seen["last_end"];
    ensure!(
        end["class"] == "host_rebooted" && end["failure"] == false,
        "its end is told as {end}"
    );
    host.promise("that end is told as the host's and is no failure");
    Ok(())
}

/// Without a shutdown the same bytes are lost: they were nowhere but in the guest.
fn killed_loses_it(host: &Host) -> anyhow::Result<()> {
    let control: Vm<'_> = host.start_vm("control", &["-m", "128MiB"], WORKLOAD)?;
    control.wait_healthy()?;
    control.exec(UNSYNCED)?;
    host.check("hearth kill control")?;
    host.check("hearth start control")?;
    control.wait_healthy()?;
    let left = control.exec(LEFT)?;
    ensure!(
        left.is_empty(),
        "a guest that was killed has {left:?}: this shows nothing"
    );
    host.check("hearth rm -f control")?;
    host.promise("a guest that is killed loses what it had not synced");
    Ok(())
}
