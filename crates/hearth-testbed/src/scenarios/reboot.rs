//! A clean reboot and a panic: each VM comes back, or does not, as its policy says.

use anyhow::{bail, ensure};

use crate::hearth::VM_UP;
use crate::host::Host;

/// A VM: its policy, whether it is stopped before, and whether it runs after.
struct Case {
    name: &'static str,
    policy: &'static str,
    stopped: bool,
    runs_after: bool,
}

const CASES: [Case; 6] = [
    case("no", "no", false, false),
    case("on-failure", "on-failure:3", false, true),
    case("always", "always", false, true),
    case("always-stopped", "always", true, true),
    case("unless-stopped", "unless-stopped", false, true),
    case("unless-stopped-stopped", "unless-stopped", true, false),
];

const fn case(name: &'static str, policy: &'static str, stopped: bool, runs_after: bool) -> Case {
    Case {
        name,
        policy,
        stopped,
        runs_after,
    }
}

pub(super) fn clean(host: &mut Host) -> anyhow::Result<()> {
    around(host, "reboot", Host::reboot)
}

pub(super) fn panic(host: &mut Host) -> anyhow::Result<()> {
    around(host, "panic", Host::panic)
}

fn around(
    host: &mut Host,
    what: &str,
    blow: fn(&mut Host) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    for case in &CASES {
        let vm = host.start_vm(case.name, &["--restart", case.policy], "exec sleep 1000000")?;
        vm.wait_running(VM_UP)?;
        if case.stopped {
            host.check(&format!(
                "hearth stop -t 5 {0} || hearth kill {0}",
                case.name
            ))?;
            host.wait("the stop", VM_UP, || {
                Ok(
                    (vm.inspect()?["goal"] == "stopped" && vm.inspect()?["pid"].is_null())
                        .then_some(()),
                )
            })?;
        }
    }
    let before = leases(host)?;
    blow(host)?;
    host.wait_daemon()?;
    for case in &CASES {
        if case.runs_after {
            host.vm(case.name).wait_running(VM_UP)?;
        }
    }
    host.wait_settled()?;
    for case in CASES.iter().filter(|case| !case.runs_after) {
        let vm = host.vm(case.name).inspect()?;
        if !vm["pid"].is_null() || vm["phase"] == "running" {
            bail!("{} runs after a {what}: {}", case.name, vm["phase"]);
        }
    }
    let seen = host.vm("no").inspect()?;
    ensure!(
        seen["last_end"]["reason"] == "host rebooted",
        "the VM with policy no says {}",
        seen["last_end"]
    );
    ensure!(leases(host)? == before, "addresses changed over a {what}");
    host.database_is_whole()?;
    host.one_vmm_each()?;
    host.promise(&format!(
        "{what}: VMs with always, on-failure and unless-stopped run again, those with no or stopped by their user do not; addresses are the same"
    ));
    Ok(())
}

/// Names with their addresses.
fn leases(host: &Host) -> anyhow::Result<Vec<String>> {
    let text = host.check(
        "hearth -o json ps -a | jq -r '.[] | .spec.name + \" \" + .leases.ip + \" \" + .leases.mac' | sort",
    )?;
    Ok(text.lines().map(str::to_owned).collect())
}
