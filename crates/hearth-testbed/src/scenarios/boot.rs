//! A host with Hearth has come up: what an operator sees, and the first VM, under KVM.

use anyhow::{Context, bail};

use crate::hearth::VM_UP;
use crate::host::Host;

pub(super) fn tell(host: &mut Host) -> anyhow::Result<()> {
    let state = host.check("systemctl is-system-running")?;
    if state != "running" {
        bail!("systemd says the host is {state}");
    }
    host.check("test \"$(stat -fc %T /sys/fs/cgroup)\" = cgroup2fs")?;
    host.check("grep -qw memory /sys/fs/cgroup/cgroup.controllers")?;
    host.check("dmsetup targets | grep -q thin-pool")?;
    host.promise("the host has systemd, cgroup v2 with controllers, device-mapper with thin pools");

    host.check("systemctl is-active hearthd")?;
    let journal = host.check("journalctl -u hearthd -o cat --no-pager | wc -l")?;
    if journal == "0" {
        bail!("the daemon has written nothing into the journal");
    }
    host.promise("hearthd is active and its log is in the journal");

    doctor(host)?;
    first_vm(host)
}

/// `hearth doctor` finds nothing wrong, and KVM that works.
pub(super) fn doctor(host: &Host) -> anyhow::Result<()> {
    let report = host.hearth(&["doctor"])?;
    let checks = report["checks"]
        .as_array()
        .context("doctor has no checks")?;
    let find = |name: &str| checks.iter().find(|check| check["name"] == name);
    let vmm = find("vmm").context("doctor says nothing of the VMM")?;
    host.evidence
        .fact("probe", vmm["detail"].as_str().unwrap_or_default());
    for check in checks {
        if check["status"] != "ok" {
            bail!(
                "hearth doctor: {} is {}: {}",
                check["name"],
                check["status"],
                check["detail"]
            );
        }
    }
    host.promise("hearth doctor: all is well, and a guest really boots under KVM");
    Ok(())
}

/// A VM under KVM whose agent answers; it stays.
pub(super) fn first_vm(host: &Host) -> anyhow::Result<()> {
    let begun = std::time::Instant::now();
    let vm = host.start_vm("web", &["-m", "128MiB"], "exec sleep 1000000")?;
    vm.wait_running(VM_UP)?;
    let seen = vm.wait_healthy()?;
    host.measure("run to healthy", begun.elapsed().as_secs_f64(), "s");
    if seen["accelerator"] != "kvm" {
        bail!("the VM runs with {}", seen["accelerator"]);
    }
    let pid = vm.pid()?;
    host.check(&format!("ls -l /proc/{pid}/fd | grep -q kvm-vm"))?;
    vm.exec("grep -q hypervisor /proc/cpuinfo")?;
    let clock = vm.exec("cat /sys/devices/system/clocksource/clocksource0/current_clocksource")?;
    host.evidence.fact("guest clock", &clock);
    host.promise("the first VM runs under KVM and its agent answers");
    Ok(())
}
