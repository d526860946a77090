//! A pool whose disk hangs, then fails: the daemon answers, VMs on other disks go on, what is told says
//! what to do, and when the disk is sound again so is the pool.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

use super::units;
use crate::hearth::VM_UP;
use crate::host::Host;
use crate::suites::Suite;

const SUITE: Suite = Suite {
    package: "hearth-pool",
    test: "troubles",
    prefix: "",
};

/// A disk of the pool's own, whose table can be changed below it.
const DISK: &str = "set -e; truncate -s 1G /var/tmp/pool-disk; \
     loop=$(losetup -f --show /var/tmp/pool-disk); size=$(blockdev --getsz $loop); \
     dmsetup create pool-disk --table \"0 $size linear $loop 0\"; mkfs.ext4 -q -m 0 /dev/mapper/pool-disk; \
     mkdir -p /var/lib/hearth/pool; mount /dev/mapper/pool-disk /var/lib/hearth/pool; rmdir /var/lib/hearth/pool/lost+found";
const HANG: &str = "dmsetup suspend --nolockfs --noflush pool-disk";
const FAIL: &str = "size=$(blockdev --getsz /dev/mapper/pool-disk); \
     dmsetup load pool-disk --table \"0 $size error\"; dmsetup resume --nolockfs --noflush pool-disk";
const SOUND: &str = "set -e; loop=$(losetup -ln -O NAME,BACK-FILE | awk '/pool-disk/ {print $1}'); \
     dmsetup load pool-disk --table \"0 $(blockdev --getsz $loop) linear $loop 0\"; dmsetup resume --nolockfs --noflush pool-disk";
const REMOVED: &str = "set -e; umount /var/lib/hearth/pool; rmdir /var/lib/hearth/pool; \
     loop=$(losetup -ln -O NAME,BACK-FILE | awk '/pool-disk/ {print $1}'); \
     dmsetup remove --retry pool-disk; losetup -d $loop; rm /var/tmp/pool-disk";

/// VMMs by the stand-in.
const STANDIN: [&str; 3] = [
    "QEMU_PATH=/seed/bin/hearth-vmm-standin",
    "KVM=off",
    "GUARD_BUDGET=2s",
];
/// How long an answer may take that waits for no device.
const ANSWER: Duration = Duration::from_secs(30);
/// How long something may take that a look which hangs (5 s) or a change (60 s) is given up in.
const GIVEN_UP: Duration = Duration::from_mins(4);
/// How long a change of the pool's state may take to be told.
const TOLD: Duration = Duration::from_mins(2);

pub(super) fn tell(host: &mut Host) -> anyhow::Result<()> {
    let wrong = units::run(host, &SUITE)?;
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    host.promise("the tests of disks that hang, fail and are slow pass, none is skipped");

    // The kernel's log has what the tests did to devices, and the safeguards would refuse a set-up.
    host.reboot()?;
    host.wait_daemon()?;
    host.check(DISK)?;
    configure(host, "thin")?;
    host.check("hearth pool setup --data 512MiB")?;
    let options = ["--restart", "always", "-v", "data:/srv:16MiB"];
    let pooled = host.start_vm("pooled", &options, "exec sleep 1000000")?;
    pooled.wait_running(VM_UP)?;
    configure(host, "files")?;
    let plain = host.start_vm("plain", &[], "exec sleep 1000000")?;
    plain.wait_running(VM_UP)?;
    mark(host)?;

    hangs(host)?;
    fails(host)?;
    host.remove_all_vms()?;
    host.check("hearth pool destroy --force")?;
    host.check(REMOVED)?;
    host.use_standin()
}

fn configure(host: &Host, storage: &str) -> anyhow::Result<()> {
    let storage = format!("STORAGE={storage}");
    let lines: Vec<&str> = STANDIN.into_iter().chain([storage.as_str()]).collect();
    host.configure(&lines)
}

fn node(host: &Host) -> anyhow::Result<String> {
    let vm = host.vm("pooled").inspect()?;
    let id = vm["id"].as_str().context("a VM without an id")?;
    Ok(format!("/var/lib/hearth/vms/{id}/volume-data.img"))
}

/// Writes to the disk of the VM in the pool, synced.
fn mark(host: &Host) -> anyhow::Result<()> {
    let node = node(host)?;
    host.check(&format!(
        "echo kept | dd of={node} bs=4096 seek=1500 conv=sync,fsync,notrunc status=none"
    ))?;
    Ok(())
}

fn is_marked(host: &Host, when: &str) -> anyhow::Result<()> {
    let node = node(host)?;
    let said = host.check(&format!(
        "dd if={node} bs=4096 skip=1500 count=1 iflag=direct status=none | tr -d '\\0'"
    ))?;
    ensure!(said == "kept", "{when} it holds {said:?}");
    Ok(())
}

fn pool(host: &Host) -> anyhow::Result<Value> {
    host.hearth(&["pool", "status"])
}

/// Runs a line that must end in time and says how long it took.
fn answers(host: &Host, line: &str) -> anyhow::Result<String> {
    let begun = Instant::now();
    let said = host
        .run_for(line, ANSWER)
        .with_context(|| format!("{line} in time"))?;
    ensure!(said.success(), "{line}: {}", said.said());
    host.measure(
        &format!("{line}, while the pool's disk is in trouble"),
        begun.elapsed().as_secs_f64(),
        "s",
    );
    Ok(said.text().to_owned())
}

/// The daemon answers, and does what has nothing to do with the pool.
fn goes_on(host: &Host, name: &str) -> anyhow::Result<()> {
    answers(host, "hearth ps -a")?;
    answers(host, "hearth pool status")?;
    answers(host, "hearth kill plain")?;
    answers(host, "hearth start plain")?;
    host.vm("plain").wait_running(VM_UP)?;
    host.start_vm(name, &[], "exec sleep 1000000")?
        .wait_running(VM_UP)?;
    answers(host, &format!("hearth rm -f {name}"))?;
    Ok(())
}

/// The pool's state and what to do about it, when it is one of these.
fn is_told(host: &Host, states: &[&str]) -> anyhow::Result<Value> {
    let told = host.wait("what is wrong to be told", TOLD, || {
        let pool = pool(host)?;
        let state = pool["state"].as_str().unwrap_or_default();
        ensure!(states.contains(&state), "it is {state}");
        ensure!(pool["hint"].is_string(), "without a hint: {pool}");
        Ok(Some(pool))
    })?;
    let event = format!("{}: {}; {}", told["state"], told["reason"], told["hint"]);
    host.evidence.event(&event);
    Ok(told)
}

fn hangs(host: &Host) -> anyhow::Result<()> {
    let pid = host.vm("pooled").pid()?;
    host.check(HANG)?;
    let begun = Instant::now();
    let snapshot = host.run_for(
        "hearth snapshot create pooled --name late --crash-consistent",
        GIVEN_UP,
    )?;
    ensure!(!snapshot.success(), "a snapshot on a disk that hangs");
    host.measure(
        "a change on a disk that hangs, to its refusal",
        begun.elapsed().as_secs_f64(),
        "s",
    );
    host.evidence
        .event(&format!("it says: {}", snapshot.said()));
    is_told(host, &["unknown"])?;
    goes_on(host, "beside-a-hang")?;
    doctor_tells(host, &["d_state"])?;
    ensure!(
        host.vm("pooled").pid()? == pid,
        "the VM in the pool was ended"
    );

    is_replaced(host, pid)?;
    host.check(SOUND)?;
    let begun = Instant::now();
    host.wait("the pool", TOLD, || {
        let pool = pool(host)?;
        let under_way = pool["operations"].as_array().map_or(0, Vec::len);
        match (pool["state"].as_str(), under_way) {
            (Some("up"), 0) => Ok(Some(())),
            _ => bail!("{pool}"),
        }
    })?;
    host.measure("sound again to up", begun.elapsed().as_secs_f64(), "s");
    // The kernel's log has the hang, and so the next change is not before that is past.
    host.check("hearth -q snapshot ls | xargs -r hearth snapshot rm")?;
    is_marked(host, "after a hang")?;
    host.promise("a pool whose disk hangs: a change is given up, the daemon answers, VMs elsewhere start and stop, it says what to do, and goes on by itself when the disk does");
    Ok(())
}

/// `hearth doctor` has one of these words in what it says of the pool and of operations on it.
fn doctor_tells(host: &Host, words: &[&str]) -> anyhow::Result<()> {
    let doctor = host.run_for("hearth doctor", GIVEN_UP)?;
    let of_it =
        |line: &&str| line.starts_with("device-mapper operations") || line.starts_with("pool ");
    let told: Vec<&str> = doctor.stdout.lines().filter(of_it).collect();
    let told = told.join("; ");
    host.evidence.event(&format!("doctor: {told}"));
    ensure!(
        words.iter().any(|word| told.contains(word)),
        "doctor says none of {words:?}: {told}"
    );
    Ok(())
}

/// The daemon ends and comes back while a call of its hangs.
fn is_replaced(host: &Host, pooled: i64) -> anyhow::Result<()> {
    let begun = Instant::now();
    host.check("systemctl kill -s KILL --kill-who=main hearthd")?;
    host.wait_daemon()?;
    host.measure(
        "kill of the daemon while a call hangs, to its successor's answer",
        begun.elapsed().as_secs_f64(),
        "s",
    );
    goes_on(host, "beside-a-successor")?;
    ensure!(
        host.vm("pooled").pid()? == pooled,
        "the VM in the pool was ended by a restart"
    );
    Ok(())
}

fn fails(host: &Host) -> anyhow::Result<()> {
    host.check(FAIL)?;
    let node = node(host)?;
    let wrote = host.run_for(
        &format!(
            "dd if=/dev/zero of={node} bs=1M count=4 oflag=direct conv=fsync,notrunc status=none"
        ),
        GIVEN_UP,
    )?;
    ensure!(!wrote.success(), "a write to a disk that fails succeeded");
    // As long as no metadata is written the pool takes no notice; the kernel's log has it.
    let snapshot = host.run_for(
        "hearth snapshot create pooled --name late --crash-consistent",
        GIVEN_UP,
    )?;
    ensure!(!snapshot.success(), "a snapshot on a disk that fails");
    host.evidence
        .event(&format!("it says: {}", snapshot.said()));
    doctor_tells(host, &["kernel_log", "failed", "read_only"])?;
    goes_on(host, "beside-a-failure")?;
    host.promise("a pool whose disk fails: the daemon answers, VMs elsewhere start and stop, it says what to do");

    // As the hint says: what stands on it is stopped, the disk made sound.
    host.check("hearth kill pooled")?;
    host.check(SOUND)?;
    host.check(
        "set -e; systemctl stop hearthd.socket hearthd; \
         for name in $(dmsetup ls | awk '/^hearth-.*\\.[0-9]+/ {print $1}'); do dmsetup remove --retry $name; done; \
         dmsetup remove --retry $(dmsetup ls | awk '/^hearth-.*-pool/ {print $1}'); \
         umount /var/lib/hearth/pool; fsck.ext4 -p -f /dev/mapper/pool-disk || [ $? -lt 4 ]; \
         mount /dev/mapper/pool-disk /var/lib/hearth/pool; systemctl start hearthd.socket hearthd",
    )?;
    host.wait_daemon()?;
    host.wait("the pool", TOLD, || match pool(host)?["state"].as_str() {
        Some("up") => Ok(Some(())),
        _ => bail!("{}", pool(host)?),
    })?;
    host.check("hearth start pooled")?;
    host.vm("pooled").wait_running(VM_UP)?;
    is_marked(host, "after a failure")?;
    host.promise("what was synced before a disk failed is there when it is sound again");
    Ok(())
}
