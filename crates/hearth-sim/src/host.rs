//! The simulated host and what happens on it without Hearth: guests that end, shims that write their
//! record, reboots, and neighbours whose objects look like ours.

mod effects;
mod survey;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;

use hearth_plan::Ill;
use hearth_plan::transition::later;
use hearth_types::OwnerMark;
use hearth_types::ids::{InstallationId, VmId};
use hearth_types::net::RuleSet;
use hearth_types::observe::{ChangedLimit, ObservedNames, ProcessRole, UnitState};
use hearth_types::process::{ExitRecord, GuestReport, ProcessExit, ProcessIdentity};
use hearth_types::status::StopRung;

pub use effects::HostError;

/// How long a shim lives on after its VMM: until it has written the exit record.
const SHIM_LAG: Duration = Duration::from_millis(5);
/// The lowest pid that is handed out. Always the lowest free one is: pids are reused at once.
const FIRST_PID: i32 = 100;

/// A kind of object that a survey can fail on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Processes.
    Processes,
    /// What VMMs say of themselves.
    RunStates,
    /// Units.
    Units,
    /// What stands in the control groups of units.
    Limits,
    /// TAPs.
    Taps,
    /// VM folders.
    Dirs,
    /// The bridge.
    Bridge,
    /// The nftables table.
    Rules,
    /// The name server.
    Names,
}

/// What a guest does on a rung of the stop ladder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaction {
    /// It goes down after so many seconds.
    Obeys(u8),
    /// Nothing happens.
    Ignores,
    /// The rung does not exist: asking is an error.
    Missing,
}

/// How a guest behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guest {
    /// To the agent's shutdown.
    pub agent: Reaction,
    /// To the power button.
    pub power_button: Reaction,
    /// To QMP quit (the VMM's behaviour rather than the guest's).
    pub quit: Reaction,
}

impl Default for Guest {
    fn default() -> Self {
        Self {
            agent: Reaction::Obeys(1),
            power_button: Reaction::Obeys(1),
            quit: Reaction::Obeys(0),
        }
    }
}

/// A process, ours or not.
#[derive(Debug, Clone)]
pub struct SimProcess {
    /// Who it is; the mark may be another installation's.
    pub identity: ProcessIdentity,
    /// What it is for.
    pub role: ProcessRole,
    /// It belongs to a neighbour: touching it is a violation.
    pub foreign: bool,
    /// When it was started.
    pub started_at: Timestamp,
    /// How its guest behaves.
    pub guest: Guest,
    /// Its vCPUs are stopped.
    pub paused: bool,
    /// A VMM's: its guest hangs, and no check of its health succeeds.
    pub hangs: bool,
    /// A VMM's: its guest answers every word with garbage without end.
    pub babbles: bool,
    /// The guest's agent answers nothing and sends frames that nobody has asked for, as fast as it can.
    pub floods: bool,
    /// It waits in the kernel: nothing ends it, and it answers nobody.
    pub stuck: bool,
    /// It was killed while it was stuck.
    doomed: bool,
    /// When and how it ends by itself, if that is decided.
    pub ends: Option<(Timestamp, ProcessExit, Option<GuestReport>)>,
    /// A shim's: the record it writes when it ends.
    record: Option<ExitRecord>,
}

/// A VM's unit, ours or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimUnit {
    /// The mark in its environment; a neighbour's may be none or another installation's.
    pub mark: Option<OwnerMark>,
    /// What it is doing.
    pub state: UnitState,
    /// Since when.
    pub since: Timestamp,
    /// Limits that somebody has changed.
    pub changed: Vec<ChangedLimit>,
}

/// A network interface, ours or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimTap {
    /// Interface index.
    pub index: u32,
    /// Its alias read as a mark; a neighbour's may be none or another installation's.
    pub mark: Option<OwnerMark>,
    /// It is up and a port of the bridge.
    pub attached: bool,
    /// It belongs to a neighbour.
    pub foreign: bool,
}

/// A VM's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimDir {
    /// The root disk is complete.
    pub has_disk: bool,
    /// The record of the last end.
    pub exit: Option<ExitRecord>,
    /// When it was last changed.
    pub changed_at: Timestamp,
}

/// The host.
#[derive(Debug, Clone)]
pub struct SimHost {
    /// The time.
    pub now: Timestamp,
    /// Whose survey it is.
    pub installation: InstallationId,
    boot: u32,
    ticks: u64,
    /// Living processes by pid.
    pub processes: BTreeMap<i32, SimProcess>,
    /// systemd is the init: each VMM lives in a unit, which goes with its last process.
    pub systemd: bool,
    /// Units by the VM in their name.
    pub units: BTreeMap<VmId, SimUnit>,
    /// Interfaces by name.
    pub taps: BTreeMap<String, SimTap>,
    /// VM folders.
    pub dirs: BTreeMap<VmId, SimDir>,
    /// The bridge, and whether it is set up.
    pub bridge: Option<bool>,
    /// The nftables table.
    pub rules: Option<RuleSet>,
    /// The name server.
    pub names: ObservedNames,
    /// Addresses that the kernel still tracks connections of.
    pub tracked: BTreeSet<Ipv4Addr>,
    /// Surveys that fail.
    pub unknown: BTreeSet<Kind>,
    /// Steps (by kind) that fail so many times.
    pub faults: BTreeMap<&'static str, u32>,
    /// Steps (by kind) that overrun their deadline so many times.
    pub slow: BTreeMap<&'static str, u32>,
    /// How often a step (by kind) was tried.
    pub attempts: BTreeMap<&'static str, u32>,
    /// Kinds of objects that a look at never ends.
    pub hung: BTreeSet<&'static str>,
    /// How often a kind of objects was looked at.
    pub looks: BTreeMap<&'static str, u32>,
    /// How long each exit record is about to be written.
    pub record_takes: Duration,
    /// How the next VMMs' guests behave.
    pub guests: BTreeMap<VmId, Guest>,
    /// How long agents and VMMs take to answer.
    pub latency: Duration,
    /// VMMs that are being asked for their state, and the most that there ever were at once.
    pub asked_at_once: (usize, usize),
    /// How long the launch of a VMM takes when it is the only one; n at once take n times as long,
    /// as systemd makes one unit after another.
    pub launch_takes: Duration,
    /// VMMs that are being launched, and the most that there ever were at once.
    pub launched_at_once: (usize, usize),
    /// The survey lists neighbours' marked objects, too: the planner must leave them out.
    pub leaky_survey: bool,
    /// Free bytes of the data folder's file system; the real one's when absent.
    pub free: Option<u64>,
    /// The beginning of a volume goes into its clones, so that they can be told apart.
    pub content: bool,
    /// Volumes that were moved into the pool.
    pub in_pool: BTreeSet<PathBuf>,
    /// What must never happen and did.
    pub violations: Vec<String>,
}

impl SimHost {
    /// An empty host.
    #[must_use]
    pub fn new(installation: InstallationId, now: Timestamp) -> Self {
        Self {
            now,
            installation,
            boot: 1,
            ticks: 1000,
            processes: BTreeMap::new(),
            systemd: false,
            units: BTreeMap::new(),
            taps: BTreeMap::new(),
            dirs: BTreeMap::new(),
            bridge: None,
            rules: None,
            names: ObservedNames::default(),
            tracked: BTreeSet::new(),
            unknown: BTreeSet::new(),
            faults: BTreeMap::new(),
            slow: BTreeMap::new(),
            attempts: BTreeMap::new(),
            hung: BTreeSet::new(),
            looks: BTreeMap::new(),
            record_takes: Duration::ZERO,
            guests: BTreeMap::new(),
            latency: Duration::ZERO,
            asked_at_once: (0, 0),
            launch_takes: Duration::ZERO,
            launched_at_once: (0, 0),
            leaky_survey: false,
            free: None,
            content: false,
            in_pool: BTreeSet::new(),
            violations: Vec::new(),
        }
    }

    /// The boot id.
    #[must_use]
    pub fn boot_id(&self) -> String {
        format!("boot-{}", self.boot)
    }

    /// Starts a process with the lowest free pid. `foreign` ones belong to a neighbour.
    pub fn spawn(&mut self, mark: OwnerMark, role: ProcessRole, foreign: bool) -> ProcessIdentity {
        let pid = (FIRST_PID..)
            .find(|pid| !self.processes.contains_key(pid))
            .unwrap_or(FIRST_PID);
        self.ticks += 1;
        let identity = ProcessIdentity {
            boot_id: self.boot_id(),
            pid,
            start_time: self.ticks,
            exe: "/usr/bin/qemu-system-x86_64".to_owned(),
            mark,
        };
        let guest = mark.vm().and_then(|vm| self.guests.get(&vm)).copied();
        let process = SimProcess {
            identity: identity.clone(),
            role,
            foreign,
            started_at: self.now,
            guest: guest.unwrap_or_default(),
            paused: false,
            hangs: false,
            babbles: false,
            floods: false,
            stuck: false,
            doomed: false,
            ends: None,
            record: None,
        };
        self.processes.insert(pid, process);
        identity
    }

    /// The living VMMs of a VM.
    pub fn vmms(&self, vm: VmId) -> impl Iterator<Item = &SimProcess> {
        let mark = OwnerMark::of_vm(self.installation, vm);
        self.processes
            .values()
            .filter(move |p| p.role == ProcessRole::Vmm && p.identity.mark == mark && !p.foreign)
    }

    /// Whether a shim of this VM lives whose VMM is dead, and which has written no record yet.
    #[must_use]
    pub fn is_ending(&self, vm: VmId) -> bool {
        let written = self.dirs.get(&vm).is_some_and(|dir| dir.exit.is_some());
        if written || self.vmms(vm).next().is_some() {
            return false;
        }
        let mark = OwnerMark::of_vm(self.installation, vm);
        let mut shims = self.processes.values();
        shims.any(|p| p.role == ProcessRole::Shim && p.identity.mark == mark)
    }

    /// The guest of this VM hangs from now on.
    pub fn hang(&mut self, vm: VmId) {
        let pids: Vec<_> = self.vmms(vm).map(|process| process.identity.pid).collect();
        for pid in pids {
            if let Some(process) = self.processes.get_mut(&pid) {
                process.hangs = true;
            }
        }
    }

    /// VMs whose guests hang, as checks that ask for a restart would tell it.
    #[must_use]
    pub fn ill(&self) -> BTreeMap<VmId, Ill> {
        let ours = self.processes.values().filter(|process| {
            process.role == ProcessRole::Vmm
                && !process.foreign
                && process.identity.mark.installation == self.installation
        });
        let hanging = ours.filter(|process| process.hangs && !process.paused);
        let ill = hanging.filter_map(|process| {
            let ill = Ill {
                vmm: process.identity.clone(),
                since: process.started_at,
                reason: "its guest hangs".to_owned(),
            };
            Some((process.identity.mark.vm()?, ill))
        });
        ill.collect()
    }

    /// Ends a process at once. A VMM's shim writes the record a moment later.
    pub fn end(&mut self, pid: i32, vmm: ProcessExit, guest: Option<GuestReport>) {
        let Some(ended) = self.processes.remove(&pid) else {
            return;
        };
        self.collect_unit(ended.identity.mark);
        if ended.foreign || ended.role != ProcessRole::Vmm {
            return;
        }
        let now = self.now;
        let mark = ended.identity.mark;
        let shim = self
            .processes
            .values_mut()
            .find(|p| p.role == ProcessRole::Shim && p.identity.mark == mark && p.ends.is_none());
        if let Some(shim) = shim {
            shim.record = Some(ExitRecord {
                evidence: hearth_types::process::Evidence::default(),
                identity: ended.identity,
                vmm,
                guest,
                ended_at: now,
            });
            shim.ends = Some((later(now, SHIM_LAG), ProcessExit::Code(0), None));
        }
    }

    /// The next thing that happens by itself.
    #[must_use]
    pub fn next_event(&self) -> Option<Timestamp> {
        let ends = self.processes.values().filter_map(|p| p.ends.as_ref());
        ends.map(|(at, ..)| *at).min()
    }

    /// Lets time go on until `to`, with all that happens on the way.
    pub fn advance(&mut self, to: Timestamp) {
        while let Some(at) = self.next_event().filter(|at| *at <= to) {
            self.now = self.now.max(at);
            let due = |p: &&SimProcess| p.ends.as_ref().is_some_and(|(when, ..)| *when == at);
            let Some(process) = self.processes.values().find(due).cloned() else {
                return;
            };
            let pid = process.identity.pid;
            let (exit, guest) = process
                .ends
                .map_or((ProcessExit::Code(0), None), |(_, exit, guest)| {
                    (exit, guest)
                });
            match (process.role, process.record, process.identity.mark.vm()) {
                (ProcessRole::Shim, record, Some(vm)) => {
                    self.processes.remove(&pid);
                    self.collect_unit(process.identity.mark);
                    if let (Some(dir), Some(record)) = (self.dirs.get_mut(&vm), record) {
                        dir.exit = Some(record);
                        dir.changed_at = self.now;
                    }
                }
                _ => self.end(pid, exit, guest),
            }
        }
        self.now = self.now.max(to);
    }

    /// The host goes down and comes up: only folders stay.
    pub fn reboot(&mut self) {
        self.boot += 1;
        self.ticks = 1000;
        self.processes.clear();
        self.units.clear();
        self.taps.clear();
        self.bridge = None;
        self.rules = None;
        self.names = ObservedNames::default();
        self.tracked.clear();
        self.now = later(self.now, Duration::from_secs(30));
    }

    /// systemd forgets the unit of a VM whose last process has gone, unless it has failed.
    fn collect_unit(&mut self, mark: OwnerMark) {
        let lives = self.processes.values().any(|p| p.identity.mark == mark);
        let Some(vm) = mark.vm().filter(|_| !lives) else {
            return;
        };
        let ended = self
            .units
            .get(&vm)
            .is_some_and(|unit| unit.mark == Some(mark) && unit.state != UnitState::Failed);
        if ended {
            self.units.remove(&vm);
        }
    }

    /// What was stuck in the kernel goes on, and what was killed meanwhile dies.
    pub fn unstick(&mut self) {
        let stuck = self.processes.values_mut().filter(|p| p.stuck);
        let mut dead = Vec::new();
        for process in stuck {
            process.stuck = false;
            if process.doomed {
                dead.push(process.identity.pid);
            }
        }
        for pid in dead {
            self.end(pid, ProcessExit::Signal(9), None);
        }
    }

    /// Records that something happened that must never happen.
    pub fn violation(&mut self, what: impl Into<String>) {
        self.violations.push(what.into());
    }

    fn reaction(guest: &Guest, rung: StopRung) -> Reaction {
        match rung {
            StopRung::Agent => guest.agent,
            StopRung::PowerButton => guest.power_button,
            StopRung::Quit => guest.quit,
            StopRung::Kill => Reaction::Obeys(0),
        }
    }
}
