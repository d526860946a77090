//! A thin pool on real device-mapper: set up, written to, and there again with its data after
//! whatever ends the daemon or the host. Pools and thin devices of others are not touched.

mod guests;

use std::time::Instant;

use anyhow::{bail, ensure};
use serde_json::Value;

use super::units;
use crate::hearth::VM_UP;
use crate::host::Host;
use crate::suites::Suite;

const SUITE: Suite = Suite {
    package: "hearth-pool",
    test: "device_mapper",
    prefix: "",
};

/// The rule as the package installs it.
const UDEV_RULE: &str = include_str!("../../../../packaging/udev/11-hearth.rules");
/// Where it goes when single programs are under test.
const UDEV_PATH: &str = "/etc/udev/rules.d/11-hearth.rules";

/// The pool's name and uuid, for lines of shell.
const NAMES: &str = "set -e; pool=$(hearth -o json pool status); name=$(echo \"$pool\" | jq -er .name); \
     uuid=$(echo \"$pool\" | jq -er .uuid); device=$(echo \"$pool\" | jq -er .device); ";

/// A pool of others with names much like ours, and a thin device with a file system in it.
const THEIRS: &str = "
mkdir -p /var/tmp/theirs/pool && cd /var/tmp/theirs/pool
truncate -s 16M metadata.img && truncate -s 64M data.img
metadata=$(losetup -f --show metadata.img) && data=$(losetup -f --show data.img)
dmsetup create hearth-theirs-pool --uuid THEIRS-pool --table \"0 131072 thin-pool $metadata $data 128 0\"
dmsetup message hearth-theirs-pool 0 'create_thin 1'
dmsetup create hearth-theirs-1 --uuid THEIRS-1 --table '0 65536 thin /dev/mapper/hearth-theirs-pool 1'
mkfs.ext4 -q -L their-disk /dev/mapper/hearth-theirs-1
";
const LOOK_AT_THEIRS: &str = "
dmsetup info -c --noheadings -o name,uuid,major,minor,open hearth-theirs-pool
dmsetup table hearth-theirs-pool; dmsetup table hearth-theirs-1
sha256sum /dev/mapper/hearth-theirs-1
losetup -ln -O NAME,BACK-FILE | grep theirs
";
const REMOVE_THEIRS: &str = "
dmsetup remove --retry hearth-theirs-1 && dmsetup remove --retry hearth-theirs-pool
losetup -d $(losetup -ln -O NAME,BACK-FILE | awk '/theirs/ {print $1}')
rm -r /var/tmp/theirs
";

pub(super) fn tell(host: &mut Host) -> anyhow::Result<()> {
    suite(host)?;
    if !host
        .run("test -e /usr/lib/udev/rules.d/11-hearth.rules")?
        .success()
    {
        host.write(UDEV_PATH, UDEV_RULE)?;
        host.check("udevadm control --reload")?;
    }
    host.check(&format!("set -e{THEIRS}"))?;
    let theirs = host.check(LOOK_AT_THEIRS)?;
    let absent = state(host)?;
    ensure!(absent["state"] == "absent", "before anything: {absent}");
    let begun = Instant::now();
    host.check("hearth pool setup --data 512MiB")?;
    let took = begun.elapsed().as_secs_f64();
    host.measure("hearth pool setup, over ssh", took, "s");
    let made = state(host)?;
    ensure!(made["state"] == "up", "after its set-up: {made}");
    measure_check(host, "thin_check after the set-up", &made);
    host.check(&format!("{NAMES} dmsetup message $name 0 'create_thin 1'"))?;
    activate(host, true)?;
    let mut sums = vec![write(host, "first")?];
    udev_keeps_away(host)?;
    daemon_dies(host, &made)?;
    for refused in ["hearth pool destroy --force", "hearth pool check"] {
        let said = host.run(refused)?;
        ensure!(
            !said.success() && said.said().contains("in use"),
            "{refused} with a volume in use: {}",
            said.said()
        );
    }
    let still = host.check(LOOK_AT_THEIRS)?;
    ensure!(still == theirs, "of others: {theirs}\n became\n{still}");
    host.check(&format!("set -e{REMOVE_THEIRS}"))?;
    host.promise(
        "a pool, thin devices and loop devices of others with names like ours are untouched",
    );

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
        back(host, what)?;
        activate(host, false)?;
        has(host, &sums, what)?;
        sums.push(write(host, &what.replace(' ', "-"))?);
    }
    host.promise("what was synced into the pool is there after a reboot, a panic and a power cut");
    deactivate(host)?;
    destroyed(host)?;
    guests::tell(host)?;
    // What all VMs share was there at the beginning, and comes with the first after a boot.
    host.start_vm("last", &[], "exec sleep 1000000")?
        .wait_running(VM_UP)
        .map(drop)
}

fn suite(host: &Host) -> anyhow::Result<()> {
    let wrong = units::run(host, &SUITE)?;
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    host.promise("the tests on real device-mapper pass, none is skipped");
    Ok(())
}

fn state(host: &Host) -> anyhow::Result<Value> {
    host.hearth(&["pool", "status"])
}

fn measure_check(host: &Host, name: &str, pool: &Value) {
    if let Some(took) = pool["last_check"]["took_ms"].as_f64() {
        host.measure(name, took, "ms");
    }
}

/// A volume, as a VM would have one, mounted. The file system is made the first time.
fn activate(host: &Host, first: bool) -> anyhow::Result<()> {
    let make = if first {
        "mkfs.ext4 -q -L guest-disk /dev/mapper/$name-1;"
    } else {
        ""
    };
    host.check(&format!(
        "{NAMES} dmsetup create $name-1 --uuid $uuid-1 --table \"0 524288 thin $device 1\"; \
         {make} mkdir -p /mnt/volume; mount /dev/mapper/$name-1 /mnt/volume"
    ))?;
    Ok(())
}

fn deactivate(host: &Host) -> anyhow::Result<()> {
    host.check(&format!(
        "{NAMES} umount /mnt/volume; rmdir /mnt/volume; dmsetup remove --retry $name-1"
    ))?;
    Ok(())
}

/// Writes a file and syncs it; its sum with its name.
fn write(host: &Host, name: &str) -> anyhow::Result<String> {
    host.check(&format!(
        "set -e; cd /mnt/volume; head -c 8M /dev/urandom > {name}; sync -f .; sha256sum {name}"
    ))
}

fn has(host: &Host, sums: &[String], what: &str) -> anyhow::Result<()> {
    for sum in sums {
        let said = host.run(&format!(
            "cd /mnt/volume && echo '{sum}' | sha256sum -c --quiet"
        ))?;
        ensure!(said.success(), "after a {what}: {}", said.said());
    }
    Ok(())
}

/// Waits until the daemon has put the pool together.
fn back(host: &Host, what: &str) -> anyhow::Result<()> {
    let pool = host.wait("the pool", VM_UP, || {
        let pool = state(host)?;
        match pool["state"].as_str() {
            Some("up") => Ok(Some(pool)),
            _ => bail!("{pool}"),
        }
    })?;
    ensure!(
        pool["last_check"]["verdict"] == "good",
        "after a {what}: {pool}"
    );
    measure_check(host, &format!("thin_check after a {what}"), &pool);
    let events = host.check("hearth -o json events | grep -c pool.up")?;
    host.evidence
        .event(&format!("the pool is back; events pool.up: {events}"));
    Ok(())
}

/// A guest's label gets no link, neither by its volume nor by the pool's loop devices; that of
/// others does, so udev was asked.
fn udev_keeps_away(host: &Host) -> anyhow::Result<()> {
    host.check("udevadm trigger --action=change --subsystem-match=block && udevadm settle")?;
    let links = host.check("ls -l /dev/disk/by-label")?;
    ensure!(links.contains("their-disk"), "udev gave no link: {links}");
    ensure!(
        !links.contains("guest-disk"),
        "udev read a guest's disk: {links}"
    );
    let known = host.check(&format!(
        "{NAMES} for node in $device /dev/mapper/$name-1 $(losetup -ln -O NAME,BACK-FILE | awk '/hearth-pool/ {{print $1}}'); \
         do udevadm info -q property $node; done | grep -c -e ^ID_FS_ -e ^ID_PART || true"
    ))?;
    ensure!(
        known == "0",
        "udev knows {known} things of what is in the pool"
    );
    host.promise(
        "udev reads nothing of what is in the pool: a guest's label gets no link below /dev/disk",
    );
    Ok(())
}

fn daemon_dies(host: &Host, made: &Value) -> anyhow::Result<()> {
    host.check("systemctl kill -s KILL --kill-who=main hearthd")?;
    host.wait_daemon()?;
    let pool = state(host)?;
    ensure!(
        pool["state"] == "up" && pool["device"] == made["device"],
        "after kill -9 of the daemon: {pool}"
    );
    ensure!(
        pool["last_check"] == made["last_check"],
        "the pool was taken down by a restart of the daemon: {pool}"
    );
    let orphans = host.hearth(&["orphans"])?;
    let text = orphans.to_string();
    ensure!(
        !text.contains("hearth-pool"),
        "the pool is an orphan: {text}"
    );
    host.promise("kill -9 of the daemon: the pool and its volumes go on untouched");
    Ok(())
}

fn destroyed(host: &Host) -> anyhow::Result<()> {
    let held = host.run("hearth pool destroy")?;
    ensure!(
        !held.success() && held.said().contains("--force"),
        "a pool with data went without force: {}",
        held.said()
    );
    // What is in it survives an order to check it, too.
    host.check("hearth pool check")?;
    let pool = state(host)?;
    ensure!(
        pool["state"] == "up" && pool["data"]["used"].as_u64() > Some(24 << 20),
        "after a check: {pool}"
    );
    host.check("hearth pool destroy --force")?;
    let pool = state(host)?;
    ensure!(pool["state"] == "absent", "after its destruction: {pool}");
    host.check("test ! -e /var/lib/hearth/pool && rm -f /etc/udev/rules.d/11-hearth.rules")?;
    host.promise(
        "a pool goes on order alone, and with --force if it holds data; then nothing of it is left",
    );
    Ok(())
}
