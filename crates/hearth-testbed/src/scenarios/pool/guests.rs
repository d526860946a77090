//! Guests on disks of the pool: made by themselves on first use, there again after whatever ends the
//! daemon or the host, and gone with their VMs.

use std::time::Instant;

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::hearth::{VM_UP, Vm};
use crate::host::Host;

/// An emulated host takes its time to say which threads hang.
const CONFIG: [&str; 2] = ["STORAGE=auto", "GUARD_BUDGET=2s"];
const SCRIPT: &str = "exec sleep 1000000";
/// A boot under emulated KVM may hang; then the VM is started again.
const ATTEMPTS: u32 = 3;

pub(super) fn tell(host: &mut Host) -> anyhow::Result<()> {
    host.configure(&CONFIG)?;
    let begun = Instant::now();
    let options = ["--restart", "always", "-v", "data:/srv:64MiB"];
    host.start_vm("first", &options, SCRIPT)?
        .wait_running(VM_UP)?;
    host.measure(
        "first VM in the pool, with its set-up",
        begun.elapsed().as_secs_f64(),
        "s",
    );
    up(host, "first")?;
    stands_in_the_pool(host, "first")?;
    let sums = [write(host, "/root-file")?, write(host, "/srv/data-file")?];
    second_is_a_snapshot(host)?;
    discards_reach_the_pool(host)?;

    let pid = host.vm("first").pid()?;
    host.check("systemctl kill -s KILL --kill-who=main hearthd")?;
    host.wait_daemon()?;
    ensure!(host.vm("first").pid()? == pid, "the VMM is another one");
    has(host, &sums, "kill of the daemon")?;
    for (what, blow) in [
        (
            "reboot",
            Host::reboot as fn(&mut Host) -> anyhow::Result<()>,
        ),
        ("panic", Host::panic),
        ("power cut", Host::power_cut),
    ] {
        blow(host)?;
        host.wait_daemon()?;
        host.vm("first").wait_running(VM_UP)?;
        up(host, "first")?;
        has(host, &sums, what)?;
        agrees(host, what)?;
    }
    host.promise("a VM in the pool is there with its data after a kill of the daemon, a reboot, a panic and a power cut; VMs wait for the pool");
    in_firecracker(host)?;
    removed(host)
}

fn volumes(host: &Host) -> anyhow::Result<Value> {
    host.hearth(&["pool", "volumes"])
}

fn of_kind(all: &Value, kind: &str) -> usize {
    let volumes = all["volumes"].as_array();
    let same = |volume: &&Value| volume["kind"] == kind;
    volumes.map_or(0, |all| all.iter().filter(same).count())
}

/// Waits until a guest answers; one whose boot hangs is started again.
fn up<'a>(host: &'a Host, name: &'a str) -> anyhow::Result<Vm<'a>> {
    let vm = host.vm(name);
    for attempt in 1..ATTEMPTS {
        match vm.wait_healthy() {
            Ok(_) => return Ok(vm),
            Err(error) => {
                host.evidence
                    .event(&format!("{name}, attempt {attempt}: {error:#}"));
                host.check(&format!("hearth restart -t 5 {name}"))?;
            }
        }
    }
    vm.wait_healthy().map(|_| vm)
}

fn stands_in_the_pool(host: &Host, name: &str) -> anyhow::Result<()> {
    let vm = host.vm(name).inspect()?;
    let id = vm["id"].as_str().context("a VM without an id")?.to_owned();
    let nodes = host.check(&format!(
        "cd /var/lib/hearth/vms/{id} && test -b root.img && test -b volume-data.img && stat -c '%a %U %n' *.img"
    ))?;
    ensure!(
        nodes.lines().all(|line| line.starts_with("600 ")),
        "modes: {nodes}"
    );
    let unit = host.check(&format!(
        "systemctl show -p DeviceAllow hearth-vm-{id}.service"
    ))?;
    ensure!(
        unit.contains("/dev/dm-") && !unit.contains("block-device-mapper"),
        "its unit may open {unit}"
    );
    let all = volumes(host)?;
    for kind in ["image", "vm-root", "vm-data"] {
        ensure!(of_kind(&all, kind) == 1, "{kind}: {all}");
    }
    host.promise("a VM's disks are thin devices, its unit may open them and no other's");
    Ok(())
}

fn second_is_a_snapshot(host: &Host) -> anyhow::Result<()> {
    host.start_vm("second", &["--restart", "always"], SCRIPT)?
        .wait_running(VM_UP)?;
    // The journal keeps figures as fields of their own.
    let millis = |text: &str| -> anyhow::Result<Vec<f64>> {
        let log = host.check(&format!(
            "journalctl -u hearthd -o json --no-pager | jq -r 'select(.MESSAGE == \"{text}\") | .HEARTH_MILLIS'"
        ))?;
        log.lines().map(|line| Ok(line.parse()?)).collect()
    };
    let filled = millis("an image is in the pool")?;
    ensure!(filled.len() == 1, "filled {} times", filled.len());
    host.measure("an image filled", filled[0], "ms");
    let snapshots = millis("a snapshot is ready")?;
    ensure!(snapshots.len() == 2, "snapshots: {snapshots:?}");
    host.measure("snapshot to usable device", snapshots[1], "ms");
    up(host, "second")?;
    host.promise("an image is filled once, the second VM's root is a snapshot of it");
    Ok(())
}

fn used(host: &Host) -> anyhow::Result<u64> {
    let pool = host.hearth(&["pool", "status"])?;
    pool["data"]["used"]
        .as_u64()
        .context("a pool that does not say what is used")
}

fn discards_reach_the_pool(host: &Host) -> anyhow::Result<()> {
    let vm = host.vm("second");
    vm.exec("head -c 25165824 /dev/urandom > /big && sync")?;
    let full = used(host)?;
    vm.exec("rm /big && sync && fstrim /")?;
    let trimmed = used(host)?;
    host.measure(
        "freed by fstrim in a guest",
        full.saturating_sub(trimmed) as f64 / 1_048_576.0,
        "MiB",
    );
    ensure!(
        trimmed + (16 << 20) < full,
        "fstrim freed too little: {full} before, {trimmed} after"
    );
    host.promise("what a guest discards is free in the pool");
    Ok(())
}

/// Writes a file in the guest and syncs it; its sum with its name.
fn write(host: &Host, path: &str) -> anyhow::Result<String> {
    host.vm("first").exec(&format!(
        "head -c 4194304 /dev/urandom > {path} && sync && sha256sum {path}"
    ))
}

fn has(host: &Host, sums: &[String], what: &str) -> anyhow::Result<()> {
    for sum in sums {
        let path = sum.split_ascii_whitespace().nth(1).unwrap_or_default();
        let now = host.vm("first").exec(&format!("sha256sum {path}"))?;
        ensure!(now == *sum, "after a {what}: {sum} became {now}");
    }
    Ok(())
}

/// Ledger, kernel and metadata agree, or what they did not agree in was put right.
fn agrees(host: &Host, what: &str) -> anyhow::Result<()> {
    let all = volumes(host)?;
    let differences = all["differences"].as_array().cloned().unwrap_or_default();
    ensure!(
        differences.iter().all(|it| it["repaired"] == true) && all["unknown"].is_null(),
        "after a {what}: {all}"
    );
    Ok(())
}

fn in_firecracker(host: &Host) -> anyhow::Result<()> {
    if !host.run("test -x /seed/bin/firecracker")?.success() {
        host.evidence
            .fact("SKIP", "HEARTH_TEST_FIRECRACKER names no Firecracker");
        return Ok(());
    }
    let firecracker = "FIRECRACKER_PATH=/seed/bin/firecracker";
    host.configure(&[CONFIG[0], CONFIG[1], firecracker])?;
    let options = [
        "--driver",
        "firecracker",
        "-m",
        "128MiB",
        "--restart",
        "always",
    ];
    host.start_vm("fire", &options, SCRIPT)?
        .wait_running(VM_UP)?;
    let vm = up(host, "fire")?;
    vm.exec("head -c 1048576 /dev/urandom > /file && sync && sha256sum /file")?;
    host.promise("a Firecracker VM runs on a disk of the pool, in its cage");
    Ok(())
}

fn removed(host: &Host) -> anyhow::Result<()> {
    let before = used(host)?;
    host.remove_all_vms()?;
    let all = volumes(host)?;
    ensure!(
        of_kind(&all, "image") == 1 && all["volumes"].as_array().map(Vec::len) == Some(1),
        "left: {all}"
    );
    let after = used(host)?;
    ensure!(after < before, "{before} used before, {after} after");
    let nodes = host.check("dmsetup ls | grep -c hearth- || true")?;
    ensure!(nodes == "1", "{nodes} devices are left");
    host.check("hearth pool destroy --force")?;
    let all = volumes(host)?;
    ensure!(
        all["volumes"].as_array().map(Vec::len) == Some(0),
        "the ledger has what is gone: {all}"
    );
    host.promise("volumes go with their VMs, and their blocks are free");
    host.configure(&["STORAGE=files"])
}
