//! One round: faults, and the watch until the host is whole again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hearth_types::api::{Health, Vm};
use hearth_types::event::Event;
use hearth_types::ids::EventSeq;
use hearth_types::mode::Mode;
use hearth_types::names::tap_name;
use hearth_types::status::Phase;
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use super::draw::{Drawn, Fault, Round, Scope, Sign};
use super::injure::{Injury, Trap};
use super::report::{Case, Report};
use super::stage::Stage;

/// How long a host may take to become whole: several guests boot at once, emulated, on a machine
/// that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(200);
/// A guest that ends itself is seen to end by the test and by the daemon, each with a thread of its own: the
/// daemon's word may have the earlier time. No VM ends twice in so short a time.
const FIRST: SignedDuration = SignedDuration::from_millis(500);
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// Between the end of a VMM and the next one's start everything else may be asked for; that a VM
/// is ill is said in one of these ways.
const ILLNESS: [&str; 4] = [
    "vm.unhealthy",
    "vm.unresponsive",
    "vm.vmm_suspended",
    "vm.exited",
];
/// What nothing but a fault may bring about.
const HARM: [&str; 4] = [
    "vm.unhealthy",
    "vm.unresponsive",
    "vm.exited",
    "vm.restarted",
];

/// One fault under way.
struct Open {
    drawn: Drawn,
    case: Case,
    trap: Option<Trap>,
    /// The VMM that it happened to.
    before: Option<i32>,
    /// What the daemon had to say before this does not count.
    since: Timestamp,
}

/// What the host looks like at one moment.
struct Sight {
    vms: Vec<Vm>,
    events: Vec<Event>,
    log: String,
    mode: Mode,
}

impl Stage {
    /// Plays a round. `false`: what is wrong now would spoil the next one.
    pub(super) async fn play(&mut self, round: &Round, report: &mut Report) -> bool {
        let before = self.look().await;
        self.seen = before.events.last().map_or(self.seen, |event| event.seq);
        self.logged = self.host.log().len();
        let mut open = self.begin(round, &before.vms, report).await;
        let until = Instant::now() + PATIENCE;
        while open.iter().any(|open| open.case.recovered.is_none()) {
            let sight = self.look().await;
            for one in &mut open {
                self.follow(one, &sight);
            }
            if Instant::now() > until {
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
        let mut whole = true;
        for one in open {
            drop(one.trap);
            if one.case.recovered.is_none() {
                whole = false;
                report.broke(format!("{} did not recover", one.case));
            }
            println!("{}", one.case);
            report.add(one.case);
        }
        if whole {
            self.audit(round, &before.vms, report).await;
        }
        // Whatever becomes of the rest.
        report.save();
        match self.becomes_well().await {
            Ok(()) => true,
            Err(ill) => {
                let names: Vec<_> = round.faults.iter().map(|drawn| drawn.fault).collect();
                report.broke(format!("not well again after {names:?}: {ill}"));
                false
            }
        }
    }

    /// Whether another round can begin: all guests are healthy and nothing is left of the last one.
    async fn becomes_well(&mut self) -> Result<(), String> {
        let until = Instant::now() + PATIENCE;
        loop {
            let now = self.look().await;
            let mut ill: Vec<_> = now
                .vms
                .iter()
                .filter(|vm| vm.health != Health::Healthy)
                .map(|vm| format!("{} is {:?}: {:?}", vm.spec.name, vm.health, vm.reason))
                .collect();
            ill.extend(self.left_over(&now.vms));
            if ill.is_empty() {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(ill.join("; "));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn begin(&mut self, round: &Round, before: &[Vm], report: &mut Report) -> Vec<Open> {
        let names: Vec<_> = round.faults.iter().map(|drawn| drawn.fault).collect();
        println!("round {}: {names:?}", report.rounds());
        let mut open = Vec::new();
        let mut faults = round.faults.clone();
        faults.sort_by_key(|drawn| drawn.fault.haste());
        for drawn in faults {
            let vm = drawn.vm.map(|index| &before[index]);
            match self.injure(drawn).await {
                Injury::Done(at, trap) => open.push(Open {
                    drawn,
                    case: Case::new(report.rounds(), drawn.fault, vm, at),
                    trap,
                    before: vm.and_then(|vm| vm.pid),
                    since: at,
                }),
                Injury::Skipped(why) => report.skip(drawn.fault, why),
            }
        }
        self.kill_daemon_if_drawn(&mut open).await;
        open
    }

    /// The daemon dies last: what else happened, happened while there was none.
    async fn kill_daemon_if_drawn(&mut self, open: &mut [Open]) {
        let deadly = |open: &Open| {
            matches!(
                open.drawn.fault,
                Fault::DaemonKilled | Fault::AgentRemoved | Fault::AgentCorrupted
            )
        };
        if !open.iter().any(deadly) {
            return;
        }
        let killed = Timestamp::now();
        self.kill_daemon().await;
        let back = Timestamp::now();
        for one in open {
            one.since = back;
            one.case.without_daemon = true;
            if one.drawn.fault == Fault::DaemonKilled {
                one.case.injured = killed;
            }
        }
    }

    async fn look(&mut self) -> Sight {
        let log = self.host.log();
        Sight {
            vms: self.host.client.all_vms(&[]).await.unwrap(),
            events: self.events_since(self.seen).await,
            log: log.get(self.logged..).unwrap_or_default().to_owned(),
            mode: self.host.client.mode().await.unwrap().mode,
        }
    }

    async fn events_since(&self, seen: EventSeq) -> Vec<Event> {
        let mut events: Vec<Event> = Vec::new();
        loop {
            let after = events.last().map_or(seen, |event| event.seq);
            let page = self.host.client.events(Some(after), Some(1000)).await;
            let items = page.unwrap().items;
            if items.is_empty() {
                return events;
            }
            events.extend(items);
        }
    }

    /// What is to be seen of one fault: that it was noticed, that it is over.
    fn follow(&self, one: &mut Open, sight: &Sight) {
        if one.case.recovered.is_some() {
            return;
        }
        let vm = one.drawn.vm.map(|index| &sight.vms[index]);
        if one.case.noticed.is_none() {
            one.case.noticed = noticed(one, vm, sight);
        }
        let unseen = one.case.noticed.is_none() && one.drawn.fault.sign() != Sign::None;
        if unseen {
            return;
        }
        if one.drawn.fault.lasts() && one.trap.take().is_some() {
            one.case.healed = Some(Timestamp::now());
            return;
        }
        let begins = |event: &&Event| {
            ["vm.restarted", "vm.started"].contains(&event.code.as_str())
                && vm.is_some_and(|vm| event.vm == Some(vm.id))
                && event.at >= one.case.injured
        };
        let begun = sight.events.iter().find(begins);
        one.case.restarted = begun.map(|event| event.at);
        if self.is_over(one, vm, sight) {
            one.case.recovered = Some(Timestamp::now());
        }
    }

    fn is_over(&self, one: &Open, vm: Option<&Vm>, sight: &Sight) -> bool {
        match vm {
            Some(vm) => self.vm_is_well(one, vm),
            None => self.host_is_well(one.drawn.fault, sight),
        }
    }

    fn vm_is_well(&self, one: &Open, vm: &Vm) -> bool {
        let tap = tap_name(vm.id);
        let replaced = vm.pid != one.before;
        vm.phase == Phase::Running
            && vm.health == Health::Healthy
            && vm.pid.is_some()
            && (replaced || one.drawn.fault.sign() != Sign::Death)
            && self.link_is(&tap, &["master hearth0", "UP"])
            && self.serves(vm)
    }

    fn host_is_well(&self, fault: Fault, sight: &Sight) -> bool {
        match fault {
            Fault::BridgeDown => self.link_is("hearth0", &["<BROADCAST,MULTICAST,UP"]),
            Fault::RulesFlushed | Fault::ElementsDeleted | Fault::TableDeleted => {
                self.rules_now() == self.rules
            }
            Fault::NamesKilled => self.processes("names").len() == 1,
            // A guest that found no room goes on where it was.
            Fault::DiskFull => {
                sight.mode == Mode::Normal && sight.vms.iter().all(|vm| self.serves(vm))
            }
            Fault::MemoryPressure => self.host.daemon_pid().is_some(),
            _ => sight.vms.iter().all(|vm| vm.health == Health::Healthy),
        }
    }

    /// After one more full pass: is anything left over, missing, or touched without a cause?
    async fn audit(&mut self, round: &Round, before: &[Vm], report: &mut Report) {
        self.one_full_pass().await;
        self.host.settled().await;
        let now = self.look().await;
        let hit: BTreeSet<_> = round.faults.iter().filter_map(|drawn| drawn.vm).collect();
        for (index, (then, now)) in before.iter().zip(&now.vms).enumerate() {
            if !hit.contains(&index) && (then.pid != now.pid || then.restarts != now.restarts) {
                report.broke(format!(
                    "{} was restarted and nothing had happened to it: {round:?}, {:?}",
                    now.spec.name, now.last_end
                ));
            }
        }
        let spared = |event: &&Event| {
            let index = before.iter().position(|vm| event.vm == Some(vm.id));
            HARM.contains(&event.code.as_str()) && index.is_some_and(|index| !hit.contains(&index))
        };
        report.false_alarms(now.events.iter().filter(spared).cloned().collect());
        report.orphans(&self.left_over(&now.vms));
        for lost in self.well.since(&self.host.traces().that_stay()) {
            report.broke(format!("after {round:?} there is no {lost}"));
        }
        for broken in self.strangers.disturbed(&self.host) {
            report.broke(format!("after {round:?} a stranger was touched: {broken}"));
        }
        report.played();
    }

    async fn one_full_pass(&self) {
        let begun = self.full_passes();
        crate::harness::eventually("a full pass", || {
            let more = self.full_passes() > begun;
            std::future::ready(more.then_some(()))
        })
        .await;
    }

    /// Objects of ours that no VM has.
    fn left_over(&self, vms: &[Vm]) -> Vec<String> {
        let mut left = self.host.traces().that_stay().since(&self.well);
        let known: BTreeSet<i32> = vms.iter().filter_map(|vm| vm.pid).collect();
        let vmms = self.processes("vmm");
        let unknown = vmms.iter().filter(|pid| !known.contains(pid));
        left.extend(unknown.map(|pid| format!("VMM {pid}")));
        let mut most = BTreeMap::from([("shim", vms.len()), ("names", 1)]);
        for (role, most) in &mut most {
            let there = self.processes(role);
            if there.len() > *most {
                left.push(format!("{role} among {there:?}"));
            }
        }
        left
    }
}

/// When the daemon said first that it knows.
fn noticed(one: &Open, vm: Option<&Vm>, sight: &Sight) -> Option<Timestamp> {
    let from = one.case.injured - FIRST;
    let told = |codes: &[&str]| {
        let about = |event: &&Event| {
            codes.contains(&event.code.as_str())
                && event.at >= from
                && vm.is_some_and(|vm| event.vm == Some(vm.id))
        };
        let first = sight.events.iter().find(about);
        first.map(|event| event.at.max(one.since))
    };
    match one.drawn.fault.sign() {
        Sign::Death => told(&["vm.exited"]),
        Sign::Illness => told(&ILLNESS),
        Sign::Step(step) => logged(step, one, sight).or_else(|| told(&ILLNESS)),
        Sign::Readonly => (sight.mode == Mode::Readonly).then(Timestamp::now),
        Sign::None => None,
    }
}

/// When the daemon's log says first that it takes this step.
fn logged(step: &str, one: &Open, sight: &Sight) -> Option<Timestamp> {
    let words = format!("step=\"{step}\"");
    let lines = sight.log.lines().filter(|line| line.contains(&words));
    let mut times = lines.filter_map(|line| line.split_whitespace().next()?.parse().ok());
    times.find(|at: &Timestamp| {
        *at >= one.case.injured && one.drawn.fault.scope() != Scope::HostAlone
    })
}
