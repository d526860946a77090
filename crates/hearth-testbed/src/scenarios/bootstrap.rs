//! After a reboot of the host: which VMs are started again by which policy, in which order,
//! and how fast.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::hearth::{VM_UP, Vm};
use crate::host::Host;

/// A VM and what the reboot makes of it.
struct Case {
    name: &'static str,
    /// Lines of its specification beside those that all have.
    spec: &'static str,
    /// Whether it runs when the host goes down, and is well.
    before: Before,
    /// What becomes of it, as `hearth inspect` calls it.
    fate: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    Runs,
    HasFailed,
    IsStopped,
}

const fn case(name: &'static str, spec: &'static str, before: Before, fate: &'static str) -> Case {
    Case {
        name,
        spec,
        before,
        fate,
    }
}

/// The stand-in has no guest that could answer.
const WELL: &str = "health = { without = [\"agent\"] }";

/// The first one is created first and matters most: by itself it would be started first.
const CASES: [Case; 8] = [
    case(
        "front",
        "after = [\"middle\"]\nresources = { priority = \"high\" }",
        Before::Runs,
        "started",
    ),
    case("middle", "after = [\"base\"]", Before::Runs, "started"),
    case(
        "base",
        "resources = { priority = \"low\" }",
        Before::Runs,
        "started",
    ),
    case(
        "sound",
        "bootstrap = \"restart-healthy\"",
        Before::Runs,
        "started",
    ),
    case(
        "frail",
        "bootstrap = \"restart-healthy\"",
        Before::HasFailed,
        "left",
    ),
    case("by-hand", "bootstrap = \"manual\"", Before::Runs, "left"),
    case(
        "eager",
        "bootstrap = \"restart-all\"",
        Before::HasFailed,
        "started",
    ),
    case("resting", "", Before::IsStopped, "stopped"),
];

pub(super) fn tell(host: &mut Host) -> anyhow::Result<()> {
    configure(host, "restart-all")?;
    create(host)?;
    host.reboot()?;
    host.wait_daemon()?;
    host.wait_settled()?;
    for case in &CASES {
        became(host.vm(case.name), case.fate)?;
    }
    host.promise("restart-all, restart-healthy and manual: who failed before is left by restart-healthy, who is started by hand waits, what its user had stopped stays stopped");
    in_order(host)?;
    by_hand(host)?;
    nothing_anew(host)?;
    nobody_but(host)
}

fn configure(host: &Host, policy: &str) -> anyhow::Result<()> {
    host.configure(&[
        "QEMU_PATH=/seed/bin/hearth-vmm-standin",
        "KVM=off",
        "START_CONCURRENCY=1",
        "START_RATE=1",
        &format!("BOOTSTRAP_POLICY={policy}"),
    ])
}

fn create(host: &Host) -> anyhow::Result<()> {
    let mut file = String::new();
    for case in &CASES {
        write!(
            file,
            "[[vm]]\nname = \"{}\"\nimage = \"busybox:1\"\nmemory = \"64MiB\"\nrestart = \"unless-stopped\"\n\
             command = [\"sleep\", \"1000000\"]\n{WELL}\n{}\n",
            case.name, case.spec
        )?;
    }
    host.write("/tmp/bootstrap.toml", &file)?;
    host.check("hearth apply -f /tmp/bootstrap.toml")?;
    for case in &CASES {
        let vm = host.vm(case.name);
        vm.wait_running(VM_UP)?;
        match case.before {
            Before::Runs => {}
            Before::HasFailed => {
                let pid = vm.pid()?;
                host.check(&format!("kill -KILL {pid}"))?;
                host.wait("another VMM", VM_UP, || {
                    Ok(vm.inspect()?["pid"].as_i64().filter(|now| *now != pid))
                })?;
                vm.wait_running(VM_UP)?;
            }
            Before::IsStopped => {
                host.check(&format!("hearth kill {}", case.name))?;
                host.wait("the stop", VM_UP, || {
                    Ok(vm.inspect()?["pid"].is_null().then_some(()))
                })?;
            }
        }
    }
    Ok(())
}

/// What the bootstrap has decided, and whether it is so.
fn became(vm: Vm<'_>, fate: &str) -> anyhow::Result<Value> {
    if fate == "started" {
        vm.wait_running(VM_UP)?;
    }
    let seen = vm.inspect()?;
    ensure!(
        seen["bootstrap"]["fate"] == fate,
        "{} was to be {fate}: {}, {}",
        vm.name(),
        seen["bootstrap"],
        seen["reason"]
    );
    ensure!(
        seen["pid"].is_null() == (fate != "started"),
        "{} is {fate} and has the VMM {}",
        vm.name(),
        seen["pid"]
    );
    Ok(seen)
}

/// When each VM was started in this boot, in seconds, by the daemon's journal.
fn starts(host: &Host) -> anyhow::Result<BTreeMap<String, f64>> {
    let text = host.check(
        "journalctl -b -u hearthd -o json --no-pager | jq -r \
         'select(.MESSAGE | tostring | contains(\"started, VMM pid\")) | \"\\(.__REALTIME_TIMESTAMP) \\(.MESSAGE)\"'",
    )?;
    let mut starts = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (stamp, name) = (words.next(), words.next());
        let micros: f64 = stamp.context("a line without a time")?.parse()?;
        starts.insert(name.unwrap_or_default().to_owned(), micros / 1e6);
    }
    Ok(starts)
}

fn in_order(host: &Host) -> anyhow::Result<()> {
    let starts = starts(host)?;
    let at = |name: &str| {
        let start = starts.get(name).copied();
        start.with_context(|| format!("{name} was not started: {starts:?}"))
    };
    ensure!(
        at("base")? < at("middle")? && at("middle")? < at("front")?,
        "not in order: {starts:?}"
    );
    let told = host.check("hearth events | grep -c host.bootstrapped")?;
    ensure!(told == "1", "the bootstrap was summed up {told} times");
    host.promise("one event sums it up");
    host.promise("after: base, middle, front start in this order, whatever their age and priority");
    let mut times: Vec<f64> = starts.values().copied().collect();
    times.sort_by(f64::total_cmp);
    let pauses = times.windows(2).map(|pair| pair[1] - pair[0]);
    host.measure(
        "shortest time between two starts, at most one a second",
        pauses.fold(f64::MAX, f64::min),
        "s",
    );
    Ok(())
}

/// Who was left waits for its user's word.
fn by_hand(host: &Host) -> anyhow::Result<()> {
    for (name, word) in [("by-hand", "start"), ("frail", "recover")] {
        host.check(&format!("hearth {word} {name}"))?;
        host.vm(name).wait_running(VM_UP)?;
    }
    host.promise("hearth start and hearth recover start who was left");
    Ok(())
}

/// A daemon that is started anew in the same boot decides nothing anew.
fn nothing_anew(host: &Host) -> anyhow::Result<()> {
    let pids = || -> anyhow::Result<String> {
        host.check("hearth -o json ps -a | jq -r '.[] | \"\\(.spec.name) \\(.pid)\"' | sort")
    };
    let before = pids()?;
    host.check("systemctl restart hearthd")?;
    host.wait_daemon()?;
    host.wait_settled()?;
    let after = pids()?;
    ensure!(after == before, "{before}\n became\n{after}");
    host.promise("another daemon in the same boot starts and leaves nobody for it");
    Ok(())
}

/// The host's policy is `manual`: a VM's own comes first, all others wait.
fn nobody_but(host: &mut Host) -> anyhow::Result<()> {
    configure(host, "manual")?;
    // Whether it counts as healthy again is a matter of time.
    host.check("hearth rm -f frail")?;
    host.reboot()?;
    host.wait_daemon()?;
    host.wait_settled()?;
    for case in CASES.iter().filter(|case| case.name != "frail") {
        let fate = match case.name {
            "sound" | "eager" => "started",
            "resting" => "stopped",
            _ => "left",
        };
        became(host.vm(case.name), fate)?;
    }
    host.promise("the host's policy manual leaves all VMs that do not say otherwise themselves");
    Ok(())
}
