//! The ends of a VM that are told apart: what happened to its VMM, what its guest did.

use anyhow::{bail, ensure};
use serde_json::Value;

use crate::hearth::{VM_UP, Vm};
use crate::host::Host;

/// What a guest or its VMM meets, and how its end must be called.
struct End {
    name: &'static str,
    /// A line of shell on the host; `$pid` is the VMM, `$vm` the VM.
    blow: &'static str,
    class: &'static str,
    failure: bool,
}

const ENDS: [End; 6] = [
    End {
        name: "killed",
        blow: "kill -KILL $pid",
        class: "killed",
        failure: true,
    },
    End {
        name: "segv",
        blow: "kill -SEGV $pid",
        class: "vmm_crashed",
        failure: true,
    },
    End {
        name: "oom",
        blow: "systemctl set-property --runtime $(basename $(cut -d: -f3 /proc/$pid/cgroup)) MemoryMax=8M",
        class: "out_of_memory",
        failure: true,
    },
    End {
        name: "panics",
        blow: "timeout 20 hearth exec $vm sh -c 'echo c > /proc/sysrq-trigger' || true",
        class: "guest_panicked",
        failure: true,
    },
    End {
        name: "poweroff",
        blow: "timeout 20 hearth exec $vm poweroff -f || true",
        class: "guest_powered_off",
        failure: false,
    },
    End {
        name: "reboots",
        blow: "timeout 20 hearth exec $vm reboot -f || true",
        class: "guest_rebooted",
        failure: false,
    },
];

pub(super) fn tell(host: &mut Host) -> anyhow::Result<()> {
    let mut wrong = Vec::new();
    for end in &ENDS {
        if let Err(error) = ends_as(host, end) {
            // One that is wrong hides nothing of the others.
            host.evidence.event(&format!("✗ {}: {error:#}", end.name));
            wrong.push(format!("{}: {error:#}", end.name));
        }
        host.remove_all_vms()?;
    }
    stopped_is_not_dead(host)?;
    policy_decides(host)?;
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    Ok(())
}

fn ends_as(host: &Host, end: &End) -> anyhow::Result<()> {
    let vm = host.start_vm(end.name, &["-m", "128MiB"], "exec sleep 1000000")?;
    vm.wait_healthy()?;
    strike(host, vm, end.name, end.blow)?;
    let seen = host.wait("the end", VM_UP, || {
        let seen = vm.inspect()?;
        Ok((!seen["last_end"].is_null()).then_some(seen))
    })?;
    let last = &seen["last_end"];
    ensure!(
        last["class"] == end.class,
        "expected {}, got {last}",
        end.class
    );
    ensure!(last["failure"] == end.failure, "wrongly judged: {last}");
    let phase = if end.failure { "failed" } else { "exited" };
    vm.wait_phase(phase, VM_UP)?;
    host.promise(&format!(
        "{}: {} ({})",
        end.name,
        end.class,
        text(&last["reason"])
    ));
    Ok(())
}

fn strike(host: &Host, vm: Vm<'_>, name: &str, blow: &str) -> anyhow::Result<()> {
    let pid = vm.pid()?;
    host.check(&format!("pid={pid}; vm={name}; {blow}"))
        .map(drop)
}

/// A VMM that is stopped by a signal hangs: its guest does not answer, and it is not dead.
fn stopped_is_not_dead(host: &Host) -> anyhow::Result<()> {
    let vm = host.start_vm(
        "hung",
        &["-m", "128MiB", "--restart", "always"],
        "exec sleep 1000000",
    )?;
    vm.wait_healthy()?;
    let pid = vm.pid()?;
    host.check(&format!("kill -STOP {pid}"))?;
    host.wait("word that it does not answer", VM_UP, || {
        let seen = vm.inspect()?;
        ensure!(seen["pid"] == pid, "its VMM is {} now", seen["pid"]);
        Ok((seen["health"] == "unhealthy").then_some(()))
    })?;
    host.check(&format!("kill -CONT {pid}"))?;
    let seen = vm.wait_healthy()?;
    if seen["pid"] != pid || seen["restarts"] != 0 {
        bail!("a hang made it {}", seen["pid"]);
    }
    host.promise("SIGSTOP: unhealthy, not dead; healthy again after SIGCONT, the same VMM");
    host.remove_all_vms()
}

/// The restart policy acts on the kind of end.
fn policy_decides(host: &Host) -> anyhow::Result<()> {
    let options = ["-m", "128MiB", "--restart", "on-failure:3"];
    let vm = host.start_vm("phoenix", &options, "exec sleep 1000000")?;
    vm.wait_healthy()?;
    let pid = vm.pid()?;
    host.check(&format!("kill -KILL {pid}"))?;
    host.wait("another VMM", VM_UP, || {
        let seen = vm.inspect()?;
        Ok(seen["pid"].as_i64().filter(|now| *now != pid))
    })?;
    let seen = vm.wait_healthy()?;
    ensure!(seen["restarts"] == 1, "restarts: {}", seen["restarts"]);
    strike(
        host,
        vm,
        "phoenix",
        "timeout 20 hearth exec $vm poweroff -f || true",
    )?;
    vm.wait_phase("exited", VM_UP)?;
    host.promise("on-failure: started again after a SIGKILL, not after the guest's own power off");
    Ok(())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
