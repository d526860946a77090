//! What can go wrong with a host below Hearth: a full disk, no inodes, a read-only file
//! system, a clock that jumps. VMs run on, requests fail with a reason, and all is well
//! again when the cause is gone.

use std::time::{Duration, Instant};

use anyhow::{bail, ensure};

use crate::hearth::VM_UP;
use crate::host::Host;

/// A fault: how it is made, what shows that it is there, how it goes.
struct Fault {
    name: &'static str,
    make: &'static str,
    there: &'static str,
    mend: &'static str,
    /// What the error of a request must contain; one of these.
    says: &'static [&'static str],
}

const FAULTS: [Fault; 3] = [
    Fault {
        name: "data disk full",
        // Space that is only reserved is quick; the rest is written.
        make: "avail=$(df --output=avail -B1M /var/lib/hearth | tail -n 1); \
               fallocate -l $((avail - 64))M /var/lib/hearth/.fill; \
               dd if=/dev/zero of=/var/lib/hearth/.rest bs=1M status=none",
        there: "test $(df --output=avail -B1K /var/lib/hearth | tail -n 1) -lt 1000",
        mend: "rm -f /var/lib/hearth/.fill /var/lib/hearth/.rest",
        says: &["space", "full"],
    },
    Fault {
        name: "no inodes left",
        make: "mkdir /var/lib/hearth/.inodes && cd /var/lib/hearth/.inodes && seq 1 100000 | xargs touch 2>/dev/null || true",
        there: "test $(df --output=iavail /var/lib/hearth | tail -n 1) -eq 0",
        mend: "rm -rf /var/lib/hearth/.inodes",
        says: &["space", "inode"],
    },
    // All file systems at once, as the kernel's emergency remount does it.
    Fault {
        name: "read-only remount",
        make: "echo u > /proc/sysrq-trigger",
        there: "grep -q ' /var/lib/hearth ext4 ro' /proc/mounts",
        mend: "mount -o remount,rw / && mount -o remount,rw /var/lib/hearth",
        says: &["read-only", "readonly"],
    },
];
/// How long a fault may take to be there.
const FAULT: Duration = Duration::from_mins(4);
/// How long a mode may outlive its cause: two full passes on a slow host.
const MODE: Duration = Duration::from_mins(3);

pub(super) fn tell(host: &mut Host) -> anyhow::Result<()> {
    let keeper = host.start_vm("keeper", &["--restart", "always"], "exec sleep 1000000")?;
    keeper.wait_running(VM_UP)?;
    let pid = keeper.pid()?;
    for fault in &FAULTS {
        suffer(host, fault)?;
        ensure!(
            keeper.pid()? == pid,
            "{}: the VM has another VMM",
            fault.name
        );
        ensure!(
            keeper.inspect()?["restarts"] == 0,
            "{}: the VM was restarted",
            fault.name
        );
    }
    clock(host, pid)
}

fn suffer(host: &Host, fault: &Fault) -> anyhow::Result<()> {
    host.run(fault.make)?;
    host.wait(fault.name, FAULT, || host.check(fault.there).map(Some))?;
    let refused = host.run("hearth run -d --name refused busybox:1 sleep 1000000")?;
    let active = host.check("systemctl is-active hearthd");
    let runs = host.check("hearth -o json ps | jq -r '.[].spec.name'");
    host.check(fault.mend)?;
    ensure!(active.is_ok(), "{}: the daemon ended", fault.name);
    ensure!(
        runs.as_deref().is_ok_and(|names| names.contains("keeper")),
        "{}: the list of VMs reads {runs:?}",
        fault.name
    );
    if !refused.success() {
        let said = refused.said().to_lowercase();
        if !fault.says.iter().any(|word| said.contains(word)) {
            bail!(
                "{}: the error does not say so: {}",
                fault.name,
                refused.said()
            );
        }
        host.evidence
            .event(&format!("{}: {}", fault.name, refused.said()));
    }
    let mended = Instant::now();
    host.wait("mode normal, which comes by itself", MODE, || {
        let mode = host.check("hearth -o json mode | jq -r .mode")?;
        ensure!(mode == "normal", "the mode is {mode}");
        Ok(Some(()))
    })?;
    host.measure(
        &format!("{}: mended, until the mode is normal", fault.name),
        mended.elapsed().as_secs_f64(),
        "s",
    );
    // What was accepted is done now, and what was not can be asked for again.
    host.run("hearth rm -f refused")?;
    host.wait("the refused VM to be gone", VM_UP, || {
        Ok((!host.run("hearth inspect refused")?.success()).then_some(()))
    })?;
    let vm = host.start_vm("after", &[], "exec sleep 1000000")?;
    vm.wait_running(VM_UP)?;
    host.check("hearth rm -f after")?;
    host.database_is_whole()?;
    host.promise(&format!(
        "{}: the VM runs on, the daemon stays, a request fails with the reason, and all works again without help",
        fault.name
    ));
    Ok(())
}

fn clock(host: &Host, pid: i64) -> anyhow::Result<()> {
    for (name, jump) in [
        ("a day forward", "+1 day"),
        ("two days back", "-2 days"),
        ("and right again", "+1 day"),
    ] {
        host.check(&format!("date -s \"$(date -d '{jump}' '+%F %T')\""))?;
        host.wait_settled()?;
        let keeper = host.vm("keeper").inspect()?;
        if keeper["pid"] != pid || keeper["phase"] != "running" {
            bail!(
                "the clock went {name}: the VM is {} with VMM {}",
                keeper["phase"],
                keeper["pid"]
            );
        }
        let vm = host.start_vm("timely", &["--restart", "always"], "exec sleep 1000000")?;
        vm.wait_running(VM_UP)?;
        let old = vm.pid()?;
        host.check(&format!("kill -KILL {old}"))?;
        host.wait("another VMM", VM_UP, || {
            Ok(vm.inspect()?["pid"].as_i64().filter(|now| *now != old))
        })?;
        host.check("hearth rm -f timely")?;
        host.check("systemctl restart hearthd")?;
        host.wait_daemon()?;
        ensure!(
            host.vm("keeper").pid()? == pid,
            "after a restart the VM has another VMM"
        );
    }
    host.promise(
        "the clock jumps by a day: VMs run on, are started, restarted and adopted as ever",
    );
    Ok(())
}
