//! A thin pool that fills up on real device-mapper: extended in time and not, its metadata damaged by
//! hand and mended. The daemon does it all; writers stand in for VMs.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

use super::units;
use crate::host::Host;
use crate::suites::Suite;

const SUITE: Suite = Suite {
    package: "hearth-pool",
    test: "pool_space",
    prefix: "",
};

/// The pool's name and uuid, for lines of shell.
const NAMES: &str = "set -e; pool=$(hearth -o json pool status); name=$(echo \"$pool\" | jq -er .name); \
     uuid=$(echo \"$pool\" | jq -er .uuid); device=$(echo \"$pool\" | jq -er .device); ";
/// How long a writer may take.
const WRITES: Duration = Duration::from_mins(5);
/// How long a change of the pool's state may take to be told.
const TOLD: Duration = Duration::from_secs(60);

pub(super) fn tell(host: &mut Host) -> anyhow::Result<()> {
    let wrong = units::run(host, &SUITE)?;
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    host.promise("the tests of room and metadata on real device-mapper pass, none is skipped");

    // The kernel's log has what the tests did to devices, and the safeguards would refuse a set-up.
    host.reboot()?;
    host.wait_daemon()?;
    host.check("hearth pool setup --data 512MiB")?;
    host.check(&format!("{NAMES} dmsetup message $name 0 'create_thin 1'"))?;
    activate(host)?;
    grows_by_itself(host)?;
    waits_for_room(host)?;
    is_mended(host)?;
    host.check("hearth pool destroy --force")?;
    ensure!(state(host)? == "absent", "after its destruction");
    // No VM has run since the boot, and the slice of VMs comes with the first.
    host.start_vm("last", &[], "exec sleep 1000000")?
        .wait_running(TOLD)?;
    host.remove_all_vms()
}

fn pool(host: &Host) -> anyhow::Result<Value> {
    host.hearth(&["pool", "status"])
}

fn state(host: &Host) -> anyhow::Result<String> {
    let pool = pool(host)?;
    Ok(pool["state"].as_str().unwrap_or_default().to_owned())
}

fn activate(host: &Host) -> anyhow::Result<()> {
    host.check(&format!(
        "{NAMES} dmsetup create $name-1 --uuid $uuid-1 --table \"0 4194304 thin $device 1\""
    ))?;
    Ok(())
}

fn deactivate(host: &Host) -> anyhow::Result<()> {
    host.check(&format!("{NAMES} dmsetup remove --retry $name-1"))?;
    Ok(())
}

/// The messages of events with this code, the oldest first.
fn events(host: &Host, code: &str) -> anyhow::Result<Vec<String>> {
    let said = host.check(&format!(
        "hearth -o json events | jq -r '.. | objects | select(.code? == \"{code}\") | .message'"
    ))?;
    Ok(said.lines().map(str::to_owned).collect())
}

fn grows_by_itself(host: &Host) -> anyhow::Result<()> {
    let begun = Instant::now();
    let wrote = host.run_for(
        &format!(
            "{NAMES} seq 100000000 | head -c 700M | \
             dd of=/dev/mapper/$name-1 bs=1M iflag=fullblock oflag=direct conv=fsync status=none"
        ),
        WRITES,
    )?;
    ensure!(
        wrote.success(),
        "700 MiB into a pool of 512: {}",
        wrote.said()
    );
    host.measure(
        "700 MiB written into a pool of 512 MiB that grows",
        begun.elapsed().as_secs_f64(),
        "s",
    );
    let grown = events(host, "pool.extended")?;
    let last = grown.last().context("it grew and nobody said so")?;
    let took = last
        .split("itself, ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next())
        .and_then(|took| took.parse::<f64>().ok())
        .with_context(|| format!("the event says no time: {last}"))?;
    host.measure("from low water to more room", took, "ms");
    ensure!(took < 10_000.0, "more room took {took} ms");
    same(host)?;
    let full = events(host, "pool.full")?;
    ensure!(full.is_empty(), "it was full in between: {full:?}");
    host.promise(
        "a writer that outgrows the pool finds more room in time: no write waits, none is lost",
    );
    Ok(())
}

/// What was written is there.
fn same(host: &Host) -> anyhow::Result<()> {
    host.check(&format!(
        "{NAMES} seq 100000000 | head -c 700M | cmp -n 734003200 - /dev/mapper/$name-1"
    ))?;
    Ok(())
}

fn waits_for_room(host: &Host) -> anyhow::Result<()> {
    host.configure(&["POOL_EXTEND=off"])?;
    host.check(&format!(
        "{NAMES} (dd if=/dev/zero of=/dev/mapper/$name-1 bs=1M seek=700 count=1300 oflag=direct conv=fsync status=none; \
         echo $? > /var/tmp/ended) > /dev/null 2>&1 &"
    ))?;
    host.wait("the pool to be full", WRITES, || {
        match state(host)?.as_str() {
            "full" => Ok(Some(())),
            other => bail!("it is {other}"),
        }
    })?;
    for code in ["pool.low", "pool.tight", "pool.full"] {
        host.wait(code, TOLD, || {
            let told = events(host, code)?;
            ensure!(!told.is_empty(), "{code} was not told");
            Ok(Some(()))
        })?;
    }
    ensure!(
        !host.run("test -e /var/tmp/ended")?.success(),
        "the writer ended in a full pool"
    );
    host.check("hearth pool extend --by 1GiB")?;
    let ended = host.wait("the writer", WRITES, || {
        let said = host.run("cat /var/tmp/ended")?;
        Ok(said.success().then(|| said.text().trim().to_owned()))
    })?;
    ensure!(ended == "0", "the writer that waited failed: {ended}");
    host.wait("the pool's room", TOLD, || {
        let told = events(host, "pool.room")?;
        ensure!(!told.is_empty(), "pool.room was not told");
        Ok(Some(()))
    })?;
    same(host)?;
    host.promise("a pool that may not grow says so before it is full; extended by hand within the minute no write is lost");
    host.use_standin()
}

/// Metadata that was damaged by hand is found after the next boot, repaired, and all is there.
fn is_mended(host: &mut Host) -> anyhow::Result<()> {
    let used = host.run("hearth pool repair")?;
    ensure!(
        !used.success() && used.said().contains("in use"),
        "repaired while it was used: {}",
        used.said()
    );
    host.check("hearth pool backup")?;
    deactivate(host)?;
    host.check("systemctl stop hearthd")?;
    host.check(
        "set -e; dmsetup remove --retry $(dmsetup ls | awk '/hearth-.*-pool/ {print $1}'); \
         dd if=/dev/zero of=/var/lib/hearth/pool/hearth-pool-metadata.img bs=4096 count=1 conv=notrunc,fsync status=none",
    )?;
    host.check("systemctl start hearthd")?;
    host.wait_daemon()?;
    host.wait("the damage to be found", TOLD, || {
        let state = state(host)?;
        ensure!(state == "damaged", "it is {state}");
        Ok(Some(()))
    })?;
    host.check("hearth pool repair")?;
    ensure!(state(host)? == "up", "after its repair");
    host.check("ls /var/lib/hearth/pool/hearth-pool-metadata.damaged-*")?;
    activate(host)?;
    same(host)?;
    host.promise("metadata damaged by hand is found, not put to use, repaired by order, and the data is there");
    deactivate(host)
}
