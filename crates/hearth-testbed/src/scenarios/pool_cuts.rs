//! Power cuts while disks in the pool are made, written, snapshotted and removed.
//!
//! First many, each a disk that is made of the kernel's log of writes: no reboot, and caches lose what they
//! like (`hearth-pool/tests/power_cuts.rs`). Then some of the whole host, with daemon, database and VMs.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

use super::{power_cut, units};
use crate::hearth::VM_UP;
use crate::host::{COMMAND, Host};
use crate::random::Random;
use crate::ssh::Ssh;
use crate::suites::Suite;

const SUITE: Suite = Suite {
    package: "hearth-pool",
    test: "power_cuts",
    prefix: "",
};

/// Cuts of the whole host; `HEARTH_TESTBED_CUTS` asks for fewer or more.
const CUTS: u64 = 10;
/// Workers that ask for things at once.
const WORKERS: u64 = 2;
/// VMs of each worker.
const VMS: u64 = 3;
/// VMMs by the stand-in, disks in the pool. An emulated host takes its time to say which threads hang, and
/// for a flush.
const CONFIG: [&str; 5] = [
    "QEMU_PATH=/seed/bin/hearth-vmm-standin",
    "KVM=off",
    "STORAGE=thin",
    "GUARD_BUDGET=2s",
    "GUARD_HELD_FOR=30s",
];
/// The block of a data volume that says what it holds, in blocks of 4 KiB.
const MARKED: u32 = 1500;
/// What is not as it should be has this long to become so: nothing of the load is left.
const SETTLED: Duration = Duration::from_mins(2);

/// A disk: what its block says, `None` where nobody wrote to it.
type Content = Option<u64>;

/// What is known of a VM or of a snapshot: what was acknowledged, and what was asked for and not answered
/// when the plug was pulled. `None` is its absence.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Known {
    acknowledged: Option<Content>,
    open: Option<Option<Content>>,
}

impl Known {
    fn done(state: Option<Content>) -> Self {
        Self {
            acknowledged: state,
            open: None,
        }
    }

    fn allows(&self, found: Option<Content>) -> bool {
        found == self.acknowledged || self.open == Some(found)
    }
}

/// By the names of VMs (`cut-…`) and of their snapshots (`of-cut-…`).
type Ledger = BTreeMap<String, Known>;

/// What has been seen over all cuts.
#[derive(Default)]
struct Seen {
    /// Whose each number of the pool was.
    ids: BTreeMap<u64, String>,
    acknowledged: u64,
    requests: u64,
    differences: BTreeMap<String, u64>,
}

pub(super) fn tell(host: &mut Host) -> anyhow::Result<()> {
    let wrong = units::run(host, &SUITE)?;
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    host.promise("cut off at any write, with any part of the disk's cache lost: all that was acknowledged is there, no number is used twice, what differs is settled");

    // The kernel's log has what the tests did to devices, and the safeguards would refuse a set-up.
    host.reboot()?;
    host.wait_daemon()?;
    let (mut random, seed) = Random::seeded();
    host.evidence.fact("seed", &seed.to_string());
    let cuts = power_cut::asked(CUTS);
    host.configure(&CONFIG)?;
    host.check("hearth pool setup --data 512MiB")?;
    let mut ledgers: Vec<Ledger> = (0..WORKERS).map(new_ledger).collect();
    let mut seen = Seen::default();
    for cut in 1..=cuts {
        seen.requests += under_load(host, &mut ledgers, &mut random)
            .with_context(|| format!("cut {cut} of {cuts}, seed {seed}"))?;
        let begun = Instant::now();
        host.boot()?;
        host.wait_daemon()?;
        verify(host, &mut ledgers, &mut seen)
            .with_context(|| format!("after cut {cut}, seed {seed}"))?;
        host.measure("cut to verified", begun.elapsed().as_secs_f64(), "s");
    }
    host.measure("power cuts of the host", power_cut::as_figure(cuts), "");
    let figures = [
        ("acknowledged requests", seen.requests),
        ("disks that were there as acknowledged", seen.acknowledged),
    ];
    for (name, figure) in figures {
        host.measure(name, power_cut::as_figure(figure), "");
    }
    for (kind, count) in &seen.differences {
        host.measure(
            &format!("differences {kind}"),
            power_cut::as_figure(*count),
            "",
        );
    }
    host.promise("power cuts of the host under load of create, write, snapshot and remove: the database is whole, ledger, kernel and metadata agree or what differs is repaired, acknowledged disks are there with their data, removed ones are not back, no number is used twice");
    cleared(host)
}

fn new_ledger(worker: u64) -> Ledger {
    let vms = (0..VMS).map(|vm| format!("cut-{worker}-{vm}"));
    vms.flat_map(|vm| [format!("of-{vm}"), vm])
        .map(|name| (name, Known::default()))
        .collect()
}

/// Lets the workers ask until a random moment, then pulls the plug. Returns how many requests were
/// acknowledged.
fn under_load(host: &mut Host, ledgers: &mut [Ledger], random: &mut Random) -> anyhow::Result<u64> {
    let moment = (
        2 + random.below(9),
        Duration::from_millis(random.below(3000)),
    );
    let ssh = host.shell();
    power_cut::cut_off(
        host,
        ledgers,
        random,
        moment,
        |ledger, random, done, over| {
            let (ssh, done) = (ssh.clone(), done.clone());
            let worker = Worker {
                ssh,
                random,
                done,
                over,
            };
            worker.work(ledger)
        },
    )
}

struct Worker<'a> {
    ssh: Ssh,
    random: Random,
    done: Sender<()>,
    over: &'a AtomicBool,
}

/// A line of shell, of whom it is, and what is so when it has succeeded.
type Request = (String, String, Option<Content>);

impl Worker<'_> {
    /// Asks for one thing after the other until the host is gone.
    fn work(mut self, ledger: &mut Ledger) -> anyhow::Result<()> {
        loop {
            let (line, name, next) = self.request(ledger)?;
            let known = ledger.get_mut(&name).context("a name without an entry")?;
            known.open = Some(next);
            let answer = self.ssh.run(&line, COMMAND)?;
            match answer.status.code() {
                Some(0) => {
                    *known = Known::done(next);
                    if self.done.send(()).is_err() {
                        return Ok(());
                    }
                }
                Some(255) | None if self.over.load(Ordering::SeqCst) => return Ok(()),
                _ => bail!("{line} ({}): {}", answer.status, answer.said()),
            }
        }
    }

    /// One that makes sense.
    fn request(&mut self, ledger: &Ledger) -> anyhow::Result<Request> {
        let names: Vec<&String> = ledger.keys().filter(|it| it.starts_with("cut")).collect();
        let vm = names
            .get(usize::try_from(self.random.below(VMS))?)
            .context("a worker without VMs")?
            .to_string();
        let snapshot = format!("of-{vm}");
        let state = |name: &str| ledger.get(name).and_then(|known| known.acknowledged);
        let (of_vm, of_snapshot) = (state(&vm), state(&snapshot));
        Ok(match (of_vm, of_snapshot, self.random.below(4)) {
            (None, Some(_), 0) => (format!("hearth snapshot rm {snapshot}"), snapshot, None),
            (None, ..) => (
                format!(
                    "hearth run -d --restart always --name {vm} -v data:/srv:16MiB busybox:1 sleep 1000000 && {}",
                    wait_up(&vm)
                ),
                vm,
                Some(None),
            ),
            (Some(_), _, 0) => (format!("hearth rm -f {vm}"), vm, None),
            (Some(content), None, 1) => (
                format!("hearth snapshot create {vm} --name {snapshot} --crash-consistent"),
                snapshot,
                Some(content),
            ),
            (Some(_), Some(_), 1) => (format!("hearth snapshot rm {snapshot}"), snapshot, None),
            (Some(_), ..) => {
                let content = self.random.below(1 << 40);
                (write_line(&vm, content), vm, Some(Some(content)))
            }
        })
    }
}

/// Until its VMM runs, its disks are not switched on.
fn wait_up(vm: &str) -> String {
    format!(
        "for i in $(seq 600); do [ \"$(hearth -o json inspect {vm} | jq -r '.[0].phase')\" = running ] && break; sleep 0.2; done; \
         [ $i -lt 600 ]"
    )
}

/// Writes to a VM's data volume past all caches of the host's.
fn write_line(vm: &str, content: u64) -> String {
    format!(
        "set -e; id=$(hearth -o json inspect {vm} | jq -er '.[0].id'); \
         echo {content} | dd of=/var/lib/hearth/vms/$id/volume-data.img bs=4096 seek={MARKED} conv=sync,fsync,notrunc status=none"
    )
}

/// Compares what is there with what was acknowledged, and closes open requests with what became of them.
fn verify(host: &Host, ledgers: &mut [Ledger], seen: &mut Seen) -> anyhow::Result<()> {
    host.database_is_whole()?;
    host.wait_settled()?;
    let found = found(host)?;
    for (name, known) in ledgers.iter_mut().flatten() {
        let now = found.get(name).copied();
        ensure!(
            known.allows(now),
            "{name} holds {now:?}, was acknowledged with {:?}, asked for: {:?}",
            known.acknowledged,
            known.open
        );
        seen.acknowledged += u64::from(now.is_some());
        *known = Known::done(now);
    }
    host.one_vmm_each()?;
    host.wait("volumes that agree", SETTLED, || {
        agrees(host, ledgers, seen).map(Some)
    })
}

/// What there is, by name, with what its data volume says.
fn found(host: &Host) -> anyhow::Result<BTreeMap<String, Content>> {
    let mut found = BTreeMap::new();
    for vm in list(&host.hearth(&["ps", "-a"])?)? {
        let name = vm["spec"]["name"].as_str().context("a VM without a name")?;
        if vm["goal"] != "absent" {
            host.vm(name).wait_running(VM_UP)?;
            found.insert(name.to_owned(), read(host, &vm["id"])?);
        }
    }
    for snapshot in list(&host.hearth(&["snapshot", "ls"])?)? {
        let name = snapshot["name"]
            .as_str()
            .context("a snapshot without a name")?;
        ensure!(snapshot["state"] == "ready", "{snapshot}");
        found.insert(name.to_owned(), read(host, &snapshot["id"])?);
    }
    Ok(found)
}

/// The marker of a data volume of this owner, read through a device of our own.
fn read(host: &Host, owner: &Value) -> anyhow::Result<Content> {
    let owner = owner.as_str().context("no id")?;
    let said = host.check(&format!(
        "set -e; pool=$(hearth -o json pool status | jq -er .device); \
         id=$(hearth -o json pool volumes | jq -er '.volumes[] | select(.name == \"{owner}-volume-data\") | .id'); \
         dmsetup create look --readonly --table \"0 32768 thin $pool $id\"; \
         dd if=/dev/mapper/look bs=4096 skip={MARKED} count=1 iflag=direct status=none | tr -d '\\0'; \
         dmsetup remove --retry look"
    ))?;
    match said.trim() {
        "" => Ok(None),
        number => Ok(Some(number.parse()?)),
    }
}

/// Nothing differs that is not repaired, there are the volumes that there should be, and each number is whose it was.
fn agrees(host: &Host, ledgers: &[Ledger], seen: &mut Seen) -> anyhow::Result<()> {
    let all = host.hearth(&["pool", "volumes"])?;
    ensure!(all["unknown"].is_null(), "it could not be asked: {all}");
    let volumes = list(&all["volumes"])?;
    let states = volumes.iter().filter(|it| it["state"] != "ready");
    ensure!(states.count() == 0, "not whole: {all}");
    // The image, and two disks of each.
    let owners = ledgers.iter().flatten();
    let owners = owners
        .filter(|(_, known)| known.acknowledged.is_some())
        .count();
    let images = volumes.iter().filter(|it| it["kind"] == "image").count();
    ensure!(
        volumes.len() == images + 2 * owners && images <= 1,
        "{} volumes of {owners} owners: {all}",
        volumes.len()
    );
    for volume in volumes {
        let (id, name) = (volume["id"].as_u64(), volume["name"].as_str());
        let (id, name) = id.zip(name).context("a volume without a name")?;
        let owner = seen.ids.entry(id).or_insert_with(|| name.to_owned());
        ensure!(
            owner == name,
            "the number {id} was {owner}'s and is {name}'s"
        );
    }
    for difference in list(&all["differences"])? {
        ensure!(difference["repaired"] == true, "not repaired: {difference}");
        let kind = difference["kind"].as_str().unwrap_or("?").to_owned();
        *seen.differences.entry(kind).or_default() += 1;
    }
    Ok(())
}

fn list(all: &Value) -> anyhow::Result<&Vec<Value>> {
    all.as_array().with_context(|| format!("no list: {all}"))
}

/// Nothing of it is left.
fn cleared(host: &Host) -> anyhow::Result<()> {
    host.remove_all_vms()?;
    host.check("hearth -q snapshot ls | xargs -r hearth snapshot rm")?;
    host.check("hearth pool destroy --force")?;
    host.use_standin()
}
