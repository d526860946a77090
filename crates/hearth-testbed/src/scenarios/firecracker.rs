//! Firecracker VMs under KVM: they run, talk over vsock, end with their exit code, and
//! outlive the daemon that started them.
//!
//! Of five boots under the emulated KVM about one never ends: the guest's kernel, with one CPU,
//! spins in `native_queued_spin_lock_slowpath` and gets no interrupt any more. Hearth tells such
//! a guest as unhealthy; it is started again, and the evidence counts it.

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use crate::hearth::{DAEMON_UP, VM_UP, Vm};
use crate::host::Host;

/// So many hung boots in a row are no accident.
const HANGS: u32 = 3;

pub(super) fn tell(host: &mut Host) -> anyhow::Result<()> {
    if !host.run("test -x /seed/bin/firecracker")?.success() {
        host.evidence
            .fact("SKIP", "HEARTH_TEST_FIRECRACKER names no Firecracker");
        return Ok(());
    }
    host.configure(&["FIRECRACKER_PATH=/seed/bin/firecracker"])?;
    let version = host.check("/seed/bin/firecracker --version | head -n 1")?;
    host.evidence.fact("firecracker", &version);
    doctor(host)?;

    let begun = std::time::Instant::now();
    let options = ["--driver", "firecracker", "-m", "128MiB"];
    let script = "trap 'exit 7' TERM; while :; do sleep 1; done";
    let vm = host.start_vm("fire", &options, script)?;
    vm.wait_running(VM_UP)?;
    host.measure("run to running", begun.elapsed().as_secs_f64(), "s");
    let seen = comes_up(host, vm)?;
    host.measure("run to healthy", begun.elapsed().as_secs_f64(), "s");
    ensure!(seen["driver"] == "firecracker", "driver {}", seen["driver"]);
    ensure!(vm.exec("echo hello")? == "hello", "exec over vsock");
    ensure!(
        vm.exec("ls /dev/vport* 2>/dev/null || true")?.is_empty(),
        "it has virtio-serial ports"
    );
    host.promise("a Firecracker VM runs under KVM, and its agent answers over vsock");

    caged(host, vm)?;
    reached_over_the_network(host, vm)?;
    daemon_killed(host, vm)?;
    paused(host, vm)?;
    stopped(host, vm)?;
    ends(host)?;
    // What the daemon remembers of this binary; the audit before has seen no Firecracker yet.
    host.check("rm /var/lib/hearth/firecracker-probe.json")
        .map(drop)
}

fn doctor(host: &Host) -> anyhow::Result<()> {
    let report = host.hearth(&["doctor"])?;
    let checks = report["checks"]
        .as_array()
        .context("doctor has no checks")?;
    let check = checks
        .iter()
        .find(|check| check["name"] == "vmm firecracker")
        .context("doctor says nothing of Firecracker")?;
    host.evidence
        .fact("probe", check["detail"].as_str().unwrap_or_default());
    ensure!(
        check["detail"]
            .as_str()
            .is_some_and(|text| text.contains("with kvm")),
        "{check}"
    );
    Ok(())
}

/// Its own uid, root folder and system call filter; a unit with limits.
fn caged(host: &Host, vm: Vm<'_>) -> anyhow::Result<()> {
    let pid = vm.pid()?;
    host.check(&format!("ls -l /proc/{pid}/fd | grep -q kvm-vm"))?;
    let inside = host.check(&format!("ls /proc/{pid}/root | tr '\\n' ' '"))?;
    ensure!(
        inside.trim() == "dev firecracker initrd root.img run vmlinux",
        "it sees {inside}"
    );
    let status = host.check(&format!("cat /proc/{pid}/status"))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default().trim().to_owned()
    };
    ensure!(field("Seccomp:") == "2", "no filter: {status}");
    ensure!(
        field("CapEff:") == "0000000000000000",
        "capabilities: {status}"
    );
    ensure!(!field("Uid:").starts_with('0'), "it is root: {status}");
    let cgroup = host.check(&format!("cat /proc/{pid}/cgroup"))?;
    host.evidence.fact("cgroup", &cgroup);
    let memory = host.check(&format!("awk '/^VmRSS/ {{ print $2 }}' /proc/{pid}/status"))?;
    host.measure(
        "VMM with a 128 MiB guest: RSS",
        memory.parse::<f64>()? / 1024.0,
        "MiB",
    );
    host.promise(
        "the VMM sees its own files and devices only, as an unprivileged uid, with its filter on",
    );
    Ok(())
}

fn reached_over_the_network(host: &Host, vm: Vm<'_>) -> anyhow::Result<()> {
    let seen = vm.inspect()?;
    let address = seen["leases"]["ip"].as_str().context("no address")?;
    host.check(&format!("ping -c 1 -W 20 {address}"))?;
    host.promise("the guest answers on its address");
    Ok(())
}

fn daemon_killed(host: &Host, vm: Vm<'_>) -> anyhow::Result<()> {
    let (pid, before) = (vm.pid()?, vm.uptime()?);
    host.check("systemctl kill --kill-whom=main -s KILL hearthd")?;
    let begun = std::time::Instant::now();
    host.wait("the VM to be known again", DAEMON_UP, || {
        let seen = vm.inspect()?;
        Ok((seen["phase"] == "running").then_some(()))
    })?;
    host.measure(
        "kill -9: VM known again after",
        begun.elapsed().as_secs_f64(),
        "s",
    );
    ensure!(vm.pid()? == pid, "another VMM");
    vm.wait_healthy()?;
    let after = vm.uptime()?;
    ensure!(after > before, "uptime {before} s, then {after} s");
    host.promise(
        "kill -9 of the daemon: the same VMM and guest, and the agent answers the next one",
    );
    Ok(())
}

fn paused(host: &Host, vm: Vm<'_>) -> anyhow::Result<()> {
    let version = host.check("/seed/bin/firecracker --version | head -n 1")?;
    if version.starts_with("Firecracker v1.16.") {
        // They lose their vsock device by it, and the driver refuses.
        host.evidence.fact("pause", "not with this version");
        return Ok(());
    }
    host.check("hearth pause fire")?;
    vm.wait_phase("paused", VM_UP)?;
    host.check("hearth resume fire")?;
    ensure!(vm.exec("echo awake")? == "awake", "exec after a pause");
    host.promise("it pauses and goes on, and its agent answers");
    Ok(())
}

fn stopped(host: &Host, vm: Vm<'_>) -> anyhow::Result<()> {
    let begun = std::time::Instant::now();
    host.check("hearth stop -t 60s fire")?;
    host.measure("stop", begun.elapsed().as_secs_f64(), "s");
    let end = ended(host, vm)?;
    ensure!(end["guest"]["exit"]["code"] == 7, "last end {end}");
    host.promise("a stop is clean: the entrypoint's exit code arrives over vsock");
    Ok(())
}

/// A VM whose guest answers.
fn comes_up(host: &Host, vm: Vm<'_>) -> anyhow::Result<Value> {
    unless_hung(host, vm, |seen| seen["health"] == "healthy")
}

/// Waits until `done` is true of a VM; one whose guest hangs is started again.
fn unless_hung(host: &Host, vm: Vm<'_>, done: fn(&Value) -> bool) -> anyhow::Result<Value> {
    for _ in 0..HANGS {
        let seen = host.wait("its guest", VM_UP, || {
            let seen = vm.inspect()?;
            Ok((done(&seen) || seen["health"] == "unhealthy").then_some(seen))
        })?;
        if done(&seen) {
            return Ok(seen);
        }
        host.measure("boots that hung", 1.0, "");
        host.evidence
            .event(&format!("{} hangs: {}", vm.name(), seen["reason"]));
        host.check(&format!("hearth kill {0} && hearth start {0}", vm.name()))?;
    }
    bail!("the guest of {} hangs every time", vm.name())
}

/// How a VM's last run ended, once it has.
fn ended(host: &Host, vm: Vm<'_>) -> anyhow::Result<Value> {
    host.wait("its end", VM_UP, || {
        let seen = vm.inspect()?;
        if !seen["pid"].is_null() || seen["last_end"].is_null() {
            bail!("it is {}", seen["phase"]);
        }
        Ok(Some(seen["last_end"].clone()))
    })
}

/// A guest that ends by itself, and the same VM once more.
fn ends(host: &Host) -> anyhow::Result<()> {
    let options = ["--driver", "firecracker", "-m", "128MiB"];
    let vm = host.start_vm("short", &options, "exit 3")?;
    let has_ended = |seen: &Value| seen["pid"].is_null() && seen["last_end"]["guest"].is_object();
    let seen = unless_hung(host, vm, has_ended)?;
    let end = &seen["last_end"];
    ensure!(end["guest"]["exit"]["code"] == 3, "last end {end}");
    host.promise("a guest that ends by itself ends its VMM, with its exit code");
    host.check("hearth start fire")?;
    let vm = host.vm("fire");
    comes_up(host, vm)?;
    host.promise("a stopped VM starts again on its disk");
    power_button(host, vm)
}

/// What the driver sends when no agent answers: the guest's PID 1 hears it and ends cleanly.
fn power_button(host: &Host, vm: Vm<'_>) -> anyhow::Result<()> {
    let pid = vm.pid()?;
    host.check(&format!(
        "curl -sf --unix-socket /proc/{pid}/root/run/api.sock -X PUT http://localhost/actions \
         -d '{{\"action_type\":\"SendCtrlAltDel\"}}'"
    ))?;
    let end = ended(host, vm)?;
    ensure!(end["guest"]["exit"]["code"] == 7, "last end {end}");
    host.promise("Ctrl-Alt-Del is a clean end: the entrypoint gets its signal");
    Ok(())
}
