//! Many VMMs, by the stand-in: how times and memory grow with their number.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::host::Host;

/// How many VMs at once.
const STEPS: [usize; 4] = [10, 50, 100, 200];
/// How long one step may take: 200 units under emulation.
const STEP: Duration = Duration::from_mins(25);

pub(super) fn tell(host: &mut Host) -> anyhow::Result<()> {
    for count in STEPS {
        host.evidence.event(&format!("{count} VMs"));
        start(host, count)?;
        adopt(host, count)?;
        stop(host, count)?;
    }
    host.promise("200 VMMs under systemd: started, adopted by a restarted daemon with their pids, stopped and removed");
    Ok(())
}

fn start(host: &Host, count: usize) -> anyhow::Result<()> {
    let mut file = String::new();
    for number in 0..count {
        write!(
            file,
            "[[vm]]\nname = \"many-{number}\"\nimage = \"busybox:1\"\nmemory = \"64MiB\"\n\
             command = [\"sleep\", \"1000000\"]\n"
        )?;
    }
    host.write("/tmp/many.toml", &file)?;
    let begun = Instant::now();
    let applied = host.run_for("hearth apply -f /tmp/many.toml", STEP)?;
    ensure!(applied.success(), "apply failed: {}", applied.said());
    wait_running(host, count)?;
    measure(host, count, "all started after", begun);
    memory(host, count)
}

fn wait_running(host: &Host, count: usize) -> anyhow::Result<()> {
    host.wait(&format!("{count} running VMs"), STEP, || {
        let running = host
            .check("hearth -o json ps -a | jq '[.[] | select(.phase == \"running\")] | length'")?;
        ensure!(running == count.to_string(), "{running} run");
        Ok(Some(()))
    })
}

fn memory(host: &Host, count: usize) -> anyhow::Result<()> {
    let rss = host.check("sed -n 's/^VmRSS:[^0-9]*\\([0-9]*\\).*/\\1/p' /proc/$(systemctl show -p MainPID --value hearthd)/status")?;
    host.measure(
        &format!("{count} VMs: RSS of hearthd"),
        rss.parse::<f64>()? / 1024.0,
        "MiB",
    );
    let pss = host.check(
        "for pid in $(pgrep -x hearth-shim); do sed -n 's/^Pss:[^0-9]*\\([0-9]*\\).*/\\1/p' /proc/$pid/smaps_rollup; done | awk '{sum += $1} END {print sum / NR}'",
    )?;
    host.measure(
        &format!("{count} VMs: PSS of one shim"),
        pss.parse::<f64>()? / 1024.0,
        "MiB",
    );
    Ok(())
}

fn adopt(host: &Host, count: usize) -> anyhow::Result<()> {
    let pids =
        || host.check("hearth -o json ps -a | jq -r '.[] | \"\\(.spec.name) \\(.pid)\"' | sort");
    let before = pids()?;
    let begun = Instant::now();
    host.check("systemctl restart hearthd")?;
    host.wait_daemon()?;
    wait_running(host, count)?;
    measure(
        host,
        count,
        "restart of the daemon to all known again",
        begun,
    );
    // The journal keeps figures as fields of their own.
    let millis = host.check(
        "journalctl -u hearthd -o json --no-pager | jq -r 'select(.MESSAGE | tostring | endswith(\" is ready\")) | .HEARTH_MILLIS' | tail -n 1",
    )?;
    host.measure(
        &format!("{count} VMs: daemon ready after"),
        millis
            .parse::<f64>()
            .context("the daemon does not say when it was ready")?
            / 1000.0,
        "s",
    );
    ensure!(
        pids()? == before,
        "VMMs changed over a restart of the daemon"
    );
    host.one_vmm_each()
}

fn stop(host: &Host, count: usize) -> anyhow::Result<()> {
    let begun = Instant::now();
    let stopped = host.run_for("hearth ps -q | xargs hearth kill --wait-timeout 20m", STEP)?;
    ensure!(stopped.success(), "kill failed: {}", stopped.said());
    measure(host, count, "all killed after", begun);
    let begun = Instant::now();
    let removed = host.run_for("hearth ps -a -q | xargs hearth rm -f", STEP)?;
    ensure!(removed.success(), "rm failed: {}", removed.said());
    host.wait("the end of all VMs", STEP, || {
        Ok((host.check("hearth ps -a -q | wc -l")? == "0").then_some(()))
    })?;
    measure(host, count, "all removed after", begun);
    Ok(())
}

fn measure(host: &Host, count: usize, what: &str, begun: Instant) {
    host.measure(
        &format!("{count} VMs: {what}"),
        begun.elapsed().as_secs_f64(),
        "s",
    );
}
