//! Power cuts at random moments under a load of create, start, stop and remove.
//!
//! Each worker knows what of its VMs was acknowledged and what was asked for and not yet
//! answered when the plug was pulled. After the boot each VM must be in the acknowledged
//! state or, if a request was open, in the one that it asked for.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::hearth::VM_UP;
use crate::host::{COMMAND, Host};
use crate::random::Random;
use crate::ssh::Ssh;

/// Cuts of a run; `HEARTH_TESTBED_CUTS` asks for fewer or more.
const CUTS: u64 = 20;
/// Workers that ask for things at once.
const WORKERS: u64 = 3;
/// VMs of each worker.
const VMS: u64 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Absent,
    Running,
    Stopped,
}

/// What one worker knows of one of its VMs.
#[derive(Debug, Clone, Copy)]
struct Known {
    acknowledged: State,
    open: Option<State>,
}

type Ledger = BTreeMap<String, Known>;

pub(super) fn tell(host: &mut Host) -> anyhow::Result<()> {
    let (mut random, seed) = Random::seeded();
    host.evidence.fact("seed", &seed.to_string());
    let cuts = asked(CUTS);
    let mut ledgers: Vec<Ledger> = (0..WORKERS).map(new_ledger).collect();
    let mut requests = 0;
    for cut in 1..=cuts {
        requests += under_load(host, &mut ledgers, &mut random)
            .with_context(|| format!("cut {cut} of {cuts}, seed {seed}"))?;
        let begun = Instant::now();
        host.boot()?;
        host.wait_daemon()?;
        verify(host, &mut ledgers).with_context(|| format!("after cut {cut}, seed {seed}"))?;
        host.measure("cut to settled", begun.elapsed().as_secs_f64(), "s");
    }
    host.measure("power cuts", as_figure(cuts), "");
    host.measure("acknowledged requests", as_figure(requests), "");
    host.promise("power cuts under load: the database is whole, every acknowledged request is honoured, no VM has two VMMs, no lease is given twice");
    Ok(())
}

/// How many cuts the environment asks for.
pub(super) fn asked(otherwise: u64) -> u64 {
    let given = std::env::var("HEARTH_TESTBED_CUTS").ok();
    given
        .and_then(|text| text.parse().ok())
        .unwrap_or(otherwise)
}

fn new_ledger(worker: u64) -> Ledger {
    let unknown = Known {
        acknowledged: State::Absent,
        open: None,
    };
    (0..VMS)
        .map(|vm| (format!("load-{worker}-{vm}"), unknown))
        .collect()
}

/// Lets the workers ask until a random moment, then pulls the plug. Returns how many
/// requests were acknowledged.
fn under_load(host: &mut Host, ledgers: &mut [Ledger], random: &mut Random) -> anyhow::Result<u64> {
    let moment = (
        2 + random.below(20),
        Duration::from_millis(random.below(1500)),
    );
    let ssh = host.shell();
    cut_off(
        host,
        ledgers,
        random,
        moment,
        |ledger, random, done, over| work(&ssh, ledger, random, done, over),
    )
}

/// Lets a worker for each ledger work until so many requests were acknowledged and then for a rest, and pulls the
/// plug. Returns how many were acknowledged.
pub(super) fn cut_off<L: Send>(
    host: &mut Host,
    ledgers: &mut [L],
    random: &mut Random,
    (wanted, rest): (u64, Duration),
    work: impl Fn(&mut L, Random, &Sender<()>, &AtomicBool) -> anyhow::Result<()> + Sync,
) -> anyhow::Result<u64> {
    let over = AtomicBool::new(false);
    let (sender, receiver) = mpsc::channel();
    std::thread::scope(|scope| {
        let workers: Vec<_> = ledgers
            .iter_mut()
            .map(|ledger| {
                let (sender, over, work) = (sender.clone(), &over, &work);
                let seed = random.below(u64::MAX);
                scope.spawn(move || work(ledger, Random::new(seed), &sender, over))
            })
            .collect();
        drop(sender);
        let count = moment(&receiver, wanted, rest);
        over.store(true, Ordering::SeqCst);
        let cut = host.pull_plug();
        let mut result = Ok(());
        for worker in workers {
            let ended = worker.join().unwrap_or_else(|_| bail!("a worker panicked"));
            result = result.and(ended);
        }
        let late = u64::try_from(receiver.try_iter().count())?;
        cut.and(result).map(|()| count + late)
    })
}

/// Returns after `wanted` acknowledgements and then `rest`, in which more may come.
fn moment(receiver: &Receiver<()>, wanted: u64, rest: Duration) -> u64 {
    let mut count = 0;
    while count < wanted && receiver.recv().is_ok() {
        count += 1;
    }
    let end = Instant::now() + rest;
    while let Ok(()) = receiver.recv_timeout(end.saturating_duration_since(Instant::now())) {
        count += 1;
    }
    count
}

/// Asks for one thing after the other until the host is gone.
fn work(
    ssh: &Ssh,
    ledger: &mut Ledger,
    mut random: Random,
    done: &Sender<()>,
    over: &AtomicBool,
) -> anyhow::Result<()> {
    let names: Vec<String> = ledger.keys().cloned().collect();
    loop {
        let index = usize::try_from(random.below(VMS))?;
        let name = names.get(index).context("a worker without VMs")?;
        let known = ledger.get_mut(name).context("a VM without an entry")?;
        let (line, next) = request(name, known.acknowledged, &mut random);
        known.open = Some(next);
        let answer = ssh.run(&line, COMMAND)?;
        match answer.status.code() {
            Some(0) => {
                *known = Known {
                    acknowledged: next,
                    open: None,
                };
                if done.send(()).is_err() {
                    return Ok(());
                }
            }
            // The host is gone, and what became of the request is its secret.
            Some(255) | None if over.load(Ordering::SeqCst) => return Ok(()),
            _ => bail!("{line} ({}): {}", answer.status, answer.said()),
        }
    }
}

/// A request that makes sense in this state, and the state it leads to. With the policy
/// `unless-stopped` a stop that was acknowledged has to outlive the reboot, too.
fn request(name: &str, state: State, random: &mut Random) -> (String, State) {
    let remove = (format!("hearth rm -f {name}"), State::Absent);
    match (state, random.below(3)) {
        (State::Absent, _) => (
            format!("hearth run -d --restart unless-stopped --name {name} busybox:1 sleep 1000000"),
            State::Running,
        ),
        (State::Running, 0) | (State::Stopped, 0) => remove,
        (State::Running, _) => (format!("hearth kill {name}"), State::Stopped),
        (State::Stopped, _) => (format!("hearth start {name}"), State::Running),
    }
}

/// Compares what is there with what was acknowledged, and closes open requests with what
/// became of them.
fn verify(host: &Host, ledgers: &mut [Ledger]) -> anyhow::Result<()> {
    host.database_is_whole()?;
    host.wait_settled()?;
    let list = host.hearth(&["ps", "-a"])?;
    let mut goals = BTreeMap::new();
    for vm in list.as_array().context("ps printed no list")? {
        let name = vm["spec"]["name"].as_str().unwrap_or_default().to_owned();
        goals.insert(name, vm["goal"].as_str().unwrap_or_default().to_owned());
    }
    for (name, known) in ledgers.iter_mut().flatten() {
        let found = match goals.get(name).map(String::as_str) {
            None | Some("absent") => State::Absent,
            Some("stopped") => State::Stopped,
            Some(_) => State::Running,
        };
        if found != known.acknowledged && Some(found) != known.open {
            bail!(
                "{name} is {found:?}, was acknowledged as {:?}, asked for: {:?}",
                known.acknowledged,
                known.open
            );
        }
        *known = Known {
            acknowledged: found,
            open: None,
        };
        if found == State::Running {
            host.vm(name).wait_running(VM_UP)?;
        }
    }
    host.one_vmm_each()?;
    host.leases_are_unique()
}

/// A count as evidence has it.
pub(super) fn as_figure(number: u64) -> f64 {
    // Small numbers, all of them exact.
    u32::try_from(number).map_or(f64::MAX, f64::from)
}
